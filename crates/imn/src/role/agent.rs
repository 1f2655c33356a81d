//! `imn agent`.

use anyhow::{Context, Result, bail};
use imn_agent::{Agent, Config, Identity, ModuleCredentials, Renewal, Scraping};
use imn_contract::{AgentId, latest::Outcome};
use imn_runtime::task::Signals;
use imn_sink::format::{Row, probe_page};

use crate::{
    cli::{AgentArgs, Followed},
    enroll::{self, ControlPlane, Entered},
    exit::{Code, Exit},
    settings,
};

pub(crate) fn main(args: AgentArgs) -> Result<Code> {
    let id = args.id().map_err(|error| Exit::usage(format!("--name: {error}; or give an --id")))?;
    let _telemetry = super::telemetry("imn-agent", id.as_str())?;
    super::follow_parent(args.supervised_by)?;
    super::runtime()?.block_on(run(args, id))
}

async fn run(args: AgentArgs, id: AgentId) -> Result<Code> {
    let mut signals = Signals::listen()?;
    let state = super::state_dir(&args.state)?;
    // Credentials that are named go before what a token gives.
    let entered = match &args.nats.nats_creds {
        Some(_) => None,
        None => enroll::enter(&args.enroll, &id, &state).await?,
    };
    let (nats, renewal, module_creds, registry_key) = match entered {
        Some(Entered { nats, renewal, registry_key }) => {
            (nats, Some(renewal), Some(state.join(enroll::MODULES)), registry_key)
        }
        None => (super::connection(&args.nats, &format!("agent {id}"))?, by_file(&args, &id)?, None, None),
    };
    let program = std::env::current_exe().context("find the program of this process")?;
    let mut config = Config::new(id, nats, &state, program);
    config.renewal = renewal;
    config.environment = super::environment()?;
    config.identity = Identity {
        name: args.name.clone(),
        region: args.region.clone(),
        location: args.location.clone(),
        provider: args.provider.clone(),
        tags: args.tags()?,
    };
    if let Some(directory) = args.modules_dir {
        config.modules_dir = directory;
    }
    if let Some(directory) = args.module_creds_dir.or(module_creds) {
        config.credentials = ModuleCredentials::directory(directory);
    }
    config.registry_key = match args.registry_key {
        Some(Followed::Registry(key)) => Some(key),
        Some(Followed::None) => None,
        None => registry_key,
    };
    config.listen = Some(args.listen);
    config.scraping = Some(Scraping::new(settings::scrape_modules()?, |kind, outcome, elapsed| {
        let outcome = Outcome::read(kind, outcome);
        probe_page(&Row { elapsed: Some(elapsed), ..Row::new(outcome) })
    }));
    config.api_key = super::secret("--api-key-file", args.api_key_file.as_deref())?;
    let mut agent = Agent::start(config).await?;
    tokio::select! {
        signal = signals.next() => tracing::info!(signal, "draining"),
        // The modules are left to the next agent, which adopts them.
        failure = agent.failed() => bail!("{failure}"),
    }
    agent.stop().await;
    Ok(Code::Ok)
}

/// Credentials from a file are renewed in it.
fn by_file(args: &AgentArgs, id: &AgentId) -> Result<Option<Renewal>> {
    let Some(path) = &args.nats.nats_creds else { return Ok(None) };
    Ok(Some(match &args.enroll.control_plane {
        Some(url) => enroll::renewal(path, ControlPlane::new(url, &args.enroll.trust()?)?, id),
        None => Renewal::new(path),
    }))
}

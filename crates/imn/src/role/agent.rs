//! `imn agent`.

use anyhow::{Context, Result, bail};
use imn_agent::{Agent, Config, Identity, ModuleCredentials, Scraping};
use imn_contract::{AgentId, latest::Outcome};
use imn_runtime::task::Signals;
use imn_sink::format::{Row, probe_page};

use crate::{
    cli::AgentArgs,
    exit::{Code, Exit},
    settings,
};

pub(crate) fn main(args: AgentArgs) -> Result<Code> {
    let id = args.id().map_err(|error| Exit::usage(format!("--name: {error}; or give an --id")))?;
    let _telemetry = super::telemetry("imn-agent", id.as_str())?;
    super::follow_parent(args.supervised_by)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(args, id))
}

async fn run(args: AgentArgs, id: AgentId) -> Result<Code> {
    let mut signals = Signals::listen()?;
    let state = super::state_dir(&args.state)?;
    let nats = super::connection(&args.nats, &format!("agent {id}"))?;
    let program = std::env::current_exe().context("find the program of this process")?;
    let mut config = Config::new(id, nats, &state, program);
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
    if let Some(directory) = args.module_creds_dir {
        config.credentials = ModuleCredentials::directory(directory);
    }
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

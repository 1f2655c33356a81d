//! An agent alone, without built-in modules: `agent ID NATS_URL STATE_DIR [CREDS_DIR]`. Its modules are those of
//! `STATE_DIR/modules.d`, replaced within seconds; its credentials `CREDS_DIR/agent.creds`, theirs `CREDS_DIR/{instance}.creds`.

use std::{error::Error, path::Path, time::Duration};

use imn_agent::{Agent, Config, Hang, ModuleCredentials};
use imn_contract::AgentId;
use imn_runtime::{credential::Credentials, nats, task};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(id), Some(url), Some(state)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: agent ID NATS_URL STATE_DIR [CREDS_DIR]".into());
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut nats = nats::Config::new(url, "agent");
    let mut credentials = ModuleCredentials::none();
    if let Some(directory) = args.next() {
        let text = std::fs::read_to_string(Path::new(&directory).join("agent.creds"))?;
        Credentials::parse(&text)?.inbox_prefix().clone_into(&mut nats.inbox_prefix);
        nats.credentials = Some(text);
        credentials = ModuleCredentials::directory(directory);
    }
    let mut config = Config::new(AgentId::new(id)?, nats, state, std::env::current_exe()?);
    config.credentials = credentials;
    config.built_ins.clear();
    config.restart.window = Duration::from_secs(20);
    config.rollout.least = Duration::from_millis(300);
    config.rollout.most = Duration::from_secs(2);
    config.hang = Hang { margin: Duration::from_secs(1), stalled: Duration::from_secs(2) };
    let shutdown = task::Shutdown::new();
    let mut signals = task::Signals::listen()?;
    let stop = shutdown.stop();
    let run = Agent::run(config, stop);
    tokio::pin!(run);
    tokio::select! {
        ended = &mut run => return Ok(ended?),
        _ = signals.next() => shutdown.request(),
    }
    Ok(run.await?)
}

//! An agent alone, without built-in modules: `agent ID NATS_URL STATE_DIR`. Its modules are those of
//! `STATE_DIR/modules.d`.

use std::{error::Error, time::Duration};

use imn_agent::{Agent, Config};
use imn_contract::AgentId;
use imn_runtime::{nats, task};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(id), Some(url), Some(state)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: agent ID NATS_URL STATE_DIR".into());
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut config =
        Config::new(AgentId::new(id)?, nats::Config::new(url, "agent"), state, std::env::current_exe()?);
    config.built_ins.clear();
    config.restart.window = Duration::from_secs(20);
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

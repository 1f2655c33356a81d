//! `imn stamp reflect`.

use anyhow::{Context, Result};
use imn_probe::stamp::{Key, Reflector, ReflectorConfig, StartError};
use imn_runtime::task::Signals;
use std::num::NonZeroU32;

use crate::{
    cli::StampReflectArgs,
    exit::{Code, Exit},
};

pub(crate) fn main(args: &StampReflectArgs) -> Result<Code> {
    let mut config = ReflectorConfig {
        stateful: args.stateful,
        max_sessions: args.max_sessions.get() as usize,
        session_timeout: args.session_timeout,
        source_rate: NonZeroU32::new(args.source_rate),
        clock: imn_module::clock_quality,
        ..ReflectorConfig::default()
    };
    if !args.listen.is_empty() {
        config.listen.clone_from(&args.listen);
    }
    if let Some(path) = &args.key_file {
        let key = Key::read(path).map_err(|error| Exit::usage(format!("--key-file: {error}")))?;
        config.key = Some(key);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let reflector = Reflector::start(&config).map_err(|error| match error {
            StartError::Invalid(_) => Exit::usage(error.to_string()),
            StartError::Listen { .. } => Exit::new(Code::Error, format!("--listen: {error}")),
            StartError::System { .. } => Exit::new(Code::Error, error.to_string()),
        })?;
        let addresses: Vec<String> = reflector.addresses().iter().map(ToString::to_string).collect();
        println!("ready: reflecting on {}", addresses.join(", "));
        signals.next().await;
        let stats = reflector.stats();
        eprintln!(
            "{} received, {} reflected, {} malformed, {} unauthentic, {} rate limited, {} refused, {} without room \
             for their session, {} not sent, {} dropped by the kernel",
            stats.received,
            stats.reflected,
            stats.malformed,
            stats.unauthentic,
            stats.rate_limited,
            stats.refused,
            stats.sessions_refused,
            stats.not_sent,
            stats.rxq_overflow
        );
        anyhow::Ok(())
    })
    .context("reflect")?;
    Ok(Code::Ok)
}

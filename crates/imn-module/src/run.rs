//! Entry points of a module process.

use std::{sync::Arc, time::Duration};

use imn_contract::{ModuleType, latest::ModuleConfig};

use crate::{
    Error,
    builtin::builtin,
    config,
    log::Level,
    module::{Module, SharedModule},
    process,
};

/// Runs a module as this process: reads its configuration from standard input, and returns when it has drained.
///
/// # Errors
/// [`Error`]: a configuration that is none, credentials or a spool that cannot be used, a part that failed. NATS
/// being away is no error: it is waited for, and standing work goes on.
pub fn run(module: impl Module) -> Result<(), Error> {
    run_shared(Arc::new(module))
}

/// Runs the built-in module of a type or alias as this process.
///
/// # Errors
/// [`Error::UnknownType`], and as [`run`].
pub fn run_builtin(kind: &str) -> Result<(), Error> {
    run_shared(builtin(kind).ok_or_else(|| Error::UnknownType { kind: kind.to_owned() })?)
}

fn run_shared(module: SharedModule) -> Result<(), Error> {
    let level = Level::start()?;
    let config = config::read(std::io::stdin().lock())?;
    check(module.as_ref(), &config);
    // Two workers: a job that computes does not hold up the answers to others.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // Started when needed; the resolver of a hundred slow names must not hold up the spool.
        .max_blocking_threads(128)
        .enable_all()
        .build()
        .map_err(|source| Error::System { operation: "start the runtime", source })?;
    // As a task beside the connection's: what arrives does not go from thread to thread.
    let serving = runtime.spawn(process::serve(module, config, level));
    let served = runtime.block_on(serving).unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Nobody aborts it.
        Err(_) => Ok(()),
    });
    // What still runs has been given its time.
    runtime.shutdown_timeout(Duration::from_millis(200));
    served
}

fn check(module: &dyn Module, config: &ModuleConfig) {
    let own = ModuleType::new(imn_contract::canonical_type(module.kind()));
    if own.as_ref() != Ok(&config.kind) {
        tracing::info!(kind = %config.kind, module = module.kind(), "runs under another type");
    }
}

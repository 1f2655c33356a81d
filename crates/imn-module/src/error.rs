//! Why a module process could not run.

use std::io;

use imn_contract::Fault;
use imn_runtime::{nats, spool, task, telemetry};

/// Why a module process could not start, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration on standard input is not as the contract has it.
    #[error("read the module configuration from standard input: {message}")]
    Config {
        /// What is wrong.
        message: String,
    },
    /// There is no built-in module of this type.
    #[error("no module type {kind:?}: use one of {}", crate::builtin::KINDS.join(", "))]
    UnknownType {
        /// The type asked for.
        kind: String,
    },
    /// A system call failed.
    #[error("{operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// NATS refused what no retry can mend.
    #[error(transparent)]
    Nats(#[from] nats::Error),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] spool::Error),
    /// The module refused to start.
    #[error("start the module: {0}")]
    Module(Fault),
    /// What it says of itself cannot be told as the environment says.
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    /// A part of the process ended that must not.
    #[error("{0}")]
    Task(#[from] task::Failure),
}

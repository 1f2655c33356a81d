//! Why an agent cannot start or go on.

use std::{io, net::SocketAddr, path::PathBuf};

/// The result of an operation of the agent.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of the agent failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The state directory cannot be used.
    #[error("open the agent's state: {0}")]
    State(#[from] imn_runtime::file::Error),
    /// NATS cannot be used.
    #[error("{0}")]
    Nats(#[from] imn_runtime::nats::Error),
    /// The listener's address is taken.
    #[error(
        "listen on {address}: the port is in use by another program; choose another with --listen ADDR:PORT of `imn agent`"
    )]
    PortInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The listener's address cannot be had.
    #[error("listen on {address}: {source}; choose another with --listen ADDR:PORT of `imn agent`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A module cannot be started.
    #[error("start {}: {source}", program.display())]
    Start {
        /// The executable.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A module has no credentials although the agent needs some.
    #[error("start {instance}: there are no credentials for it{hint}")]
    NoCredentials {
        /// The instance.
        instance: String,
        /// Where they are looked for.
        hint: String,
    },
    /// The server was asked to vouch for a module's key, and has not done so.
    #[error("start {instance}: it has no credentials yet: {message}")]
    NotVouched {
        /// The instance.
        instance: String,
        /// Why not.
        message: String,
    },
    /// There is no room for what a module keeps.
    #[error("start {instance}: {source}")]
    NoSpace {
        /// The instance.
        instance: String,
        /// How much there is.
        source: imn_runtime::file::Error,
    },
    /// A module's credentials are no credentials.
    #[error("start {instance}: its credentials are unreadable: {message}")]
    UnfitCredentials {
        /// The instance.
        instance: String,
        /// What is wrong.
        message: String,
    },
    /// An instance name would be no identifier.
    #[error("name an instance of {kind}: {source}")]
    Name {
        /// The module type.
        kind: String,
        /// Why not.
        source: imn_contract::IdError,
    },
    /// A part of the agent has failed; it cannot go on without.
    #[error("run the agent: {0}")]
    Task(#[from] imn_runtime::task::Failure),
}

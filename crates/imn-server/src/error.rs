//! Why a server cannot start.

use imn_runtime::nats;
use imn_store::{CatalogError, ResultsError};

/// Why a server could not start, or an operation of its core failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The HTTP API's address cannot be listened on.
    #[error("listen on {address}: {source}; is another server running there? choose another with --listen")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The results failed.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// NATS failed.
    #[error(transparent)]
    Nats(#[from] nats::Error),
    /// A setting is out of range.
    #[error("configuration: {message}")]
    Config {
        /// What is wrong and what to do.
        message: String,
    },
}

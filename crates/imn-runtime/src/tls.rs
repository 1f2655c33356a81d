//! TLS 1.3 by rustls on ring, and nothing below: whom a client believes, what a server shows.
//!
//! A network that has no certificates makes an authority of its own ([`LocalAuthority`]); whoever comes from elsewhere
//! believes it by its file or its fingerprint.

mod authority;
mod server;
mod trust;

use std::{path::PathBuf, sync::Arc};

use rustls::{SupportedProtocolVersion, crypto::CryptoProvider};

pub use authority::{Leaf, LocalAuthority, names_of};
pub use server::Server;
pub use trust::{Trust, fingerprint};

/// The one version that is spoken.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the authority.
    #[error(transparent)]
    File(#[from] crate::file::Error),
    /// A file is not what it should be.
    #[error("{operation} {}: {message}", path.display())]
    Unfit {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Something else is not what it should be.
    #[error("{operation}: {message}")]
    Tls {
        /// What was tried.
        operation: &'static str,
        /// What is wrong.
        message: String,
    },
}

impl Error {
    fn tls(operation: &'static str) -> impl FnOnce(&dyn std::fmt::Display) -> Self {
        move |error| Self::Tls { operation, message: error.to_string() }
    }
}

/// Makes ring the cryptography of all TLS of this process, also in libraries that ask for none by name.
pub fn install() {
    // Somebody else may have been first, and with the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

//! TLS clients that measure: how long a handshake takes, what it agrees on, and whom it meets.
//!
//! A handshake is carried to its end whatever the certificate is, and judged then: so that version, cipher and chain
//! are known of a server whose certificate has expired, and so that the time of a handshake is that of the network
//! and the peer, not of our own checks. Signatures within the handshake are verified all the same. A session comes
//! back only if the certificate passes, or if the client was told not to mind; why it would not have passed is then
//! in [`Handshake::verdict`].
//!
//! What is deliberately absent: resumption (each handshake is a full one), client certificates, revocation.

mod certificate;
mod client;
mod error;
mod trust;

pub use certificate::Certificate;
pub use client::{Client, Failure, Handshake, Session, server_name};
pub use error::{Class, Error};
pub use rustls::pki_types::{CertificateDer, ServerName};
pub use tokio_rustls::client::TlsStream;
pub use trust::{BadCertificates, Trust};

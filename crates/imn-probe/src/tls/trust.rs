//! Whom to believe, and whether a chain is to be.

use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

use super::certificate::Certificate;
use super::error::{Class, Error};

/// Certificates that are believed: those of the system, and others on top. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    /// Certificates given on top. A server that shows one of them itself is believed, as other TLS libraries do.
    extra: Arc<[CertificateDer<'static>]>,
}

/// What was given as PEM has no certificate in it, or one that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no certificate authority: {0}")]
pub struct BadCertificates(String);

impl Trust {
    /// The system's certificate authorities (of Debian's `ca-certificates`; `SSL_CERT_FILE` and `SSL_CERT_DIR` name
    /// others), read once in the life of the process.
    pub fn system() -> Self {
        static SYSTEM: OnceLock<Trust> = OnceLock::new();
        let load = || {
            let mut roots = RootCertStore::empty();
            // What cannot be read is not believed; a host without any says so with each verdict.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Self { roots: Arc::new(roots), extra: Arc::default() }
        };
        SYSTEM.get_or_init(load).clone()
    }

    /// Nobody.
    pub fn none() -> Self {
        Self { roots: Arc::new(RootCertStore::empty()), extra: Arc::default() }
    }

    /// These, and the certificates of a text in PEM.
    pub fn with_pem(&self, pem: &[u8]) -> Result<Self, BadCertificates> {
        let mut roots = RootCertStore::clone(&self.roots);
        let mut extra = self.extra.to_vec();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| BadCertificates(error.to_string()))?;
            roots.add(certificate.clone()).map_err(|error| BadCertificates(error.to_string()))?;
            extra.push(certificate);
        }
        if extra.len() == self.extra.len() {
            return Err(BadCertificates("the text has no certificate in PEM".to_owned()));
        }
        Ok(Self { roots: Arc::new(roots), extra: extra.into() })
    }

    /// Whether a chain, the server's own certificate first, is to be believed for a name now.
    pub(super) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), Error> {
        let Some((own, others)) = chain.split_first() else {
            return Err(Error::new(Class::BadCertificate, "the server showed no certificate"));
        };
        if self.extra.iter().any(|extra| extra == own) {
            return pinned(own, name);
        }
        if self.roots.is_empty() {
            let words = "this host trusts no certificate authority: install ca-certificates, or name one";
            return Err(Error::new(Class::UnknownIssuer, words));
        }
        let roots = Arc::clone(&self.roots);
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| Error::new(Class::BadCertificate, error.to_string()))?
            .verify_server_cert(own, others, name, &[], UnixTime::now())
            .map_err(|error| Error::of_certificate(&error, chain))?;
        Ok(())
    }
}

/// A certificate that is believed for itself must still be of its time and of the name.
fn pinned(own: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let facts = Certificate::read(own).map_err(|error| Error::new(Class::BadCertificate, error))?;
    let now = UnixTime::now().as_secs() as i64;
    if now > facts.not_after {
        return Err(Error::new(Class::Expired, format!("expired {} s ago", now - facts.not_after)));
    }
    if now < facts.not_before {
        return Err(Error::new(Class::NotYetValid, format!("valid in {} s", facts.not_before - now)));
    }
    let chain = std::slice::from_ref(own);
    ParsedCertificate::try_from(own)
        .and_then(|parsed| verify_server_name(&parsed, name))
        .map_err(|error| Error::of_certificate(&error, chain))
}

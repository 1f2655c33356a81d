//! What a server shows, and how it is shown anew while the server runs.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{Error, LocalAuthority, VERSIONS, provider};

/// A certificate of the local authority is made anew well before it ends.
const RENEW_AFTER: Duration = Duration::from_hours(24 * 30);

/// A server's side of TLS; cheap to clone.
#[derive(Clone)]
pub struct Server {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
    source: Arc<Source>,
}

enum Source {
    Files { certificates: PathBuf, key: PathBuf },
    Local { authority: Box<LocalAuthority>, names: Vec<String> },
}

struct Shown {
    key: RwLock<(Arc<CertifiedKey>, Instant)>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner).0))
    }
}

impl Server {
    /// Shows what stands in files: the chain, the server's own certificate first, and its key. They are read again now
    /// and then.
    ///
    /// # Errors
    /// [`Error::Unfit`] names the file and what is wrong with it.
    pub fn from_files(certificates: &Path, key: &Path) -> Result<Self, Error> {
        Self::new(Source::Files { certificates: certificates.to_owned(), key: key.to_owned() })
    }

    /// Shows a certificate of the local authority for these names and addresses, made anew before it ends.
    ///
    /// # Errors
    /// [`Error::Tls`] when a name is none.
    pub fn of_local(authority: LocalAuthority, names: Vec<String>) -> Result<Self, Error> {
        Self::new(Source::Local { authority: Box::new(authority), names })
    }

    fn new(source: Source) -> Result<Self, Error> {
        let shown = Arc::new(Shown { key: RwLock::new((source.certified()?, Instant::now())) });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|error| Error::tls("prepare TLS")(&error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), shown, source: Arc::new(source) })
    }

    /// Reads the files again, or makes a new certificate when it is time. What cannot be had leaves things as they are.
    pub fn refresh(&self) {
        let due = match &*self.source {
            Source::Files { .. } => true,
            Source::Local { .. } => {
                self.shown.key.read().unwrap_or_else(PoisonError::into_inner).1.elapsed() >= RENEW_AFTER
            }
        };
        if !due {
            return;
        }
        match self.source.certified() {
            Ok(key) => {
                *self.shown.key.write().unwrap_or_else(PoisonError::into_inner) = (key, Instant::now());
            }
            Err(error) => tracing::error!(%error, "certificate not renewed; the one before is shown"),
        }
    }

    /// Shakes hands.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static + use<>> {
        self.acceptor.accept(stream).await
    }
}

impl Source {
    fn certified(&self) -> Result<Arc<CertifiedKey>, Error> {
        let (chain, key) = match self {
            Self::Files { certificates, key } => {
                let unfit = |path: &Path, error: &dyn fmt::Display| Error::Unfit {
                    operation: "read the certificate of the server",
                    path: path.to_owned(),
                    message: error.to_string(),
                };
                let chain = CertificateDer::pem_file_iter(certificates)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| unfit(certificates, &error))?;
                if chain.is_empty() {
                    return Err(unfit(certificates, &"it holds no certificate in PEM"));
                }
                let read = PrivateKeyDer::from_pem_file(key).map_err(|error| unfit(key, &error))?;
                let fits = CertifiedKey::from_der(chain, read, &provider());
                return fits.map(Arc::new).map_err(|error| unfit(key, &error));
            }
            Self::Local { authority, names } => {
                let leaf = authority.issue(names)?;
                let failed = |error: rustls::pki_types::pem::Error| Error::tls("read what was made")(&error);
                let chain: Result<Vec<_>, _> =
                    CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect();
                (chain.map_err(failed)?, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).map_err(failed)?)
            }
        };
        CertifiedKey::from_der(chain, key, &provider())
            .map(Arc::new)
            .map_err(|error| Error::tls("use what was made")(&error))
    }
}

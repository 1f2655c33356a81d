//! Handshakes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::Certificate;
use super::error::{Class, Error};
use super::trust::Trust;

/// Makes handshakes: TLS 1.2 and 1.3, each a full one. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    connector: TlsConnector,
    provider: Arc<CryptoProvider>,
    trust: Trust,
    insecure: bool,
}

/// A connection that is secured, and how it came to be.
#[derive(Debug)]
pub struct Session<S> {
    /// The connection.
    pub stream: TlsStream<S>,
    /// What was agreed.
    pub handshake: Handshake,
}

/// What a handshake showed.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// From the first byte of the client to its last, on the monotonic clock.
    pub elapsed: Duration,
    /// Version, such as `TLS 1.3`.
    pub version: &'static str,
    /// Cipher suite by its IANA name.
    pub cipher: String,
    /// Key exchange group, such as `X25519`.
    pub group: Option<String>,
    /// Application protocol agreed (ALPN), as text.
    pub alpn: Option<String>,
    /// Name that the certificate had to be for; sent (SNI) unless it is an address.
    pub server_name: String,
    /// The chain that the peer showed, in DER, its own certificate first. At most 64 KiB together.
    pub chain: Vec<CertificateDer<'static>>,
    /// Why the certificate is not to be believed, if it is not.
    pub verdict: Result<(), Error>,
}

/// Why there is no session.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// What the handshake showed, where it came to its end and only the certificate is wrong.
    pub handshake: Option<Box<Handshake>>,
}

impl Client {
    /// A client that believes `trust`. One that is `insecure` takes any certificate, and tells its verdict.
    pub fn new(trust: Trust, insecure: bool) -> Self {
        let provider = Arc::new(ring::default_provider());
        let witness = Witness { algorithms: provider.signature_verification_algorithms };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            // ring's provider has cipher suites of all versions asked for.
            .unwrap_or_else(|_| ClientConfig::builder())
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(witness))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Self { connector: TlsConnector::from(Arc::new(config)), provider, trust, insecure }
    }

    /// The same client, offering these application protocols (ALPN), the best first.
    #[must_use]
    pub fn with_alpn(&self, protocols: &[&str]) -> Self {
        let mut config = ClientConfig::clone(self.connector.config());
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { connector: TlsConnector::from(Arc::new(config)), ..self.clone() }
    }

    /// Makes a handshake over a connection, for a name or an address that the certificate has to be for.
    pub async fn handshake<S>(
        &self,
        stream: S,
        name: &ServerName<'static>,
        deadline: Instant,
    ) -> Result<Session<S>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |error| Failure { error, handshake: None };
        let begin = Instant::now();
        let connect = self.connector.connect(name.clone(), stream);
        let stream = timeout_at(deadline.into(), connect)
            .await
            .map_err(|_| failed(Error::timeout()))?
            .map_err(|error| failed(Error::of_stream(&error)))?;
        let elapsed = begin.elapsed();
        let handshake = self.describe(stream.get_ref().1, name, elapsed);
        match &handshake.verdict {
            Err(error) if !self.insecure => {
                Err(Failure { error: error.clone(), handshake: Some(Box::new(handshake)) })
            }
            _ => Ok(Session { stream, handshake }),
        }
    }

    fn describe(
        &self,
        connection: &ClientConnection,
        name: &ServerName<'static>,
        elapsed: Duration,
    ) -> Handshake {
        let chain: Vec<_> = connection
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|c| c.clone().into_owned())
            .collect();
        Handshake {
            elapsed,
            version: version(connection.protocol_version()),
            cipher: connection.negotiated_cipher_suite().map(|suite| iana(suite.suite())).unwrap_or_default(),
            group: connection.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
            alpn: connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            server_name: name.to_str().into_owned(),
            verdict: self.trust.judge(&chain, name, &self.provider),
            chain,
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("insecure", &self.insecure).finish_non_exhaustive()
    }
}

impl Handshake {
    /// What the certificates of the chain say; those that cannot be read are left out.
    pub fn certificates(&self) -> impl Iterator<Item = Certificate> {
        self.chain.iter().filter_map(|der| Certificate::read(der).ok())
    }

    /// When the first certificate of the chain to do so expires, in seconds since the Unix epoch.
    pub fn earliest_expiry(&self) -> Option<i64> {
        self.certificates().map(|certificate| certificate.not_after).min()
    }
}

/// The name for a handshake: a host name without its final dot, or an address with or without brackets.
///
/// # Errors
/// [`Class::WrongName`] for what is neither.
pub fn server_name(host: &str) -> Result<ServerName<'static>, Error> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    ServerName::try_from(bare.to_owned())
        .map_err(|_| Error::new(Class::WrongName, format!("{bare:?} is no name for a certificate")))
}

/// Lets every certificate pass, for [`Trust`] judges it afterwards; checks what the peer signs with it.
#[derive(Debug)]
struct Witness {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn version(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        _ => "",
    }
}

/// rustls marks the suites of TLS 1.3 by a name that IANA does not have.
fn iana(suite: rustls::CipherSuite) -> String {
    let name = format!("{suite:?}");
    name.strip_prefix("TLS13_").map_or_else(|| name.clone(), |rest| format!("TLS_{rest}"))
}

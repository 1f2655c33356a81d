//! Why there is no session, or why its certificate is not to be believed.

use std::{fmt, io};

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::certificate::Certificate;

/// What went wrong with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// A certificate of the chain is of the past.
    Expired,
    /// A certificate of the chain is of the future.
    NotYetValid,
    /// The server's certificate was signed by itself, and is not trusted for itself.
    SelfSigned,
    /// No trusted authority stands behind the chain.
    UnknownIssuer,
    /// The certificate is not for the name asked for.
    WrongName,
    /// The certificate cannot be read, is not for servers, or its signature is wrong.
    BadCertificate,
    /// The two ends have no version, cipher, group or protocol in common.
    Mismatch,
    /// The peer broke the handshake off with an alert.
    Alert,
    /// What answered does not speak TLS.
    NotTls,
    /// What answered speaks TLS wrongly.
    Protocol,
    /// The peer closed the connection.
    Closed,
    /// The peer reset the connection.
    Reset,
    /// Not done in time.
    Timeout,
}

impl Class {
    /// A word for programs, such as `tls_expired`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Expired => "tls_expired",
            Self::NotYetValid => "tls_not_yet_valid",
            Self::SelfSigned => "tls_self_signed",
            Self::UnknownIssuer => "tls_unknown_issuer",
            Self::WrongName => "tls_wrong_name",
            Self::BadCertificate => "tls_bad_certificate",
            Self::Mismatch => "tls_mismatch",
            Self::Alert => "tls_alert",
            Self::NotTls => "not_tls",
            Self::Protocol => "tls_protocol",
            Self::Closed => "tls_closed",
            Self::Reset => "tls_reset",
            Self::Timeout => "tls_timeout",
        }
    }

    /// Whether it is the certificate that is wrong, which a client can be told not to mind.
    pub const fn is_certificate(self) -> bool {
        matches!(
            self,
            Self::Expired
                | Self::NotYetValid
                | Self::SelfSigned
                | Self::UnknownIssuer
                | Self::WrongName
                | Self::BadCertificate
        )
    }
}

/// A class, and the words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What went wrong.
    pub class: Class,
    words: String,
}

impl Error {
    pub(super) fn new(class: Class, words: impl Into<String>) -> Self {
        // Words of the peer's making, such as names in a certificate, are bounded.
        Self { class, words: words.into().chars().take(400).collect() }
    }

    pub(super) fn timeout() -> Self {
        Self::new(Class::Timeout, "not done in time")
    }

    /// Of a connection's end or of bytes that make no sense, during a handshake or after it.
    pub fn of_stream(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => Self::of_rustls(inner),
            None => Self::of_connection(error),
        }
    }

    fn of_connection(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Self::new(Class::Reset, "the peer reset the connection")
            }
            io::ErrorKind::UnexpectedEof => Self::new(Class::Closed, "the peer closed the connection"),
            _ => Self::new(Class::Reset, format!("the connection failed: {error}")),
        }
    }

    fn of_rustls(error: &rustls::Error) -> Self {
        let class = match error {
            // The first bytes of other protocols are no content type of TLS.
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                return Self::new(Class::NotTls, "what answers does not speak TLS");
            }
            rustls::Error::AlertReceived(alert) => {
                let class = match alert {
                    AlertDescription::HandshakeFailure
                    | AlertDescription::ProtocolVersion
                    | AlertDescription::InsufficientSecurity
                    | AlertDescription::NoApplicationProtocol => Class::Mismatch,
                    _ => Class::Alert,
                };
                return Self::new(class, format!("the peer broke the handshake off: {alert:?}"));
            }
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => Class::Mismatch,
            rustls::Error::InvalidCertificate(_) => return Self::of_certificate(error, &[]),
            rustls::Error::NoCertificatesPresented => Class::BadCertificate,
            _ => Class::Protocol,
        };
        Self::new(class, error.to_string())
    }

    /// Of a chain that did not pass.
    pub(super) fn of_certificate(error: &rustls::Error, chain: &[CertificateDer<'_>]) -> Self {
        let rustls::Error::InvalidCertificate(reason) = error else {
            return Self::of_rustls(error);
        };
        let own = || chain.first().and_then(|own| Certificate::read(own).ok());
        let self_issued = || own().is_some_and(|own| own.self_issued);
        match reason {
            CertificateError::Expired => Self::new(Class::Expired, "a certificate has expired"),
            CertificateError::ExpiredContext { time, not_after } => {
                let ago = time.as_secs().saturating_sub(not_after.as_secs());
                Self::new(Class::Expired, format!("a certificate expired {} ago", span(ago)))
            }
            CertificateError::NotValidYet => Self::new(Class::NotYetValid, "a certificate is not valid yet"),
            CertificateError::NotValidYetContext { time, not_before } => {
                let until = not_before.as_secs().saturating_sub(time.as_secs());
                Self::new(Class::NotYetValid, format!("a certificate will be valid in {} only", span(until)))
            }
            // An authority's own certificate in place of a server's, as `openssl req -x509` makes them.
            CertificateError::UnknownIssuer | CertificateError::Other(_) if self_issued() => {
                Self::new(Class::SelfSigned, "the certificate is self-signed and not trusted")
            }
            CertificateError::UnknownIssuer => {
                let issuer = own().map_or_else(|| "unknown".to_owned(), |own| own.issuer);
                Self::new(
                    Class::UnknownIssuer,
                    format!("no trusted authority stands behind issuer {issuer:?}"),
                )
            }
            // Somebody else with the name of a trusted authority.
            CertificateError::BadSignature if !chain.is_empty() => {
                Self::new(Class::UnknownIssuer, "no trusted authority has signed the certificate")
            }
            CertificateError::NotValidForName => {
                Self::new(Class::WrongName, "the certificate is not for the name asked for")
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let shown: Vec<_> = presented.iter().take(5).map(String::as_str).collect();
                let shown = if shown.is_empty() { "no name".to_owned() } else { shown.join(", ") };
                let words = format!("the certificate is not for {}: it is for {shown}", expected.to_str());
                Self::new(Class::WrongName, words)
            }
            reason => Self::new(Class::BadCertificate, format!("the certificate is not good: {reason}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Error {}

/// A duration in its largest unit.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

//! What a TLS handshake showed, for every type that makes one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A TLS handshake.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TlsOutcome {
    /// How long it took, in milliseconds, without our own checks of the certificate.
    pub handshake_ms: f64,
    /// Version, such as `TLS 1.3`.
    pub version: String,
    /// Cipher suite by its IANA name.
    pub cipher: String,
    /// Key exchange group, such as `X25519`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Application protocol agreed on (ALPN).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// Name that the certificate had to be for.
    pub server_name: String,
    /// Whether the certificate is to be believed: by its chain, its dates and its names.
    pub verified: bool,
    /// Why it is not, as a word for programs: `tls_expired`, `tls_not_yet_valid`, `tls_self_signed`,
    /// `tls_unknown_issuer`, `tls_wrong_name` or `tls_bad_certificate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Why it is not, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_text: Option<String>,
    /// When the first certificate of the chain to do so expires, RFC 3339 UTC.
    pub expires: Option<String>,
    /// The chain as the server showed it, its own certificate first.
    pub chain: Vec<CertificateOutcome>,
}

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateOutcome {
    /// Distinguished name of the subject.
    pub subject: String,
    /// Distinguished name of the issuer.
    pub issuer: String,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// Subject alternative names, at most 32.
    pub names: Vec<String>,
    /// How many subject alternative names there are.
    pub name_count: u32,
    /// Valid from, RFC 3339 UTC.
    pub not_before: String,
    /// Valid until, RFC 3339 UTC.
    pub not_after: String,
    /// Kind and size of the public key.
    pub key: String,
    /// Algorithm of the signature.
    pub signature: String,
    /// SHA-256 of the certificate in hexadecimal.
    pub sha256: String,
    /// The certificate in PEM, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
}

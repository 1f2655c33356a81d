//! Whom a client believes.

use std::{fmt, str::FromStr, sync::Arc};

use data_encoding::HEXLOWER_PERMISSIVE;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use sha2::{Digest, Sha256};

use super::{Error, VERSIONS, provider};

const PREFIX: &str = "sha256:";

/// Whose certificates are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those of the authorities that this host knows.
    #[default]
    System,
    /// Nobody's: for what is never connected to by TLS.
    Nobody,
    /// Those of the authorities in a text in PEM, and no others.
    Pem(String),
    /// Those of the authority whose own certificate has this SHA-256; the server must show it with its own.
    Fingerprint([u8; 32]),
}

impl Trust {
    /// What a client that believes so is configured with.
    ///
    /// # Errors
    /// [`Error::Tls`] when the text has no certificate, or this host knows no authority.
    pub fn client(&self) -> Result<ClientConfig, Error> {
        const OPERATION: &str = "decide whom to believe";
        let unfit = |message: String| Error::Tls { operation: OPERATION, message };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|error| Error::tls(OPERATION)(&error))?;
        let mut roots = RootCertStore::empty();
        match self {
            Self::System => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    let words =
                        "this host knows no certificate authority: install ca-certificates, or use --ca-file";
                    return Err(unfit(words.to_owned()));
                }
            }
            Self::Nobody => {}
            Self::Pem(text) => {
                for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                    let certificate = certificate.map_err(|error| unfit(error.to_string()))?;
                    roots.add(certificate).map_err(|error| unfit(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(unfit("the text holds no certificate in PEM".to_owned()));
                }
            }
            Self::Fingerprint(wanted) => {
                let pinned = Pinned { wanted: *wanted, provider: provider() };
                let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned));
                return Ok(builder.with_no_client_auth());
            }
        }
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

/// `sha256:` and the hexadecimal digest of a certificate.
pub fn fingerprint(certificate: &[u8]) -> String {
    format!("{PREFIX}{}", HEXLOWER_PERMISSIVE.encode(&Sha256::digest(certificate)))
}

impl FromStr for Trust {
    type Err = String;

    /// Reads a fingerprint.
    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.strip_prefix(PREFIX).ok_or_else(|| format!("write it as {PREFIX}HEX"))?;
        let bytes = HEXLOWER_PERMISSIVE.decode(hex.replace(':', "").as_bytes());
        let bytes: Option<[u8; 32]> = bytes.ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self::Fingerprint).ok_or_else(|| "it has 64 hexadecimal digits".to_owned())
    }
}

/// Believes what an authority with one fingerprint has signed, for the name and at the time as ever.
struct Pinned {
    wanted: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut shown = std::iter::once(own).chain(others);
        let authority = shown.find(|certificate| Sha256::digest(certificate)[..] == self.wanted);
        let Some(authority) = authority else {
            return Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(own, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_it_is_written() {
        let text = fingerprint(b"certificate");
        let Ok(Trust::Fingerprint(bytes)) = text.parse() else { panic!("{text}") };
        assert_eq!(bytes[..], Sha256::digest(b"certificate")[..]);
        assert_eq!(text.to_uppercase().replace("SHA256", "sha256").parse(), Ok(Trust::Fingerprint(bytes)));
        for wrong in ["", "sha256:", "sha256:00", &text[1..], &format!("{text}00"), "sha256:zz"] {
            assert!(wrong.parse::<Trust>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_text_without_a_certificate_is_nobody_to_believe() {
        for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(Trust::Pem(text.to_owned()).client().is_err(), "{text}");
        }
    }
}

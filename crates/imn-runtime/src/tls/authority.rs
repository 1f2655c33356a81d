//! A certificate authority for a network that has none.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{Error, fingerprint};
use crate::file;

const NAME: &str = "IMN local authority";
/// Clocks of other hosts may be behind.
const BEFORE: Duration = Duration::from_hours(24);
const AUTHORITY_FOR: Duration = Duration::from_hours(24 * 3650);
/// How long a server's certificate is good for.
const LEAF_FOR: Duration = Duration::from_hours(24 * 90);

/// The authority of one network: a key (0600) and its certificate in a directory.
pub struct LocalAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// A server's certificate with that of the authority after it, and its key; both in PEM.
#[derive(Clone)]
pub struct Leaf {
    /// The chain.
    pub chain: String,
    /// The key.
    pub key: String,
}

impl std::fmt::Debug for LocalAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalAuthority").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").field("key", &"***").finish_non_exhaustive()
    }
}

impl LocalAuthority {
    /// Reads `ca.key` and `ca.pem`, and makes what is not there.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Unfit`] for a file that holds something else.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        file::create_private_dir(directory)?;
        let (key_path, certificate_path) = (directory.join("ca.key"), directory.join("ca.pem"));
        let fix = "restore the file from a backup, or remove ca.key and ca.pem for a new authority";
        let unfit = |path: &Path, error: &dyn std::fmt::Display| Error::Unfit {
            operation: "read the local authority",
            path: path.to_owned(),
            message: format!("{error}; {fix}"),
        };
        let key = if let Some(text) = file::read_optional(&key_path)? {
            KeyPair::from_pem(&text).map_err(|error| unfit(&key_path, &error))?
        } else {
            let key = KeyPair::generate().map_err(|error| Error::tls("make a key")(&error))?;
            file::write_atomic(&key_path, key.serialize_pem().as_bytes())?;
            key
        };
        let params = params_of_authority();
        let pem = if let Some(text) = file::read_optional(&certificate_path)? {
            text
        } else {
            let made = params.self_signed(&key);
            let text = made.map_err(|error| Error::tls("make the local authority")(&error))?.pem();
            file::write_atomic(&certificate_path, text.as_bytes())?;
            text
        };
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| unfit(&certificate_path, &error))?;
        Ok(Self { issuer: Issuer::new(params, key), pem, der })
    }

    /// Its certificate, in PEM: what others are to believe.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The fingerprint of its certificate, `sha256:…`.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }

    /// Makes a key and a certificate for a server that is reached by these names and addresses.
    ///
    /// # Errors
    /// [`Error::Tls`] when a name is none.
    pub fn issue(&self, names: &[String]) -> Result<Leaf, Error> {
        let failed = |error: rcgen::Error| Error::tls("make the server's certificate")(&error);
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String("IMN".to_owned()));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        span(&mut params, LEAF_FOR);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Leaf { chain: format!("{}{}", certificate.pem(), self.pem), key: key.serialize_pem() })
    }
}

/// The names and addresses by which a listener on this address may be reached, with further ones.
pub fn names_of(listen: IpAddr, further: &[String]) -> Vec<String> {
    let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(further.iter().cloned());
    if listen.is_unspecified() {
        if let Ok(host) = rustix::system::uname().nodename().to_str() {
            names.insert(host.to_owned());
        }
        let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
        for address in interfaces.filter_map(|interface| interface.address) {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
            names.extend(v4.or(v6).map(|address| address.to_string()));
        }
    } else {
        names.insert(listen.to_string());
    }
    names.into_iter().collect()
}

fn params_of_authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(NAME.to_owned()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    span(&mut params, AUTHORITY_FOR);
    params
}

fn span(params: &mut CertificateParams, length: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + now.saturating_sub(BEFORE);
    params.not_after = epoch + now + length;
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_authority_is_made_once_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("tls");
        let first = LocalAuthority::open(&keys).unwrap();
        let second = LocalAuthority::open(&keys).unwrap();
        assert_eq!((first.pem(), first.fingerprint()), (second.pem(), second.fingerprint()));
        let mode = std::fs::metadata(keys.join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(keys.join("ca.key"), "nonsense").unwrap();
        let refused = LocalAuthority::open(&keys).unwrap_err().to_string();
        assert!(refused.contains("ca.key") && refused.contains("restore"), "{refused}");
    }

    #[test]
    fn a_listener_is_reached_by_its_address_or_any() {
        let names = names_of("192.0.2.1".parse().unwrap(), &["imn.example".to_owned()]);
        for name in ["127.0.0.1", "192.0.2.1", "::1", "imn.example", "localhost"] {
            assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
        }
        let any = names_of("0.0.0.0".parse().unwrap(), &[]);
        assert!(!any.iter().any(|name| name == "0.0.0.0") && any.len() > 3, "{any:?}");
    }
}

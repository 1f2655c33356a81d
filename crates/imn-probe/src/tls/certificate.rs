//! What a certificate says (RFC 5280), without believing it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{Oid, OidRegistry};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// Texts of a certificate are cut at this many characters; the longest names in use are far shorter.
const LONGEST_TEXT: usize = 512;
/// Names beyond this many are counted only.
const MOST_NAMES: usize = 256;

/// The facts of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Distinguished name of the subject.
    pub subject: String,
    /// Distinguished name of the issuer.
    pub issuer: String,
    /// Serial number in hexadecimal, bytes apart by colons, as openssl shows it.
    pub serial: String,
    /// Subject alternative names: names and addresses as they are, others with their kind before a colon. At most
    /// 256.
    pub names: Vec<String>,
    /// How many subject alternative names there are.
    pub name_count: usize,
    /// Valid from, in seconds since the Unix epoch.
    pub not_before: i64,
    /// Valid until, in seconds since the Unix epoch.
    pub not_after: i64,
    /// Subject and issuer are the same.
    pub self_issued: bool,
    /// Kind and size of the public key, such as `RSA 2048`.
    pub key: String,
    /// Algorithm of the signature, such as `sha256WithRSAEncryption`, or its object identifier.
    pub signature: String,
    /// SHA-256 of the whole certificate in hexadecimal.
    pub sha256: String,
}

impl Certificate {
    /// Reads a certificate in DER. The error says in words why it cannot be read.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|error| cut(&format!("unreadable: {error}")))?;
        let alternatives = parsed
            .subject_alternative_name()
            .ok()
            .flatten()
            .map(|extension| &extension.value.general_names[..])
            .unwrap_or_default();
        Ok(Self {
            subject: cut(&parsed.subject().to_string()),
            issuer: cut(&parsed.issuer().to_string()),
            serial: cut(serial(&parsed.raw_serial_as_string())),
            names: alternatives.iter().take(MOST_NAMES).map(|name| cut(&alternative(name))).collect(),
            name_count: alternatives.len(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            self_issued: parsed.subject().as_raw() == parsed.issuer().as_raw(),
            key: key(&parsed),
            signature: algorithm(&parsed.signature_algorithm.algorithm),
            sha256: HEXLOWER.encode(&Sha256::digest(der)),
        })
    }
}

fn alternative(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => {
            address(bytes).map_or_else(|| format!("ip:{} bytes", bytes.len()), |address| address.to_string())
        }
        GeneralName::RFC822Name(mail) => format!("email:{mail}"),
        GeneralName::URI(uri) => format!("uri:{uri}"),
        GeneralName::DirectoryName(name) => format!("dn:{name}"),
        GeneralName::RegisteredID(oid) => format!("oid:{oid}"),
        GeneralName::OtherName(oid, _) => format!("other:{oid}"),
        GeneralName::X400Address(_) => "x400".to_owned(),
        GeneralName::EDIPartyName(_) => "edi".to_owned(),
        GeneralName::Invalid(..) => "invalid".to_owned(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

fn key(parsed: &X509Certificate<'_>) -> String {
    let info = parsed.public_key();
    match info.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        Ok(PublicKey::EC(point)) => format!("EC {}", point.key_size()),
        _ => algorithm(&info.algorithm.algorithm),
    }
}

/// The registered name of an algorithm, or the numbers of its identifier.
fn algorithm(oid: &Oid<'_>) -> String {
    let registry = OidRegistry::default().with_crypto();
    let name = registry.get(oid).map(|entry| entry.sn().to_owned());
    name.unwrap_or_else(|| cut(&oid.to_id_string()))
}

/// DER has a byte of zeros before a number whose first bit is set; it is no part of the number.
fn serial(raw: &str) -> &str {
    raw.strip_prefix("00:").unwrap_or(raw)
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_shown_without_its_sign() {
        for (raw, shown) in [("00:d5:c7", "d5:c7"), ("7f", "7f"), ("00", "00"), ("10:00", "10:00")] {
            assert_eq!(serial(raw), shown);
        }
    }
}

//! Handshakes and certificates.

use data_encoding::BASE64;
use imn_contract::latest::{CertificateOutcome, TlsOutcome};
use imn_probe::tls::{Certificate, Handshake};
use imn_runtime::clock;

/// Subject alternative names that are told.
const MOST_NAMES: usize = 32;
/// Certificates of a chain that are told; no chain in use is nearly as long.
const LONGEST_CHAIN: usize = 16;

/// A handshake, with the certificates themselves if they are wanted.
pub(crate) fn tls(handshake: &Handshake, with_pem: bool) -> TlsOutcome {
    let problem = handshake.verdict.as_ref().err();
    TlsOutcome {
        handshake_ms: super::nanos(handshake.elapsed) as f64 / 1e6,
        version: handshake.version.to_owned(),
        cipher: handshake.cipher.clone(),
        group: handshake.group.clone(),
        alpn: handshake.alpn.clone(),
        server_name: handshake.server_name.clone(),
        verified: problem.is_none(),
        problem: problem.map(|error| error.class.code().to_owned()),
        problem_text: problem.map(ToString::to_string),
        expires: handshake.earliest_expiry().map(time),
        chain: handshake.chain.iter().take(LONGEST_CHAIN).map(|der| certificate(der, with_pem)).collect(),
    }
}

/// RFC 3339 of seconds since the Unix epoch.
pub(crate) fn time(seconds: i64) -> String {
    clock::rfc3339(seconds.saturating_mul(1_000_000))
}

fn certificate(der: &[u8], with_pem: bool) -> CertificateOutcome {
    let pem = with_pem.then(|| pem(der));
    let Ok(facts) = Certificate::read(der) else {
        return CertificateOutcome { subject: "unreadable".to_owned(), pem, ..CertificateOutcome::default() };
    };
    let name_count = facts.name_count as u32;
    CertificateOutcome {
        subject: facts.subject,
        issuer: facts.issuer,
        serial: facts.serial,
        names: facts.names.into_iter().take(MOST_NAMES).collect(),
        name_count,
        not_before: time(facts.not_before),
        not_after: time(facts.not_after),
        key: facts.key,
        signature: facts.signature,
        sha256: facts.sha256,
        pem,
    }
}

/// RFC 7468.
fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

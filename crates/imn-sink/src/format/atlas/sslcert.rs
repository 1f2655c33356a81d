//! Results of the type `sslcert`: beside those of every type that made a TLS handshake.

use std::io;

use imn_contract::latest::TlsOutcome;
use serde::Serialize;

use super::{Common, Row, json};

#[derive(Serialize)]
struct SslCert<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    method: &'static str,
    dst_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_port: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_addr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_addr: Option<String>,
    ver: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttc: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rt: Option<f64>,
    server_cipher: &'a str,
    cert: Vec<&'a str>,
}

/// A handshake and, where it was asked for, the chain. `connect_ms` is the time of the connection before it.
pub(super) fn result(
    row: &Row,
    tls: &TlsOutcome,
    port: Option<u16>,
    connect_ms: Option<f64>,
) -> io::Result<String> {
    let head = row.outcome.head();
    json::text(&SslCert {
        common: Common::new(row, "sslcert", "SSLCert"),
        method: "TLS",
        dst_name: &tls.server_name,
        dst_port: port.map(|port| port.to_string()),
        dst_addr: head.address,
        src_addr: super::source(row),
        ver: tls.version.trim_start_matches("TLS "),
        ttc: connect_ms,
        // As Atlas takes it: with the connection.
        rt: connect_ms.map(|connect| connect + tls.handshake_ms),
        server_cipher: &tls.cipher,
        cert: tls.chain.iter().filter_map(|certificate| certificate.pem.as_deref()).collect(),
    })
}

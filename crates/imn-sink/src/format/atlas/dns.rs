//! Results of the type `dns`.

use std::io;

use imn_contract::latest::DnsOutcome;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Common, Row, json};

#[derive(Serialize)]
struct Dns<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    proto: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_addr: Option<&'a str>,
    dst_port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_addr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Answer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct Answer<'a> {
    #[serde(rename = "rt")]
    rt: f64,
    #[serde(rename = "size")]
    size: u32,
    #[serde(rename = "abuf", skip_serializing_if = "Option::is_none")]
    abuf: Option<&'a str>,
    id: u16,
    qdcount: u16,
    ancount: u16,
    nscount: u16,
    arcount: u16,
}

pub(super) fn result(row: &Row, outcome: &DnsOutcome) -> io::Result<String> {
    let mut common = Common::new(row, "dns", "Tdig");
    if let Some(source) = &outcome.source {
        common.from.clone_from(source);
    }
    // The time and the message are those of the answer that counts.
    let time = if outcome.retried_over_tcp { outcome.phases_ms.retry } else { outcome.phases_ms.query };
    let answer = time.zip(outcome.counts).map(|(rt, counts)| Answer {
        rt,
        size: outcome.answer_size.unwrap_or_default(),
        abuf: outcome.abuf.as_deref(),
        id: outcome.id.unwrap_or_default(),
        qdcount: counts.question,
        ancount: counts.answer,
        nscount: counts.authority,
        arcount: counts.additional,
    });
    let text = outcome.error.as_deref().unwrap_or_default();
    let error = match outcome.error_code.as_deref() {
        // Atlas has no expectations: an answer is a result.
        _ if answer.is_some() => None,
        Some("timeout" | "wrong_answer") => Some(json!({ "timeout": outcome.tmax_ms })),
        Some("resolve") => Some(json!({ "getaddrinfo": text })),
        _ => Some(json!({ "socket": text })),
    };
    let proto = match outcome.transport.as_str() {
        "udp" if !outcome.retried_over_tcp => "UDP",
        "dot" => "TLS",
        "doh" => "HTTPS",
        _ => "TCP",
    };
    json::text(&Dns {
        common,
        proto,
        dst_name: Some(outcome.resolver.as_str()).filter(|name| !name.is_empty()),
        dst_addr: outcome.address.as_deref(),
        dst_port: outcome.port.to_string(),
        src_addr: outcome.source.as_deref(),
        result: answer,
        error,
    })
}

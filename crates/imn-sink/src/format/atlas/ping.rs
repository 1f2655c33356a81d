//! Results of the type `ping`; connecting is told in the same form.

use std::io;

use imn_contract::latest::PingOutcome;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Common, Row, json};

const PAYLOAD_OF_CONNECT: u32 = 0;

#[derive(Serialize)]
struct Ping<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    proto: &'static str,
    dst_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_addr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_addr: Option<String>,
    size: u32,
    step: Option<u32>,
    sent: u32,
    rcvd: u32,
    dup: u32,
    min: f64,
    avg: f64,
    max: f64,
    result: Vec<Value>,
}

pub(super) fn result(row: &Row, outcome: &PingOutcome) -> io::Result<String> {
    let common = Common::new(row, "ping", "Ping");
    // Atlas writes -1 where nothing came back.
    let or_none = |value: Option<f64>| value.unwrap_or(-1.0);
    let mut result: Vec<Value> = outcome
        .rtts_ms
        .iter()
        .map(|rtt| rtt.map_or_else(|| json!({"x": "*"}), |rtt| json!({"rtt": rtt})))
        .collect();
    if let Some(error) = outcome.error.as_ref().filter(|_| outcome.received == 0) {
        if result.is_empty() {
            result.push(Value::Null);
        }
        result.fill(json!({ "error": error }));
    }
    json::text(&Ping {
        common,
        proto: if outcome.protocol == "tcp" { "TCP" } else { "ICMP" },
        dst_name: &outcome.target,
        dst_addr: outcome.address.as_deref(),
        src_addr: row.source.map(|source| source.to_string()),
        size: outcome.size.unwrap_or(PAYLOAD_OF_CONNECT),
        step: None,
        sent: outcome.sent,
        rcvd: outcome.received,
        dup: outcome.duplicates,
        min: or_none(outcome.rtt_ms.min),
        avg: or_none(outcome.rtt_ms.avg),
        max: or_none(outcome.rtt_ms.max),
        result,
    })
}

//! RIPE Atlas JSON, as `ripe.atlas.sagan` reads it.

use std::io;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Row, json};

/// What results say of their format; parsers take everything from 5000 on as the current one.
const FIRMWARE: u32 = 5080;
/// Not a measurement of RIPE's.
const MEASUREMENT: u32 = 0;
const PAYLOAD_OF_CONNECT: u32 = 0;

#[derive(Serialize)]
struct Ping<'a> {
    fw: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: i64,
    msm_id: u32,
    msm_name: &'static str,
    prb_id: u32,
    /// Our own: Atlas knows its probes by number only.
    #[serde(skip_serializing_if = "Option::is_none")]
    prb_name: Option<&'a str>,
    from: String,
    lts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    af: Option<u8>,
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

pub(super) fn ping(row: &Row) -> io::Result<String> {
    let outcome = &row.outcome;
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
    let source = row.source.map(|source| source.to_string());
    json::text(&Ping {
        fw: FIRMWARE,
        kind: "ping",
        timestamp: row.time_us().unwrap_or_else(imn_runtime::clock::now_us).div_euclid(1_000_000),
        msm_id: MEASUREMENT,
        msm_name: "Ping",
        prb_id: row.agent.as_deref().map_or(0, number),
        prb_name: row.agent.as_deref(),
        from: source.clone().unwrap_or_default(),
        // Seconds since the clock was set: not known.
        lts: -1,
        af: row.family(),
        proto: if outcome.protocol == "tcp" { "TCP" } else { "ICMP" },
        dst_name: &outcome.target,
        dst_addr: outcome.address.as_deref(),
        src_addr: source,
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

/// A number for an agent that is the same in every run (FNV-1a, 31 bits), since Atlas names probes by numbers.
fn number(agent: &str) -> u32 {
    let hash =
        agent.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash >> 1
}

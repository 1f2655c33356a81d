//! RIPE Atlas JSON, as `ripe.atlas.sagan` reads it.

mod dns;
mod http;
mod ping;
mod sslcert;
mod trace;

use std::io;

use imn_contract::latest::Outcome;
use serde::Serialize;

use super::{Format, Row, family, formless, json, time_us};

/// What results say of their format; parsers take everything from 5000 on as the current one.
const FIRMWARE: u32 = 5080;
/// Not a measurement of RIPE's.
const MEASUREMENT: u32 = 0;

/// What the results of every type have.
#[derive(Serialize)]
struct Common<'a> {
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
}

impl<'a> Common<'a> {
    /// Of a row, under Atlas' name of the type and of such measurements.
    fn new(row: &'a Row, kind: &'static str, msm_name: &'static str) -> Self {
        let head = row.outcome.head();
        Self {
            fw: FIRMWARE,
            kind,
            timestamp: time_us(&head).unwrap_or_else(imn_runtime::clock::now_us).div_euclid(1_000_000),
            msm_id: MEASUREMENT,
            msm_name,
            prb_id: row.agent.as_deref().map_or(0, number),
            prb_name: row.agent.as_deref(),
            from: row.source.map(|source| source.to_string()).unwrap_or_default(),
            // Seconds since the clock was set: not known.
            lts: -1,
            af: family(&head),
        }
    }
}

/// The results that a row comes to: two where a TLS handshake was made, which is a measurement of its own to Atlas.
pub(super) fn row(row: &Row) -> io::Result<Vec<String>> {
    let mut results = Vec::new();
    match &row.outcome {
        Outcome::Ping(outcome) => {
            results.push(ping::result(row, outcome)?);
            if let Some(tls) = &outcome.tls {
                results.push(sslcert::result(row, tls, outcome.port, outcome.rtt_ms.avg)?);
            }
        }
        Outcome::Dns(outcome) => results.push(dns::result(row, outcome)?),
        Outcome::Trace(outcome) => results.push(trace::result(row, outcome)?),
        Outcome::Http(outcome) => {
            results.push(http::result(row, outcome)?);
            if let Some(tls) = &outcome.tls {
                let connect_ms = outcome.hops.last().and_then(|hop| hop.phases_ms.connect);
                results.push(sslcert::result(row, tls, outcome.port, connect_ms)?);
            }
        }
        outcome => return Err(formless(Format::Atlas, outcome)),
    }
    Ok(results)
}

/// The address measured from, where it is known.
fn source(row: &Row) -> Option<String> {
    row.source.map(|source| source.to_string())
}

/// A number for an agent that is the same in every run (FNV-1a, 31 bits), since Atlas names probes by numbers.
fn number(agent: &str) -> u32 {
    let hash =
        agent.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash >> 1
}

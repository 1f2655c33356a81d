//! Columns of `icmp` and `tcp`: the round-trip times of the packets in one field, apart by blanks.

use std::io;

use imn_contract::latest::PingOutcome;

use super::number;

pub(super) const COLUMNS: [&str; 26] = [
    "target",
    "address",
    "protocol",
    "port",
    "time",
    "sent",
    "received",
    "unknown",
    "loss_pct",
    "rtt_min_ms",
    "rtt_avg_ms",
    "rtt_max_ms",
    "rtt_stddev_ms",
    "rtt_p50_ms",
    "rtt_p95_ms",
    "ipdv_ms",
    "pdv_ms",
    "jitter_ms",
    "duplicates",
    "late",
    "reordered",
    "rtts_ms",
    "timestamp_source",
    "error_us",
    "tmax_ms",
    "error",
];

pub(super) fn fields(outcome: &PingOutcome) -> io::Result<[String; COLUMNS.len()]> {
    let each = |value: &Option<f64>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
    let source = serde_json::to_value(outcome.timestamp_source)?;
    Ok([
        outcome.target.clone(),
        outcome.address.clone().unwrap_or_default(),
        outcome.protocol.clone(),
        outcome.port.map(|port| port.to_string()).unwrap_or_default(),
        outcome.time.clone().unwrap_or_default(),
        outcome.sent.to_string(),
        outcome.received.to_string(),
        outcome.unknown.to_string(),
        number(outcome.loss_pct),
        number(outcome.rtt_ms.min),
        number(outcome.rtt_ms.avg),
        number(outcome.rtt_ms.max),
        number(outcome.rtt_ms.stddev),
        number(outcome.rtt_ms.p50),
        number(outcome.rtt_ms.p95),
        number(outcome.ipdv_ms),
        number(outcome.pdv_ms),
        number(outcome.jitter_ms),
        outcome.duplicates.to_string(),
        outcome.late.to_string(),
        outcome.reordered.to_string(),
        outcome.rtts_ms.iter().map(each).collect::<Vec<_>>().join(" "),
        source.as_str().unwrap_or_default().to_owned(),
        outcome.error_us.to_string(),
        outcome.tmax_ms.to_string(),
        outcome.error.clone().unwrap_or_default(),
    ])
}

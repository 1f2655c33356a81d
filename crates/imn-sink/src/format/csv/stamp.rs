//! Columns of `stamp`: the delays of the packets in one field each, apart by blanks.

use std::io;

use imn_contract::latest::{StampDirection, StampOutcome};

use super::number;

pub(super) const COLUMNS: [&str; 58] = [
    "target",
    "address",
    "port",
    "mode",
    "size",
    "dscp",
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
    "residence_ms",
    "forward_sent",
    "forward_lost",
    "forward_min_ms",
    "forward_avg_ms",
    "forward_max_ms",
    "forward_stddev_ms",
    "forward_p50_ms",
    "forward_p95_ms",
    "forward_ipdv_ms",
    "forward_pdv_ms",
    "forward_duplicates",
    "forward_reordered",
    "backward_sent",
    "backward_lost",
    "backward_min_ms",
    "backward_avg_ms",
    "backward_max_ms",
    "backward_stddev_ms",
    "backward_p50_ms",
    "backward_p95_ms",
    "backward_ipdv_ms",
    "backward_pdv_ms",
    "backward_duplicates",
    "backward_reordered",
    "unattributed",
    "clock_synced",
    "clock_error_us",
    "rtts_ms",
    "forward_delays_ms",
    "backward_delays_ms",
    "timestamp_source",
    "error_us",
    "tmax_ms",
    "error",
];

pub(super) fn fields(outcome: &StampOutcome) -> io::Result<Vec<String>> {
    let source = serde_json::to_value(outcome.timestamp_source)?;
    let mut fields = vec![
        outcome.target.clone(),
        outcome.address.clone().unwrap_or_default(),
        outcome.port.to_string(),
        outcome.mode.clone(),
        outcome.size.to_string(),
        outcome.dscp.to_string(),
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
        number(outcome.residence_ms),
    ];
    fields.extend(way(&outcome.forward));
    fields.extend(way(&outcome.backward));
    fields.extend([
        count(outcome.unattributed),
        outcome.clock.synced.to_string(),
        number(outcome.clock.error_us),
        each(&outcome.rtts_ms),
        each(&outcome.forward.delays_ms),
        each(&outcome.backward.delays_ms),
        source.as_str().unwrap_or_default().to_owned(),
        outcome.error_us.to_string(),
        outcome.tmax_ms.to_string(),
        outcome.error.clone().unwrap_or_default(),
    ]);
    Ok(fields)
}

fn way(way: &StampDirection) -> [String; 12] {
    [
        count(way.sent),
        count(way.lost),
        number(way.delay_ms.min),
        number(way.delay_ms.avg),
        number(way.delay_ms.max),
        number(way.delay_ms.stddev),
        number(way.delay_ms.p50),
        number(way.delay_ms.p95),
        number(way.ipdv_ms),
        number(way.pdv_ms),
        count(way.duplicates),
        count(way.reordered),
    ]
}

fn count(value: Option<u32>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn each(values: &[Option<f64>]) -> String {
    let word = |value: &Option<f64>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
    values.iter().map(word).collect::<Vec<_>>().join(" ")
}

//! `stamp`, under names after those of `ping`.

use imn_contract::latest::{StampDirection, StampOutcome};

use super::{Line, Row};

/// Names of one direction's fields, in the order of [`way`].
type Names = [&'static str; 9];

const FORWARD: Names = [
    "forward_lost",
    "forward_minimum_ms",
    "forward_average_ms",
    "forward_maximum_ms",
    "forward_standard_deviation_ms",
    "forward_percentile50_ms",
    "forward_percentile95_ms",
    "forward_jitter_ms",
    "forward_pdv_ms",
];
const BACKWARD: Names = [
    "backward_lost",
    "backward_minimum_ms",
    "backward_average_ms",
    "backward_maximum_ms",
    "backward_standard_deviation_ms",
    "backward_percentile50_ms",
    "backward_percentile95_ms",
    "backward_jitter_ms",
    "backward_pdv_ms",
];

pub(super) fn line(row: &Row, outcome: &StampOutcome) -> Line {
    let line = Line::new("imn_stamp")
        .tag("target", &outcome.target)
        .tag("agent", row.agent.as_deref().unwrap_or_default())
        .tag("ip", outcome.address.as_deref().unwrap_or_default())
        .tag("port", &outcome.port.to_string())
        .tag("mode", &outcome.mode)
        .int("packets_transmitted", outcome.sent)
        .int("packets_received", outcome.received)
        .float("percent_packet_loss", outcome.loss_pct)
        .float("minimum_response_ms", outcome.rtt_ms.min)
        .float("average_response_ms", outcome.rtt_ms.avg)
        .float("maximum_response_ms", outcome.rtt_ms.max)
        .float("standard_deviation_ms", outcome.rtt_ms.stddev)
        .float("percentile50_ms", outcome.rtt_ms.p50)
        .float("percentile95_ms", outcome.rtt_ms.p95)
        .float("jitter_ms", outcome.jitter_ms)
        .float("pdv_ms", outcome.pdv_ms)
        .int("packets_unknown", outcome.unknown)
        .int("packets_duplicate", outcome.duplicates)
        .int("packets_late", outcome.late)
        .int("packets_reordered", outcome.reordered);
    let line = way(way(line, FORWARD, &outcome.forward), BACKWARD, &outcome.backward);
    line.flag("clock_synced", outcome.clock.synced)
        .float("clock_error_us", outcome.clock.error_us)
        .words("error", outcome.error.as_deref().unwrap_or_default())
}

fn way(line: Line, names: Names, way: &StampDirection) -> Line {
    let line = match way.lost {
        Some(lost) => line.int(names[0], lost),
        None => line,
    };
    let delay = &way.delay_ms;
    let values =
        [delay.min, delay.avg, delay.max, delay.stddev, delay.p50, delay.p95, way.ipdv_ms, way.pdv_ms];
    names[1..].iter().zip(values).fold(line, |line, (name, value)| line.float(name, value))
}

//! `trace`: a point for the target, and one for each hop.

use imn_contract::latest::{LossKind, TraceOutcome};

use super::{Line, Row};

pub(super) fn lines(row: &Row, outcome: &TraceOutcome) -> Vec<Line> {
    let agent = row.agent.as_deref().unwrap_or_default();
    let port = outcome.port.map(|port| port.to_string()).unwrap_or_default();
    let tagged = |measurement: &str| {
        Line::new(measurement)
            .tag("url", &outcome.target)
            .tag("agent", agent)
            .tag("protocol", &outcome.protocol)
            .tag("port", &port)
    };
    let target = tagged("trace")
        .tag("ip", outcome.address.as_deref().unwrap_or_default())
        .flag("reached", outcome.reached)
        .int("packets_transmitted", outcome.sent)
        .int("packets_received", outcome.received)
        .int("packets_unknown", outcome.unknown)
        .float("percent_packet_loss", outcome.loss_pct)
        .float("minimum_response_ms", outcome.rtt_ms.min)
        .float("average_response_ms", outcome.rtt_ms.avg)
        .float("maximum_response_ms", outcome.rtt_ms.max)
        .float("standard_deviation_ms", outcome.rtt_ms.stddev)
        .float("jitter_ms", outcome.jitter_ms)
        .int("paths", outcome.paths.len() as u64);
    let target = match outcome.distance {
        Some(hops) => target.int("hops", hops),
        None => target,
    };
    let path = outcome.paths.first().map(|path| path.id.as_str()).unwrap_or_default();
    let mut lines =
        vec![target.words("path", path).words("error", outcome.error.as_deref().unwrap_or_default())];
    let answering = outcome.hops.iter().rposition(|hop| hop.address.is_some()).map_or(0, |last| last + 1);
    lines.extend(outcome.hops[..answering].iter().map(|hop| {
        let kind = match hop.loss_kind {
            None => "",
            Some(LossKind::None) => "none",
            Some(LossKind::Forwarding) => "forwarding",
            Some(LossKind::RateLimited) => "rate_limited",
        };
        tagged("trace_hop")
            .tag("hop", &hop.hop.to_string())
            .tag("ip", hop.address.as_deref().unwrap_or_default())
            .int("packets_transmitted", hop.sent)
            .int("packets_received", hop.received)
            .int("packets_unknown", hop.unknown)
            .float("percent_packet_loss", hop.loss_pct)
            .float("last_response_ms", hop.last_ms)
            .float("minimum_response_ms", hop.best_ms)
            .float("average_response_ms", hop.avg_ms)
            .float("maximum_response_ms", hop.worst_ms)
            .float("standard_deviation_ms", hop.stddev_ms)
            .float("jitter_ms", hop.jitter_ms)
            .words("loss_kind", kind)
    }));
    lines
}

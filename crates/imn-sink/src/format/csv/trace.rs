//! Columns of `trace`: a line per hop, or one without a hop where there is none.

use std::io;

use imn_contract::latest::{LossKind, TraceHop, TraceOutcome};

use super::number;

pub(super) const COLUMNS: [&str; 30] = [
    "target",
    "address",
    "protocol",
    "port",
    "time",
    "reached",
    "path",
    "hop",
    "ip",
    "host",
    "asn",
    "sent",
    "received",
    "unknown",
    "loss_pct",
    "loss_kind",
    "last_ms",
    "avg_ms",
    "best_ms",
    "worst_ms",
    "stddev_ms",
    "jitter_ms",
    "rtts_ms",
    "responders",
    "sign",
    "mpls",
    "timestamp_source",
    "error_us",
    "tmax_ms",
    "error",
];

/// The lines of a trace.
pub(super) fn rows(outcome: &TraceOutcome) -> io::Result<Vec<[String; COLUMNS.len()]>> {
    if outcome.hops.is_empty() {
        return Ok(vec![fields(outcome, None)?]);
    }
    outcome.hops.iter().map(|hop| fields(outcome, Some(hop))).collect()
}

fn fields(outcome: &TraceOutcome, hop: Option<&TraceHop>) -> io::Result<[String; COLUMNS.len()]> {
    let each = |value: &Option<f64>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
    let source = serde_json::to_value(outcome.timestamp_source)?;
    let text = |of: fn(&TraceHop) -> String| hop.map(of).unwrap_or_default();
    Ok([
        outcome.target.clone(),
        outcome.address.clone().unwrap_or_default(),
        outcome.protocol.clone(),
        outcome.port.map(|port| port.to_string()).unwrap_or_default(),
        outcome.time.clone().unwrap_or_default(),
        outcome.reached.to_string(),
        outcome.paths.iter().map(|path| path.id.as_str()).collect::<Vec<_>>().join(" "),
        text(|hop| hop.hop.to_string()),
        text(|hop| hop.address.clone().unwrap_or_default()),
        text(|hop| hop.host.clone().unwrap_or_default()),
        text(|hop| hop.asn.map(|asn| asn.to_string()).unwrap_or_default()),
        text(|hop| hop.sent.to_string()),
        text(|hop| hop.received.to_string()),
        text(|hop| hop.unknown.to_string()),
        text(|hop| number(hop.loss_pct)),
        text(|hop| loss_kind(hop.loss_kind).to_owned()),
        text(|hop| number(hop.last_ms)),
        text(|hop| number(hop.avg_ms)),
        text(|hop| number(hop.best_ms)),
        text(|hop| number(hop.worst_ms)),
        text(|hop| number(hop.stddev_ms)),
        text(|hop| number(hop.jitter_ms)),
        hop.map(|hop| hop.rtts_ms.iter().map(each).collect::<Vec<_>>().join(" ")).unwrap_or_default(),
        text(|hop| {
            let nodes = hop.responders.iter().map(|node| format!("{}:{}", node.address, node.received));
            nodes.collect::<Vec<_>>().join(" ")
        }),
        text(|hop| hop.responders.iter().find_map(|node| node.sign.clone()).unwrap_or_default()),
        text(labels),
        source.as_str().unwrap_or_default().to_owned(),
        outcome.error_us.to_string(),
        outcome.tmax_ms.to_string(),
        outcome.error.clone().unwrap_or_default(),
    ])
}

const fn loss_kind(kind: Option<LossKind>) -> &'static str {
    match kind {
        None => "",
        Some(LossKind::None) => "none",
        Some(LossKind::Forwarding) => "forwarding",
        Some(LossKind::RateLimited) => "rate_limited",
    }
}

fn labels(hop: &TraceHop) -> String {
    let extensions = hop.responders.iter().filter_map(|node| node.extension.as_ref());
    let labels = extensions.flat_map(|extension| &extension.objects).flat_map(|object| &object.mpls);
    labels.map(|label| label.label.to_string()).collect::<Vec<_>>().join(" ")
}

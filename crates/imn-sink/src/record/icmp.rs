//! Fields of `icmp`.

use imn_contract::latest::{PingOutcome, Typed};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Fields {
    rtt_ms: Option<f64>,
    rtt_min_ms: Option<f64>,
    rtt_max_ms: Option<f64>,
    stddev_ms: Option<f64>,
    jitter_ms: Option<f64>,
    loss_pct: Option<f64>,
    packets_sent: u32,
    packets_received: u32,
}

pub(super) fn fields(outcome: &PingOutcome) -> Fields {
    Fields {
        rtt_ms: outcome.rtt_ms.avg,
        rtt_min_ms: outcome.rtt_ms.min,
        rtt_max_ms: outcome.rtt_ms.max,
        stddev_ms: outcome.rtt_ms.stddev,
        jitter_ms: outcome.jitter_ms,
        loss_pct: outcome.loss_pct,
        packets_sent: outcome.sent,
        packets_received: outcome.received,
    }
}

/// How it ended, as exactly as the words of the error say.
pub(super) fn status(outcome: &PingOutcome) -> &'static str {
    let error = outcome.error.as_deref().unwrap_or_default();
    let says = |words: &[&str]| words.iter().any(|word| error.contains(word));
    if outcome.received > 0 {
        return "success";
    }
    if outcome.sent == 0 && error.starts_with("resolve ") {
        return "unresolved";
    }
    if says(&["connection refused", "connection reset"]) {
        return "refused";
    }
    if says(&["unreachable", "prohibited", "exceeded", "no route", "too big", "fragmentation", "icmp error"])
    {
        return "unreachable";
    }
    super::status(&outcome.head())
}

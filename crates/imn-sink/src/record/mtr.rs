//! Fields of `mtr`, of which each hop has a record.

use imn_contract::latest::{TraceHop, TraceOutcome, Typed};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Fields<'a> {
    hop: Option<u8>,
    ip: Option<&'a str>,
    host: Option<&'a str>,
    loss_pct: Option<f64>,
    sent: u32,
    last_rtt_ms: Option<f64>,
    avg_rtt_ms: Option<f64>,
    best_rtt_ms: Option<f64>,
    worst_rtt_ms: Option<f64>,
    stddev_ms: Option<f64>,
}

/// The hops up to the last that answered; without any hop one that says nothing but the status.
pub(super) fn hops(outcome: &TraceOutcome) -> Vec<Fields<'_>> {
    let answering = outcome.hops.iter().rposition(|hop| hop.address.is_some()).map_or(0, |last| last + 1);
    // A path that ends in silence shows the first hop that is silent.
    let shown = outcome.hops.len().min(answering + usize::from(!outcome.reached));
    if shown == 0 {
        let none = Fields {
            hop: None,
            ip: None,
            host: None,
            loss_pct: None,
            sent: outcome.sent,
            last_rtt_ms: None,
            avg_rtt_ms: None,
            best_rtt_ms: None,
            worst_rtt_ms: None,
            stddev_ms: None,
        };
        return vec![none];
    }
    outcome.hops[..shown].iter().map(fields).collect()
}

fn fields(hop: &TraceHop) -> Fields<'_> {
    Fields {
        hop: Some(hop.hop),
        ip: hop.address.as_deref(),
        // A name where there is one, as mtr prints it.
        host: hop.host.as_deref().or(hop.address.as_deref()),
        loss_pct: hop.loss_pct,
        sent: hop.sent,
        last_rtt_ms: hop.last_ms,
        avg_rtt_ms: hop.avg_ms,
        best_rtt_ms: hop.best_ms,
        worst_rtt_ms: hop.worst_ms,
        stddev_ms: hop.stddev_ms,
    }
}

/// How the trace ended, the same in the records of all its hops.
pub(super) fn status(outcome: &TraceOutcome) -> &'static str {
    let error = outcome.error.as_deref().unwrap_or_default();
    let head = outcome.head();
    if !head.success && head.sent == 0 && error.starts_with("resolve ") {
        return "unresolved";
    }
    let says = |words: &[&str]| words.iter().any(|word| error.contains(word));
    if !head.success && says(&["unreachable", "prohibited", "no route", "too big", "fragmentation"]) {
        return "unreachable";
    }
    super::status(&head)
}

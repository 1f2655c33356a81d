//! From the wire form of a round to the stored one, for those who watch.

use imn_contract::latest::{Batch, Round};
use imn_metric::Counts;
use imn_store::RoundRow;

/// The round as a query would give it; `None` for one without a target, which no sealed batch holds.
pub(super) fn stored(batch: &Batch, round: &Round) -> Option<RoundRow> {
    let us = |ns: Option<u64>| ns.map(|ns| ns as f64 / 1e3);
    let counts =
        Counts { sent: round.sent.into(), received: round.received.into(), unknown: round.unknown.into() };
    Some(RoundRow {
        time_us: round.time_us,
        due_us: round.due_us,
        agent: batch.agent.clone(),
        target: round.target.clone()?,
        address: round.address.clone(),
        kind: batch.kind.clone(),
        sent: round.sent,
        received: round.received,
        unknown: round.unknown,
        duplicates: round.duplicates,
        late: round.late,
        reordered: round.reordered,
        success: round.success,
        error: round.error.clone(),
        rtt_min_us: us(round.rtt_min_ns),
        rtt_avg_us: us(round.rtt_avg_ns),
        rtt_max_us: us(round.rtt_max_ns),
        rtt_stddev_us: us(round.rtt_stddev_ns),
        ipdv_us: us(round.ipdv_ns),
        loss_pct: counts.loss_pct(),
        late_us: round.late_us,
        tmax_us: round.tmax_us,
        ts_source: round.ts_source,
        error_us: round.error_ns as f64 / 1e3,
        rtts_us: round.rtts_ns.iter().map(|ns| us(*ns)).collect(),
        outcome: round.outcome.clone(),
    })
}

//! Rounds aggregated over steps of time.

use std::collections::BTreeMap;

use imn_contract::{AgentId, ModuleType};
use imn_metric::{Counts, Ipdv, RttStats, percentile_with_loss};
use imn_store::RoundRow;
use serde::Serialize;
use utoipa::ToSchema;

use super::text;

/// What one agent found by one type in one step of time; round-trip times in milliseconds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Bucket {
    /// Where the step begins, RFC 3339 UTC.
    pub(crate) time: String,
    /// The agent.
    pub(crate) agent: String,
    /// Module type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Rounds.
    pub(crate) count: u64,
    /// Packets sent.
    pub(crate) sent: u64,
    /// Packets received.
    pub(crate) received: u64,
    /// lost / (sent − unknown), in percent; null when nothing is known.
    #[schema(required)]
    pub(crate) loss_pct: Option<f64>,
    /// Least, over received packets.
    #[schema(required)]
    pub(crate) min: Option<f64>,
    /// Mean over received packets.
    #[schema(required)]
    pub(crate) avg: Option<f64>,
    /// Greatest, over received packets.
    #[schema(required)]
    pub(crate) max: Option<f64>,
    /// Median; a lost packet counts as infinite, which is null.
    #[schema(required)]
    pub p50: Option<f64>,
    /// 95th percentile, likewise.
    #[schema(required)]
    pub p95: Option<f64>,
    /// 99th percentile, likewise.
    #[schema(required)]
    pub p99: Option<f64>,
    /// Sample standard deviation.
    #[schema(required)]
    pub(crate) stddev: Option<f64>,
    /// Mean absolute ipdv within rounds (RFC 3393).
    #[schema(required)]
    pub(crate) jitter: Option<f64>,
}

/// Collects rounds into buckets.
pub(crate) struct History {
    step_us: i64,
    buckets: BTreeMap<(i64, AgentId, ModuleType), Sums>,
}

#[derive(Default)]
struct Sums {
    rounds: u64,
    counts: Counts,
    rtt: RttStats,
    ipdv: Ipdv,
    /// Received delays in nanoseconds, and how many more were lost: what percentiles are taken of.
    delays: Vec<u64>,
    lost: u64,
}

impl History {
    /// `step_us` is greater than zero.
    pub(crate) fn new(step_us: i64) -> Self {
        Self { step_us, buckets: BTreeMap::new() }
    }

    pub(crate) fn take(&mut self, row: &RoundRow) {
        let step = row.due_us.div_euclid(self.step_us) * self.step_us;
        self.buckets.entry((step, row.agent.clone(), row.kind.clone())).or_default().take(row);
    }

    pub(crate) fn finish(self) -> Vec<Bucket> {
        self.buckets.into_iter().map(|((step, agent, kind), sums)| sums.finish(step, &agent, &kind)).collect()
    }
}

impl Sums {
    fn take(&mut self, row: &RoundRow) {
        let counts =
            Counts { sent: row.sent.into(), received: row.received.into(), unknown: row.unknown.into() };
        self.rounds += 1;
        if let (Some(min), Some(avg), Some(max)) = (row.rtt_min_us, row.rtt_avg_us, row.rtt_max_us) {
            let stddev = row.rtt_stddev_us.map(|us| us * 1e3);
            self.rtt.merge(&RttStats::from_summary(counts.received, ns(min), avg * 1e3, ns(max), stddev));
        }
        if row.rtts_us.is_empty() {
            // One packet, so that its mean is its delay.
            self.delays.extend(row.rtt_avg_us.map(ns));
            self.lost += counts.lost();
        } else {
            self.delays.extend(row.rtts_us.iter().flatten().map(|us| ns(*us)));
            self.lost += counts.lost();
            self.ipdv.merge(&Ipdv::from_delays(row.rtts_us.iter().map(|rtt| rtt.map(ns))));
        }
        self.counts += counts;
    }

    fn finish(mut self, step: i64, agent: &AgentId, kind: &ModuleType) -> Bucket {
        self.delays.sort_unstable();
        let at = |q| percentile_with_loss(&self.delays, self.lost, q).map(|ns| ms(ns as f64));
        Bucket {
            time: text::time(step),
            agent: agent.to_string(),
            kind: kind.to_string(),
            count: self.rounds,
            sent: self.counts.sent,
            received: self.counts.received,
            loss_pct: self.counts.loss_pct(),
            min: self.rtt.min().map(|ns| ms(ns as f64)),
            avg: self.rtt.avg().map(ms),
            max: self.rtt.max().map(|ns| ms(ns as f64)),
            p50: at(0.50),
            p95: at(0.95),
            p99: at(0.99),
            stddev: self.rtt.stddev().map(ms),
            jitter: self.ipdv.jitter().map(ms),
        }
    }
}

fn ns(us: f64) -> u64 {
    (us * 1e3).round() as u64
}

/// Milliseconds, to the nanosecond.
fn ms(ns: f64) -> f64 {
    ns.round() / 1e6
}

#[cfg(test)]
mod tests {
    use imn_contract::{TargetId, latest::TimestampSource};

    use super::*;

    fn row(due_s: i64, rtts_us: &[Option<f64>], unknown: u32) -> RoundRow {
        let received: Vec<f64> = rtts_us.iter().flatten().copied().collect();
        let n = received.len() as f64;
        let avg = received.iter().sum::<f64>() / n;
        let any = !received.is_empty();
        RoundRow {
            time_us: due_s * 1_000_000,
            due_us: due_s * 1_000_000,
            agent: AgentId::new("a").unwrap(),
            target: TargetId::new("t").unwrap(),
            address: "192.0.2.1".to_owned(),
            kind: ModuleType::new("icmp").unwrap(),
            sent: rtts_us.len() as u32,
            received: received.len() as u32,
            unknown,
            duplicates: 0,
            late: 0,
            reordered: 0,
            success: any,
            error: None,
            rtt_min_us: received.iter().copied().reduce(f64::min),
            rtt_avg_us: any.then_some(avg),
            rtt_max_us: received.iter().copied().reduce(f64::max),
            rtt_stddev_us: (received.len() > 1)
                .then(|| (received.iter().map(|x| (x - avg).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()),
            ipdv_us: None,
            loss_pct: None,
            late_us: 0,
            tmax_us: 1_000_000,
            ts_source: TimestampSource::Kernel,
            error_us: 0.0,
            rtts_us: if rtts_us.len() > 1 { rtts_us.to_vec() } else { Vec::new() },
            columns: imn_store::Columns::default(),
            outcome: None,
        }
    }

    #[test]
    fn packets_are_counted_where_they_are_known() {
        let mut history = History::new(60_000_000);
        history.take(&row(60, &[Some(1_000.0), Some(3_000.0), None], 0));
        history.take(&row(90, &[Some(2_000.0), Some(4_000.0), None], 1));
        history.take(&row(119, &[Some(5_000.0)], 0));
        history.take(&row(120, &[None], 0));
        let buckets = history.finish();
        assert_eq!(buckets.len(), 2);
        let first = &buckets[0];
        assert_eq!((first.time.as_str(), first.count), ("1970-01-01T00:01:00.000000Z", 3));
        assert_eq!((first.sent, first.received), (7, 5));
        // One lost of six that are known.
        assert!((first.loss_pct.unwrap() - 100.0 / 6.0).abs() < 1e-9);
        assert_eq!((first.min, first.avg, first.max), (Some(1.0), Some(3.0), Some(5.0)));
        assert_eq!((first.p50, first.p95), (Some(3.0), None));
        assert_eq!(first.stddev, Some(1.581_139));
        assert_eq!(first.jitter, Some(2.0));
        let second = &buckets[1];
        assert_eq!((second.loss_pct, second.p50, second.avg, second.jitter), (Some(100.0), None, None, None));
    }
}

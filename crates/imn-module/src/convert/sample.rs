//! Latencies of a measurement that is made several times over, as rounds and outcomes tell them.

use std::time::Duration;

use imn_contract::latest::{Round, RttSummary};
use imn_metric::{Counts, Ipdv, RttStats, percentile_with_loss};

/// What became of each try, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    /// The latency of each in nanoseconds, as far as any has ended; `None` for one that has none.
    delays: Vec<Option<u64>>,
    counts: Counts,
}

impl Samples {
    /// For this many tries, of which none has been made.
    pub(crate) fn new(tries: u16) -> Self {
        Self { delays: Vec::with_capacity(usize::from(tries)), counts: Counts::default() }
    }

    /// Takes the try of this number in: how often it was sent, received and unknown, each 0 or 1, and its latency.
    pub(crate) fn take(&mut self, number: u16, counts: Counts, delay: Option<Duration>) {
        self.counts.sent += counts.sent;
        self.counts.received += counts.received;
        self.counts.unknown += counts.unknown;
        let number = usize::from(number);
        if self.delays.len() <= number {
            self.delays.resize(number + 1, None);
        }
        self.delays[number] = delay.map(super::nanos);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    fn stats(&self) -> RttStats {
        self.delays.iter().flatten().copied().collect()
    }

    /// Each latency in milliseconds.
    pub(crate) fn each_ms(&self) -> Vec<Option<f64>> {
        self.delays.iter().map(|delay| delay.map(ms)).collect()
    }

    /// The least latency, in nanoseconds.
    pub(crate) fn least(&self) -> Option<u64> {
        self.stats().min()
    }

    /// Mean absolute ipdv in milliseconds.
    pub(crate) fn jitter_ms(&self) -> Option<f64> {
        Ipdv::from_delays(self.delays.iter().copied()).jitter().map(|ns| ns / 1e6)
    }

    /// Mean of delay minus least delay in milliseconds.
    pub(crate) fn pdv_ms(&self) -> Option<f64> {
        self.stats().pdv().map(|ns| ns / 1e6)
    }

    /// The summary; percentiles count what was sent and has no latency as infinite.
    pub(crate) fn summary(&self) -> RttSummary {
        let stats = self.stats();
        let mut sorted: Vec<u64> = self.delays.iter().flatten().copied().collect();
        sorted.sort_unstable();
        let without =
            self.counts.sent.saturating_sub(self.counts.unknown).saturating_sub(sorted.len() as u64);
        let at = |q| percentile_with_loss(&sorted, without, q).map(ms);
        RttSummary {
            min: stats.min().map(ms),
            avg: stats.avg().map(|ns| ns / 1e6),
            max: stats.max().map(ms),
            stddev: stats.stddev().map(|ns| ns / 1e6),
            p50: at(0.5),
            p95: at(0.95),
        }
    }

    /// A round with the counts and latencies.
    pub(crate) fn round(&self) -> Round {
        let stats = self.stats();
        let whole = |ns: Option<f64>| ns.map(|ns| ns.round() as u64);
        Round {
            sent: self.counts.sent as u32,
            received: self.counts.received as u32,
            unknown: self.counts.unknown as u32,
            rtt_min_ns: stats.min(),
            rtt_avg_ns: whole(stats.avg()),
            rtt_max_ns: stats.max(),
            rtt_stddev_ns: whole(stats.stddev()),
            ipdv_ns: whole(Ipdv::from_delays(self.delays.iter().copied()).jitter()),
            rtts_ns: if self.delays.len() > 1 { self.delays.clone() } else { Vec::new() },
            ..Round::default()
        }
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

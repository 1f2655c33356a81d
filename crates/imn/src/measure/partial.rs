//! What is known of a target before its outcome is there: from the signs of single packets.

use std::net::IpAddr;

use imn_contract::latest::{PingOutcome, RttSummary, TimestampSource};
use imn_metric::{Counts, Ipdv, RttStats, percentile_with_loss};
use imn_module::{PingSpec, Protocol};
use serde_json::{Map, Value};

/// The packets of a target so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Partial {
    /// Round-trip times in nanoseconds, by packet; none for one that was given up.
    packets: Vec<Settled>,
    duplicates: u32,
    late: u32,
    /// Answers that arrived after that to a packet sent later (RFC 4737).
    reordered: u32,
    /// One more than the latest packet that was answered.
    expected: usize,
    /// When the first packet was sent.
    time: Option<String>,
    /// Of the latest packet that was answered.
    ttl: Option<u8>,
    source: Option<TimestampSource>,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Settled {
    /// Not settled yet.
    #[default]
    Open,
    Received(u64),
    Lost,
    Unknown,
}

impl Partial {
    /// Takes one packet's details.
    pub(super) fn take(&mut self, detail: &Map<String, Value>) {
        let number = detail.get("n").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let Some(at) = number.and_then(|n| n.checked_sub(1)).filter(|at| *at < usize::from(u16::MAX)) else {
            return;
        };
        let rtt = detail.get("rtt_ms").and_then(Value::as_f64).map(|ms| (ms * 1e6).round() as u64);
        let settled = match (detail.get("status").and_then(Value::as_str).unwrap_or_default(), rtt) {
            ("received", Some(rtt)) => Settled::Received(rtt),
            ("lost" | "unreachable" | "refused" | "reset", _) => Settled::Lost,
            ("unknown" | "not_sent", _) => Settled::Unknown,
            ("duplicate", _) => return self.duplicates += 1,
            ("late", _) => return self.late += 1,
            _ => return,
        };
        let text = |name: &str| detail.get(name).and_then(Value::as_str);
        // All are written alike, so that the earlier is the lesser.
        if let Some(time) = text("time").filter(|time| self.time.as_deref().is_none_or(|first| *time < first))
        {
            self.time = Some(time.to_owned());
        }
        if let Settled::Received(_) = settled {
            if at < self.expected {
                self.reordered += 1;
            } else {
                self.expected = at + 1;
                self.ttl = detail.get("ttl").and_then(Value::as_u64).and_then(|ttl| u8::try_from(ttl).ok());
            }
            self.source = detail.get("timestamp_source").map_or(self.source, |source| {
                let source = serde_json::from_value(source.clone()).unwrap_or(TimestampSource::User);
                match self.source {
                    Some(before) if before != source => Some(TimestampSource::Mixed),
                    _ => Some(source),
                }
            });
        }
        if self.packets.len() <= at {
            self.packets.resize(at + 1, Settled::Open);
        }
        self.packets[at] = settled;
        if let Some(error) = text("error") {
            self.error = Some(error.to_owned());
        }
    }

    /// An outcome of the packets that are settled.
    pub(super) fn outcome(&self, target: &str, spec: &PingSpec, end: Option<&str>) -> PingOutcome {
        let settled: Vec<Settled> = self.packets.iter().copied().filter(|p| *p != Settled::Open).collect();
        let delays = || {
            settled.iter().map(|packet| match packet {
                Settled::Received(rtt) => Some(*rtt),
                _ => None,
            })
        };
        let mut sorted: Vec<u64> = delays().flatten().collect();
        sorted.sort_unstable();
        let counts = Counts {
            sent: settled.len() as u64,
            received: sorted.len() as u64,
            unknown: settled.iter().filter(|p| **p == Settled::Unknown).count() as u64,
        };
        let stats = RttStats::from_samples(&sorted);
        let ms = |ns: f64| ns / 1e6;
        let at = |q| percentile_with_loss(&sorted, counts.lost(), q).map(|ns| ms(ns as f64));
        let jitter = Ipdv::from_delays(delays()).jitter().map(ms);
        PingOutcome {
            sent: counts.sent as u32,
            received: counts.received as u32,
            unknown: counts.unknown as u32,
            loss_pct: counts.loss_pct(),
            rtt_ms: RttSummary {
                min: stats.min().map(|ns| ms(ns as f64)),
                avg: stats.avg().map(ms),
                max: stats.max().map(|ns| ms(ns as f64)),
                stddev: stats.stddev().map(ms),
                p50: at(0.5),
                p95: at(0.95),
            },
            ipdv_ms: jitter,
            pdv_ms: stats.pdv().map(ms),
            jitter_ms: jitter,
            duplicates: self.duplicates,
            late: self.late,
            reordered: self.reordered,
            ttl: self.ttl,
            timestamp_source: self.source.unwrap_or(TimestampSource::User),
            time: self.time.clone(),
            rtts_ms: delays().map(|rtt| rtt.map(|ns| ms(ns as f64))).collect(),
            // What the host adds is told with the outcome only; it is no more than the least round trip.
            error_us: stats.min().map_or(0.0, |ns| ns as f64 / 1e3),
            error: self.error.clone().or_else(|| end.map(str::to_owned)),
            ..unmeasured(target, spec, None)
        }
    }
}

/// An outcome of no packets.
pub(super) fn unmeasured(target: &str, spec: &PingSpec, error: Option<String>) -> PingOutcome {
    let address: Option<IpAddr> = target.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let (protocol, port, size) = match (spec.protocol, address) {
        (Protocol::Tcp { port }, _) => ("tcp", Some(port), None),
        (Protocol::Icmp { size, .. }, Some(IpAddr::V6(_))) => ("icmpv6", None, Some(u32::from(size))),
        (Protocol::Icmp { size, .. }, _) => ("icmp", None, Some(u32::from(size))),
    };
    PingOutcome {
        target: target.to_owned(),
        address: address.map(|address| address.to_string()),
        protocol: protocol.to_owned(),
        port,
        size,
        dscp: spec.dscp,
        sent: 0,
        received: 0,
        unknown: 0,
        loss_pct: None,
        rtt_ms: RttSummary::default(),
        ipdv_ms: None,
        pdv_ms: None,
        jitter_ms: None,
        duplicates: 0,
        late: 0,
        reordered: 0,
        rtts_ms: Vec::new(),
        ttl: None,
        resolve_ms: None,
        tls: None,
        timestamp_source: TimestampSource::User,
        error_us: 0.0,
        tmax_ms: spec.timeout.as_millis() as u64,
        time: None,
        error,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn packets_add_up_to_an_outcome() {
        let mut partial = Partial::default();
        for detail in [
            json!({"n": 2, "status": "received", "rtt_ms": 3.0, "ttl": 63, "time": "2026-01-01T00:00:01.000000Z",
                "timestamp_source": "kernel"}),
            json!({"n": 3, "status": "lost", "time": "2026-01-01T00:00:02.000000Z"}),
            json!({"n": 1, "status": "received", "rtt_ms": 1.0, "ttl": 64, "time": "2026-01-01T00:00:00.000000Z",
                "timestamp_source": "kernel"}),
            json!({"n": 2, "status": "duplicate"}),
            json!({"n": 5, "status": "not_sent", "error": "no route"}),
            json!({"n": 0, "status": "lost"}),
            json!({"n": 7_000_000, "status": "lost"}),
            json!({"status": "received"}),
        ] {
            partial.take(detail.as_object().unwrap());
        }
        let outcome = partial.outcome("192.0.2.1", &PingSpec::icmp(), Some("interrupted"));
        assert_eq!((outcome.sent, outcome.received, outcome.unknown, outcome.duplicates), (4, 2, 1, 1));
        assert_eq!(outcome.rtts_ms, [Some(1.0), Some(3.0), None, None]);
        assert_eq!((outcome.rtt_ms.p50, outcome.rtt_ms.p95), (Some(3.0), None));
        assert_eq!((outcome.jitter_ms, outcome.pdv_ms), (Some(2.0), Some(1.0)));
        assert_eq!((outcome.reordered, outcome.ttl), (1, Some(63)), "the answer to 1 came after that to 2");
        assert_eq!(outcome.time.as_deref(), Some("2026-01-01T00:00:00.000000Z"));
        assert_eq!(outcome.timestamp_source, TimestampSource::Kernel);
        assert_eq!(outcome.error.as_deref(), Some("no route"));
        assert_eq!(outcome.address.as_deref(), Some("192.0.2.1"));
    }
}

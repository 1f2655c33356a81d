//! STAMP sessions.

use std::net::IpAddr;
use std::time::Duration;

use imn_contract::latest::{Round, RttSummary, StampClock, StampClocks, StampDirection, StampOutcome, Typed};
use imn_metric::{Ipdv, RttStats, percentile_with_loss};
use imn_probe::stamp::{ClockQuality, Direction, Outcome, Trip};
use imn_probe::{Fate, Packet};
use imn_runtime::clock;

use super::{nanos, rtt_ns, source, trouble};
use crate::{flight::Found, stamp::StampSpec};

/// A session in both its forms.
pub(crate) fn found(spec: &StampSpec, local: &ClockQuality, outcome: &Outcome) -> Found<StampOutcome> {
    let told = told(spec, local, outcome);
    let packets = &outcome.packets;
    let counts = Packet::counts(packets);
    let stats = Packet::rtt_stats(packets);
    let whole = |ns: Option<f64>| ns.map(|ns| ns.round() as u64);
    let round = Round {
        address: outcome.target.ip().to_string().into(),
        time_us: packets.first().map_or(0, |packet| (packet.sent.as_nanos() / 1000) as i64),
        sent: counts.sent as u32,
        received: counts.received as u32,
        unknown: counts.unknown as u32,
        duplicates: outcome.duplicates,
        late: outcome.late,
        reordered: outcome.reordered,
        success: counts.received > 0,
        error: told.error.clone(),
        rtt_min_ns: stats.min(),
        rtt_avg_ns: whole(stats.avg()),
        rtt_max_ns: stats.max(),
        rtt_stddev_ns: whole(stats.stddev()),
        ipdv_ns: whole(Ipdv::from_delays(packets.iter().map(rtt_ns)).jitter()),
        late_us: u32::try_from(outcome.lateness.as_micros()).unwrap_or(u32::MAX),
        ts_source: told.timestamp_source,
        error_ns: (told.error_us * 1e3).round() as u64,
        rtts_ns: if packets.len() > 1 { packets.iter().map(rtt_ns).collect() } else { Vec::new() },
        ..Round::default()
    };
    Found { round, outcome: told }
}

/// A session that did not come about.
pub(crate) fn failed(spec: &StampSpec, address: Option<IpAddr>, error: String) -> Found<StampOutcome> {
    let address = address.map(|address| address.to_string());
    let round = Round {
        address: address.as_deref().unwrap_or_default().into(),
        error: Some(error.clone()),
        ..Round::default()
    };
    Found { round, outcome: StampOutcome { address, ..unmeasured(spec, error) } }
}

/// The outcome where nothing was measured.
pub(crate) fn unmeasured(spec: &StampSpec, error: String) -> StampOutcome {
    let mode = if spec.key_file.is_some() { "authenticated" } else { "unauthenticated" };
    StampOutcome {
        port: spec.port,
        mode: mode.to_owned(),
        size: spec.size.into(),
        dscp: spec.dscp,
        ..StampOutcome::unmeasured(&spec.target, spec.timeout.as_millis() as u64, error)
    }
}

fn told(spec: &StampSpec, local: &ClockQuality, outcome: &Outcome) -> StampOutcome {
    let packets = &outcome.packets;
    let counts = Packet::counts(packets);
    let rtts: Vec<Option<i64>> = packets.iter().map(|packet| rtt_ns(packet).map(|ns| ns as i64)).collect();
    let rtt = Spread::of(&rtts, counts.lost());
    let floor = match (rtt.summary.min, outcome.error) {
        (None, _) => 0.0,
        (Some(_), Some(floor)) => micros(floor),
        // All that is known is that this host has added no more than the least round trip.
        (Some(least), None) => least * 1e3,
    };
    let trips = || outcome.trips.iter().flatten();
    let residences: Vec<Duration> = trips().filter_map(|trip| trip.residence).collect();
    let residence = residences.iter().sum::<Duration>().as_secs_f64() * 1e3 / residences.len() as f64;
    let ways = outcome.directions;
    let way = |at: fn((i64, i64)) -> i64, known: Option<Direction>, ttl: Option<u8>| {
        let delay = |trip: &Option<Trip>| (*trip)?.one_way.map(at);
        let delays: Vec<Option<i64>> = outcome.trips.iter().map(delay).collect();
        let unattributed = ways.map_or(0, |ways| ways.unattributed);
        let lost = known.map_or(counts.lost(), |known| u64::from(known.lost) + u64::from(unattributed));
        direction(&delays, lost, known, ttl)
    };
    let there = trips().map(|trip| trip.ttl_there).filter(|ttl| *ttl > 0).min();
    let back = packets.iter().filter_map(|packet| match packet.fate {
        Fate::Received { ttl, .. } => ttl,
        _ => None,
    });
    StampOutcome {
        address: Some(outcome.target.ip().to_string()),
        ssid: Some(outcome.ssid),
        ssid_returned: outcome.ssid_returned,
        sent: counts.sent as u32,
        received: counts.received as u32,
        unknown: counts.unknown as u32,
        loss_pct: counts.loss_pct(),
        rtt_ms: rtt.summary,
        ipdv_ms: rtt.jitter,
        pdv_ms: rtt.pdv,
        jitter_ms: rtt.jitter,
        duplicates: outcome.duplicates,
        late: outcome.late,
        reordered: outcome.reordered,
        wrong_source: outcome.wrong_source,
        corrupted: outcome.corrupted,
        foreign: outcome.foreign,
        residence_ms: (!residences.is_empty()).then_some(residence),
        forward: way(|ways| ways.0, ways.map(|ways| ways.forward), there),
        backward: way(|ways| ways.1, ways.map(|ways| ways.backward), back.min()),
        unattributed: ways.map(|ways| ways.unattributed),
        clock: clocks(local, outcome, floor),
        rtts_ms: rtts.iter().map(|rtt| rtt.map(ms)).collect(),
        timestamp_source: source(packets),
        error_us: floor,
        time: packets.first().map(|packet| clock::rfc3339((packet.sent.as_nanos() / 1000) as i64)),
        error: error(outcome),
        ..unmeasured(spec, String::new())
    }
}

/// Why not all was measured: what the packets say, and what came in place of answers.
fn error(outcome: &Outcome) -> Option<String> {
    let trouble = trouble(outcome.target.ip(), &outcome.packets)?;
    let none = outcome.packets.iter().all(|packet| packet.rtt().is_none());
    Some(match outcome.corrupted {
        packets if packets > 0 && none => {
            format!("{trouble}; {packets} packets of the reflector are no answers, or have another HMAC")
        }
        _ => trouble,
    })
}

fn clocks(local: &ClockQuality, outcome: &Outcome, floor: f64) -> StampClocks {
    let side = |synced, error: Option<Duration>| StampClock { synced, error_us: error.map(micros) };
    let local = side(local.synced, local.error);
    let remote = outcome.peer_clock.map(|peer| side(peer.synced, peer.error));
    let synced = local.synced && remote.as_ref().is_some_and(|remote| remote.synced);
    let bound = local.error_us.zip(remote.as_ref().and_then(|remote| remote.error_us));
    let error_us = bound.filter(|_| synced).map(|(local, remote)| local + remote + floor);
    StampClocks { synced, error_us, local, remote }
}

fn direction(delays: &[Option<i64>], lost: u64, known: Option<Direction>, ttl: Option<u8>) -> StampDirection {
    let spread = Spread::of(delays, lost);
    let share = |known: Direction| f64::from(known.lost) * 100.0 / f64::from(known.sent);
    StampDirection {
        delay_ms: spread.summary,
        ipdv_ms: spread.jitter,
        pdv_ms: spread.pdv,
        sent: known.map(|known| known.sent),
        lost: known.map(|known| known.lost),
        loss_pct: known.filter(|known| known.sent > 0).map(share),
        duplicates: known.map(|known| known.duplicates),
        reordered: known.map(|known| known.reordered),
        ttl,
        delays_ms: delays.iter().map(|delay| delay.map(ms)).collect(),
    }
}

/// Statistics of delays that may be negative, in milliseconds.
#[derive(Debug, PartialEq)]
struct Spread {
    summary: RttSummary,
    jitter: Option<f64>,
    pdv: Option<f64>,
}

impl Spread {
    /// Of delays in nanoseconds in the order of sending, `None` for a packet without one; `lost` packets count as
    /// infinite in percentiles.
    fn of(delays: &[Option<i64>], lost: u64) -> Self {
        let mut sorted: Vec<i64> = delays.iter().copied().flatten().collect();
        sorted.sort_unstable();
        let least = sorted.first().copied().unwrap_or(0);
        // Statistics are those of the distances from the least delay, which are not negative.
        let above: RttStats = sorted.iter().map(|delay| delay.wrapping_sub(least) as u64).collect();
        let quantile = |q| percentile_with_loss(&sorted, lost, q).map(ms);
        let to_ms = |ns: f64| ns / 1e6;
        Self {
            summary: RttSummary {
                min: sorted.first().copied().map(ms),
                avg: above.avg().map(|avg| ms(least) + to_ms(avg)),
                max: sorted.last().copied().map(ms),
                stddev: above.stddev().map(to_ms),
                p50: quantile(0.5),
                p95: quantile(0.95),
            },
            // Differences of two's complement are those of the signed numbers.
            jitter: Ipdv::from_delays(delays.iter().map(|delay| delay.map(|delay| delay as u64)))
                .jitter()
                .map(to_ms),
            pdv: above.pdv().map(to_ms),
        }
    }
}

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

fn micros(span: Duration) -> f64 {
    nanos(span) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_by_two_clocks_may_be_negative() {
        let delays = [Some(-3_000_000), Some(-1_000_000), None, Some(1_000_000), Some(2_000_000)];
        let spread = Spread::of(&delays, 1);
        let near = |a: Option<f64>, b: f64| assert!((a.unwrap() - b).abs() < 1e-9, "{a:?} {b}");
        near(spread.summary.min, -3.0);
        near(spread.summary.avg, -0.25);
        near(spread.summary.max, 2.0);
        near(spread.summary.p50, 1.0);
        assert_eq!(spread.summary.p95, None, "it falls on the lost packet");
        // Of −3 → −1 and 1 → 2.
        near(spread.jitter, 1.5);
        near(spread.pdv, 2.75);
        let none = Spread::of(&[None, None], 2);
        assert_eq!((none.summary, none.jitter, none.pdv), (RttSummary::default(), None, None));
    }
}

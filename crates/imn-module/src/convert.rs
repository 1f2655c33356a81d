//! From what the engines found to what the contract says of it; nowhere else.

pub(crate) mod dns;

pub(crate) mod http;
mod sample;
pub(crate) mod secure;
mod tls;

pub(crate) mod stamp;

pub(crate) mod bgp;

pub(crate) mod trace;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use imn_contract::latest::{PingOutcome, Round, RttSummary, TimestampSource};
use imn_metric::{Ipdv, percentile_with_loss};
use imn_probe::{Event, EventKind, Fate, Outcome, Packet, TsSource};
use imn_runtime::clock;
use serde_json::{Map, Value, json};

use crate::ping::{PingSpec, Protocol};

/// A round of standing work. Target, address, due time and Tmax are its keeper's to fill in.
pub(crate) fn round(outcome: &Outcome, packets: &[Packet]) -> Round {
    let counts = Packet::counts(packets);
    let stats = Packet::rtt_stats(packets);
    let whole = |ns: Option<f64>| ns.map(|ns| ns.round() as u64);
    let due_us = (outcome.due.as_nanos() / 1000) as i64;
    Round {
        target: None,
        address: Arc::default(),
        due_us,
        time_us: packets.first().map_or(due_us, |packet| (packet.sent.as_nanos() / 1000) as i64),
        sent: counts.sent as u32,
        received: counts.received as u32,
        unknown: counts.unknown as u32,
        duplicates: outcome.duplicates,
        late: outcome.late,
        reordered: outcome.reordered,
        success: counts.received > 0,
        error: error(outcome, packets),
        rtt_min_ns: stats.min(),
        rtt_avg_ns: whole(stats.avg()),
        rtt_max_ns: stats.max(),
        rtt_stddev_ns: whole(stats.stddev()),
        ipdv_ns: whole(Ipdv::from_delays(packets.iter().map(rtt_ns)).jitter()),
        late_us: u32::try_from(outcome.lateness.as_micros()).unwrap_or(u32::MAX),
        tmax_us: 0,
        ts_source: source(packets),
        error_ns: error_ns(outcome, stats.min()),
        rtts_ns: if packets.len() > 1 { packets.iter().map(rtt_ns).collect() } else { Vec::new() },
        outcome: None,
    }
}

/// The outcome of a job.
pub(crate) fn ping(name: &str, spec: &PingSpec, outcome: &Outcome, packets: &[Packet]) -> PingOutcome {
    let counts = Packet::counts(packets);
    let stats = Packet::rtt_stats(packets);
    let mut sorted: Vec<u64> = packets.iter().filter_map(rtt_ns).collect();
    sorted.sort_unstable();
    let ms = |ns: u64| ns as f64 / 1e6;
    let quantile = |q| percentile_with_loss(&sorted, counts.lost(), q).map(ms);
    let jitter = Ipdv::from_delays(packets.iter().map(rtt_ns)).jitter().map(|ns| ns / 1e6);
    PingOutcome {
        address: Some(outcome.target.to_string()),
        protocol: protocol(spec, Some(outcome.target)).to_owned(),
        sent: counts.sent as u32,
        received: counts.received as u32,
        unknown: counts.unknown as u32,
        loss_pct: counts.loss_pct(),
        rtt_ms: RttSummary {
            min: stats.min().map(ms),
            avg: stats.avg().map(|ns| ns / 1e6),
            max: stats.max().map(ms),
            stddev: stats.stddev().map(|ns| ns / 1e6),
            p50: quantile(0.5),
            p95: quantile(0.95),
        },
        ipdv_ms: jitter,
        pdv_ms: stats.pdv().map(|ns| ns / 1e6),
        jitter_ms: jitter,
        duplicates: outcome.duplicates,
        late: outcome.late,
        reordered: outcome.reordered,
        rtts_ms: packets.iter().map(|packet| rtt_ns(packet).map(ms)).collect(),
        ttl: packets.iter().rev().find_map(|packet| match packet.fate {
            Fate::Received { ttl, .. } => ttl,
            _ => None,
        }),
        timestamp_source: source(packets),
        error_us: error_ns(outcome, stats.min()) as f64 / 1e3,
        time: packets.first().map(|packet| clock::rfc3339((packet.sent.as_nanos() / 1000) as i64)),
        error: error(outcome, packets),
        ..unmeasured(name, spec, String::new())
    }
}

/// The outcome of a job whose target has no address.
pub(crate) fn unmeasured(name: &str, spec: &PingSpec, error: String) -> PingOutcome {
    let (port, size) = match spec.protocol {
        Protocol::Icmp { size, .. } => (None, Some(u32::from(size))),
        Protocol::Tcp { port } => (Some(port), None),
    };
    PingOutcome {
        target: name.to_owned(),
        address: None,
        protocol: protocol(spec, None).to_owned(),
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
        error: Some(error),
    }
}

/// Details of a progress message, such as `{"n":1,"status":"received","rtt_ms":0.4}`.
pub(crate) fn progress(event: &Event) -> Map<String, Value> {
    let mut detail = Map::new();
    detail.insert("n".to_owned(), json!(u32::from(event.sequence) + 1));
    let mut set = |name: &str, value: Value| {
        detail.insert(name.to_owned(), value);
    };
    let ms = |span: Duration| json!(nanos(span) as f64 / 1e6);
    match event.kind {
        EventKind::Settled(packet) => {
            set("time", json!(clock::rfc3339((packet.sent.as_nanos() / 1000) as i64)));
            match packet.fate {
                Fate::Received { rtt, ttl, .. } => {
                    set("status", json!("received"));
                    set("rtt_ms", ms(rtt));
                    set("timestamp_source", json!(source(&[packet])));
                    if let Some(ttl) = ttl {
                        set("ttl", json!(ttl));
                    }
                }
                Fate::Lost => set("status", json!("lost")),
                Fate::Unknown => set("status", json!("unknown")),
                Fate::Unreachable { from, kind, code } => {
                    set("status", json!("unreachable"));
                    set("from", json!(from.to_string()));
                    set("error", json!(unreachable(from, kind, code)));
                }
                Fate::Refused { rtt } => {
                    set("status", json!("refused"));
                    set("rtt_ms", ms(rtt));
                }
                Fate::Reset { rtt } => {
                    set("status", json!("reset"));
                    set("rtt_ms", ms(rtt));
                }
                Fate::NotSent { errno } => {
                    set("status", json!("not_sent"));
                    set("error", json!(io::Error::from_raw_os_error(errno).to_string()));
                }
            }
        }
        EventKind::Duplicate => set("status", json!("duplicate")),
        EventKind::Late { rtt } => {
            set("status", json!("late"));
            set("rtt_ms", ms(rtt));
        }
        EventKind::WrongSource { from } => {
            set("status", json!("wrong_source"));
            set("from", json!(from.to_string()));
        }
    }
    detail
}

fn protocol(spec: &PingSpec, address: Option<IpAddr>) -> &'static str {
    match (spec.protocol, address) {
        (Protocol::Tcp { .. }, _) => "tcp",
        (Protocol::Icmp { .. }, Some(IpAddr::V6(_))) => "icmpv6",
        (Protocol::Icmp { .. }, _) => "icmp",
    }
}

fn rtt_ns(packet: &Packet) -> Option<u64> {
    packet.rtt().map(nanos)
}

pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Bound of the systematic error. Where this host could not be calibrated, all that is known is that it has added no
/// more than the least round trip. 0 only where there is no sample that could be wrong.
fn error_ns(outcome: &Outcome, least: Option<u64>) -> u64 {
    match (least, outcome.error) {
        (None, _) => 0,
        (Some(_), Some(floor)) => nanos(floor),
        (Some(least), None) => least,
    }
}

fn source(packets: &[Packet]) -> TimestampSource {
    let (mut kernel, mut user) = (false, false);
    for packet in packets {
        match packet.fate {
            Fate::Received { source: TsSource::Kernel, .. } => kernel = true,
            Fate::Received { source: TsSource::User, .. } => user = true,
            _ => {}
        }
    }
    match (kernel, user) {
        (true, true) => TimestampSource::Mixed,
        (true, false) => TimestampSource::Kernel,
        (false, _) => TimestampSource::User,
    }
}

/// Why not all was measured, in the words of the most telling packet; nothing where packets were lost among others
/// that were answered, since the loss says so.
fn error(outcome: &Outcome, packets: &[Packet]) -> Option<String> {
    if outcome.cancelled {
        return Some("cancelled before it was complete".to_owned());
    }
    trouble(outcome.target, packets)
}

/// [`error`] of a measurement that ran to its end.
fn trouble(target: IpAddr, packets: &[Packet]) -> Option<String> {
    for packet in packets {
        match packet.fate {
            Fate::Unreachable { from, kind, code } => return Some(unreachable(from, kind, code)),
            Fate::Refused { .. } => return Some(format!("connection refused by {target}")),
            Fate::Reset { .. } => return Some(format!("connection reset by {target}")),
            Fate::NotSent { errno } => {
                return Some(format!("not sent: {}", io::Error::from_raw_os_error(errno)));
            }
            Fate::Received { .. } | Fate::Lost | Fate::Unknown => {}
        }
    }
    let is = |wanted: fn(&Fate) -> bool| packets.iter().all(|packet| wanted(&packet.fate));
    if packets.is_empty() {
        None
    } else if is(|fate| matches!(fate, Fate::Unknown)) {
        Some("unknown: this host may have lost the packets itself".to_owned())
    } else if is(|fate| matches!(fate, Fate::Lost | Fate::Unknown)) {
        Some("no answer within tmax".to_owned())
    } else {
        None
    }
}

/// An ICMP error in words: RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1, RFC 4443.
pub(crate) fn unreachable(from: IpAddr, kind: u8, code: u8) -> String {
    let known = match (from, kind, code) {
        (IpAddr::V4(_), 3, 0 | 6) => "destination network unreachable",
        (IpAddr::V4(_), 3, 1 | 7) => "destination host unreachable",
        (IpAddr::V4(_), 3, 2) => "protocol unreachable",
        (IpAddr::V4(_), 3, 3) | (IpAddr::V6(_), 1, 4) => "port unreachable",
        (IpAddr::V4(_), 3, 4) => "fragmentation needed",
        (IpAddr::V4(_), 3, 9 | 10 | 13) | (IpAddr::V6(_), 1, 1) => "administratively prohibited",
        (IpAddr::V4(_), 11, 0) => "ttl exceeded",
        (IpAddr::V4(_), 11, _) => "fragment reassembly time exceeded",
        (IpAddr::V6(_), 1, 0) => "no route to destination",
        (IpAddr::V6(_), 1, 3) => "address unreachable",
        (IpAddr::V6(_), 2, _) => "packet too big",
        (IpAddr::V6(_), 3, 0) => "hop limit exceeded",
        _ => return format!("icmp error type {kind} code {code} from {from}"),
    };
    format!("{known} from {from}")
}

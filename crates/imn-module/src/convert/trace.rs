//! Traces.

use std::time::Duration;

use imn_contract::latest::{
    IcmpExtension, IcmpObject, LossKind, MplsLabel, Round, RttSummary, TimestampSource, TraceHop,
    TraceOutcome, TracePath, TraceResponder,
};
use imn_metric::percentile_with_loss;
use imn_probe::{
    Fate, TsSource,
    trace::{self, Answer, Extension, Hop, Outcome, Protocol, Responder},
};
use imn_runtime::clock;
use serde_json::{Map, Value, json};

use super::{nanos, unreachable};
use crate::trace::TraceSpec;

/// The outcome where nothing was measured.
pub(crate) fn unmeasured(spec: &TraceSpec, error: String) -> TraceOutcome {
    let (port, size) = match spec.protocol {
        Protocol::Icmp => (None, Some(u32::from(spec.size))),
        Protocol::Udp { port } => (Some(port), Some(u32::from(spec.size))),
        Protocol::Tcp { port } => (Some(port), None),
    };
    TraceOutcome {
        target: spec.target.clone(),
        protocol: protocol(spec, false).to_owned(),
        port,
        size,
        dscp: spec.dscp,
        max_hops: spec.max_hops,
        tmax_ms: spec.timeout.as_millis() as u64,
        error: Some(error),
        ..TraceOutcome::default()
    }
}

/// The outcome of a trace.
pub(crate) fn outcome(spec: &TraceSpec, found: &Outcome) -> TraceOutcome {
    let ms = |span: Duration| nanos(span) as f64 / 1e6;
    let last = found.hops.last();
    let ends = last
        .and_then(Hop::main)
        .is_some_and(|node| found.reached || matches!(node.answer, Answer::Unreachable { .. }));
    let blank = Figures::default();
    let target = match last {
        Some(hop) if found.reached => Figures::of(hop),
        // What did not reach the target was lost on the way, unless this host hides it.
        Some(hop) => Figures { received: 0, rtts_ms: vec![None; hop.probes.len()], ..Figures::of(hop) },
        None => blank,
    };
    let observed = target.sent.saturating_sub(target.unknown);
    let lost = observed.saturating_sub(target.received);
    let stats = last.filter(|_| found.reached).map(Hop::rtt).unwrap_or_default();
    let jitter = last.filter(|_| found.reached).and_then(|hop| hop.ipdv().jitter()).map(|ns| ns / 1e6);
    let mut sorted: Vec<f64> = target.rtts_ms.iter().copied().flatten().collect();
    sorted.sort_by(f64::total_cmp);
    let quantile = |q| percentile_with_loss(&sorted, u64::from(lost), q);
    let probes = || found.hops.iter().flat_map(|hop| &hop.probes);
    TraceOutcome {
        address: Some(found.target.to_string()),
        source: found.source.map(|source| source.to_string()),
        protocol: protocol(spec, found.target.is_ipv6()).to_owned(),
        cycles: probes().map(|probe| u32::from(probe.cycle) + 1).max().unwrap_or(0),
        reached: found.reached,
        distance: last.filter(|_| ends).map(|hop| hop.ttl),
        sent: target.sent,
        received: target.received,
        unknown: target.unknown,
        loss_pct: (observed > 0).then(|| f64::from(lost) * 100.0 / f64::from(observed)),
        rtt_ms: RttSummary {
            min: stats.min().map(|ns| ns as f64 / 1e6),
            avg: stats.avg().map(|ns| ns / 1e6),
            max: stats.max().map(|ns| ns as f64 / 1e6),
            stddev: stats.stddev().map(|ns| ns / 1e6),
            p50: quantile(0.5),
            p95: quantile(0.95),
        },
        ipdv_ms: jitter,
        pdv_ms: stats.pdv().map(|ns| ns / 1e6),
        jitter_ms: jitter,
        rtts_ms: target.rtts_ms,
        hops: found.hops.iter().map(hop).collect(),
        paths: found.paths.iter().map(path).collect(),
        paths_complete: spec.multipath.then_some(found.complete),
        duplicates: found.duplicates,
        late: found.late,
        wrong_source: found.wrong_source,
        forged: found.forged,
        beyond: found.beyond,
        timestamp_source: source(found.hops.iter().filter_map(Hop::ts_source)),
        error_us: error_ns(found) as f64 / 1e3,
        // Up, so that what is said to have been waited for was waited for.
        tmax_ms: (found.tmax.as_nanos() / 1_000_000) as u64,
        elapsed_ms: found.started.map(|_| ms(found.elapsed)),
        time: found.started.map(|time| clock::rfc3339((time.as_nanos() / 1000) as i64)),
        error: error(found),
        ..unmeasured(spec, String::new())
    }
}

/// The round of standing work: the figures of the target.
pub(crate) fn round(found: &Outcome, outcome: &TraceOutcome) -> Round {
    let stats = found.hops.last().filter(|_| found.reached).map(Hop::rtt).unwrap_or_default();
    let whole = |ns: Option<f64>| ns.map(|ns| ns.round() as u64);
    let due_us = (found.due.as_nanos() / 1000) as i64;
    let last = found.hops.last().filter(|_| found.reached);
    let rtts: Vec<Option<u64>> =
        last.map(|hop| hop.probes.iter().map(|probe| probe.rtt().map(nanos)).collect()).unwrap_or_default();
    Round {
        address: found.target.to_string().into(),
        due_us,
        time_us: found.started.map_or(due_us, |time| (time.as_nanos() / 1000) as i64),
        sent: outcome.sent,
        received: outcome.received,
        unknown: outcome.unknown,
        duplicates: outcome.duplicates,
        late: outcome.late,
        success: outcome.reached && outcome.received > 0,
        error: outcome.error.clone(),
        rtt_min_ns: stats.min(),
        rtt_avg_ns: whole(stats.avg()),
        rtt_max_ns: stats.max(),
        rtt_stddev_ns: whole(stats.stddev()),
        ipdv_ns: whole(last.and_then(|hop| hop.ipdv().jitter())),
        late_us: u32::try_from(found.lateness.as_micros()).unwrap_or(u32::MAX),
        tmax_us: (found.tmax.as_nanos() / 1000) as u64,
        ts_source: last
            .map_or(TimestampSource::User, |hop| source(hop.probes.iter().filter_map(probe_source))),
        error_ns: error_ns(found),
        rtts_ns: if rtts.len() > 1 { rtts } else { Vec::new() },
        ..Round::default()
    }
}

/// Details of a progress message about a hop, such as `{"hop":3,"address":"192.0.2.1","sent":2,"rtt_ms":0.4}`.
pub(crate) fn progress(event: &trace::Event, hop: Option<&Hop>) -> Map<String, Value> {
    let mut detail = Map::new();
    let mut set = |name: &str, value: Value| {
        detail.insert(name.to_owned(), value);
    };
    set("hop", json!(event.ttl));
    set("cycle", json!(u32::from(event.probe.cycle) + 1));
    set(
        "status",
        json!(match event.probe.fate {
            Fate::Received { .. } => "received",
            Fate::Lost => "lost",
            Fate::NotSent { .. } => "not_sent",
            _ => "unknown",
        }),
    );
    if let Some((address, answer)) = event.from {
        set("address", json!(address.to_string()));
        if let Some(sign) = sign(address.is_ipv6(), answer) {
            set("sign", json!(sign));
        }
    }
    if let Some(rtt) = event.probe.rtt() {
        set("rtt_ms", json!(nanos(rtt) as f64 / 1e6));
    }
    if let Some(hop) = hop {
        let counts = hop.counts();
        set("sent", json!(counts.sent));
        set("received", json!(counts.received));
        set("loss_pct", json!(counts.loss_pct()));
    }
    if let Some(end) = event.end {
        set("distance", json!(end));
    }
    detail
}

/// Counts and delays of a hop.
#[derive(Default)]
struct Figures {
    sent: u32,
    received: u32,
    unknown: u32,
    rtts_ms: Vec<Option<f64>>,
}

impl Figures {
    fn of(hop: &Hop) -> Self {
        let counts = hop.counts();
        let ms = |probe: &trace::Probe| probe.rtt().map(|rtt| nanos(rtt) as f64 / 1e6);
        Self {
            sent: counts.sent as u32,
            received: counts.received as u32,
            unknown: counts.unknown as u32,
            rtts_ms: hop.probes.iter().map(ms).collect(),
        }
    }
}

fn hop(hop: &Hop) -> TraceHop {
    let counts = hop.counts();
    let stats = hop.rtt();
    let Figures { sent, received, unknown, rtts_ms } = Figures::of(hop);
    let several = hop.responders.len() > 1;
    TraceHop {
        hop: hop.ttl,
        address: hop.main().map(|node| node.address.to_string()),
        host: None,
        asn: None,
        sent,
        received,
        unknown,
        loss_pct: counts.loss_pct(),
        loss_kind: hop.loss.map(|loss| match loss {
            trace::LossKind::None => LossKind::None,
            trace::LossKind::Forwarding => LossKind::Forwarding,
            trace::LossKind::RateLimited => LossKind::RateLimited,
        }),
        last_ms: hop.last().map(|rtt| nanos(rtt) as f64 / 1e6),
        avg_ms: stats.avg().map(|ns| ns / 1e6),
        best_ms: stats.min().map(|ns| ns as f64 / 1e6),
        worst_ms: stats.max().map(|ns| ns as f64 / 1e6),
        stddev_ms: stats.stddev().map(|ns| ns / 1e6),
        jitter_ms: hop.ipdv().jitter().map(|ns| ns / 1e6),
        rtts_ms,
        timestamp_source: source(hop.probes.iter().filter_map(probe_source)),
        responders: hop.responders.iter().enumerate().map(|(at, node)| responder(hop, at, node)).collect(),
        answered_by: if several {
            hop.probes.iter().map(|probe| probe.responder).collect()
        } else {
            Vec::new()
        },
    }
}

fn responder(hop: &Hop, at: usize, node: &Responder) -> TraceResponder {
    let (answer, icmp) = match node.answer {
        Answer::TimeExceeded => ("time_exceeded", None),
        Answer::EchoReply => ("echo_reply", None),
        Answer::SynAck => ("syn_ack", None),
        Answer::Reset => ("reset", None),
        Answer::Unreachable { kind, code } => ("unreachable", Some((kind, code))),
    };
    TraceResponder {
        address: node.address.to_string(),
        received: hop.received_of(at as u8) as u32,
        avg_ms: hop.rtt_of(at as u8).avg().map(|ns| ns / 1e6),
        answer: answer.to_owned(),
        icmp_type: icmp.map(|(kind, _)| kind),
        icmp_code: icmp.map(|(_, code)| code),
        sign: sign(node.address.is_ipv6(), node.answer),
        reply_ttl: node.ttl,
        reply_size: (node.size > 0).then_some(u32::from(node.size)),
        quoted_ttl: node.quoted_ttl,
        extension: node.extension.as_ref().map(extension),
    }
}

fn extension(extension: &Extension) -> IcmpExtension {
    let label = |label: &trace::Label| MplsLabel {
        label: label.label,
        exp: label.class,
        s: u8::from(label.bottom),
        ttl: label.ttl,
    };
    let object = |object: &trace::Object| IcmpObject {
        class: object.class,
        kind: object.kind,
        mpls: object.labels.iter().map(label).collect(),
    };
    IcmpExtension { rfc4884: extension.compliant, objects: extension.objects.iter().map(object).collect() }
}

fn path(path: &trace::Path) -> TracePath {
    TracePath {
        id: format!("{:016x}", path.id),
        addresses: path.addresses.iter().map(|address| address.map(|node| node.to_string())).collect(),
        flows: path.flows.len() as u32,
    }
}

/// Traceroute's sign for an error; none for the one that a closed port of the target gives.
fn sign(v6: bool, answer: Answer) -> Option<String> {
    let Answer::Unreachable { kind, code } = answer else { return None };
    let known = match (v6, kind, code) {
        (false, 3, 3) | (true, 1, 4) => return None,
        (false, 3, 0 | 6 | 11) | (true, 1, 0) => "!N",
        (false, 3, 1 | 7 | 8 | 12) | (true, 1, 3) => "!H",
        (false, 3, 2) => "!P",
        (false, 3, 4) | (true, 2, _) => "!F",
        (false, 3, 5) | (true, 1, 2) => "!S",
        (false, 3, 9 | 10 | 13) | (true, 1, 1 | 5 | 6) => "!X",
        (false, 3, 14) => "!V",
        (false, 3, 15) => "!C",
        (false, 3, code) | (true, 1, code) => return Some(format!("!{code}")),
        (_, kind, code) => return Some(format!("!{kind}-{code}")),
    };
    Some(known.to_owned())
}

fn protocol(spec: &TraceSpec, v6: bool) -> &'static str {
    match spec.protocol {
        Protocol::Icmp if v6 => "icmpv6",
        Protocol::Icmp => "icmp",
        Protocol::Udp { .. } => "udp",
        Protocol::Tcp { .. } => "tcp",
    }
}

fn probe_source(probe: &trace::Probe) -> Option<TsSource> {
    match probe.fate {
        Fate::Received { source, .. } => Some(source),
        _ => None,
    }
}

fn source(sources: impl Iterator<Item = TsSource>) -> TimestampSource {
    let (mut kernel, mut user) = (false, false);
    for source in sources {
        match source {
            TsSource::Kernel => kernel = true,
            TsSource::User => user = true,
        }
    }
    match (kernel, user) {
        (true, true) => TimestampSource::Mixed,
        (true, false) => TimestampSource::Kernel,
        (false, _) => TimestampSource::User,
    }
}

/// Bound of the systematic error. Without a calibration, or for stamps of this process, this host has added no more
/// than the least round trip.
fn error_ns(found: &Outcome) -> u64 {
    let least = found.hops.iter().filter_map(|hop| hop.rtt().min()).min();
    let kernel = found.hops.iter().filter_map(Hop::ts_source).all(|source| source == TsSource::Kernel);
    match (least, found.error) {
        (None, _) => 0,
        (Some(_), Some(floor)) if kernel => nanos(floor),
        (Some(least), _) => least,
    }
}

/// Why the target was not reached.
fn error(found: &Outcome) -> Option<String> {
    if found.cancelled {
        return Some("cancelled before it was complete".to_owned());
    }
    if let Some(errno) = found.errno.filter(|_| !found.reached) {
        return Some(format!("not sent: {}", std::io::Error::from_raw_os_error(errno)));
    }
    if found.reached {
        let node = found.hops.last().and_then(Hop::main)?;
        return match node.answer {
            Answer::Unreachable { kind, code } if sign(node.address.is_ipv6(), node.answer).is_some() => {
                Some(unreachable(node.address, kind, code))
            }
            _ => None,
        };
    }
    let last = found.hops.iter().rev().find_map(|hop| Some((hop.ttl, hop.main()?)));
    match last {
        Some((_, node)) if matches!(node.answer, Answer::Unreachable { .. }) => match node.answer {
            Answer::Unreachable { kind, code } => Some(unreachable(node.address, kind, code)),
            _ => None,
        },
        Some((ttl, node)) => {
            Some(format!("target not reached: no answer behind hop {ttl}, {}", node.address))
        }
        None if found.hops.is_empty() => None,
        None => Some("no answer within tmax".to_owned()),
    }
}

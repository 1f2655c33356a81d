//! Queries as rounds and outcomes.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use data_encoding::{BASE64, HEXLOWER};
use imn_contract::latest::{
    DnsCounts, DnsEdns, DnsFlags, DnsOutcome, DnsPhases, DnsRecord, DnsTls, DnsWrong, Round, TimestampSource,
    Typed,
};
use imn_metric::{Counts, Ipdv, RttStats};
use imn_probe::{
    TsSource,
    dns::{Answer, Edns, Outcome, Phases},
    tls::Handshake,
};
use imn_runtime::clock;
use serde_json::{Map, Value, json};

use super::nanos;
use crate::{
    builtin::dns::{Expectation, Spec, words},
    flight::Found,
};

/// A longer answer is not kept as it came.
const LONGEST_ABUF: usize = 16 * 1024;

/// One of the queries of a measurement.
pub(crate) struct Shot {
    /// From 0.
    pub number: u32,
    /// When it was due, in microseconds since the Unix epoch.
    pub due_us: i64,
    /// What became of it, or the field that is wrong.
    pub outcome: Result<Outcome, (&'static str, String)>,
}

/// What one query shows.
enum Verdict {
    Success,
    /// Answered, and not as expected: code and words.
    Unexpected(&'static str, String),
    /// Not answered: code and words.
    Lost(&'static str, String),
    Unknown(&'static str, String),
}

impl Shot {
    fn verdict(&self, expectation: &Expectation, resolver: Option<IpAddr>) -> Verdict {
        let outcome = match &self.outcome {
            Ok(outcome) => outcome,
            Err((field, text)) => return Verdict::Unknown("invalid", format!("{field}: {text}")),
        };
        if let Some(failure) = &outcome.failure {
            let text = resolver.map_or_else(|| failure.to_string(), |resolver| words(failure, resolver));
            return if failure.is_unknown() {
                Verdict::Unknown(failure.code(), text)
            } else {
                Verdict::Lost(failure.code(), text)
            };
        }
        let Some(answer) = &outcome.answer else {
            return Verdict::Unknown("unknown", "neither answer nor failure".to_owned());
        };
        if !expectation.rcodes.contains(&answer.rcode) {
            let wanted: Vec<String> = expectation.rcodes.iter().map(ToString::to_string).collect();
            return Verdict::Unexpected(
                "rcode",
                format!("{}, expected {}", answer.rcode, wanted.join(" or ")),
            );
        }
        if let Some(pattern) = &expectation.answer
            && !answer.answers.iter().any(|record| pattern.matches(&record.data))
        {
            return Verdict::Unexpected("answer", format!("no answer matches {:?}", pattern.text()));
        }
        Verdict::Success
    }

    /// How much later than due its first packet left: rate and files may have made it wait.
    fn late_us(&self) -> Option<i64> {
        let sent = self.outcome.as_ref().ok()?.sent;
        Some((sent.as_nanos() / 1000) as i64 - self.due_us)
    }

    /// The latency, where the query was answered.
    fn latency_ns(&self) -> Option<u64> {
        let outcome = self.outcome.as_ref().ok()?;
        outcome.phases.query.filter(|_| outcome.failure.is_none()).map(nanos)
    }
}

/// A whole measurement.
pub(crate) fn found(
    spec: &Spec,
    resolver: SocketAddr,
    resolve: Option<Duration>,
    shots: &[Shot],
) -> Found<DnsOutcome> {
    let verdicts: Vec<Verdict> =
        shots.iter().map(|shot| shot.verdict(&spec.expectation, Some(resolver.ip()))).collect();
    let mut counts = Counts { sent: shots.len() as u64, ..Counts::default() };
    for verdict in &verdicts {
        match verdict {
            Verdict::Success | Verdict::Unexpected(..) => counts.received += 1,
            Verdict::Unknown(..) => counts.unknown += 1,
            Verdict::Lost(..) => {}
        }
    }
    let success = verdicts.iter().position(|verdict| matches!(verdict, Verdict::Success));
    let shown = success.or(shots.len().checked_sub(1));
    let (error_code, error) = match shown.and_then(|at| verdicts.get(at)) {
        Some(Verdict::Unexpected(code, text) | Verdict::Lost(code, text) | Verdict::Unknown(code, text)) => {
            (Some((*code).to_owned()), Some(text.clone()))
        }
        Some(Verdict::Success) | None => (None, None),
    };
    let latencies: Vec<Option<u64>> = shots.iter().map(Shot::latency_ns).collect();
    let stats: RttStats = latencies.iter().flatten().copied().collect();
    let source = source(shots);
    let floor = shots.iter().find_map(|shot| shot.outcome.as_ref().ok()?.error).map(nanos);
    // Where this host could not be calibrated, all that is known is that it has added no more than the least latency.
    let error_ns = stats.min().map_or(0, |least| floor.unwrap_or(least));
    let mut outcome = shown
        .and_then(|at| shots[at].outcome.as_ref().ok())
        .map_or_else(DnsOutcome::default, |shown| described(shown, resolve));
    let first = shots.first().and_then(|shot| shot.outcome.as_ref().ok());
    let time_us = first.map_or_else(clock::now_us, |first| (first.sent.as_nanos() / 1000) as i64);
    let late_us = shots.iter().filter_map(Shot::late_us).max().unwrap_or(0);
    name(&mut outcome, spec);
    outcome.address = Some(resolver.ip().to_string());
    outcome.time = Some(clock::rfc3339(time_us));
    outcome.sent = counts.sent as u32;
    outcome.received = counts.received as u32;
    outcome.unknown = counts.unknown as u32;
    outcome.loss_pct = counts.loss_pct();
    outcome.success = success.is_some();
    outcome.latencies_ms = latencies.iter().map(|ns| ns.map(|ns| ns as f64 / 1e6)).collect();
    outcome.latency_ms = shown.and_then(|at| *outcome.latencies_ms.get(at)?);
    outcome.wrong = wrong(shots);
    outcome.timestamp_source = source;
    outcome.error_us = error_ns as f64 / 1e3;
    (outcome.error_code, outcome.error) = (error_code, error);
    let whole = |ns: Option<f64>| ns.map(|ns| ns.round() as u64);
    let round = Round {
        address: resolver.ip().to_string().into(),
        time_us,
        sent: outcome.sent,
        received: outcome.received,
        unknown: outcome.unknown,
        success: outcome.success,
        error: outcome.error.clone(),
        rtt_min_ns: stats.min(),
        rtt_avg_ns: whole(stats.avg()),
        rtt_max_ns: stats.max(),
        rtt_stddev_ns: whole(stats.stddev()),
        ipdv_ns: whole(Ipdv::from_delays(latencies.iter().copied()).jitter()),
        late_us: u32::try_from(late_us.max(0)).unwrap_or(u32::MAX),
        ts_source: source,
        error_ns,
        rtts_ns: if latencies.len() > 1 { latencies } else { Vec::new() },
        ..Round::default()
    };
    Found { round, outcome }
}

/// A measurement whose resolver has no address.
pub(crate) fn unresolved(spec: &Spec, error: String) -> Found<DnsOutcome> {
    let outcome = DnsOutcome { error_code: Some("resolve".to_owned()), ..unmeasured(spec, error) };
    Found { round: Round { error: outcome.error.clone(), ..Round::default() }, outcome }
}

/// The outcome where nothing was measured.
pub(crate) fn unmeasured(spec: &Spec, error: String) -> DnsOutcome {
    let mut outcome = DnsOutcome::unmeasured(&spec.target, 0, error);
    name(&mut outcome, spec);
    outcome
}

/// Details of a progress message, such as `{"n":1,"status":"received","rtt_ms":0.4}`.
pub(crate) fn progress(spec: &Spec, shot: &Shot) -> Map<String, Value> {
    let mut detail = Map::new();
    let mut set = |name: &str, value: Value| {
        detail.insert(name.to_owned(), value);
    };
    set("n", json!(shot.number + 1));
    let (status, error) = match shot.verdict(&spec.expectation, None) {
        Verdict::Success => ("received", None),
        Verdict::Unexpected(_, text) => ("received", Some(text)),
        Verdict::Lost(code, text) => (if code == "timeout" { "lost" } else { code }, Some(text)),
        Verdict::Unknown(code, text) => (code, Some(text)),
    };
    set("status", json!(status));
    if let Some(ns) = shot.latency_ns() {
        set("rtt_ms", json!(ns as f64 / 1e6));
    }
    if let Some(answer) = shot.outcome.as_ref().ok().and_then(|outcome| outcome.answer.as_ref()) {
        set("rcode", json!(answer.rcode.to_string()));
    }
    if let Some(error) = error {
        set("error", json!(error));
    }
    detail
}

/// Fills in what is known before anything is sent.
fn name(outcome: &mut DnsOutcome, spec: &Spec) {
    let query = &spec.query;
    outcome.target.clone_from(&spec.target);
    spec.resolver_name().clone_into(&mut outcome.resolver);
    outcome.port = spec.port;
    query.transport.name().clone_into(&mut outcome.transport);
    outcome.dscp = query.dscp;
    outcome.query.clone_from(&query.name);
    outcome.record_type = query.kind.to_string();
    outcome.class = query.class.to_string();
    outcome.tmax_ms = query.timeout.as_millis() as u64;
}

/// What one query's outcome shows.
fn described(outcome: &Outcome, resolve: Option<Duration>) -> DnsOutcome {
    let mut described = DnsOutcome {
        query_size: outcome.query_size as u32,
        source: outcome.local.map(|local| local.to_string()),
        phases_ms: phases(outcome.phases, resolve),
        retried_over_tcp: outcome.retried,
        tls: outcome.tls.as_deref().map(session),
        http_status: outcome.http_status,
        ..DnsOutcome::default()
    };
    if let Some(answer) = &outcome.answer {
        let record = |record: &imn_probe::dns::Record| DnsRecord {
            name: record.name.clone(),
            kind: record.kind.to_string(),
            class: record.class.to_string(),
            ttl: record.ttl,
            data: record.data.clone(),
        };
        described.rcode = Some(answer.rcode.to_string());
        described.id = Some(answer.id);
        described.flags = Some(flags(answer));
        described.counts = Some(DnsCounts {
            question: answer.counts.question,
            answer: answer.counts.answer,
            authority: answer.counts.authority,
            additional: answer.counts.additional,
        });
        described.answers = answer.answers.iter().map(record).collect();
        described.answers_omitted = answer.omitted;
        described.answer_size = Some(outcome.bytes.len() as u32);
        described.trailing_bytes = answer.trailing as u32;
        described.edns = answer.edns.as_ref().map(edns);
        described.abuf = (outcome.bytes.len() <= LONGEST_ABUF).then(|| BASE64.encode(&outcome.bytes));
    }
    described
}

fn phases(phases: Phases, resolve: Option<Duration>) -> DnsPhases {
    let ms = |span: Option<Duration>| span.map(|span| nanos(span) as f64 / 1e6);
    DnsPhases {
        resolve: ms(resolve),
        connect: ms(phases.connect),
        tls: ms(phases.tls),
        query: ms(phases.query),
        retry: ms(phases.retry),
    }
}

fn flags(answer: &Answer) -> DnsFlags {
    let flags = answer.flags;
    DnsFlags { aa: flags.aa, tc: flags.tc, rd: flags.rd, ra: flags.ra, ad: flags.ad, cd: flags.cd }
}

fn edns(edns: &Edns) -> DnsEdns {
    let text = |nsid: &Vec<u8>| match std::str::from_utf8(nsid) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => HEXLOWER.encode(nsid),
    };
    let error = |(code, text): &(u16, String)| {
        if text.is_empty() { code.to_string() } else { format!("{code}: {text}") }
    };
    DnsEdns {
        version: edns.version,
        udp_size: edns.udp_size,
        dnssec_ok: edns.dnssec_ok,
        nsid: edns.nsid.as_ref().map(text),
        extended_errors: edns.errors.iter().map(error).collect(),
    }
}

fn session(handshake: &Handshake) -> DnsTls {
    DnsTls {
        version: handshake.version.to_owned(),
        cipher: handshake.cipher.clone(),
        server_name: handshake.server_name.clone(),
        expires: handshake.earliest_expiry().map(|seconds| clock::rfc3339(seconds.saturating_mul(1_000_000))),
        distrust: handshake.verdict.as_ref().err().map(ToString::to_string),
    }
}

fn wrong(shots: &[Shot]) -> DnsWrong {
    shots.iter().filter_map(|shot| shot.outcome.as_ref().ok()).fold(DnsWrong::default(), |sum, outcome| {
        let wrong = outcome.wrong;
        DnsWrong {
            source: sum.source.saturating_add(wrong.source),
            form: sum.form.saturating_add(wrong.form),
            id: sum.id.saturating_add(wrong.id),
            question: sum.question.saturating_add(wrong.question),
        }
    })
}

fn source(shots: &[Shot]) -> TimestampSource {
    let answered = shots.iter().filter(|shot| shot.latency_ns().is_some());
    let sources = answered.filter_map(|shot| shot.outcome.as_ref().ok().map(|outcome| outcome.source));
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

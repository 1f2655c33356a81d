//! `http`: from requests to a round and an outcome.

use std::time::Duration;

use imn_contract::latest::{HttpHop, HttpOutcome, HttpPhases, Typed};
use imn_metric::Counts;
use imn_probe::Fate;
use imn_probe::http::{Cause, Error, Hop, Outcome, Phase, Phases};
use imn_runtime::clock;

use super::sample::Samples;
use crate::{flight::Found, http::HttpSpec};

/// Characters of a URL that a redirect led to; what is asked of is told whole, as the target.
const LONGEST_URL: usize = 1024;

/// The requests of a measurement so far. Of single ones it keeps what is told: the first that failed, or the last.
pub(crate) struct Requests<'a> {
    spec: &'a HttpSpec,
    samples: Samples,
    taken: u32,
    met: u32,
    /// When the first began, in microseconds since the Unix epoch.
    began_us: Option<i64>,
    shown: Option<(u16, Outcome)>,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(spec: &'a HttpSpec) -> Self {
        Self { spec, samples: Samples::new(spec.count), taken: 0, met: 0, began_us: None, shown: None }
    }

    /// Takes the request of this number in.
    pub(crate) fn take(&mut self, number: u16, request: Outcome) {
        self.samples.take(number, counts(&request), time(&request));
        self.taken += 1;
        self.met += u32::from(request.error.is_none());
        let began_us = (request.began.as_nanos() / 1000) as i64;
        self.began_us = Some(self.began_us.map_or(began_us, |first| first.min(began_us)));
        let better = match &self.shown {
            None => true,
            Some((shown, before)) => match (before.error.is_some(), request.error.is_some()) {
                (false, true) => true,
                (true, false) => false,
                (true, true) => number < *shown,
                (false, false) => number > *shown,
            },
        };
        if better {
            self.shown = Some((number, request));
        }
    }

    /// What they come to.
    pub(crate) fn found(&self) -> Found<HttpOutcome> {
        let outcome = self.outcome();
        let mut round = self.samples.round();
        round.address = outcome.address.as_deref().unwrap_or_default().into();
        round.time_us = self.began_us.unwrap_or_default();
        round.success = outcome.success;
        round.error.clone_from(&outcome.error);
        round.error_ns = (outcome.error_us * 1e3) as u64;
        Found { round, outcome }
    }

    fn outcome(&self) -> HttpOutcome {
        let counts = self.samples.counts();
        let blank = unmeasured(self.spec, None);
        let Some((_, shown)) = &self.shown else { return blank };
        let (last, answer) = (shown.last(), shown.answer());
        let peer = last.and_then(|hop| hop.peer);
        HttpOutcome {
            address: peer.map(|peer| peer.ip().to_string()),
            port: peer.map(|peer| peer.port()).or(blank.port),
            success: self.met > 0 && self.met == self.taken,
            sent: counts.sent as u32,
            received: counts.received as u32,
            unknown: counts.unknown as u32,
            met: self.met,
            response_ms: self.samples.summary(),
            times_ms: self.samples.each_ms(),
            phases_ms: phases(&shown.phases()),
            connect_rtt_ms: last.and_then(|hop| hop.connect_rtt).map(ms),
            status: answer.map(|answer| answer.status.as_u16()),
            version: answer.map(|answer| answer.version.to_owned()),
            head_bytes: answer.map(|answer| answer.head_bytes),
            body_bytes: answer.map(|answer| answer.body_bytes),
            content_length: answer.and_then(|answer| answer.content_length),
            redirects: shown.hops.len().saturating_sub(1) as u32,
            hops: shown.hops.iter().map(hop).collect(),
            tls: last
                .and_then(|hop| hop.tls.as_ref())
                .map(|tls| super::tls::tls(tls, self.spec.certificates)),
            certificate_expires: shown.earliest_expiry().map(super::tls::time),
            unmet: shown.unmet.clone(),
            // Not calibrated, all that is known is that this host added no more than the whole.
            error_us: shown.floor.unwrap_or(shown.elapsed).as_secs_f64() * 1e6,
            time: self.began_us.map(clock::rfc3339),
            error_phase: shown.error.as_ref().map(|error| error.phase.name().to_owned()),
            error_code: shown.error.as_ref().map(|error| error.cause.code().to_owned()),
            error: shown.error.as_ref().map(words),
            ..blank
        }
    }
}

/// The outcome of no request.
pub(crate) fn unmeasured(spec: &HttpSpec, error: Option<String>) -> HttpOutcome {
    let engine = spec.engine.spec();
    HttpOutcome {
        method: engine.method.to_string(),
        port: spec.url.port_or_known_default(),
        dscp: engine.dscp,
        error,
        ..HttpOutcome::unmeasured(&spec.target, engine.timeout.as_millis() as u64, String::new())
    }
}

/// A request is sent once an address is known; what this host could not do is unknown.
fn counts(request: &Outcome) -> Counts {
    let unknown = request.error.as_ref().is_some_and(|error| error.cause.is_unknown());
    let sent = unknown || request.hops.iter().any(|hop| hop.peer.is_some());
    Counts {
        sent: u64::from(sent),
        received: u64::from(request.answer().is_some()),
        unknown: u64::from(unknown),
    }
}

/// The time of a whole request, if its answer is complete.
fn time(request: &Outcome) -> Option<Duration> {
    request.last()?.phases.get(Phase::Transfer).map(|_| request.elapsed)
}

fn hop(hop: &Hop) -> HttpHop {
    HttpHop {
        url: hop.url.as_str().chars().take(LONGEST_URL).collect(),
        addresses: hop.addresses.iter().map(ToString::to_string).collect(),
        address: hop.peer.map(|peer| peer.ip().to_string()),
        source: hop.local.map(|local| local.ip().to_string()),
        status: hop.answer.as_ref().map(|answer| answer.status.as_u16()),
        phases_ms: phases(&hop.phases),
    }
}

fn phases(phases: &Phases) -> HttpPhases {
    let of = |phase| phases.get(phase).map(ms);
    HttpPhases {
        resolve: of(Phase::Resolve),
        connect: of(Phase::Connect),
        tls: of(Phase::Tls),
        processing: of(Phase::Processing),
        transfer: of(Phase::Transfer),
    }
}

/// An error in words; ICMP errors as those of pings.
fn words(error: &Error) -> String {
    match error.cause {
        Cause::Connect(Fate::Unreachable { from, kind, code }) => super::unreachable(from, kind, code),
        _ => error.to_string(),
    }
}

fn ms(span: Duration) -> f64 {
    super::nanos(span) as f64 / 1e6
}

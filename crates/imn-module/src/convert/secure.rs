//! `tcp` with TLS: from connections to a round and an outcome.

use std::time::Duration;

use imn_contract::latest::{PingOutcome, TimestampSource, TlsOutcome, Typed};
use imn_metric::Counts;
use imn_probe::{Fate, Timestamp, TsSource, tls};
use imn_runtime::clock;

use super::sample::Samples;
use crate::{builtin::SecureSpec, flight::Found};

/// One connection, secured or not.
pub(crate) struct Attempt {
    /// When it began.
    pub(crate) began: Timestamp,
    /// The connect time, and who took it.
    pub(crate) connect: Result<(Duration, TsSource), Fate>,
    /// The handshake, as far as there was one.
    pub(crate) handshake: Option<tls::Handshake>,
    /// Why the connection is not secured.
    pub(crate) error: Option<tls::Error>,
}

/// The connections of a measurement so far. One counts as answered only once it is secured.
pub(crate) struct Attempts<'a> {
    spec: &'a SecureSpec,
    address: String,
    samples: Samples,
    began_us: Option<i64>,
    source: Option<TimestampSource>,
    error: Option<(u16, String)>,
    tls: Option<(bool, u16, TlsOutcome)>,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(spec: &'a SecureSpec, address: String) -> Self {
        let samples = Samples::new(spec.count);
        Self { spec, address, samples, began_us: None, source: None, error: None, tls: None }
    }

    /// Takes the connection of this number in.
    pub(crate) fn take(&mut self, number: u16, attempt: &Attempt) {
        let unknown = matches!(attempt.connect, Err(Fate::Unknown | Fate::NotSent { .. }));
        let error = match (&attempt.connect, &attempt.error) {
            (Err(fate), _) => Some(words(fate, &self.address)),
            (Ok(_), Some(error)) => Some(format!("tls: {error}")),
            (Ok(_), None) => None,
        };
        let delay = attempt.connect.as_ref().ok().filter(|_| error.is_none());
        let counts = Counts { sent: 1, received: u64::from(delay.is_some()), unknown: u64::from(unknown) };
        self.samples.take(number, counts, delay.map(|(connect, _)| *connect));
        if let Some((_, source)) = delay {
            let source = match source {
                TsSource::Kernel => TimestampSource::Kernel,
                TsSource::User => TimestampSource::User,
            };
            self.source = match self.source {
                Some(before) if before != source => Some(TimestampSource::Mixed),
                _ => Some(source),
            };
        }
        let began_us = (attempt.began.as_nanos() / 1000) as i64;
        self.began_us = Some(self.began_us.map_or(began_us, |first| first.min(began_us)));
        if let Some(handshake) = &attempt.handshake {
            let failed = error.is_some();
            let better = self.tls.as_ref().is_none_or(|(shown_failed, shown, _)| {
                if failed == *shown_failed { (number < *shown) == failed } else { failed }
            });
            if better {
                let outcome = super::tls::tls(handshake, self.spec.certificates);
                self.tls = Some((failed, number, outcome));
            }
        }
        if let Some(error) = error
            && self.error.as_ref().is_none_or(|(shown, _)| number < *shown)
        {
            self.error = Some((number, error));
        }
    }

    /// What they come to.
    pub(crate) fn found(&self, floor: Option<Duration>) -> Found<PingOutcome> {
        let mut round = self.samples.round();
        let error_ns = match (self.samples.least(), floor) {
            (None, _) => 0,
            (Some(_), Some(floor)) => super::nanos(floor),
            (Some(least), None) => least,
        };
        let error = self.error.as_ref().map(|(_, words)| words.clone());
        round.address = self.address.as_str().into();
        round.time_us = self.began_us.unwrap_or_default();
        round.success = round.received > 0;
        round.ts_source = self.source.unwrap_or_default();
        round.error_ns = error_ns;
        round.error.clone_from(&error);
        let counts = self.samples.counts();
        let jitter = self.samples.jitter_ms();
        let outcome = PingOutcome {
            address: Some(self.address.clone()),
            sent: counts.sent as u32,
            received: counts.received as u32,
            unknown: counts.unknown as u32,
            loss_pct: counts.loss_pct(),
            rtt_ms: self.samples.summary(),
            ipdv_ms: jitter,
            pdv_ms: self.samples.pdv_ms(),
            jitter_ms: jitter,
            rtts_ms: self.samples.each_ms(),
            tls: self.tls.as_ref().map(|(_, _, tls)| tls.clone()),
            timestamp_source: self.source.unwrap_or_default(),
            error_us: error_ns as f64 / 1e3,
            time: self.began_us.map(clock::rfc3339),
            error,
            ..unmeasured(self.spec, None)
        };
        Found { round, outcome }
    }
}

/// The outcome of no connection.
pub(crate) fn unmeasured(spec: &SecureSpec, error: Option<String>) -> PingOutcome {
    PingOutcome {
        protocol: "tcp".to_owned(),
        port: Some(spec.port),
        dscp: spec.dscp,
        error,
        ..PingOutcome::unmeasured(&spec.target, spec.timeout.as_millis() as u64, String::new())
    }
}

/// What became of a connection that does not stand.
fn words(fate: &Fate, address: &str) -> String {
    match fate {
        Fate::Unreachable { from, kind, code } => super::unreachable(*from, *kind, *code),
        Fate::Refused { .. } => format!("connection refused by {address}"),
        Fate::Reset { .. } => format!("connection reset by {address}"),
        Fate::NotSent { errno } => format!("not sent: {}", std::io::Error::from_raw_os_error(*errno)),
        Fate::Unknown => "unknown: this host had no means for a connection".to_owned(),
        Fate::Received { .. } | Fate::Lost => "no answer within tmax".to_owned(),
    }
}

//! Timestamps of one exchange: the kernel's where they can be had and trusted, this process's where not.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::clock::{Clock, Now};
use crate::outcome::{Timestamp, TsSource};
use crate::sys::set_option;

const RECEIVED: u32 = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
const SENT: u32 = libc::SOF_TIMESTAMPING_TX_SOFTWARE | libc::SOF_TIMESTAMPING_OPT_TSONLY;

/// Asks for stamps of what is received, and, if so wanted, of what is sent from now on, which come by the error
/// queue. A kernel that refuses gives none, and the sample says so.
pub(super) fn request(socket: &impl AsFd, sent: bool) {
    let flags = if sent { RECEIVED | SENT } else { RECEIVED };
    let _: io::Result<()> = set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags);
}

/// A stamp that was there when the reading began. Of what arrived before the kernel stamped at all, it makes up a
/// stamp while it is read.
pub(super) fn genuine(stamp: Option<u64>, before: Timestamp) -> Option<u64> {
    stamp.filter(|stamp| *stamp < before.as_nanos())
}

/// The begin of an exchange.
#[derive(Debug)]
pub(super) struct Stopwatch {
    clock: Clock,
    begin: Now,
}

/// A measured exchange.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lap {
    pub elapsed: Duration,
    pub source: TsSource,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        let mut clock = Clock::new();
        let begin = clock.now();
        Self { clock, begin }
    }

    /// When the exchange began, by the kernel's stamp if there is one.
    pub(super) fn sent(&self, stamp: Option<u64>) -> Timestamp {
        Timestamp::from_nanos(stamp.unwrap_or(self.begin.real))
    }

    /// How long the exchange took that ends now, given the kernel's stamps of its first packet and its last.
    pub(super) fn lap(&mut self, sent: Option<u64>, received: Option<u64>) -> Lap {
        let now = self.clock.now();
        let outside = now.mono - self.begin.mono;
        let steady = self.clock.steady_since(self.begin.mono);
        // The stamps are of the realtime clock: it must not have been stepped, and they must lie within.
        let span = |from: u64| {
            let span = received?.checked_sub(from)?;
            (steady && span <= outside).then_some(Duration::from_nanos(span))
        };
        if let Some(elapsed) = sent.and_then(span) {
            return Lap { elapsed, source: TsSource::Kernel };
        }
        let elapsed = span(self.begin.real).unwrap_or(Duration::from_nanos(outside));
        Lap { elapsed, source: TsSource::User }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_taken_only_if_they_lie_within() {
        let mut watch = Stopwatch::start();
        let begin = watch.begin.real;
        while crate::clock::monotonic() < watch.begin.mono + 2_000_000 {}
        let lap = watch.lap(Some(begin + 1_000_000), Some(begin + 1_500_000));
        assert_eq!((lap.elapsed, lap.source), (Duration::from_micros(500), TsSource::Kernel));
        for (sent, received) in [
            (None, None),
            (Some(begin), None),
            (Some(begin), Some(begin + 1_000_000_000)),
            (Some(begin + 9), Some(begin)),
        ] {
            let lap = watch.lap(sent, received);
            assert_eq!(lap.source, TsSource::User);
            assert!(lap.elapsed < Duration::from_millis(500));
        }
    }
}

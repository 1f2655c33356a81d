//! How a probe fares.

use imn_sink::record::{Health, Probe};
use tokio::time::Instant;

const MINUTES: usize = 60;

/// What a health message is made of. Failures are counted by the minute.
pub(super) struct Vital {
    started: Instant,
    last_success: Option<String>,
    failures: [u64; MINUTES],
    /// The minute since the start that was counted last.
    minute: u64,
}

impl Vital {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, last_success: None, failures: [0; MINUTES], minute: 0 }
    }

    pub(super) fn succeeded(&mut self, time: String) {
        self.last_success = Some(time);
    }

    pub(super) fn failed(&mut self) {
        self.turn();
        self.failures[self.minute as usize % MINUTES] += 1;
    }

    pub(super) fn message<'a>(&mut self, probe: &'a Probe) -> Health<'a> {
        self.turn();
        Health {
            probe_id: &probe.id,
            last_successful_run: self.last_success.clone(),
            uptime: self.started.elapsed().as_secs(),
            failures_last_hour: self.failures.iter().sum(),
        }
    }

    /// Forgets the minutes that are more than an hour ago.
    fn turn(&mut self) {
        let now = self.started.elapsed().as_secs() / 60;
        for minute in (self.minute + 1..=now).take(MINUTES) {
            self.failures[minute as usize % MINUTES] = 0;
        }
        self.minute = now;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_count_for_an_hour() {
        let probe = Probe { id: "p".to_owned(), location: "l".to_owned() };
        let mut vital = Vital::new(Instant::now());
        let mut sum = |minutes: u64, fails: u64| {
            for _ in 0..fails {
                vital.failed();
            }
            let sum = vital.message(&probe).failures_last_hour;
            (sum, tokio::time::advance(Duration::from_secs(60 * minutes)))
        };
        let (first, wait) = sum(30, 2);
        wait.await;
        let (second, wait) = sum(29, 3);
        wait.await;
        let (third, wait) = sum(1, 0);
        wait.await;
        let (fourth, wait) = sum(300, 0);
        wait.await;
        let (last, _) = sum(0, 0);
        assert_eq!((first, second, third, fourth, last), (2, 5, 5, 3, 0));
    }
}

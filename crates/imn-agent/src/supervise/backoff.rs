//! When an instance that ended is started again: a pure decision.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::config::Restart;

/// What follows an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start again after this pause.
    Wait(Duration),
    /// It has ended too often; start again after this long pause.
    Quarantine(Duration),
}

/// The exits of one instance.
#[derive(Debug, Default)]
pub(super) struct Exits {
    recent: VecDeque<Instant>,
    doublings: u32,
}

impl Exits {
    /// Judges an exit at `now` after a run of `ran`. `jitter` in 0..1 adds up to a quarter to the pause, so that
    /// instances that fell together do not come back together.
    pub(super) fn judge(&mut self, rule: &Restart, now: Instant, ran: Duration, jitter: f64) -> Verdict {
        if ran >= rule.window {
            self.doublings = 0;
            self.recent.clear();
        }
        self.recent.retain(|at| now.duration_since(*at) < rule.window);
        self.recent.push_back(now);
        if self.recent.len() >= rule.exits.max(1) as usize {
            self.recent.clear();
            self.doublings = 0;
            return Verdict::Quarantine(rule.quarantine);
        }
        let pause = rule.first.saturating_mul(1 << self.doublings.min(16)).min(rule.last);
        self.doublings += 1;
        Verdict::Wait(pause + pause.mul_f64(jitter.clamp(0.0, 1.0) / 4.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn pauses_double_up_to_the_last_and_a_long_run_resets_them() {
        let rule = Restart { exits: 100, ..Restart::default() };
        let mut exits = Exits::default();
        let start = Instant::now();
        let mut pauses = Vec::new();
        for n in 0..9 {
            let Verdict::Wait(pause) = exits.judge(&rule, start + MS(n), MS(1), 0.0) else { panic!("{n}") };
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000]);
        let after = exits.judge(&rule, start + MS(100_000), rule.window, 1.0);
        assert_eq!(after, Verdict::Wait(MS(250)));
    }

    #[test]
    fn too_many_exits_within_the_window_quarantine_and_others_do_not() {
        let rule = Restart::default();
        let start = Instant::now();
        let mut exits = Exits::default();
        for n in 0..4 {
            assert!(matches!(exits.judge(&rule, start + MS(n), MS(1), 0.0), Verdict::Wait(_)));
        }
        assert_eq!(
            exits.judge(&rule, start + MS(4), MS(1), 0.0),
            Verdict::Quarantine(Duration::from_mins(5))
        );
        // A clean slate after the quarantine.
        assert!(matches!(exits.judge(&rule, start + MS(5), MS(1), 0.0), Verdict::Wait(_)));
        let mut slow = Exits::default();
        for n in 0..20 {
            let verdict = slow.judge(&rule, start + MS(n * 16_000), MS(15_000), 0.0);
            assert!(matches!(verdict, Verdict::Wait(_)), "{n}");
        }
    }
}

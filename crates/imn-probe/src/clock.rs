//! The two clocks of a measurement, and the guard against steps of the realtime one.

use nix::time::{ClockId, clock_gettime};

/// Offsets between the clocks that move faster than this are a step, not a slew (the kernel slews at 500 ppm).
const MAX_SLEW: u64 = 1000;
/// Error of reading the two clocks one after the other, in nanoseconds.
const READ_SLACK: u64 = 20_000;

/// One reading of both clocks at the same moment, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    pub mono: u64,
    pub real: u64,
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn monotonic() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux, so the call cannot fail.
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Reads both clocks together and notices when the realtime clock is stepped.
#[derive(Debug)]
pub(crate) struct Clock {
    last: Now,
    stepped_at: Option<u64>,
    steps: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { last: sample(), stepped_at: None, steps: 0 }
    }

    /// Reads both clocks. Call it at least every 100 ms while packets are in flight.
    pub(crate) fn now(&mut self) -> Now {
        let now = sample();
        self.observe(now);
        now
    }

    fn observe(&mut self, now: Now) {
        let elapsed = now.mono - self.last.mono;
        let moved = now.real.wrapping_sub(self.last.real).wrapping_sub(elapsed) as i64;
        if moved.unsigned_abs() > READ_SLACK + elapsed / 1_000_000 * MAX_SLEW {
            self.stepped_at = Some(now.mono);
            self.steps += 1;
        }
        self.last = now;
    }

    /// True when kernel (realtime) stamps taken at or after the monotonic instant `since` may be subtracted.
    pub(crate) fn steady_since(&self, since: u64) -> bool {
        self.stepped_at.is_none_or(|step| step < since)
    }

    /// Steps seen so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }
}

fn sample() -> Now {
    let mut best = (u64::MAX, Now { mono: 0, real: 0 });
    // Preemption between the readings looks like a step; the tightest of a few readings is kept.
    for _ in 0..4 {
        let before = monotonic();
        let real = read(ClockId::CLOCK_REALTIME);
        let after = monotonic();
        let spread = after - before;
        if spread < best.0 {
            best = (spread, Now { mono: before + spread / 2, real });
        }
        if spread < 5_000 {
            break;
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_distrusts_what_was_sent_before_it() {
        let start = Now { mono: 1_000_000_000, real: 50_000_000_000 };
        let mut clock = Clock { last: start, stepped_at: None, steps: 0 };
        // 100 ms later, slewed by 50 µs: no step.
        clock.observe(Now { mono: 1_100_000_000, real: 50_100_050_000 });
        assert!(clock.steady_since(1_000_000_000));
        // 10 ms later the clock went back by 5 ms.
        clock.observe(Now { mono: 1_110_000_000, real: 50_105_050_000 });
        assert_eq!(clock.steps(), 1);
        assert!(!clock.steady_since(1_105_000_000));
        assert!(clock.steady_since(1_110_000_001));
    }

    #[test]
    fn the_real_clocks_are_steady() {
        let mut clock = Clock::new();
        let begin = clock.now().mono;
        while clock.now().mono < begin + 20_000_000 {}
        assert_eq!(clock.steps(), 0);
    }
}

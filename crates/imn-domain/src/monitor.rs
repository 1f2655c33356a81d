//! How a target's monitoring state follows from its rounds.

use crate::{consensus::Consensus, target::MonitoringState};

/// Rounds looked back at.
const WINDOW: u32 = 5;
/// Rounds of the window that must be bad for `degraded`.
const BAD: u32 = 3;
/// Rounds without an answer, in a row, for `down`.
const DOWN: u32 = 3;
/// Loss from which a round is bad, in percent.
const BAD_LOSS_PCT: f64 = 20.0;
/// Silence after which a target that never answered is `unresponsive`, in microseconds.
const UNRESPONSIVE_AFTER_US: i64 = 15 * 60 * 1_000_000;
/// Time in `down` after which a target is `excluded`, in microseconds.
const EXCLUDED_AFTER_US: i64 = 24 * 3600 * 1_000_000;

/// One round of a target over all of its agents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// What the agents say together.
    pub consensus: Consensus,
    /// Loss over all agents, in percent.
    pub loss_pct: Option<f64>,
}

/// A change of state, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state left.
    pub from: MonitoringState,
    /// The state reached.
    pub to: MonitoringState,
    /// Why, in words.
    pub reason: String,
}

/// What is remembered of a target between rounds: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Monitor {
    state: MonitoringState,
    /// Bad rounds of the window, the latest in bit 0.
    bad: u8,
    /// Rounds in the window so far.
    seen: u8,
    /// Rounds without an answer in a row, up to [`DOWN`].
    missed: u8,
    since_us: i64,
}

impl Monitor {
    /// A target in `state` since `since_us`, its window empty.
    pub const fn new(state: MonitoringState, since_us: i64) -> Self {
        Self { state, bad: 0, seen: 0, missed: 0, since_us }
    }

    /// The state.
    pub const fn state(&self) -> MonitoringState {
        self.state
    }

    /// Since when, in microseconds since the Unix epoch.
    pub const fn since_us(&self) -> i64 {
        self.since_us
    }

    /// Takes in a finished round; the transition that follows from it, if any. A round of which nothing is known
    /// changes nothing.
    pub fn observe(&mut self, finding: Finding, now_us: i64) -> Option<Transition> {
        if finding.consensus == Consensus::Unknown {
            return self.tick(now_us);
        }
        let unreachable = finding.consensus == Consensus::Unreachable;
        let bad = unreachable
            || finding.consensus == Consensus::Degraded
            || finding.loss_pct.is_some_and(|loss| loss >= BAD_LOSS_PCT);
        self.bad = (self.bad << 1 | u8::from(bad)) & ((1 << WINDOW) - 1);
        self.seen = (self.seen + 1).min(WINDOW as u8);
        self.missed = if unreachable { (self.missed + 1).min(DOWN as u8) } else { 0 };
        self.decide(finding, now_us).or_else(|| self.tick(now_us))
    }

    /// Takes in that time has passed; the transition that follows from that alone, if any.
    pub fn tick(&mut self, now_us: i64) -> Option<Transition> {
        let silent = now_us.saturating_sub(self.since_us);
        let (to, reason) = match self.state {
            MonitoringState::Unknown if silent >= UNRESPONSIVE_AFTER_US => {
                (MonitoringState::Unresponsive, "no answer in 15 minutes since it was added")
            }
            MonitoringState::Down if silent >= EXCLUDED_AFTER_US => {
                (MonitoringState::Excluded, "down for 24 hours; needs review")
            }
            _ => return None,
        };
        Some(self.enter(to, reason.to_owned(), now_us))
    }

    fn decide(&mut self, finding: Finding, now_us: i64) -> Option<Transition> {
        use MonitoringState::{Active, Degraded, Down, Excluded, Inactive, Standby, Unknown, Unresponsive};
        let reachable = finding.consensus == Consensus::Reachable;
        let split = finding.consensus == Consensus::Degraded;
        let bad = self.bad.count_ones();
        let window = self.seen;
        let (to, reason) = match self.state {
            Unknown | Unresponsive if reachable => (Active, "reachable by most agents".to_owned()),
            Unknown | Unresponsive if split => (Degraded, "reachable by some agents only".to_owned()),
            Active | Degraded if u32::from(self.missed) >= DOWN => {
                (Down, format!("no agent reached it in {DOWN} rounds"))
            }
            Active if bad >= BAD => (Degraded, format!("loss or split findings in {bad} of {window} rounds")),
            Degraded if reachable && bad < BAD && self.bad & 1 == 0 => {
                (Active, format!("clean again: {bad} of {window} rounds bad"))
            }
            Down | Excluded if reachable => (Active, "reachable again by most agents".to_owned()),
            Down | Excluded if split => (Degraded, "reachable again by some agents".to_owned()),
            Unknown | Active | Degraded | Down | Excluded | Unresponsive | Standby | Inactive => return None,
        };
        Some(self.enter(to, reason, now_us))
    }

    fn enter(&mut self, to: MonitoringState, reason: String, now_us: i64) -> Transition {
        let from = self.state;
        // Rounds from before a recovery say nothing about the time after it.
        let recovered = to == MonitoringState::Active && from != MonitoringState::Degraded;
        let (bad, seen) = if recovered { (0, 0) } else { (self.bad, self.seen) };
        *self = Self { state: to, since_us: now_us, bad, seen, missed: self.missed };
        Transition { from, to, reason }
    }
}

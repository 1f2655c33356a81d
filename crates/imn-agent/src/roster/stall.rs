//! Rounds that fall due and are not made: what an instance says of itself tells whether it still gets on.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use imn_contract::{InstanceId, ModuleType, latest::Health};

use super::Roster;

/// How the rounds of one process get on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    mark: Option<Mark>,
    /// For how long rounds have been owed and none was made, as of the last word.
    stalled: Duration,
}

/// When a round was made last, or none was owed.
#[derive(Clone, Copy, Debug)]
struct Mark {
    epoch: u64,
    owed: u64,
    done: u64,
    at: Instant,
}

impl Progress {
    pub(super) fn heard(&mut self, health: &Health, now: Instant) {
        // What was skipped, for want of time or room, is a recorded gap: nobody waits for it.
        let owed = health.rounds_due.saturating_sub(health.rounds_skipped);
        let fresh = Mark { epoch: health.epoch, owed, done: health.rounds_done, at: now };
        match self.mark {
            Some(mark) if (mark.epoch, mark.done) == (fresh.epoch, fresh.done) && owed > mark.owed => {
                self.stalled = now.duration_since(mark.at);
            }
            _ => *self = Self { mark: Some(fresh), stalled: Duration::ZERO },
        }
    }
}

impl Roster {
    /// The longest round of a type takes at most so long.
    pub(crate) fn rounds_take(&self, kind: &ModuleType, longest: Duration) {
        self.longest.lock().unwrap_or_else(PoisonError::into_inner).insert(kind.clone(), longest);
    }

    /// The supervised instances whose rounds fall due and are not made, for `patience` and longer than any takes.
    pub(crate) fn stalled(&self, patience: Duration) -> Vec<(InstanceId, Duration)> {
        let longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stalled = |kind: &ModuleType, for_so_long: Duration| {
            for_so_long >= patience + longest.get(kind).copied().unwrap_or_default()
        };
        let entries = self.lock();
        let found = entries
            .iter()
            .filter(|(_, entry)| entry.supervised && stalled(&entry.kind, entry.progress.stalled));
        found.map(|(instance, entry)| (instance.clone(), entry.progress.stalled)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use imn_contract::{
        AgentId,
        latest::{ModuleState, SpoolState},
    };

    const PATIENCE: Duration = Duration::from_secs(10);

    fn health(epoch: u64, due: u64, done: u64, skipped: u64) -> Health {
        Health {
            v: 1,
            instance: InstanceId::new("lon1-echo-0").unwrap(),
            agent: AgentId::new("lon1").unwrap(),
            kind: ModuleType::new("echo").unwrap(),
            version: "1".into(),
            state: ModuleState::Ready,
            inflight: 0,
            queued: 0,
            slots: 1,
            oldest_ms: 0,
            ewma_ms: 0.0,
            done: 0,
            errors: 0,
            circuits_open: 0,
            rounds_due: due,
            rounds_done: done,
            rounds_skipped: skipped,
            late_p99_us: 0,
            seq: 1,
            epoch,
            time: String::new(),
            spool: SpoolState::default(),
        }
    }

    /// The time of stalling after words that came five seconds apart.
    fn stalled(words: &[(u64, u64, u64, u64)]) -> u64 {
        let (mut progress, start) = (Progress::default(), Instant::now());
        for (n, (epoch, due, done, skipped)) in words.iter().enumerate() {
            progress.heard(&health(*epoch, *due, *done, *skipped), start + Duration::from_secs(5 * n as u64));
        }
        progress.stalled.as_secs()
    }

    #[test]
    fn only_rounds_that_are_owed_and_not_made_are_a_stall() {
        for (what, words, seconds) in [
            ("getting on", &[(1, 10, 9, 0), (1, 20, 19, 0), (1, 30, 29, 0)][..], 0),
            ("nothing due", &[(1, 10, 10, 0), (1, 10, 10, 0), (1, 10, 10, 0)], 0),
            ("standing still", &[(1, 10, 9, 0), (1, 20, 9, 0), (1, 30, 9, 0)], 10),
            ("one is made after all", &[(1, 10, 9, 0), (1, 20, 9, 0), (1, 30, 10, 0)], 0),
            ("the spool is full", &[(1, 10, 10, 0), (1, 20, 10, 10), (1, 30, 10, 20)], 0),
            ("started again", &[(1, 10, 0, 0), (1, 20, 0, 0), (2, 5, 0, 0), (2, 9, 0, 0)], 5),
            ("the first that is due", &[(1, 0, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0)], 5),
        ] {
            assert_eq!(stalled(words), seconds, "{what}");
        }
    }

    #[test]
    fn an_instance_has_as_long_as_its_longest_round_takes() {
        let roster = Roster::new(AgentId::new("lon1").unwrap());
        let first = health(1, 10, 9, 0);
        roster.declare(&first.instance, &first.kind, "", true);
        roster.running(&first.instance, 1, false);
        roster.health(first.clone());
        roster.health(health(1, 20, 9, 0));
        assert!(roster.stalled(PATIENCE).is_empty());
        assert_eq!(roster.stalled(Duration::ZERO).len(), 1);
        roster.rounds_take(&first.kind, PATIENCE);
        assert!(roster.stalled(Duration::ZERO).is_empty());
    }
}

//! What an instance had done when its process ended, and which of the rounds that it owed are missing.

use std::collections::HashMap;

use imn_contract::{
    TargetId,
    latest::{Assignment, Gap},
};

use super::Recovered;

/// Why rounds were not made; the words of the contract.
pub mod reason {
    /// The process ended, and not in order.
    pub const CRASHED: &str = "module_crashed";
    /// The process was told to end.
    pub const STOPPED: &str = "stopped";
    /// There was no room to keep them.
    pub const SPOOL_FULL: &str = "spool_full";
    /// What was kept of them was damaged.
    pub const SPOOL_LOST: &str = "spool_lost";
    /// The host was too busy.
    pub const OVERLOAD: &str = "overload";
    /// The real-time clock was set forward over them.
    pub const CLOCK_STEP: &str = "clock_step";
    /// They went from one instance to another.
    pub const MOVED: &str = "moved";
}

/// What an earlier process of this instance had done when it ended.
#[derive(Debug, Default)]
pub struct Past {
    /// Everything due before is settled.
    progress_us: Option<i64>,
    /// Why what is missing was not made.
    reason: &'static str,
    done: HashMap<TargetId, Vec<i64>>,
}

impl Past {
    /// By what the spool of that process was opened with.
    pub fn of(recovered: &Recovered) -> Self {
        let reason = match (recovered.damaged, recovered.stopped_us) {
            (true, _) => reason::SPOOL_LOST,
            (false, Some(_)) => reason::STOPPED,
            (false, None) => reason::CRASHED,
        };
        let mut past = Self { progress_us: recovered.progress_us, reason, done: HashMap::new() };
        for (target, due_us) in &recovered.done {
            past.done.entry(target.clone()).or_default().push(*due_us);
        }
        past.done.values_mut().for_each(|dues| dues.sort_unstable());
        past
    }

    /// The rounds of an assignment that were owed before `from_us`, the first that will be made, and are missing.
    pub fn missing(&self, assignment: &Assignment, from_us: i64) -> Vec<Gap> {
        let Some(progress_us) = self.progress_us else { return Vec::new() };
        let begin_us = progress_us.max(assignment.since_us);
        let done = self.done.get(&assignment.target).map_or(&[][..], Vec::as_slice);
        let mut gaps = Vec::new();
        let mut start_us = begin_us;
        for due_us in done.iter().copied().filter(|due| *due >= begin_us && *due < from_us) {
            gaps.extend(gap(assignment, start_us, due_us, self.reason));
            start_us = due_us + 1;
        }
        gaps.extend(gap(assignment, start_us, from_us, self.reason));
        gaps
    }

    /// The last round of a target that is known to be made.
    pub fn last_done_us(&self, target: &TargetId) -> Option<i64> {
        self.done.get(target)?.last().copied()
    }

    /// Whether there was an earlier process.
    pub fn is_known(&self) -> bool {
        self.progress_us.is_some()
    }
}

/// The rounds of an assignment due in `[from_us, to_us)`, if there are any, as a gap.
pub fn gap(assignment: &Assignment, from_us: i64, to_us: i64, reason: &str) -> Option<Gap> {
    let rounds = assignment.dues_between(from_us, to_us);
    if rounds == 0 {
        return None;
    }
    let first_due_us = assignment.next_due_us(from_us);
    Some(Gap {
        target: assignment.target.clone(),
        first_due_us,
        last_due_us: first_due_us + (rounds as i64 - 1) * assignment.interval_us() as i64,
        rounds,
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use imn_contract::ModuleType;
    use proptest::prelude::*;

    use super::*;

    fn assignment(since_us: i64) -> Assignment {
        Assignment {
            target: TargetId::new("t").unwrap(),
            kind: ModuleType::new("icmp").unwrap(),
            address: "127.0.0.1".to_owned(),
            interval_ms: 1,
            timeout_ms: 1,
            count: 1,
            params: serde_json::Map::new(),
            since_us,
            until_us: None,
        }
    }

    fn listed(gaps: &[Gap]) -> Vec<i64> {
        gaps.iter()
            .flat_map(|g| {
                let dues: Vec<i64> = (0..g.rounds as i64).map(|n| g.first_due_us + n * 1000).collect();
                assert_eq!(dues.last(), Some(&g.last_due_us));
                dues
            })
            .collect()
    }

    proptest! {
        #[test]
        fn every_owed_round_is_done_or_missing(
            since in 0_i64..20_000,
            progress in 0_i64..20_000,
            from in 0_i64..40_000,
            made in prop::collection::vec(any::<bool>(), 40),
        ) {
            let work = assignment(since);
            let phase = work.next_due_us(0);
            let all: Vec<i64> = (0..40).map(|n| phase + n * 1000).collect();
            let done: HashSet<_> = all
                .iter()
                .zip(&made)
                .filter(|(due, made)| **made && **due >= progress)
                .map(|(due, _)| (work.target.clone(), *due))
                .collect();
            let past = Past::of(&Recovered { progress_us: Some(progress), done: done.clone(), ..Recovered::default() });
            let missing = listed(&past.missing(&work, from));
            let owed: Vec<i64> = all
                .into_iter()
                .filter(|due| *due >= progress.max(since) && *due < from && !done.contains(&(work.target.clone(), *due)))
                .collect();
            prop_assert_eq!(missing, owed);
        }
    }
}

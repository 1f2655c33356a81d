//! Rounds that were owed and not made, and how far everything is settled.

use std::collections::{BTreeMap, HashMap, HashSet};

use imn_contract::{
    TargetId,
    latest::{Assignment, Gap},
};

/// Why rounds were not made; the words of the contract.
pub(super) mod reason {
    pub(crate) const CRASHED: &str = "module_crashed";
    pub(crate) const STOPPED: &str = "stopped";
    pub(crate) const SPOOL_FULL: &str = "spool_full";
    pub(crate) const SPOOL_LOST: &str = "spool_lost";
    pub(crate) const OVERLOAD: &str = "overload";
    pub(crate) const CLOCK_STEP: &str = "clock_step";
    pub(crate) const MOVED: &str = "moved";
}

/// Gaps that may still grow, one per target.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    open: HashMap<TargetId, Gap>,
    closed: Vec<Gap>,
}

impl Gaps {
    /// Adds missed rounds of a target; they continue its open gap if they are of the same reason.
    pub(super) fn add(&mut self, gap: Gap) {
        if let Some(open) = self.open.get_mut(&gap.target) {
            if open.reason == gap.reason && open.last_due_us < gap.first_due_us {
                open.last_due_us = gap.last_due_us;
                open.rounds += gap.rounds;
                return;
            }
            self.closed.push(std::mem::replace(open, gap));
        } else {
            self.open.insert(gap.target.clone(), gap);
        }
    }

    /// [`add`](Self::add)s each.
    pub(super) fn extend(&mut self, gaps: impl IntoIterator<Item = Gap>) {
        gaps.into_iter().for_each(|gap| self.add(gap));
    }

    /// A round of the target was made: its gap has ended.
    pub(super) fn end(&mut self, target: &TargetId) {
        if !self.open.is_empty()
            && let Some(gap) = self.open.remove(target)
        {
            self.closed.push(gap);
        }
    }

    /// What is to be written; `all` includes those that may still grow.
    pub(super) fn take(&mut self, all: bool) -> Vec<Gap> {
        let mut gaps = std::mem::take(&mut self.closed);
        if all {
            gaps.extend(self.open.drain().map(|(_, gap)| gap));
        }
        gaps
    }

    /// The first due time that is not written yet.
    pub(super) fn first_due_us(&self) -> Option<i64> {
        self.open.values().chain(&self.closed).map(|gap| gap.first_due_us).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.closed.is_empty()
    }
}

/// Due times of rounds that are in flight.
#[derive(Debug, Default)]
pub(super) struct Unsettled(BTreeMap<i64, u32>);

impl Unsettled {
    pub(super) fn add(&mut self, due_us: i64) {
        *self.0.entry(due_us).or_default() += 1;
    }

    pub(super) fn remove(&mut self, due_us: i64) {
        if let Some(count) = self.0.get_mut(&due_us) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&due_us);
            }
        }
    }

    pub(super) fn first_due_us(&self) -> Option<i64> {
        self.0.first_key_value().map(|(due_us, _)| *due_us)
    }
}

/// What an earlier process of this instance had done when it ended.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Everything due before is settled.
    progress_us: Option<i64>,
    /// Why what is missing was not made.
    reason: &'static str,
    done: HashMap<TargetId, Vec<i64>>,
}

impl Past {
    pub(super) fn new(
        progress_us: Option<i64>,
        reason: &'static str,
        done: &HashSet<(TargetId, i64)>,
    ) -> Self {
        let mut past = Self { progress_us, reason, done: HashMap::new() };
        for (target, due_us) in done {
            past.done.entry(target.clone()).or_default().push(*due_us);
        }
        past.done.values_mut().for_each(|dues| dues.sort_unstable());
        past
    }

    /// The rounds of an assignment that were owed before `from_us`, the first that will be made, and are missing.
    pub(super) fn missing(&self, assignment: &Assignment, from_us: i64) -> Vec<Gap> {
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
    pub(super) fn last_done_us(&self, target: &TargetId) -> Option<i64> {
        self.done.get(target)?.last().copied()
    }

    /// Whether there was an earlier process.
    pub(super) fn is_known(&self) -> bool {
        self.progress_us.is_some()
    }
}

/// The rounds of an assignment due in `[from_us, to_us)`, if there are any, as a gap.
pub(super) fn gap(assignment: &Assignment, from_us: i64, to_us: i64, reason: &str) -> Option<Gap> {
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
            let past = Past::new(Some(progress), reason::CRASHED, &done);
            let missing = listed(&past.missing(&work, from));
            let owed: Vec<i64> = all
                .into_iter()
                .filter(|due| *due >= progress.max(since) && *due < from && !done.contains(&(work.target.clone(), *due)))
                .collect();
            prop_assert_eq!(missing, owed);
        }
    }

    #[test]
    fn gaps_grow_until_a_round_is_made() {
        let target = TargetId::new("t").unwrap();
        let one = |due_us, reason: &str| Gap {
            target: target.clone(),
            first_due_us: due_us,
            last_due_us: due_us,
            rounds: 1,
            reason: reason.to_owned(),
        };
        let mut gaps = Gaps::default();
        gaps.add(one(1, reason::SPOOL_FULL));
        gaps.add(one(2, reason::SPOOL_FULL));
        assert_eq!(gaps.first_due_us(), Some(1));
        assert!(gaps.take(false).is_empty());
        gaps.add(one(3, reason::OVERLOAD));
        gaps.end(&target);
        let taken = gaps.take(false);
        assert_eq!(taken.iter().map(|g| g.rounds).collect::<Vec<_>>(), [2, 1]);
        assert!(gaps.is_empty());
    }

    #[test]
    fn the_first_unsettled_round_holds_the_mark() {
        let mut unsettled = Unsettled::default();
        for due_us in [5, 3, 3, 9] {
            unsettled.add(due_us);
        }
        unsettled.remove(3);
        assert_eq!(unsettled.first_due_us(), Some(3));
        unsettled.remove(3);
        assert_eq!(unsettled.first_due_us(), Some(5));
    }
}

//! Rounds that were owed and not made, and how far everything is settled.

use std::collections::{BTreeMap, HashMap};

use imn_contract::{TargetId, latest::Gap};

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

#[cfg(test)]
mod tests {
    use imn_runtime::spool::reason;

    use super::*;

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

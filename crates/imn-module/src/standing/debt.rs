//! Rounds that were owed and not made, and how far everything is settled.

use std::collections::{BTreeMap, HashMap};

use imn_contract::{TargetId, latest::Gap};

/// Missed rounds of a target, one after the other.
#[derive(Debug)]
pub(super) struct Missed {
    pub gap: Gap,
    /// Time between them; 0 when that is not known.
    pub interval_us: i64,
}

impl Missed {
    /// Takes in the rounds that come next, or gives them back: a gap must not span what was made, or was another's.
    fn grow(&mut self, next: Self) -> Option<Self> {
        let continues = self.gap.reason == next.gap.reason
            && self.interval_us == next.interval_us
            && self.gap.last_due_us + self.interval_us == next.gap.first_due_us;
        if !continues {
            return Some(next);
        }
        self.gap.last_due_us = next.gap.last_due_us;
        self.gap.rounds += next.gap.rounds;
        None
    }
}

/// Gaps that may still grow, one per target, and those that do not.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    open: HashMap<TargetId, Missed>,
    closed: Vec<Missed>,
}

impl Gaps {
    /// Adds missed rounds of a target.
    pub(super) fn add(&mut self, missed: Missed) {
        if let Some(open) = self.open.get_mut(&missed.gap.target) {
            if let Some(other) = open.grow(missed) {
                self.closed.push(std::mem::replace(open, other));
            }
        } else {
            self.open.insert(missed.gap.target.clone(), missed);
        }
    }

    /// [`add`](Self::add)s each; all are of targets with this interval.
    pub(super) fn extend(&mut self, gaps: impl IntoIterator<Item = Gap>, interval_us: u64) {
        let interval_us = i64::try_from(interval_us).unwrap_or_default();
        gaps.into_iter().for_each(|gap| self.add(Missed { gap, interval_us }));
    }

    /// A round of the target was made: its gap has ended.
    pub(super) fn end(&mut self, target: &TargetId) {
        if !self.open.is_empty()
            && let Some(missed) = self.open.remove(target)
        {
            self.closed.push(missed);
        }
    }

    /// What is to be written; `all` includes those that may still grow.
    pub(super) fn take(&mut self, all: bool) -> Vec<Missed> {
        let mut taken = std::mem::take(&mut self.closed);
        if all {
            taken.extend(self.open.drain().map(|(_, missed)| missed));
        }
        taken
    }

    /// What was taken could not be written.
    pub(super) fn put_back(&mut self, taken: Vec<Missed>) {
        for missed in taken {
            self.add(missed);
        }
    }

    /// The first due time that is not written yet.
    pub(super) fn first_due_us(&self) -> Option<i64> {
        self.open.values().chain(&self.closed).map(|missed| missed.gap.first_due_us).min()
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
        let one = |due_us, reason: &str| Missed {
            gap: Gap {
                target: target.clone(),
                first_due_us: due_us,
                last_due_us: due_us,
                rounds: 1,
                reason: reason.to_owned(),
            },
            interval_us: 2,
        };
        let rounds = |taken: &[Missed]| -> Vec<(i64, u64)> {
            taken.iter().map(|missed| (missed.gap.first_due_us, missed.gap.rounds)).collect()
        };
        let mut gaps = Gaps::default();
        gaps.add(one(1, reason::SPOOL_FULL));
        gaps.add(one(3, reason::SPOOL_FULL));
        assert_eq!(gaps.first_due_us(), Some(1));
        assert!(gaps.take(false).is_empty());
        gaps.add(one(5, reason::OVERLOAD));
        gaps.end(&target);
        let taken = gaps.take(false);
        assert_eq!(rounds(&taken), [(1, 2), (5, 1)]);
        assert!(gaps.is_empty());
        // The round between was made, or is another's; also when it is to be written once more.
        gaps.add(one(9, reason::OVERLOAD));
        gaps.put_back(taken);
        gaps.end(&target);
        gaps.add(one(11, reason::OVERLOAD));
        let mut all = rounds(&gaps.take(true));
        all.sort_unstable();
        assert_eq!(all, [(1, 2), (5, 1), (9, 1), (11, 1)]);
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

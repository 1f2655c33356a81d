//! What is due when: a heap of due times over compact entries. No clock, no I/O.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use imn_contract::TargetId;

use super::Plan;

/// One target under standing measurement.
#[derive(Debug)]
pub(super) struct Entry {
    pub target: TargetId,
    pub address: Address,
    /// The address as rounds tell it.
    pub written: Arc<str>,
    pub interval_us: i64,
    /// Rounds due at this time or later are another instance's.
    pub end_us: i64,
    pub timeout: Duration,
    pub count: u32,
    /// How to measure it, or why it cannot be measured.
    pub plan: Result<Plan, Arc<str>>,
    /// Of everything above: tells a changed assignment from one that is as it was.
    pub fingerprint: u64,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Ip(IpAddr),
    Name(Arc<str>),
}

#[derive(Debug)]
struct Slot {
    entry: Option<Arc<Entry>>,
    /// Counts the users of the slot, so that an old heap entry is known as such.
    generation: u32,
}

/// The entries and their next due times.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: HashMap<TargetId, u32>,
    heap: BinaryHeap<Reverse<(i64, u32, u32)>>,
}

impl Schedule {
    /// Adds an entry, or puts it in the place of the one of its target.
    pub(super) fn insert(&mut self, entry: Entry, next_due_us: i64) {
        self.remove(&entry.target);
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { entry: None, generation: 0 });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[number as usize];
        self.index.insert(entry.target.clone(), number);
        slot.entry = Some(Arc::new(entry));
        self.heap.push(Reverse((next_due_us, number, slot.generation)));
    }

    /// Removes a target; its rounds in flight hold their entry themselves.
    pub(super) fn remove(&mut self, target: &TargetId) -> bool {
        let Some(number) = self.index.remove(target) else { return false };
        let slot = &mut self.slots[number as usize];
        slot.entry = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(number);
        true
    }

    pub(super) fn get(&self, target: &TargetId) -> Option<&Arc<Entry>> {
        self.slots[*self.index.get(target)? as usize].entry.as_ref()
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = &TargetId> {
        self.index.keys()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref())
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// The earliest due time.
    pub(super) fn next_due_us(&mut self) -> Option<i64> {
        while let Some(Reverse((due_us, number, generation))) = self.heap.peek() {
            let slot = &self.slots[*number as usize];
            let is_owed = slot.entry.as_ref().is_some_and(|entry| *due_us < entry.end_us);
            if is_owed && slot.generation == *generation {
                return Some(*due_us);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes the earliest entry that is due before `horizon_us`. What was due up to `late_us` is skipped as a whole:
    /// the answer then tells how many rounds.
    pub(super) fn pop(&mut self, horizon_us: i64, late_us: i64) -> Option<Popped> {
        let due_us = self.next_due_us().filter(|due| *due < horizon_us)?;
        let Reverse((_, number, generation)) = self.heap.pop()?;
        let entry = Arc::clone(self.slots[number as usize].entry.as_ref()?);
        let late_us = late_us.min(entry.end_us - 1);
        let missed = if due_us > late_us { 0 } else { ((late_us - due_us) / entry.interval_us) as u64 + 1 };
        let rounds = missed.max(1) as i64;
        self.heap.push(Reverse((due_us + rounds * entry.interval_us, number, generation)));
        Some(Popped { entry, due_us, missed })
    }
}

/// What falls due.
#[derive(Debug)]
pub(super) struct Popped {
    pub entry: Arc<Entry>,
    /// The due time; the first of them when rounds were missed.
    pub due_us: i64,
    /// Rounds missed; 0 when the round can be made.
    pub missed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(target: &str, interval_us: i64) -> Entry {
        Entry {
            target: TargetId::new(target).unwrap(),
            address: Address::Ip("127.0.0.1".parse().unwrap()),
            written: "127.0.0.1".into(),
            interval_us,
            end_us: i64::MAX,
            timeout: Duration::from_secs(1),
            count: 1,
            plan: Err("none".into()),
            fingerprint: 0,
        }
    }

    fn drain(schedule: &mut Schedule, horizon_us: i64, late_us: i64) -> Vec<(String, i64, u64)> {
        std::iter::from_fn(|| schedule.pop(horizon_us, late_us))
            .map(|p| (p.entry.target.to_string(), p.due_us, p.missed))
            .collect()
    }

    #[test]
    fn every_due_time_comes_once_and_in_order() {
        let mut schedule = Schedule::default();
        schedule.insert(entry("a", 10), 100);
        schedule.insert(entry("b", 15), 105);
        let dues: Vec<_> = drain(&mut schedule, 131, 0).into_iter().map(|(t, due, _)| (t, due)).collect();
        let expected = [("a", 100), ("b", 105), ("a", 110), ("a", 120), ("b", 120), ("a", 130)];
        assert_eq!(dues, expected.map(|(t, due)| (t.to_owned(), due)));
        assert_eq!(schedule.next_due_us(), Some(135));
    }

    #[test]
    fn what_was_missed_is_told_as_one() {
        let mut schedule = Schedule::default();
        schedule.insert(entry("a", 10), 100);
        assert_eq!(
            drain(&mut schedule, 160, 139),
            [("a".to_owned(), 100, 4), ("a".to_owned(), 140, 0), ("a".to_owned(), 150, 0)]
        );
    }

    #[test]
    fn nothing_is_due_from_the_end_on() {
        let mut schedule = Schedule::default();
        schedule.insert(Entry { end_us: 120, ..entry("a", 10) }, 100);
        schedule.insert(Entry { end_us: 90, ..entry("b", 10) }, 95);
        let due = |due_us, missed| ("a".to_owned(), due_us, missed);
        assert_eq!(drain(&mut schedule, 200, 0), [due(100, 0), due(110, 0)]);
        assert_eq!((schedule.next_due_us(), schedule.len()), (None, 2));
        schedule.insert(Entry { end_us: 120, ..entry("a", 10) }, 100);
        assert_eq!(drain(&mut schedule, 200, 150), [due(100, 2)]);
    }

    #[test]
    fn a_replaced_entry_leaves_nothing_behind() {
        let mut schedule = Schedule::default();
        schedule.insert(entry("a", 10), 100);
        schedule.insert(entry("a", 1000), 500);
        schedule.insert(entry("b", 10), 90);
        assert!(schedule.remove(&TargetId::new("b").unwrap()));
        assert_eq!(schedule.next_due_us(), Some(500));
        assert_eq!((schedule.len(), schedule.entries().count()), (1, 1));
        assert_eq!(drain(&mut schedule, 501, 0).len(), 1);
    }
}

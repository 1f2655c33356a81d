//! A hashed timer wheel over slab indices: constant time to arm, one pass per tick to fire, no allocation once warm.

/// Slots of the wheel; a power of two. Deadlines further away than a lap are passed over once per lap.
const SLOTS: usize = 4096;
const NONE: u32 = u32::MAX;

/// Fires indices at or after their deadline, never before, and at most one tick after if it is driven in time.
pub(crate) struct Wheel {
    tick: u64,
    /// The next tick to fire.
    next: u64,
    heads: Box<[u32]>,
    occupied: Box<[u64]>,
    /// Per index: its successor in the slot, and its deadline in ticks.
    links: Vec<(u32, u64)>,
    armed: usize,
}

impl Wheel {
    /// A wheel of `tick` nanoseconds per slot that starts at `now` (nanoseconds, any epoch).
    pub(crate) fn new(tick: u64, now: u64) -> Self {
        Self {
            tick,
            next: now / tick,
            heads: vec![NONE; SLOTS].into(),
            occupied: vec![0; SLOTS / 64].into(),
            links: Vec::new(),
            armed: 0,
        }
    }

    /// Arms `index` for `deadline` nanoseconds. An index must not be armed twice.
    pub(crate) fn arm(&mut self, index: u32, deadline: u64) {
        let at = deadline.div_ceil(self.tick).max(self.next);
        if self.links.len() <= index as usize {
            self.links.resize(index as usize + 1, (NONE, 0));
        }
        self.insert(index, at);
        self.armed += 1;
    }

    fn insert(&mut self, index: u32, at: u64) {
        let slot = at as usize % SLOTS;
        self.links[index as usize] = (self.heads[slot], at);
        self.heads[slot] = index;
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// Moves every index whose deadline has come by `now` into `due`.
    pub(crate) fn fire(&mut self, now: u64, due: &mut Vec<u32>) {
        let last = now / self.tick;
        if last < self.next {
            return;
        }
        // After a long pause one lap visits every slot; further laps would find the same entries.
        let laps = (last - self.next).min(SLOTS as u64 - 1);
        for tick in self.next..=self.next + laps {
            let slot = tick as usize % SLOTS;
            if self.occupied[slot / 64] & (1 << (slot % 64)) == 0 {
                continue;
            }
            let mut index = std::mem::replace(&mut self.heads[slot], NONE);
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            while index != NONE {
                let (successor, at) = self.links[index as usize];
                if at <= last {
                    due.push(index);
                    self.armed -= 1;
                } else {
                    self.insert(index, at);
                }
                index = successor;
            }
        }
        self.next = last + 1;
    }

    /// Nanoseconds of the earliest tick that may have something to fire; `None` when nothing is armed.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        if self.armed == 0 {
            return None;
        }
        let start = self.next as usize % SLOTS;
        let words = self.occupied.len();
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == words {
                bits &= !(u64::MAX << (start % 64));
            }
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (slot + SLOTS - start) % SLOTS;
                return Some((self.next + ahead as u64) * self.tick);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_idle_wheel_has_no_deadline() {
        let mut wheel = Wheel::new(1000, 5_000_000);
        assert_eq!(wheel.next_deadline(), None);
        wheel.arm(7, 5_100_001);
        assert_eq!(wheel.next_deadline(), Some(5_101_000));
        let mut due = Vec::new();
        wheel.fire(5_100_999, &mut due);
        assert!(due.is_empty());
        wheel.fire(5_101_000, &mut due);
        assert_eq!(due, [7]);
        assert_eq!(wheel.next_deadline(), None);
    }

    proptest! {
        #[test]
        fn fires_each_once_in_time(
            deadlines in prop::collection::vec(0_u64..40_000_000, 1..50),
            steps in prop::collection::vec(1_u64..9_000_000, 1..30),
        ) {
            let tick = 1000;
            let mut wheel = Wheel::new(tick, 0);
            for (index, deadline) in deadlines.iter().enumerate() {
                wheel.arm(index as u32, *deadline);
            }
            let (mut now, mut fired) = (0, vec![false; deadlines.len()]);
            for step in steps.into_iter().chain([50_000_000]) {
                let promised = wheel.next_deadline();
                now += step;
                let mut due = Vec::new();
                wheel.fire(now, &mut due);
                for index in due {
                    prop_assert!(!std::mem::replace(&mut fired[index as usize], true));
                    prop_assert!(deadlines[index as usize] <= now);
                    prop_assert!(promised.is_some_and(|at| at <= now));
                }
                for (index, deadline) in deadlines.iter().enumerate() {
                    prop_assert!(fired[index] || deadline + tick > now);
                }
            }
            prop_assert_eq!(wheel.next_deadline(), None);
        }
    }
}

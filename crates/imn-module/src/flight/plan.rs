//! The specs of assignments, by number: equal ones share a number, and one that nobody uses any more is forgotten.

use std::{collections::HashMap, hash::Hash, sync::Arc};

#[derive(Debug)]
pub(super) struct Plans<S> {
    slots: Vec<Option<Arc<S>>>,
    numbers: HashMap<Arc<S>, u32>,
    free: Vec<u32>,
}

impl<S> Default for Plans<S> {
    fn default() -> Self {
        Self { slots: Vec::new(), numbers: HashMap::new(), free: Vec::new() }
    }
}

impl<S: Eq + Hash> Plans<S> {
    /// The number of a spec.
    pub(super) fn number(&mut self, spec: S) -> u32 {
        if let Some(number) = self.numbers.get(&spec) {
            return *number;
        }
        let spec = Arc::new(spec);
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[number as usize] = Some(Arc::clone(&spec));
        self.numbers.insert(spec, number);
        number
    }

    pub(super) fn get(&self, number: u32) -> Option<&Arc<S>> {
        self.slots.get(number as usize)?.as_ref()
    }

    /// Forgets the specs whose numbers are not used; the numbers are given again.
    pub(super) fn retain(&mut self, used: impl Fn(u32) -> bool) {
        self.numbers.retain(|_, number| {
            let keep = used(*number);
            if !keep {
                self.slots[*number as usize] = None;
                self.free.push(*number);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_that_nobody_uses_leave_no_trace() {
        let mut plans = Plans::default();
        let first = plans.number("a".to_owned());
        assert_eq!(plans.number("a".to_owned()), first);
        for round in 0..1000 {
            let number = plans.number(format!("url {round}"));
            assert_ne!(number, first);
            assert_eq!(plans.get(number).map(|spec| spec.as_str()), Some(format!("url {round}").as_str()));
            plans.retain(|used| used == first);
            assert!(plans.get(number).is_none());
        }
        assert_eq!((plans.slots.len(), plans.numbers.len(), plans.free.len()), (2, 1, 1));
        assert_eq!(plans.get(first).map(|spec| spec.as_str()), Some("a"));
    }
}

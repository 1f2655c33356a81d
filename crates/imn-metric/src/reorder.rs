/// Counts reordered packets by RFC 4737 §3.3 (type-P-reordered), one arrival at a time.
///
/// Feed the send sequence numbers in the order of arrival, duplicates left out (RFC 4737 §3.3 looks at the first
/// copy only). A packet is reordered when a packet sent after it has already arrived. Loss alone never counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reordering {
    next_expected: u64,
    reordered: u64,
}

impl Reordering {
    /// No packet has arrived yet.
    pub const fn new() -> Self {
        Self { next_expected: 0, reordered: 0 }
    }

    /// Takes the next arrival; true when it is reordered.
    pub fn arrive(&mut self, sequence: u64) -> bool {
        let late = sequence < self.next_expected;
        if late {
            self.reordered += 1;
        } else {
            self.next_expected = sequence.saturating_add(1);
        }
        late
    }

    /// Reordered packets so far.
    pub const fn count(&self) -> u64 {
        self.reordered
    }
}

impl Extend<u64> for Reordering {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, arrivals: I) {
        for sequence in arrivals {
            self.arrive(sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(arrivals: &[u64]) -> u64 {
        let mut reordering = Reordering::new();
        reordering.extend(arrivals.iter().copied());
        reordering.count()
    }

    #[test]
    fn examples_of_rfc_4737() {
        assert_eq!(count(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), 0);
        // §7.1: packet 4 arrives late; one packet is reordered, not the five it was overtaken by.
        assert_eq!(count(&[1, 2, 3, 5, 6, 7, 8, 4, 9, 10]), 1);
        // Loss alone is no reordering.
        assert_eq!(count(&[0, 5, 9, 10]), 0);
        // A packet that arrives first but was sent last makes all others reordered.
        assert_eq!(count(&[3, 0, 1, 2]), 3);
    }

    proptest! {
        #[test]
        fn equals_the_definition(arrivals in prop::collection::vec(0_u64..50, 0..80)) {
            let expected = (0..arrivals.len())
                .filter(|&i| arrivals[..i].iter().any(|earlier| *earlier >= arrivals[i]))
                .count() as u64;
            prop_assert_eq!(count(&arrivals), expected);
        }
    }
}

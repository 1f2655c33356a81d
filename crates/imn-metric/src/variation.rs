use serde::{Deserialize, Serialize};

/// Delay variation between consecutive packets of one round (RFC 3393 §2, selection function: consecutive pairs;
/// RFC 5481 §4.1), as constant-size aggregates.
///
/// The signed differences are not kept; use [`ipdv`] to see each. Units are those of the delays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ipdv {
    pairs: u64,
    sum: f64,
    sum_abs: f64,
}

impl Ipdv {
    /// Variation within one round: `delays` in the order of sending, `None` for a packet without a delay.
    pub fn from_delays<I: IntoIterator<Item = Option<u64>>>(delays: I) -> Self {
        ipdv(delays).fold(Self::default(), |mut total, difference| {
            total.pairs += 1;
            total.sum += difference as f64;
            total.sum_abs += difference.unsigned_abs() as f64;
            total
        })
    }

    /// Takes in the pairs of another round. No pair spans two rounds.
    pub fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.sum += other.sum;
        self.sum_abs += other.sum_abs;
    }

    /// Pairs of consecutive packets that were both received.
    pub const fn pairs(&self) -> u64 {
        self.pairs
    }

    /// Mean signed difference; near zero unless the delay drifts. `None` without a pair.
    pub fn mean(&self) -> Option<f64> {
        (self.pairs > 0).then(|| self.sum / self.pairs as f64)
    }

    /// Mean absolute difference: what IMN calls `jitter`. `None` without a pair.
    pub fn jitter(&self) -> Option<f64> {
        (self.pairs > 0).then(|| self.sum_abs / self.pairs as f64)
    }
}

/// Signed delay differences of consecutive packets, `delay(i) − delay(i − 1)` in the order of sending (RFC 3393).
///
/// A packet without a delay makes the pairs on both its sides undefined; they are left out rather than bridged.
pub fn ipdv<I: IntoIterator<Item = Option<u64>>>(delays: I) -> impl Iterator<Item = i64> {
    let mut previous = None;
    delays.into_iter().filter_map(move |delay| {
        let pair = previous.zip(delay);
        previous = delay;
        pair.map(|(before, now)| now.wrapping_sub(before) as i64)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn undefined_across_a_loss() {
        let delays = [Some(10), Some(13), None, Some(5), Some(4), Some(4)];
        assert_eq!(ipdv(delays).collect::<Vec<_>>(), vec![3, -1, 0]);
        let variation = Ipdv::from_delays(delays);
        assert_eq!(variation.pairs(), 3);
        assert_eq!(variation.jitter(), Some(4.0 / 3.0));
        assert_eq!(variation.mean(), Some(2.0 / 3.0));
        assert_eq!(Ipdv::from_delays([Some(10), None, Some(3)]).jitter(), None);
    }

    proptest! {
        #[test]
        fn differences_telescope_without_loss(delays in prop::collection::vec(0_u64..1 << 40, 1..50)) {
            let sum: i64 = ipdv(delays.iter().copied().map(Some)).sum();
            prop_assert_eq!(sum, delays[delays.len() - 1] as i64 - delays[0] as i64);
        }

        #[test]
        fn jitter_bounds_the_mean(delays in prop::collection::vec(prop::option::of(0_u64..1 << 40), 0..50)) {
            let variation = Ipdv::from_delays(delays.iter().copied());
            prop_assert_eq!(variation.jitter().is_some(), variation.pairs() > 0);
            if let (Some(mean), Some(jitter)) = (variation.mean(), variation.jitter()) {
                prop_assert!(mean.abs() <= jitter);
            }
        }

        #[test]
        fn merging_adds_pairs(
            a in prop::collection::vec(prop::option::of(0_u64..1000), 0..20),
            b in prop::collection::vec(prop::option::of(0_u64..1000), 0..20),
        ) {
            let mut merged = Ipdv::from_delays(a.iter().copied());
            merged.merge(&Ipdv::from_delays(b.iter().copied()));
            // A lost packet between the rounds stands for the pair that must not be formed.
            let joined = Ipdv::from_delays(a.iter().copied().chain([None]).chain(b.iter().copied()));
            prop_assert_eq!(merged.pairs(), joined.pairs());
            prop_assert_eq!(merged.jitter(), joined.jitter());
        }
    }
}

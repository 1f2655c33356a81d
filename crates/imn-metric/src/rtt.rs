use serde::{Deserialize, Serialize};

/// Count, minimum, mean, maximum and spread of received delays; constant size, mergeable.
///
/// Mean and spread are kept by Welford's recurrence, and merged by Chan's, so that merging rounds gives what one
/// pass over all their packets would have given. Lost packets have no delay and are not in it: every figure here
/// is over *received* packets and must be shown together with the loss (RFC 6049 §4.1).
///
/// Units are those of the samples (nanoseconds by convention); the variance is in their square.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RttStats {
    count: u64,
    min: u64,
    max: u64,
    mean: f64,
    m2: f64,
}

impl RttStats {
    /// No samples.
    pub const fn new() -> Self {
        Self { count: 0, min: 0, max: 0, mean: 0.0, m2: 0.0 }
    }

    /// Statistics of the given delays.
    pub fn from_samples(samples: &[u64]) -> Self {
        samples.iter().copied().collect()
    }

    /// Rebuilds the statistics from what was stored of a round: `stddev` is the sample standard deviation, and
    /// is ignored below two samples. Merging such rounds yields the weighted mean and the pooled deviation.
    pub fn from_summary(count: u64, min: u64, mean: f64, max: u64, stddev: Option<f64>) -> Self {
        if count == 0 {
            return Self::new();
        }
        let m2 = stddev.unwrap_or(0.0).powi(2) * (count - 1) as f64;
        Self { count, min, max, mean, m2 }
    }

    /// Takes one more delay.
    pub fn push(&mut self, sample: u64) {
        if self.count == 0 {
            (self.min, self.max) = (sample, sample);
        } else {
            self.min = self.min.min(sample);
            self.max = self.max.max(sample);
        }
        self.count += 1;
        let delta = sample as f64 - self.mean;
        self.mean += delta / self.count as f64;
        self.m2 += delta * (sample as f64 - self.mean);
    }

    /// Takes in the samples of another, as if each had been pushed here.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (own, others) = (self.count as f64, other.count as f64);
        let total = own + others;
        let delta = other.mean - self.mean;
        self.mean += delta * others / total;
        self.m2 += other.m2 + delta * delta * own * others / total;
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Number of samples.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Smallest delay; `None` without samples.
    pub fn min(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min)
    }

    /// Arithmetic mean over received packets; `None` without samples.
    pub fn avg(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    /// Largest delay; `None` without samples.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// Packet delay variation: the mean of `delay − minimum` over received packets (RFC 5481 §4.2), which is the mean
    /// less the minimum. `None` without samples. Lost packets have no variation and are stated by the loss.
    pub fn pdv(&self) -> Option<f64> {
        self.avg().map(|avg| (avg - self.min as f64).max(0.0))
    }

    /// Sample standard deviation (divisor `n − 1`); `None` below two samples.
    pub fn stddev(&self) -> Option<f64> {
        (self.count > 1).then(|| (self.m2.max(0.0) / (self.count - 1) as f64).sqrt())
    }
}

impl Extend<u64> for RttStats {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, samples: I) {
        for sample in samples {
            self.push(sample);
        }
    }
}

impl FromIterator<u64> for RttStats {
    fn from_iter<I: IntoIterator<Item = u64>>(samples: I) -> Self {
        let mut stats = Self::new();
        stats.extend(samples);
        stats
    }
}

impl<'a> std::iter::Sum<&'a Self> for RttStats {
    fn sum<I: Iterator<Item = &'a Self>>(rounds: I) -> Self {
        rounds.fold(Self::new(), |mut total, round| {
            total.merge(round);
            total
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_values() {
        let stats = RttStats::from_samples(&[2, 4, 4, 4, 5, 5, 7, 9]);
        assert_eq!((stats.count(), stats.min(), stats.max()), (8, Some(2), Some(9)));
        assert_eq!((stats.avg(), stats.pdv()), (Some(5.0), Some(3.0)));
        assert!((stats.stddev().unwrap() - (32.0_f64 / 7.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn too_few_samples_have_no_figure() {
        let none = RttStats::from_samples(&[]);
        assert_eq!((none.min(), none.avg(), none.max(), none.stddev()), (None, None, None, None));
        assert_eq!((none.pdv(), RttStats::from_samples(&[7]).pdv()), (None, Some(0.0)));
        let one = RttStats::from_samples(&[7]);
        assert_eq!((one.avg(), one.stddev()), (Some(7.0), None));
    }

    fn close(a: Option<f64>, b: Option<f64>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs().max(b.abs()).max(1.0),
            (a, b) => a == b,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_two_passes(samples in prop::collection::vec(0_u64..10_000_000_000, 2..100)) {
            let stats = RttStats::from_samples(&samples);
            let n = samples.len() as f64;
            let mean = samples.iter().map(|s| *s as f64).sum::<f64>() / n;
            let variance = samples.iter().map(|s| (*s as f64 - mean).powi(2)).sum::<f64>() / (n - 1.0);
            prop_assert!(close(stats.avg(), Some(mean)));
            prop_assert!(close(stats.stddev(), Some(variance.sqrt())));
            prop_assert_eq!(stats.min(), samples.iter().copied().min());
            prop_assert_eq!(stats.max(), samples.iter().copied().max());
        }

        #[test]
        fn merging_rounds_equals_one_round_of_all(
            rounds in prop::collection::vec(prop::collection::vec(0_u64..2_000_000_000, 0..20), 0..10),
        ) {
            let parts: Vec<RttStats> = rounds.iter().map(|round| RttStats::from_samples(round)).collect();
            let merged: RttStats = parts.iter().sum();
            let whole: RttStats = rounds.iter().flatten().copied().collect();
            prop_assert_eq!((merged.count(), merged.min(), merged.max()), (whole.count(), whole.min(), whole.max()));
            prop_assert!(close(merged.avg(), whole.avg()));
            prop_assert!(close(merged.stddev(), whole.stddev()));
            let stored: Vec<RttStats> = parts
                .iter()
                .filter_map(|p| Some(RttStats::from_summary(p.count(), p.min()?, p.avg()?, p.max()?, p.stddev())))
                .collect();
            let pooled: RttStats = stored.iter().sum();
            prop_assert!(close(pooled.stddev(), whole.stddev()));
        }
    }
}

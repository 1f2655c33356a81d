//! What the emulator counted on one direction of a link.

use crate::lab::packet::Class;
use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

/// Packet counts. Every received packet is lost, dropped by the queue, delivered, refused or still held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that entered the direction.
    pub received: u64,
    /// Packets lost by `loss` or `loss_every`.
    pub lost: u64,
    /// Packets dropped because the queue was full.
    pub queue_dropped: u64,
    /// Second copies delivered; not counted in `delivered`.
    pub duplicated: u64,
    /// Packets delivered.
    pub delivered: u64,
    /// Packets delivered after one that had entered later (RFC 4737).
    pub reordered: u64,
    /// Packets that the kernel of the receiving node did not take, because its device was down.
    pub refused: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.queue_dropped += other.queue_dropped;
        self.duplicated += other.duplicated;
        self.delivered += other.delivered;
        self.reordered += other.reordered;
        self.refused += other.refused;
    }
}

/// The delays really applied: from the moment the emulator had read a packet to the moment it wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// Packets delivered, copies excepted.
    pub count: u64,
    /// The least; zero without a packet.
    pub min: Duration,
    /// The greatest.
    pub max: Duration,
    /// The sum.
    pub total: Duration,
}

impl Delays {
    /// The mean; zero without a packet.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos((self.total.as_nanos() / u128::from(self.count.max(1))) as u64)
    }

    pub(crate) fn add(&mut self, delay: Duration) {
        self.min = if self.count == 0 { delay } else { self.min.min(delay) };
        self.max = self.max.max(delay);
        self.total += delay;
        self.count += 1;
    }
}

/// A snapshot of one direction of a link.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub(crate) counts: [Counts; Class::ALL.len()],
    pub(crate) delays: [Delays; Class::ALL.len()],
    /// How much later than due packets were delivered: the emulator's own error, part of the applied delay.
    pub lateness: Histogram,
    /// Packets that the kernel dropped before the emulator could read them: not 0 means that the machine was too slow
    /// and that the counts are not the truth.
    pub overrun: u64,
}

impl Stats {
    /// The counts of one class.
    pub fn class(&self, class: Class) -> Counts {
        self.counts[class as usize]
    }

    /// The counts of all classes together.
    pub fn total(&self) -> Counts {
        let mut sum = Counts::default();
        self.counts.iter().for_each(|counts| sum += *counts);
        sum
    }

    /// The delays applied to one class.
    pub fn delays(&self, class: Class) -> Delays {
        self.delays[class as usize]
    }
}

/// A histogram of durations; values are exact up to 31 ns, then within 1/32.
#[derive(Clone)]
pub struct Histogram {
    buckets: Box<[u32]>,
    count: u64,
    max: Duration,
}

const BITS: u32 = 5;

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; (64 - BITS as usize + 1) << BITS].into(), count: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The greatest value, exactly.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The value that a share `quantile` (0 to 1) of all does not exceed; zero when empty.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = ((quantile * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return Duration::from_nanos(upper(index)).min(self.max);
            }
        }
        self.max
    }

    pub(crate) fn add(&mut self, value: Duration) {
        self.buckets[index(value.as_nanos() as u64)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99) = (self.quantile(0.5), self.quantile(0.99));
        write!(f, "Histogram {{ count: {}, p50: {p50:?}, p99: {p99:?}, max: {:?} }}", self.count, self.max)
    }
}

fn index(value: u64) -> usize {
    let shift = (value | 1).ilog2().saturating_sub(BITS);
    if value >> BITS == 0 {
        return value as usize;
    }
    ((u64::from(shift + 1) << BITS) + ((value >> shift) - (1 << BITS))) as usize
}

/// The greatest value of a bucket.
fn upper(index: usize) -> u64 {
    if index >> BITS == 0 {
        return index as u64;
    }
    let shift = (index >> BITS) - 1;
    let mantissa = (index & ((1 << BITS) - 1)) as u64 + (1 << BITS);
    (mantissa << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_value_within_a_thirty_second() {
        for value in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + (1 << bit) / 3]) {
            let upper = upper(index(value));
            assert!(upper >= value && upper - value <= value / 32, "{value} {upper}");
        }
        assert!(index(u64::MAX) < Histogram::default().buckets.len());
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|us| histogram.add(Duration::from_micros(us)));
        let near = |quantile, us: f64| {
            let found = histogram.quantile(quantile).as_secs_f64() * 1e6;
            assert!((us..us * 1.04).contains(&found), "{quantile}: {found}");
        };
        near(0.5, 500.0);
        near(0.99, 990.0);
        assert_eq!(histogram.quantile(1.0), Duration::from_millis(1));
    }
}

//! Send lateness over the last ten to twenty seconds, in buckets of at most 12.5 % width.

use std::time::Duration;

const SUB: u64 = 8;
const BUCKETS: usize = 256;
const WINDOW: u64 = 10_000_000_000;

/// Quantiles of how much later than due packets were sent, over the last ten to twenty seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lateness {
    /// Median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// Worst.
    pub max: Duration,
}

/// Two windows: the one being filled and the one before, so that a snapshot never looks at an empty one.
#[derive(Debug)]
pub struct Histogram {
    windows: [Window; 2],
    rotate_at: u64,
}

#[derive(Debug, Clone)]
struct Window {
    counts: Box<[u32; BUCKETS]>,
    total: u64,
    max: u64,
}

impl Window {
    fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0, max: 0 }
    }
}

impl Histogram {
    /// An empty one; `now` is monotonic nanoseconds.
    pub fn new(now: u64) -> Self {
        Self { windows: [Window::new(), Window::new()], rotate_at: now + WINDOW }
    }

    /// Notes a packet sent `late` nanoseconds after it was due; `now` is monotonic nanoseconds.
    pub fn note(&mut self, late: u64, now: u64) {
        if now >= self.rotate_at {
            self.windows.swap(0, 1);
            self.windows[0] = Window::new();
            self.rotate_at = now + WINDOW;
        }
        let window = &mut self.windows[0];
        window.counts[bucket(late / 1000)] += 1;
        window.total += 1;
        window.max = window.max.max(late);
    }

    /// The quantiles of what was noted.
    pub fn snapshot(&self) -> Lateness {
        let [current, previous] = &self.windows;
        let total = current.total + previous.total;
        let max = current.max.max(previous.max);
        let quantile = |q: f64| {
            let rank = (q * total as f64).ceil() as u64;
            let mut seen = 0;
            let counts = current.counts.iter().zip(previous.counts.iter());
            for (index, (a, b)) in counts.enumerate() {
                seen += u64::from(*a) + u64::from(*b);
                if seen >= rank.max(1) {
                    return Duration::from_nanos((upper(index) * 1000).min(max));
                }
            }
            Duration::ZERO
        };
        Lateness { p50: quantile(0.5), p99: quantile(0.99), max: Duration::from_nanos(max) }
    }
}

fn bucket(micros: u64) -> usize {
    if micros < SUB {
        return micros as usize;
    }
    let exponent = u64::from(micros.ilog2());
    let sub = (micros >> (exponent - 3)) & (SUB - 1);
    (((exponent - 2) * SUB + sub) as usize).min(BUCKETS - 1)
}

/// The largest value of a bucket, in microseconds.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    if index < SUB {
        return index;
    }
    let (exponent, sub) = (index / SUB + 2, index % SUB);
    ((SUB + sub + 1) << (exponent - 3)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_tight() {
        let mut last = 0;
        for micros in 0..100_000 {
            let index = bucket(micros);
            assert!(index == last || index == last + 1);
            last = index;
            assert!(upper(index) >= micros && upper(index) <= micros + micros / 8);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::new(0);
        for late in 1..=1000_u64 {
            histogram.note(late * 1000, 5);
        }
        let lateness = histogram.snapshot();
        assert!((500..=563).contains(&lateness.p50.as_micros()));
        assert!((990..=1000).contains(&lateness.p99.as_micros()));
        assert_eq!(lateness.max.as_micros(), 1000);
    }
}

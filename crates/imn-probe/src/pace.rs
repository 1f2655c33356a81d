//! Token buckets by the generic cell rate algorithm: one number of state each, reservations instead of queues.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;

/// Packets per second.
pub type Rate = NonZeroU32;

/// One token bucket. A reservation says when the packet may go, so that nothing ever has to be scanned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// Theoretical arrival time of the next packet, nanoseconds.
    arrival: u64,
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    gap: u64,
    tolerance: u64,
}

impl Shape {
    /// A bucket of `rate` packets per second that admits `burst` nanoseconds' worth at once, and at least one.
    fn new(rate: Rate, burst: u64) -> Self {
        let gap = (1_000_000_000 / u64::from(rate.get())).max(1);
        Self { gap, tolerance: burst.saturating_sub(gap) }
    }
}

impl Bucket {
    fn reserve(&mut self, shape: Shape, now: u64) -> u64 {
        let arrival = self.arrival.max(now);
        self.arrival = arrival + shape.gap;
        arrival.saturating_sub(shape.tolerance).max(now)
    }
}

/// The buckets of an engine: one for everything off loopback, and one per destination prefix (/24, /48).
#[derive(Debug)]
pub(crate) struct Pace {
    engine: Option<(Shape, Bucket)>,
    prefix: Option<Shape>,
    prefixes: HashMap<u64, Bucket>,
    purge_at: u64,
}

impl Pace {
    pub(crate) fn new(engine: Option<Rate>, prefix: Option<Rate>) -> Self {
        Self {
            engine: engine.map(|rate| (Shape::new(rate, 20_000_000), Bucket { arrival: 0 })),
            prefix: prefix.map(|rate| Shape::new(rate, 100_000_000)),
            prefixes: HashMap::new(),
            purge_at: 0,
        }
    }

    /// When the destination's prefix admits the next packet: `now` or later.
    pub(crate) fn reserve_prefix(&mut self, target: IpAddr, now: u64) -> u64 {
        let Some(shape) = self.prefix else { return now };
        if now >= self.purge_at {
            self.prefixes.retain(|_, bucket| bucket.arrival > now);
            self.purge_at = now + 1_000_000_000;
        }
        self.prefixes.entry(prefix_of(target)).or_insert(Bucket { arrival: 0 }).reserve(shape, now)
    }

    /// When the engine admits the next packet: `now` or later.
    pub(crate) fn reserve_engine(&mut self, now: u64) -> u64 {
        self.engine.as_mut().map_or(now, |(shape, bucket)| bucket.reserve(*shape, now))
    }
}

/// The /24 or /48 of an address as one number; the families cannot collide.
fn prefix_of(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
        IpAddr::V6(v6) => 1 << 63 | (v6.to_bits() >> 80) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(pps: u32) -> Option<Rate> {
        NonZeroU32::new(pps)
    }

    #[test]
    fn the_rate_is_kept_after_the_burst() {
        let mut pace = Pace::new(rate(1000), None);
        let times: Vec<u64> = (0..100).map(|_| pace.reserve_engine(5_000_000_000)).collect();
        // 20 ms worth of packets go at once, the rest one per millisecond.
        assert_eq!(times.iter().filter(|at| **at == 5_000_000_000).count(), 20);
        assert!(times[20..].windows(2).all(|pair| pair[1] - pair[0] == 1_000_000));
        // Idle time does not accumulate more than the burst.
        let later: Vec<u64> = (0..30).map(|_| pace.reserve_engine(9_000_000_000)).collect();
        assert_eq!(later.iter().filter(|at| **at == 9_000_000_000).count(), 20);
    }

    #[test]
    fn prefixes_are_apart() {
        let mut pace = Pace::new(None, rate(10));
        let now = 1_000_000_000;
        let first: IpAddr = "192.0.2.1".parse().unwrap();
        let same: IpAddr = "192.0.2.200".parse().unwrap();
        let other: IpAddr = "192.0.3.1".parse().unwrap();
        assert_eq!(pace.reserve_prefix(first, now), now);
        assert_eq!(pace.reserve_prefix(same, now), now + 100_000_000);
        assert_eq!(pace.reserve_prefix(other, now), now);
        assert_eq!(pace.reserve_prefix("2001:db8:1:1::1".parse().unwrap(), now), now);
        assert_eq!(pace.reserve_prefix("2001:db8:1:2::1".parse().unwrap(), now), now + 100_000_000);
        assert_eq!(pace.reserve_prefix("2001:db8:2::1".parse().unwrap(), now), now);
    }
}

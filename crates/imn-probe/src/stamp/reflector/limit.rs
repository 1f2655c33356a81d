use std::collections::HashMap;
use std::net::IpAddr;

use crate::pace::Rate;

/// Sources whose rate is kept apart; all others together have the rate of one.
const MOST: usize = 65_536;
const PURGE: u64 = 1_000_000_000;
/// What a source may send at once, in nanoseconds' worth of its rate.
const BURST: u64 = 100_000_000;

/// How much each source may ask: the generic cell rate algorithm, per address or /64.
#[derive(Debug)]
pub(crate) struct Limiter {
    gap: u64,
    tolerance: u64,
    /// Theoretical arrival time of the next packet.
    sources: HashMap<u64, u64>,
    others: u64,
    purge_at: u64,
}

impl Limiter {
    pub(crate) fn new(rate: Rate) -> Self {
        let gap = (1_000_000_000 / u64::from(rate.get())).max(1);
        Self { gap, tolerance: BURST.max(gap) - gap, sources: HashMap::new(), others: 0, purge_at: 0 }
    }

    /// Whether a packet of this source is within its rate.
    pub(crate) fn admit(&mut self, source: IpAddr, now: u64) -> bool {
        if now >= self.purge_at {
            self.sources.retain(|_, next| *next > now);
            self.purge_at = now + PURGE;
        }
        let source = match source {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        let room = self.sources.len() < MOST;
        let next = match self.sources.get_mut(&source) {
            Some(next) => next,
            None if room => self.sources.entry(source).or_insert(0),
            None => &mut self.others,
        };
        let at = (*next).max(now);
        if at - now > self.tolerance {
            return false;
        }
        *next = at + self.gap;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_rate_and_no_more_whoever_else_asks() {
        let mut limiter = Limiter::new(Rate::new(1000).unwrap());
        let asks = |limiter: &mut Limiter, source: IpAddr, now| {
            (0..500).filter(|_| limiter.admit(source, now)).count()
        };
        let one = [192, 0, 2, 1].into();
        assert_eq!(asks(&mut limiter, one, 5_000_000_000), 100);
        assert_eq!(asks(&mut limiter, one, 5_010_000_000), 10);
        assert_eq!(asks(&mut limiter, [192, 0, 2, 2].into(), 5_010_000_000), 100);
        for n in 0..2 * MOST as u32 {
            limiter.admit(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 5_020_000_000);
        }
        assert!(limiter.sources.len() <= MOST);
        assert_eq!(asks(&mut limiter, [192, 0, 2, 77].into(), 5_020_000_000), 0);
        assert_eq!(asks(&mut limiter, [192, 0, 2, 77].into(), 9_000_000_000), 100);
    }
}

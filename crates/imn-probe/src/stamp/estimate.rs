use std::time::Duration;

use super::time::Format;

/// The kernel's own limit of what a clock may be off, for a clock of which nothing is known.
const UNKNOWN: Duration = Duration::from_secs(16);

/// What a host knows of its clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClockQuality {
    /// Something keeps it synchronized to UTC.
    pub synced: bool,
    /// Bound of its distance from UTC; `None` when nothing is known.
    pub error: Option<Duration>,
    /// Seconds that atomic time is ahead of UTC, as far as the kernel knows; else 0.
    pub tai_offset: i32,
}

/// The error estimate that goes with a time stamp (RFC 4656 §4.1.2, RFC 8186 §2.3).
///
/// Sixteen bits: S (synchronized), Z (format), six bits of scale, eight of multiplier; the error is
/// multiplier · 2^(scale − 32) seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorEstimate(u16);

impl ErrorEstimate {
    /// The least estimate that is not below the clock's error.
    pub fn new(clock: &ClockQuality, format: Format) -> Self {
        let nanos = clock.error.unwrap_or(UNKNOWN).as_nanos();
        // In units of 2^-32 s. A multiplier of zero would make the packet a corrupt one.
        let mut multiplier = (nanos << 32).div_ceil(1_000_000_000).max(1);
        let mut scale = 0_u16;
        while multiplier > 255 {
            multiplier = multiplier.div_ceil(2);
            scale += 1;
        }
        let scale = scale.min(63);
        let z = u16::from(format == Format::Ptp);
        Self(u16::from(clock.synced) << 15 | z << 14 | scale << 8 | multiplier as u16)
    }

    /// From its sixteen bits.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Its sixteen bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether the clock is synchronized to UTC.
    pub const fn synced(self) -> bool {
        self.0 & 0x8000 != 0
    }

    /// How the time stamps beside it are written.
    pub const fn format(self) -> Format {
        if self.0 & 0x4000 == 0 { Format::Ntp } else { Format::Ptp }
    }

    /// The error; `None` for a multiplier of zero, by which nothing is said.
    pub fn error(self) -> Option<Duration> {
        let (scale, multiplier) = (self.0 >> 8 & 0x3f, self.0 & 0xff);
        if multiplier == 0 {
            return None;
        }
        let units = u128::from(multiplier) << scale;
        let nanos = (units * 1_000_000_000).div_ceil(1 << 32);
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_estimates() {
        let clock = |error| ClockQuality { synced: true, error, tai_offset: 0 };
        // 1 s is 2^32 units, which is 128 · 2^25.
        let second = ErrorEstimate::new(&clock(Some(Duration::from_secs(1))), Format::Ptp);
        assert_eq!((second.bits(), second.error()), (0xc000 | 25 << 8 | 128, Some(Duration::from_secs(1))));
        assert_eq!(ErrorEstimate::new(&clock(Some(Duration::ZERO)), Format::Ntp).bits(), 0x8001);
        assert_eq!(ErrorEstimate::from_bits(0x1f00).error(), None);
        let unknown = ErrorEstimate::new(&ClockQuality::default(), Format::Ntp);
        assert!(!unknown.synced() && unknown.error() == Some(UNKNOWN));
    }

    proptest! {
        #[test]
        fn an_estimate_bounds_the_error_within_a_percent(nanos in 0_u64..1 << 62) {
            let error = Duration::from_nanos(nanos);
            let clock = ClockQuality { synced: false, error: Some(error), tai_offset: 0 };
            let told = ErrorEstimate::new(&clock, Format::Ntp).error().unwrap();
            prop_assert!(told >= error && told.as_nanos() <= error.as_nanos() * 101 / 100 + 2, "{told:?}");
        }

        #[test]
        fn any_bits_are_read(bits: u16) {
            let _ = ErrorEstimate::from_bits(bits).error();
        }
    }
}

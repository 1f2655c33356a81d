use crate::outcome::Timestamp;

/// Seconds from the NTP epoch (1900) to the Unix epoch.
const NTP_TO_UNIX: u64 = 2_208_988_800;
const SECOND: u64 = 1_000_000_000;

/// How a time stamp is written; the Z flag of an error estimate tells which (RFC 8186 §2.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Seconds since 1900 and their binary fraction, 32 bits each (RFC 5905).
    #[default]
    Ntp,
    /// Seconds since 1970 and nanoseconds, 32 bits each (IEEE 1588v2, truncated).
    Ptp,
}

impl Format {
    /// The 64 bits of a time; `tai_offset` seconds are added in the PTP format, which counts atomic time.
    pub(crate) fn encode(self, time: Timestamp, tai_offset: i32) -> u64 {
        let (seconds, nanos) = (time.as_nanos() / SECOND, time.as_nanos() % SECOND);
        let (high, low) = match self {
            // Rounded up, so that rounding down gives the same nanosecond back.
            Self::Ntp => (seconds + NTP_TO_UNIX, (nanos << 32).div_ceil(SECOND)),
            Self::Ptp => (seconds.wrapping_add_signed(tai_offset.into()), nanos),
        };
        u64::from(high as u32) << 32 | low
    }

    /// The time that 64 bits stand for, in the era nearest to `near`; none for all zeros, and for what is no time.
    pub(crate) fn decode(self, bits: u64, near: Timestamp) -> Option<Timestamp> {
        if bits == 0 {
            return None;
        }
        let (epoch, nanos) = match self {
            Self::Ntp => (NTP_TO_UNIX, (u64::from(bits as u32) * SECOND) >> 32),
            Self::Ptp => (0, u64::from(bits as u32)),
        };
        if nanos >= SECOND {
            return None;
        }
        let around = near.as_nanos() / SECOND + epoch;
        let ahead = ((bits >> 32) as u32).wrapping_sub(around as u32) as i32;
        let seconds = around.checked_add_signed(ahead.into())?.checked_sub(epoch)?;
        seconds.checked_mul(SECOND)?.checked_add(nanos).map(Timestamp::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times() {
        // RFC 5905 figure 4: the Unix epoch is 2,208,988,800 s after the NTP epoch.
        assert_eq!(Format::Ntp.encode(Timestamp::from_nanos(500_000_000), 0), 0x83aa_7e80_8000_0000);
        assert_eq!(Format::Ptp.encode(Timestamp::from_nanos(1_000_000_007), 37), 0x0000_0026_0000_0007);
        let now = Timestamp::now();
        assert_eq!(Format::Ntp.decode(0, now), None);
        assert_eq!(Format::Ptp.decode(0x0000_0001_3b9a_ca00, now), None);
        assert_eq!(Format::Ptp.decode(u64::MAX, Timestamp::from_nanos(0)), None);
    }

    proptest! {
        #[test]
        fn to_the_nanosecond_and_across_eras(
            nanos in 0_u64..9_000_000_000_000_000_000,
            off in -1_000_000_000_000_000_000_i64..1_000_000_000_000_000_000,
            ptp: bool,
        ) {
            let format = if ptp { Format::Ptp } else { Format::Ntp };
            let time = Timestamp::from_nanos(nanos);
            let near = Timestamp::from_nanos(nanos.saturating_add_signed(off));
            let bits = format.encode(time, 0);
            prop_assert_eq!(format.decode(bits, near), (bits != 0).then_some(time));
        }

        #[test]
        fn any_bits_are_a_time_or_none(bits: u64, near: u64) {
            for format in [Format::Ntp, Format::Ptp] {
                let _ = format.decode(bits, Timestamp::from_nanos(near));
            }
        }
    }
}

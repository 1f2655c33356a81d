//! Clocks: real time in microseconds, its pairing with the monotonic clock, and its text.

mod sys;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use imn_contract::v1::ClockState;
use jiff::Timestamp;

/// Real time now, in microseconds since the Unix epoch.
pub fn now_us() -> i64 {
    micros(SystemTime::now())
}

/// A time, in microseconds since the Unix epoch.
pub fn micros(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
    }
}

/// RFC 3339 in UTC with microseconds, such as `2026-11-20T08:42:59.000001Z`; a time beyond the years -9999 to 9999
/// becomes the nearest that has a text.
pub fn rfc3339(us: i64) -> String {
    let timestamp =
        Timestamp::from_microsecond(us).unwrap_or(if us < 0 { Timestamp::MIN } else { Timestamp::MAX });
    format!("{timestamp:.6}")
}

/// [`rfc3339`] of now.
pub fn now_rfc3339() -> String {
    rfc3339(now_us())
}

/// Reads RFC 3339 with any offset, to microseconds since the Unix epoch.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_rfc3339(text: &str) -> Result<i64, ParseError> {
    match text.parse::<Timestamp>() {
        Ok(timestamp) => Ok(timestamp.as_microsecond()),
        Err(error) => Err(ParseError { text: text.chars().take(80).collect(), reason: error.to_string() }),
    }
}

/// A text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no RFC 3339 time such as 2026-11-20T08:42:59Z: {reason}")]
pub struct ParseError {
    text: String,
    reason: String,
}

/// One moment on both clocks: converts between the monotonic clock, which paces, and real time, which is stored.
#[derive(Clone, Copy, Debug)]
pub struct Pairing {
    instant: Instant,
    us: i64,
}

impl Pairing {
    /// Reads both clocks together; of a few readings the one with the least time between, so that a preemption
    /// does not become an offset.
    pub fn now() -> Self {
        let read = || {
            let before = Instant::now();
            let us = now_us();
            let spread = before.elapsed();
            (spread, Self { instant: before + spread / 2, us })
        };
        let mut best = read();
        for _ in 0..4 {
            let next = read();
            if next.0 < best.0 {
                best = next;
            }
        }
        best.1
    }

    /// Real time of a monotonic moment, in microseconds since the Unix epoch, as of this pairing.
    pub fn real_us(&self, instant: Instant) -> i64 {
        match instant.checked_duration_since(self.instant) {
            Some(after) => self.us.saturating_add(after.as_micros() as i64),
            None => self.us.saturating_sub(self.instant.duration_since(instant).as_micros() as i64),
        }
    }

    /// The monotonic moment of a real time; a moment before the clock's own beginning is that of the pairing.
    pub fn instant(&self, us: i64) -> Instant {
        let distance = Duration::from_micros(us.abs_diff(self.us));
        let moment = if us >= self.us {
            self.instant.checked_add(distance)
        } else {
            self.instant.checked_sub(distance)
        };
        moment.unwrap_or(self.instant)
    }

    /// By how much real time has been stepped or slewed against the monotonic clock since, in microseconds.
    pub fn drift_us(&self) -> i64 {
        let now = Self::now();
        now.us - self.real_us(now.instant)
    }
}

/// What the kernel says of this host's clock (`adjtimex`): the offset that is being corrected, told only where a time
/// service keeps the clock synchronized.
pub fn state() -> ClockState {
    match sys::read() {
        Some(kernel) if kernel.synced => {
            ClockState { offset_us: Some(kernel.offset_ns as f64 / 1000.0), synced: true }
        }
        _ => ClockState { offset_us: None, synced: false },
    }
}

/// What one-way delays need to know of this host's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// A time service keeps it synchronized to UTC.
    pub synced: bool,
    /// Bound of its distance from UTC (`maxerror` of `adjtimex`); none unless it is synchronized.
    pub error: Option<Duration>,
    /// Seconds that atomic time is ahead of UTC; 0 where nobody has told the kernel.
    pub tai_offset: i32,
}

/// See [`Quality`].
pub fn quality() -> Quality {
    sys::read().map_or_else(Quality::default, |kernel| Quality {
        synced: kernel.synced,
        error: u64::try_from(kernel.error_us).ok().filter(|_| kernel.synced).map(Duration::from_micros),
        tai_offset: kernel.tai_offset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_utc_to_the_microsecond() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(1_795_000_000_000_001), "2026-11-18T11:06:40.000001Z");
        assert_eq!(parse_rfc3339("2026-11-18T12:06:40.000001+01:00").unwrap(), 1_795_000_000_000_001);
        assert!(parse_rfc3339("yesterday").unwrap_err().to_string().contains("RFC 3339"));
        assert!(rfc3339(i64::MIN).starts_with("-00"));
        assert!(rfc3339(i64::MAX).starts_with("9999-12-"));
    }

    #[test]
    fn both_clocks_agree() {
        let pairing = Pairing::now();
        assert!((pairing.real_us(Instant::now()) - now_us()).abs() < 100_000);
        assert!(pairing.drift_us().abs() < 100_000);
    }

    proptest! {
        #[test]
        fn text_is_read_back(us in -62_135_596_800_000_000_i64..253_402_300_799_999_999) {
            prop_assert_eq!(parse_rfc3339(&rfc3339(us)).unwrap(), us);
        }

        #[test]
        fn moments_go_there_and_back(offset in -10_000_000_i64..10_000_000) {
            let pairing = Pairing::now();
            prop_assert_eq!(pairing.real_us(pairing.instant(pairing.us + offset)), pairing.us + offset);
        }

        #[test]
        fn any_text_is_a_time_or_a_worded_error(text in ".{0,60}") {
            let _ = parse_rfc3339(&text);
        }
    }
}

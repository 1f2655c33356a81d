//! The one place where the server reads the clock.

use jiff::Timestamp;

/// Now, in microseconds since the Unix epoch.
pub(crate) fn now_us() -> i64 {
    Timestamp::now().as_microsecond()
}

/// A time as RFC 3339 UTC text, to the microsecond.
pub(crate) fn rfc3339(us: i64) -> String {
    Timestamp::from_microsecond(us).map_or_else(|_| String::new(), |time| time.to_string())
}

//! Durations and times as the API writes them: `"500ms"`, `"2026-11-20T08:00:00.000000Z"`.

use jiff::Timestamp;

use super::problem::Problem;

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a duration such as `500ms`, `1.5s`, `5m`, `1h30m` or `7d`; the result is in milliseconds.
pub(crate) fn parse_duration(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no duration: write a number and ms, s, m, h or d, for example \"30s\"");
    let mut rest = text.trim();
    let mut total = 0f64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_len = rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len() - digits);
        let unit = &rest[digits..digits + unit_len];
        let (_, ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        total += number * *ms as f64;
        rest = &rest[digits + unit_len..];
    }
    // Beyond 2^53 a number of milliseconds is no duration that anybody means.
    if total > 9e15 {
        return Err(format!("{text:?} is too long"));
    }
    if total.fract() != 0.0 {
        return Err(format!("{text:?} is no whole number of milliseconds"));
    }
    Ok(total as u64)
}

/// Writes milliseconds in the largest unit that needs no fraction.
pub(crate) fn duration(ms: u64) -> String {
    let (unit, size) =
        UNITS.iter().find(|(_, size)| ms > 0 && ms.is_multiple_of(*size)).unwrap_or(&("ms", 1));
    format!("{}{unit}", ms / size)
}

/// Reads an RFC 3339 time; the result is in microseconds since the Unix epoch.
pub(crate) fn parse_time(text: &str) -> Result<i64, String> {
    text.parse::<Timestamp>()
        .map(Timestamp::as_microsecond)
        .map_err(|_| format!("{text:?} is no RFC 3339 time: write, for example, \"2026-11-20T08:00:00Z\""))
}

/// Reads the time of a query parameter or field.
pub(crate) fn time_field(field: &str, text: Option<&str>) -> Result<Option<i64>, Problem> {
    text.map(parse_time).transpose().map_err(|message| Problem::field(field, message))
}

/// Reads the duration of a query parameter, in milliseconds.
pub(crate) fn duration_field(field: &str, text: Option<&str>) -> Result<Option<u64>, Problem> {
    text.map(parse_duration).transpose().map_err(|message| Problem::field(field, message))
}

/// Writes microseconds since the Unix epoch as RFC 3339 UTC with six decimals.
pub(crate) fn time(us: i64) -> String {
    Timestamp::from_microsecond(us).map_or_else(|_| us.to_string(), |t| format!("{t:.6}"))
}

/// The beginning of a text that somebody else wrote.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(ms), "{text}");
        }
        for text in
            ["", "5", "s", "5 m", "-1s", "1x", "1..5s", "NaNs", "0.5ms", "1e9s", "99999999999999d", "5µs"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for (ms, text) in [(0, "0ms"), (500, "500ms"), (30_000, "30s"), (300_000, "5m"), (1_500, "1500ms")] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn times_keep_their_microseconds() {
        assert_eq!(time(1_700_000_000_000_001), "2023-11-14T22:13:20.000001Z");
        assert_eq!(time(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(parse_time(&time(1_700_000_000_123_456)), Ok(1_700_000_000_123_456));
        assert_eq!(parse_time("2023-11-14T23:13:20+01:00"), Ok(1_700_000_000_000_000));
        assert!(parse_time("yesterday").is_err());
    }
}

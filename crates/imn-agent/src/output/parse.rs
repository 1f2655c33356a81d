//! What a line says of itself: its level and time, where it has any, in the forms that are common.

use std::fmt::Write;

use imn_runtime::clock;
use serde_json::{Map, Value};

/// A line taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) level: Option<String>,
    /// RFC 3339, as it stands there.
    pub(super) time: Option<String>,
    pub(super) message: String,
}

/// Words before the message at most that are looked at for a level.
const WORDS: usize = 3;

pub(super) fn parse(line: &str) -> Parsed {
    if line.starts_with('{')
        && let Ok(fields) = serde_json::from_str::<Map<String, Value>>(line)
    {
        return object(fields, line);
    }
    text(line)
}

fn object(mut fields: Map<String, Value>, line: &str) -> Parsed {
    let mut text = |names: &[&str]| {
        names.iter().find_map(|name| match fields.get(*name) {
            Some(Value::String(_)) => match fields.remove(*name) {
                Some(Value::String(text)) => Some(text),
                _ => None,
            },
            _ => None,
        })
    };
    let level = text(&["level", "severity", "levelname", "lvl"]).and_then(|word| level_of(&word));
    let time = text(&["timestamp", "time", "ts"]).filter(|time| clock::parse_rfc3339(time).is_ok());
    let Some(mut message) = text(&["message", "msg", "event"]) else {
        return Parsed { level, time, message: line.to_owned() };
    };
    for (name, value) in fields {
        // Writing to a string does not fail.
        let _ = match value {
            Value::String(text) => write!(message, " {name}={text:?}"),
            value => write!(message, " {name}={value}"),
        };
    }
    Parsed { level, time, message }
}

fn text(line: &str) -> Parsed {
    let (mut rest, mut time) = (line.trim_start(), None);
    for _ in 0..WORDS {
        let (word, after) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        if let Some(level) = level_of(word) {
            // In `ERROR:root: text` the message begins within the word.
            let begin = word.find(':').map_or(word.len(), |colon| colon + 1);
            return Parsed { level: Some(level), time, message: rest[begin..].trim_start().to_owned() };
        }
        if clock::parse_rfc3339(word).is_ok() {
            time = Some(word.to_owned());
        }
        rest = after.trim_start();
    }
    let message = match &time {
        Some(time) => line.trim_start().strip_prefix(time.as_str()).unwrap_or(line).trim_start(),
        None => line,
    };
    Parsed { level: None, message: message.to_owned(), time }
}

/// The level that a word such as `INFO`, `[warning]` or `ERROR:root:` names.
fn level_of(word: &str) -> Option<String> {
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let name = word.split(':').next()?.to_ascii_lowercase();
    let level = match name.as_str() {
        "error" | "err" | "fatal" | "critical" | "panic" => "error",
        "warn" | "warning" => "warn",
        "info" | "notice" => "info",
        "debug" => "debug",
        "trace" => "trace",
        _ => return None,
    };
    Some(level.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(line: &str) -> (Option<String>, bool, String) {
        let Parsed { level, time, message } = parse(line);
        (level, time.is_some(), message)
    }

    #[test]
    fn common_forms_are_understood() {
        let told = |level: &str, time, message: &str| (Some(level.to_owned()), time, message.to_owned());
        assert_eq!(
            parsed("2026-11-28T13:14:51.123456Z  INFO imn_module::process: draining reason=\"x\""),
            told("info", true, "imn_module::process: draining reason=\"x\"")
        );
        let json =
            r#"{"timestamp":"2026-11-28T13:14:51.1Z","level":"WARN","message":"slow","ms":3,"to":"a b"}"#;
        assert_eq!(parsed(json), told("warn", true, "slow ms=3 to=\"a b\""));
        assert_eq!(parsed("WARNING:root:low"), told("warn", false, "root:low"));
        assert_eq!(parsed("[error] no such thing"), told("error", false, "no such thing"));
        assert_eq!(parsed("just words, no error"), (None, false, "just words, no error".to_owned()));
        assert_eq!(parsed("{\"a\":1}"), (None, false, "{\"a\":1}".to_owned()));
        assert_eq!(parsed("2026-11-28T13:14:51Z it is so"), (None, true, "it is so".to_owned()));
    }

    proptest! {
        #[test]
        fn any_line_is_told(line in ".{0,60}|\\{\"[a-z]{1,8}\":.{0,12}\\}") {
            let _ = parse(&line);
        }
    }
}

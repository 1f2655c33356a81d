//! What an answer must be like.

use std::ops::RangeInclusive;

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName};
use regex::bytes::Regex;

/// Expectations of an answer; all of them must be met.
#[derive(Debug, Clone)]
pub struct Expect {
    /// Status codes, any of these.
    pub status: Vec<RangeInclusive<u16>>,
    /// Rules on headers.
    pub headers: Vec<(HeaderName, Rule)>,
    /// Rules on the body; of a longer one, on its first 1 MiB.
    pub body: Vec<Rule>,
}

impl Default for Expect {
    fn default() -> Self {
        Self { status: vec![200..=299], headers: Vec::new(), body: Vec::new() }
    }
}

/// A regular expression that must match, or must not.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The expression.
    pub pattern: Regex,
    /// It must not match.
    pub negate: bool,
}

impl Expect {
    /// What is not met by a status.
    pub(super) fn status(&self, status: StatusCode) -> Option<String> {
        let status = status.as_u16();
        if self.status.iter().any(|range| range.contains(&status)) {
            return None;
        }
        let wanted: Vec<String> = self
            .status
            .iter()
            .map(|range| match (range.start(), range.end()) {
                (from, to) if from == to => from.to_string(),
                (from, to) => format!("{from}-{to}"),
            })
            .collect();
        Some(format!("status {status} where {} is expected", wanted.join(", ")))
    }

    /// What is not met by headers. A header that is not there matches nothing.
    pub(super) fn headers<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = String> + 'a {
        self.headers.iter().filter_map(|(name, rule)| {
            let matches = headers.get_all(name).iter().any(|value| rule.pattern.is_match(value.as_bytes()));
            rule.unmet(matches, &format!("header {name}"))
        })
    }

    /// What is not met by a body.
    pub(super) fn body<'a>(&'a self, body: &'a [u8]) -> impl Iterator<Item = String> + 'a {
        self.body.iter().filter_map(|rule| rule.unmet(rule.pattern.is_match(body), "body"))
    }
}

impl Rule {
    fn unmet(&self, matches: bool, what: &str) -> Option<String> {
        let pattern = self.pattern.as_str();
        match (matches, self.negate) {
            (true, false) | (false, true) => None,
            (false, false) => Some(format!("{what} does not match {pattern:?}")),
            (true, true) => Some(format!("{what} matches {pattern:?}")),
        }
    }
}

//! `http`.

use imn_contract::latest::HttpOutcome;

use super::{Line, ms};

const COLUMNS: [(&str, usize); 9] = [
    ("status", 7),
    ("http", 5),
    ("total ms", 10),
    ("resolve", 9),
    ("connect", 9),
    ("tls", 9),
    ("ttfb", 9),
    ("transfer", 9),
    ("bytes", 10),
];

pub(super) fn line(outcome: &HttpOutcome) -> Line {
    let phases = &outcome.phases_ms;
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let number = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let mut notes = Vec::new();
    if outcome.sent > 1 {
        notes.push(format!("{} of {} good", outcome.met, outcome.sent));
    }
    if outcome.redirects > 0 {
        let to = outcome.hops.last().map(|hop| format!(" to {}", hop.url)).unwrap_or_default();
        notes.push(format!("redirects {}{to}", outcome.redirects));
    }
    if let Some(tls) = &outcome.tls {
        notes.push(super::tls(tls));
    }
    Line {
        columns: &COLUMNS,
        figures: vec![
            number(outcome.status.map(|status| status.to_string())),
            text(&outcome.version),
            ms(outcome.response_ms.avg),
            ms(phases.resolve),
            ms(phases.connect),
            ms(phases.tls),
            ms(phases.processing),
            ms(phases.transfer),
            number(outcome.body_bytes.map(|bytes| bytes.to_string())),
        ],
        notes,
        below: Vec::new(),
    }
}

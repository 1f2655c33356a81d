//! Columns of a type that has none of its own.

use std::io;

use imn_contract::latest::Outcome;

pub(super) const COLUMNS: [&str; 6] = ["target", "address", "time", "success", "error", "outcome"];

pub(super) fn fields(outcome: &Outcome) -> io::Result<[String; COLUMNS.len()]> {
    let head = outcome.head();
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    Ok([
        head.target.to_owned(),
        text(head.address),
        text(head.time),
        head.success.to_string(),
        text(head.error),
        serde_json::to_string(outcome)?,
    ])
}

//! JSON as `interface.md` fixes it: the contract's outcome, with the agent where one measured.

use std::io;

use imn_contract::latest::Outcome;
use serde::Serialize;
use serde_json::Value;

use super::Row;

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// What is no object stands under a name.
#[derive(Serialize)]
struct Wrapped<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    outcome: &'a Value,
}

pub(super) fn row(row: &Row) -> io::Result<String> {
    let agent = row.agent.as_deref();
    match &row.outcome {
        Outcome::Other(outcome) if !outcome.is_object() => text(&Wrapped { agent, outcome }),
        outcome => text(&Line { agent, outcome }),
    }
}

pub(super) fn text(value: &impl Serialize) -> io::Result<String> {
    serde_json::to_string(value).map_err(io::Error::other)
}

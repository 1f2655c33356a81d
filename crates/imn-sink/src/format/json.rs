//! JSON as `interface.md` fixes it: the contract's outcome, with the agent where one measured.

use std::io;

use imn_contract::latest::PingOutcome;
use serde::Serialize;

use super::Row;

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    #[serde(flatten)]
    outcome: &'a PingOutcome,
}

pub(super) fn row(row: &Row) -> io::Result<String> {
    text(&Line { agent: row.agent.as_deref(), outcome: &row.outcome })
}

pub(super) fn text(value: &impl Serialize) -> io::Result<String> {
    serde_json::to_string(value).map_err(io::Error::other)
}

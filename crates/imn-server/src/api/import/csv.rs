//! CSV (RFC 4180) into targets: the header names the fields.

use imn_domain::CsvRecords;
use serde_json::{Map, Value};

use super::{Lines, check_count};
use crate::api::{decode, problem::Problem, target::TargetSpec, text};

/// How the last record of an export begins, which has their number in it.
pub(crate) const COUNT: &str = "# count=";

/// Reads a header and the lines below it.
pub(super) fn lines(text: &str) -> Result<Lines, Problem> {
    let mut records = CsvRecords::new(text);
    let Some((_, header)) = records.next() else {
        return Err(Problem::field("", "the body is empty; begin with a header such as address,tier"));
    };
    let header: Vec<String> = header
        .map_err(|message| Problem::field("", format!("line 1: {message}")))?
        .into_iter()
        .map(|name| name.trim().to_owned())
        .collect();
    if let Some(name) = header.iter().find(|name| header.iter().filter(|other| other == name).count() > 1) {
        return Err(Problem::field(name.as_str(), "the header names this column twice"));
    }
    if let Some(name) = header.iter().find(|name| !is_column(name)) {
        let message = "the header names this column, which is none: use address, tier, display_name, tags.NAME, params, …";
        return Err(Problem::field(text::clip(name), message));
    }
    let mut lines = Lines::new();
    for (line, record) in records {
        if let Ok([cell]) = record.as_deref()
            && let Some(count) = cell.strip_prefix(COUNT)
        {
            check_count(count.trim().parse().ok(), line, &mut lines);
            continue;
        }
        lines.push((line, record.map_err(whole).and_then(|record| spec(&header, record))));
    }
    Ok(lines)
}

/// Whether a target has such a field, or a tag may be called so.
fn is_column(name: &str) -> bool {
    let alone = Value::Object(Map::from_iter([(name.to_owned(), Value::Null)]));
    let unknown = |problem: Problem| {
        problem.into_errors().iter().any(|error| error.message.starts_with("unknown field"))
    };
    // A comma at the end of the header names nothing.
    name.is_empty() || name.starts_with("tags.") || !decode::value::<TargetSpec>(alone).is_err_and(unknown)
}

fn whole(message: String) -> Problem {
    Problem::field("", message)
}

fn spec(header: &[String], record: Vec<String>) -> Result<TargetSpec, Problem> {
    if record.len() != header.len() {
        let message = format!("has {} columns, the header has {}", record.len(), header.len());
        return Err(whole(message));
    }
    let mut target = Map::new();
    let mut tags = Map::new();
    for (name, cell) in header.iter().zip(record) {
        if cell.is_empty() {
            continue;
        }
        if let Some(tag) = name.strip_prefix("tags.") {
            tags.insert(tag.to_owned(), Value::String(cell));
        } else if matches!(name.as_str(), "tags" | "params" | "expected_outcome") {
            let value = serde_json::from_str(&cell)
                .map_err(|error| Problem::field(name.as_str(), format!("malformed JSON: {error}")))?;
            match value {
                Value::Object(more) if name == "tags" => tags.extend(more),
                value => drop(target.insert(name.clone(), value)),
            }
        } else {
            target.insert(name.clone(), Value::String(cell));
        }
    }
    if !tags.is_empty() {
        target.insert("tags".to_owned(), Value::Object(tags));
    }
    decode::value(Value::Object(target))
}

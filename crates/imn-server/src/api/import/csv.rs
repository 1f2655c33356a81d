//! CSV (RFC 4180) into targets: the header names the fields.

use serde_json::{Map, Value};

use super::Lines;
use crate::api::{decode, problem::Problem, target::TargetSpec};

/// Reads a header and the lines below it.
pub(super) fn lines(text: &str) -> Result<Lines, Problem> {
    let mut records = Records { rest: text.trim_start_matches('\u{feff}'), line: 1 };
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
    Ok(records.map(|(line, record)| (line, record.map_err(whole).and_then(|r| spec(&header, r)))).collect())
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
        } else if matches!(name.as_str(), "params" | "expected_outcome") {
            let value = serde_json::from_str(&cell)
                .map_err(|error| Problem::field(name.as_str(), format!("malformed JSON: {error}")))?;
            target.insert(name.clone(), value);
        } else {
            target.insert(name.clone(), Value::String(cell));
        }
    }
    if !tags.is_empty() {
        target.insert("tags".to_owned(), Value::Object(tags));
    }
    decode::value(Value::Object(target))
}

struct Records<'a> {
    rest: &'a str,
    line: usize,
}

impl Iterator for Records<'_> {
    /// Number of the line on which the record begins, and its cells.
    type Item = (usize, Result<Vec<String>, String>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let line = self.line;
            let record = self.record();
            // A blank line is no record.
            if !matches!(&record, Ok(cells) if cells.len() == 1 && cells[0].is_empty()) {
                return Some((line, record));
            }
        }
    }
}

impl Records<'_> {
    fn record(&mut self) -> Result<Vec<String>, String> {
        let mut cells = Vec::new();
        loop {
            let cell = if let Some(quoted) = self.rest.strip_prefix('"') {
                self.quoted(quoted)?
            } else {
                let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
                let (cell, rest) = self.rest.split_at(end);
                self.rest = rest;
                cell.strip_suffix('\r').unwrap_or(cell).to_owned()
            };
            cells.push(cell);
            if let Some(rest) = self.rest.strip_prefix(',') {
                self.rest = rest;
                continue;
            }
            let rest = self.rest.strip_prefix('\r').unwrap_or(self.rest);
            if let Some(rest) = rest.strip_prefix('\n') {
                (self.rest, self.line) = (rest, self.line + 1);
                return Ok(cells);
            }
            if rest.is_empty() {
                self.rest = rest;
                return Ok(cells);
            }
            let end = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
            (self.rest, self.line) = (&self.rest[end..], self.line + 1);
            return Err("something follows a closing quotation mark".to_owned());
        }
    }

    /// The cell whose text begins at `text`, after the opening quotation mark.
    fn quoted(&mut self, text: &str) -> Result<String, String> {
        let offset = self.rest.len() - text.len();
        let mut cell = String::new();
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' if chars.next_if(|(_, next)| *next == '"').is_some() => cell.push('"'),
                '"' => {
                    self.rest = &self.rest[offset + at + 1..];
                    return Ok(cell);
                }
                c => {
                    self.line += usize::from(c == '\n');
                    cell.push(c);
                }
            }
        }
        self.rest = "";
        Err("a quotation is not closed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str) -> Vec<(usize, Result<Vec<String>, String>)> {
        Records { rest: text, line: 1 }.collect()
    }

    #[test]
    fn records_are_read_with_their_lines() {
        let text = "a,b\r\n\"x,\"\"y\"\"\n2\",\r\n\n3,4";
        let cells: Vec<(usize, Vec<String>)> =
            records(text).into_iter().map(|(line, cells)| (line, cells.unwrap())).collect();
        let owned = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(cells, [(1, owned(["a", "b"])), (2, owned(["x,\"y\"\n2", ""])), (5, owned(["3", "4"]))]);
        assert!(records("a\n\"b").pop().unwrap().1.is_err());
        let broken = records("\"a\"b,c\nd,e");
        assert!(broken[0].1.is_err());
        assert_eq!(broken[1], (2, Ok(owned(["d", "e"]))));
    }
}

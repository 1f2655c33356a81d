//! InfluxDB line protocol, under Telegraf's names where it has an input for the type.

mod dns;
mod http;
mod other;
mod ping;
mod stamp;
mod trace;

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use imn_contract::latest::Outcome;

use super::{Row, Summary, time_us, unix};

pub(super) fn row(out: &mut impl Write, row: &Row) -> io::Result<()> {
    let lines = match &row.outcome {
        Outcome::Ping(outcome) => vec![ping::line(row, outcome)],
        Outcome::Trace(outcome) => trace::lines(row, outcome),
        Outcome::Dns(outcome) => vec![dns::line(row, outcome)],
        Outcome::Http(outcome) => vec![http::line(row, outcome)],
        Outcome::Stamp(outcome) => vec![stamp::line(row, outcome)],
        outcome => vec![other::line(row, outcome)],
    };
    let time = time_us(&row.outcome.head()).map(|us| format!(" {us}000")).unwrap_or_default();
    for line in lines {
        writeln!(out, "{}{time}", line.text)?;
    }
    Ok(())
}

/// A point: first its tags, then its fields.
struct Line {
    text: String,
    fields: u32,
}

impl Line {
    fn new(measurement: &str) -> Self {
        Self { text: measurement.to_owned(), fields: 0 }
    }

    /// A tag; none if the value is empty.
    fn tag(mut self, name: &str, value: &str) -> Self {
        if !value.is_empty() {
            let _ = write!(self.text, ",{name}={}", escaped(value));
        }
        self
    }

    fn int(self, name: &str, value: impl Into<u64>) -> Self {
        let value = value.into();
        self.field(name, &format!("{value}i"))
    }

    /// A number; no field if there is none.
    fn float(self, name: &str, value: Option<f64>) -> Self {
        match value {
            Some(value) => self.field(name, &value.to_string()),
            None => self,
        }
    }

    fn flag(self, name: &str, value: bool) -> Self {
        self.field(name, if value { "true" } else { "false" })
    }

    /// A text; no field if it is empty.
    fn words(self, name: &str, value: &str) -> Self {
        if value.is_empty() {
            return self;
        }
        let plain: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.field(name, &format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\"")))
    }

    fn field(mut self, name: &str, value: &str) -> Self {
        let before = if self.fields == 0 { ' ' } else { ',' };
        let _ = write!(self.text, "{before}{name}={value}");
        self.fields += 1;
        self
    }
}

pub(super) fn summary(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let mut line = format!(
        "imn_{}_summary targets={}i,sent={}i,received={}i,lost={}i,unknown={}i,duplicates={}i,elapsed_s={},cpu_s={}",
        summary.name,
        summary.targets,
        summary.sent,
        summary.received,
        summary.lost,
        summary.unknown,
        summary.duplicates,
        summary.elapsed_s,
        summary.cpu_s
    );
    for (name, value) in summary.rtt_ms.named() {
        if let Some(value) = value {
            let _ = write!(line, ",rtt_{name}_ms={value}");
        }
    }
    writeln!(out, "{line}")
}

/// A tag's value: no line may break within it, and `,`, `=` and the blank are escaped.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ',' | '=' | ' ' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push('_'),
            // One at the end would escape what follows.
            '\\' => escaped.push('/'),
            c => escaped.push(c),
        }
    }
    escaped
}

//! Columns for people, written row by row: widths are fixed before the first row is known.

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

use imn_contract::{
    ModuleType,
    latest::{Outcome, TlsOutcome},
};

use super::Row;

const MIN_NAME: usize = 7;
const MAX_NAME: usize = 45;

/// Which columns a table has, and how wide the names in them may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    agent: Option<usize>,
    target: usize,
    address: Option<usize>,
    kind: Option<ModuleType>,
}

impl Default for Layout {
    fn default() -> Self {
        Self { agent: None, target: 24, address: None, kind: None }
    }
}

/// What a type shows of one row.
struct Line {
    /// Titles and widths of its columns.
    columns: &'static [(&'static str, usize)],
    /// What stands in them.
    figures: Vec<String>,
    /// What follows them.
    notes: Vec<String>,
    /// Lines of their own below.
    below: Vec<String>,
}

fn line(outcome: &Outcome) -> Line {
    match outcome {
        Outcome::Ping(outcome) => ping::line(outcome),
        Outcome::Dns(outcome) => dns::line(outcome),
        Outcome::Http(outcome) => http::line(outcome),
        Outcome::Stamp(outcome) => stamp::line(outcome),
        Outcome::Trace(outcome) => trace::line(outcome),
        outcome => other::line(outcome),
    }
}

impl Layout {
    /// A table whose column of targets fits these names.
    pub fn for_targets<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let longest = names.into_iter().map(|name| name.chars().count()).max().unwrap_or(MIN_NAME);
        Self { target: longest.clamp(MIN_NAME, MAX_NAME), ..Self::default() }
    }

    /// With a column of agents that fits these names.
    #[must_use]
    pub fn with_agents<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let longest = names.into_iter().map(|name| name.chars().count()).max().unwrap_or(MIN_NAME);
        Self { agent: Some(longest.clamp(MIN_NAME, MAX_NAME)), ..self }
    }

    /// With a column of addresses, for targets that are names.
    #[must_use]
    pub fn with_addresses(self, any_v6: bool) -> Self {
        Self { address: Some(if any_v6 { 39 } else { 15 }), ..self }
    }

    /// For outcomes of this module type; of `icmp` if it is not said.
    #[must_use]
    pub fn of(self, kind: ModuleType) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// An outcome of the type that is written, of nothing.
    pub(super) fn blank(&self) -> Outcome {
        let icmp = || ModuleType::new("icmp").ok();
        match self.kind.clone().or_else(icmp) {
            Some(kind) => Outcome::unmeasured(&kind, "", 0, String::new()),
            None => Outcome::Other(serde_json::Value::Null),
        }
    }

    pub(super) fn header(&self, out: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
        let columns = line(outcome).columns;
        let titles: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        self.line(out, ["agent", "target", "address"], columns, &titles, "")
    }

    pub(super) fn row(&self, out: &mut impl Write, row: &Row) -> io::Result<()> {
        let head = row.outcome.head();
        let Line { columns, figures, mut notes, below } = line(&row.outcome);
        notes.extend(head.error.map(str::to_owned));
        let notes: Vec<String> = notes.iter().map(|note| plain(note)).collect();
        let names = [row.agent.as_deref().unwrap_or_default(), head.target, head.address.unwrap_or("-")];
        self.line(out, names, columns, &figures, &notes.join(", "))?;
        for line in below {
            writeln!(out, "  {}", plain(&line))?;
        }
        Ok(())
    }

    fn line(
        &self,
        out: &mut impl Write,
        names: [&str; 3],
        columns: &[(&str, usize)],
        figures: &[String],
        notes: &str,
    ) -> io::Result<()> {
        let mut line = String::new();
        for (name, width) in names.into_iter().zip([self.agent, Some(self.target), self.address]) {
            if let Some(width) = width {
                let _ = write!(line, "{:<width$}  ", plain(name));
            }
        }
        for (figure, (_, width)) in figures.iter().zip(columns) {
            let _ = write!(line, "{:>width$}", plain(figure));
        }
        if !notes.is_empty() {
            let _ = write!(line, "  {notes}");
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// A handshake in words: what was agreed, and until when the chain is good.
fn tls(tls: &TlsOutcome) -> String {
    let until = tls.expires.as_deref().and_then(|at| at.split('T').next()).unwrap_or("unknown");
    let problem = match &tls.problem_text {
        Some(words) => format!(", not verified: {words}"),
        None => String::new(),
    };
    format!("{} {}, certificate until {until}{problem}", tls.version, tls.cipher)
}

/// Milliseconds, to the microsecond.
fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.3}"))
}

/// A share in percent.
fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |pct| format!("{}%", rounded(pct)))
}

/// At most one decimal, and none where it says nothing.
fn rounded(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// Texts of others do not steer the terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

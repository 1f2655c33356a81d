//! Columns for people, written row by row: widths are fixed before the first row is known.

use std::{
    fmt::Write as _,
    io::{self, Write},
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
}

impl Default for Layout {
    fn default() -> Self {
        Self { agent: None, target: 24, address: None }
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

    pub(super) fn header(&self, out: &mut impl Write) -> io::Result<()> {
        let names = ["sent", "recv", "loss", "min ms", "avg ms", "p95 ms", "max ms", "jitter"];
        self.line(out, ["agent", "target", "address"], names.map(str::to_owned), "")
    }

    pub(super) fn row(&self, out: &mut impl Write, row: &Row) -> io::Result<()> {
        let outcome = &row.outcome;
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.3}"));
        let mut notes = Vec::new();
        for (count, what) in [
            (outcome.unknown, "unknown"),
            (outcome.duplicates, "duplicates"),
            (outcome.late, "late"),
            (outcome.reordered, "reordered"),
        ] {
            if count > 0 {
                notes.push(format!("{what} {count}"));
            }
        }
        notes.extend(outcome.error.as_deref().map(plain));
        self.line(
            out,
            [
                row.agent.as_deref().unwrap_or_default(),
                &outcome.target,
                outcome.address.as_deref().unwrap_or("-"),
            ],
            [
                outcome.sent.to_string(),
                outcome.received.to_string(),
                outcome.loss_pct.map_or_else(|| "-".to_owned(), |pct| format!("{}%", rounded(pct))),
                ms(outcome.rtt_ms.min),
                ms(outcome.rtt_ms.avg),
                ms(outcome.rtt_ms.p95),
                ms(outcome.rtt_ms.max),
                ms(outcome.jitter_ms),
            ],
            &notes.join(", "),
        )
    }

    fn line(
        &self,
        out: &mut impl Write,
        names: [&str; 3],
        figures: [String; 8],
        notes: &str,
    ) -> io::Result<()> {
        let mut line = String::new();
        for (name, width) in names.into_iter().zip([self.agent, Some(self.target), self.address]) {
            if let Some(width) = width {
                let _ = write!(line, "{:<width$}  ", plain(name));
            }
        }
        for (figure, width) in figures.into_iter().zip([5, 5, 6, 9, 9, 9, 9, 8]) {
            let _ = write!(line, "{figure:>width$}");
        }
        if !notes.is_empty() {
            let _ = write!(line, "  {notes}");
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// At most one decimal, and none where it says nothing.
fn rounded(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// Texts of others do not steer the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

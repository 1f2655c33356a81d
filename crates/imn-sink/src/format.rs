//! Output formats of measurements, and [lists](list) of management.
//!
//! Where a format differs by type it has a file for each: `table/ping.rs`, `csv/ping.rs` and so on. What a format does
//! with a type that has no form of its own stands in its `other.rs`.

mod atlas;
mod csv;
mod influx;
mod json;
pub mod list;
mod mtr;
mod prometheus;
mod summary;
mod table;
pub mod update;

use std::{
    fmt,
    io::{self, Write},
    mem::{Discriminant, discriminant},
    net::IpAddr,
    str::FromStr,
    time::Duration,
};

use imn_contract::{
    ModuleType, canonical_type,
    latest::{Head, Outcome},
};

pub use prometheus::probe_page;
pub use summary::{Summary, Tally};
pub use table::Layout;

/// How measurements are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON array, an element per line.
    Json,
    /// One JSON object per line.
    Ndjson,
    /// Comma-separated values under a header.
    Csv,
    /// One JSON array of RIPE Atlas results, an element per line.
    Atlas,
    /// Prometheus text exposition under the names of blackbox_exporter, and `imn_*`.
    Prometheus,
    /// InfluxDB line protocol under the names of Telegraf's ping input.
    Influx,
    /// JSON reports as mtr writes them; of paths only.
    MtrJson,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 8] = [
        Self::Table,
        Self::Json,
        Self::Ndjson,
        Self::Csv,
        Self::Atlas,
        Self::Prometheus,
        Self::Influx,
        Self::MtrJson,
    ];

    /// Whether the outcomes of a module type can be written so.
    pub fn admits(self, kind: &ModuleType) -> bool {
        match self {
            Self::Atlas => matches!(canonical_type(kind.as_str()), "icmp" | "tcp" | "dns" | "http" | "trace"),
            Self::MtrJson => canonical_type(kind.as_str()) == "trace",
            Self::Table | Self::Json | Self::Ndjson | Self::Csv | Self::Prometheus | Self::Influx => true,
        }
    }

    /// The name by which it is chosen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Atlas => "atlas",
            Self::Prometheus => "prometheus",
            Self::Influx => "influx",
            Self::MtrJson => "mtr-json",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no format; use {known}")]
pub struct UnknownFormat {
    text: String,
    known: String,
}

impl UnknownFormat {
    fn new(text: &str, known: &[&str]) -> Self {
        Self { text: text.chars().take(40).collect(), known: known.join(", ") }
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| UnknownFormat::new(text, &Self::ALL.map(Self::name)))
    }
}

/// A measurement, and what its outcome does not say itself.
#[derive(Clone, Debug)]
pub struct Row {
    /// The agent that measured; none for this process.
    pub agent: Option<String>,
    /// The address measured from, where it is known.
    pub source: Option<IpAddr>,
    /// How long the measurement took as a whole, where it is known.
    pub elapsed: Option<Duration>,
    /// What was found.
    pub outcome: Outcome,
}

impl Row {
    /// A measurement of which nothing but the outcome is known.
    pub fn new(outcome: impl Into<Outcome>) -> Self {
        Self { agent: None, source: None, elapsed: None, outcome: outcome.into() }
    }

    /// Whether the measurement met its expectation; for pings: whether anything answered.
    pub fn answered(&self) -> bool {
        self.outcome.head().success
    }
}

/// Packets lost: neither received nor unknown.
fn lost(head: &Head<'_>) -> u32 {
    head.sent.saturating_sub(head.received).saturating_sub(head.unknown)
}

/// 4 or 6, by the address measured.
fn family(head: &Head<'_>) -> Option<u8> {
    let address: IpAddr = head.address?.parse().ok()?;
    Some(if address.is_ipv4() { 4 } else { 6 })
}

/// When the first packet was sent, in microseconds since the Unix epoch.
fn time_us(head: &Head<'_>) -> Option<i64> {
    imn_runtime::clock::parse_rfc3339(head.time?).ok()
}

/// Seconds since the Unix epoch of a time in RFC 3339.
fn unix(time: &str) -> Option<f64> {
    imn_runtime::clock::parse_rfc3339(time).ok().map(|us| us as f64 / 1e6)
}

/// Writes measurements one by one in a format.
pub struct Writer<W> {
    format: Format,
    layout: Layout,
    out: W,
    rows: u64,
    /// The form of outcomes that the last header was for.
    headed: Option<Discriminant<Outcome>>,
    /// Prometheus wants all samples of a metric together.
    held: prometheus::Page,
}

impl<W: Write> Writer<W> {
    /// A writer to `out`. `layout` shapes the columns of [`Format::Table`].
    pub fn new(out: W, format: Format, layout: Layout) -> Self {
        Self { format, layout, out, rows: 0, headed: None, held: prometheus::Page::default() }
    }

    /// Writes one measurement.
    ///
    /// # Errors
    /// When the output cannot be written to, or the format has no form for the measurement's type.
    pub fn row(&mut self, row: &Row) -> io::Result<()> {
        let head = Some(discriminant(&row.outcome));
        let unheaded = head != self.headed;
        self.headed = head;
        match self.format {
            Format::Table => {
                if unheaded {
                    self.layout.header(&mut self.out, &row.outcome)?;
                }
                self.layout.row(&mut self.out, row)?;
            }
            Format::Json => self.element(&json::row(row)?)?,
            Format::Atlas => {
                for (n, result) in atlas::row(row)?.iter().enumerate() {
                    self.rows += u64::from(n > 0);
                    self.element(result)?;
                }
            }
            Format::Ndjson => writeln!(self.out, "{}", json::row(row)?)?,
            Format::Csv => {
                if unheaded {
                    csv::header(&mut self.out, &row.outcome)?;
                }
                csv::row(&mut self.out, row)?;
            }
            Format::Prometheus => self.held.add(row),
            Format::Influx => influx::row(&mut self.out, row)?,
            Format::MtrJson => mtr::row(&mut self.out, row)?,
        }
        self.rows += 1;
        Ok(())
    }

    /// Adds the summary after the rows. False when the format has no place for it: what `csv`, `atlas` and
    /// `mtr-json` write is all of one kind.
    ///
    /// # Errors
    /// When the output cannot be written to.
    pub fn summary(&mut self, summary: &Summary) -> io::Result<bool> {
        match self.format {
            Format::Csv | Format::Atlas | Format::MtrJson => return Ok(false),
            Format::Json => self.element(&json::text(summary)?)?,
            Format::Prometheus => self.held.add_summary(summary),
            Format::Table if self.rows > 0 => {
                writeln!(self.out)?;
                summary.write(&mut self.out, self.format)?;
            }
            Format::Table | Format::Ndjson | Format::Influx => summary.write(&mut self.out, self.format)?,
        }
        self.rows += 1;
        Ok(true)
    }

    /// Hands what was written so far to whoever reads.
    ///
    /// # Errors
    /// When the output cannot be written to.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes what belongs after the last row, and flushes.
    ///
    /// # Errors
    /// When the output cannot be written to.
    pub fn finish(&mut self) -> io::Result<()> {
        match self.format {
            Format::Json | Format::Atlas if self.rows == 0 => writeln!(self.out, "[]")?,
            Format::Json | Format::Atlas => writeln!(self.out, "\n]")?,
            Format::Csv if self.rows == 0 => csv::header(&mut self.out, &self.layout.blank())?,
            Format::Prometheus => self.held.write(&mut self.out)?,
            Format::Table | Format::Ndjson | Format::Csv | Format::Influx | Format::MtrJson => {}
        }
        self.out.flush()
    }

    fn element(&mut self, text: &str) -> io::Result<()> {
        let before = if self.rows == 0 { "[\n" } else { ",\n" };
        write!(self.out, "{before}{text}")
    }
}

/// There is no such form of a type.
fn formless(format: Format, outcome: &Outcome) -> io::Error {
    let text = format!("{format} has no form for an outcome of the type {}", outcome.name());
    io::Error::new(io::ErrorKind::Unsupported, text)
}

#[cfg(test)]
mod tests;

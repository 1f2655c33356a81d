//! Updates of BGP as they come, and what was found with them.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    str::FromStr,
};

use imn_contract::latest::BgpUpdate;
use serde::Serialize;

use super::{UnknownFormat, csv, json, table::plain};

/// How updates are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Columns for people, findings below the update that they come from.
    #[default]
    Table,
    /// One JSON array, an element per line.
    Json,
    /// One JSON object per line.
    Ndjson,
    /// Comma-separated values under a header; findings in the last column.
    Csv,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Table, Self::Json, Self::Ndjson, Self::Csv];

    /// The name by which it is chosen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| UnknownFormat::new(text, &Self::ALL.map(Self::name)))
    }
}

/// What was found with an update.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// What, such as `origin_change`.
    pub kind: &'static str,
    /// `open` or `ended`.
    pub state: &'static str,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// The prefix that it is about.
    pub prefix: String,
    /// The AS that originates the route in question.
    pub origin_asn: Option<u32>,
    /// The origins that were expected.
    pub expected_origins: Vec<u32>,
    /// Peers that told of it.
    pub peers: usize,
    /// In words.
    pub text: String,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<&'a str>,
    #[serde(flatten)]
    update: Option<&'a BgpUpdate>,
    #[serde(skip_serializing_if = "<[Mark]>::is_empty")]
    findings: &'a [Mark],
}

const COLUMNS: [&str; 12] = [
    "timestamp",
    "prefix",
    "type",
    "peer_asn",
    "peer_address",
    "origin_asn",
    "as_path",
    "next_hop",
    "communities",
    "collector",
    "path_id",
    "findings",
];

/// Writes updates one by one.
pub struct Writer<W> {
    format: Format,
    out: W,
    lines: u64,
}

impl<W: Write> Writer<W> {
    /// A writer to `out`.
    pub fn new(out: W, format: Format) -> Self {
        Self { format, out, lines: 0 }
    }

    /// Writes an update with what was found with it.
    ///
    /// # Errors
    /// When the output cannot be written to.
    pub fn update(&mut self, update: &BgpUpdate, marks: &[Mark]) -> io::Result<()> {
        self.line(Some(update), &update.timestamp, marks)
    }

    /// Writes what was found without an update, for example because a session went down at `timestamp`.
    ///
    /// # Errors
    /// When the output cannot be written to.
    pub fn marks(&mut self, timestamp: &str, marks: &[Mark]) -> io::Result<()> {
        if marks.is_empty() { Ok(()) } else { self.line(None, timestamp, marks) }
    }

    /// Hands on what is written so far.
    ///
    /// # Errors
    /// When the output cannot be written to.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the output.
    ///
    /// # Errors
    /// When the output cannot be written to.
    pub fn finish(mut self) -> io::Result<()> {
        match self.format {
            Format::Json if self.lines == 0 => writeln!(self.out, "[]")?,
            Format::Json => writeln!(self.out, "\n]")?,
            Format::Csv if self.lines == 0 => self.header()?,
            _ => {}
        }
        self.out.flush()
    }

    fn line(&mut self, update: Option<&BgpUpdate>, timestamp: &str, marks: &[Mark]) -> io::Result<()> {
        if self.lines == 0 {
            self.header()?;
        }
        self.lines += 1;
        match self.format {
            Format::Table => self.table(update, timestamp, marks),
            Format::Csv => self.csv(update, timestamp, marks),
            Format::Json | Format::Ndjson => {
                let timestamp = update.is_none().then_some(timestamp);
                let text = json::text(&Line { timestamp, update, findings: marks })?;
                match self.format {
                    Format::Ndjson => writeln!(self.out, "{text}"),
                    _ => write!(self.out, "{}{text}", if self.lines == 1 { "[\n" } else { ",\n" }),
                }
            }
        }
    }

    fn header(&mut self) -> io::Result<()> {
        match self.format {
            Format::Table => writeln!(
                self.out,
                "{:<27} T {:<24} {:>10} {:>10}  {:<20} path, next hop, communities",
                "timestamp", "prefix", "origin", "peer", "collector"
            ),
            Format::Csv => csv::record(&mut self.out, COLUMNS.map(str::to_owned)),
            Format::Json | Format::Ndjson => Ok(()),
        }
    }

    fn table(&mut self, update: Option<&BgpUpdate>, timestamp: &str, marks: &[Mark]) -> io::Result<()> {
        if let Some(update) = update {
            let origin = update.origin_asn.map(|asn| format!("AS{asn}")).unwrap_or_default();
            let peer = format!("AS{}", update.peer_asn);
            let mut line = format!(
                "{timestamp:<27} {} {:<24} {origin:>10} {peer:>10}  {:<20}",
                update.kind,
                update.prefix,
                plain(&update.collector)
            );
            if let Some(path) = &update.as_path {
                let _ = write!(line, " {}", plain(path));
            }
            if let Some(hop) = &update.next_hop {
                let _ = write!(line, " via {hop}");
            }
            if !update.communities.is_empty() {
                let _ = write!(line, " [{}]", plain(&update.communities.join(" ")));
            }
            writeln!(self.out, "{}", line.trim_end())?;
        }
        for mark in marks {
            writeln!(self.out, "  ! {} {} {}: {}", mark.severity, mark.kind, mark.state, plain(&mark.text))?;
        }
        Ok(())
    }

    fn csv(&mut self, update: Option<&BgpUpdate>, timestamp: &str, marks: &[Mark]) -> io::Result<()> {
        let number = |value: Option<u32>| value.map(|value| value.to_string()).unwrap_or_default();
        let blank = BgpUpdate::default();
        let shown = update.unwrap_or(&blank);
        let peer_asn = update.map(|update| update.peer_asn);
        let marks: Vec<String> = marks
            .iter()
            .map(|mark| format!("{} {} {}: {}", mark.severity, mark.kind, mark.state, mark.text))
            .collect();
        let fields: [String; COLUMNS.len()] = [
            timestamp.to_owned(),
            shown.prefix.clone(),
            shown.kind.clone(),
            number(peer_asn),
            shown.peer_address.clone(),
            number(shown.origin_asn),
            shown.as_path.clone().unwrap_or_default(),
            shown.next_hop.clone().unwrap_or_default(),
            shown.communities.join(" "),
            shown.collector.clone(),
            number(shown.path_id),
            marks.join("; "),
        ];
        csv::record(&mut self.out, fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let update = BgpUpdate {
            timestamp: "2026-11-20T08:00:00.000001Z".to_owned(),
            prefix: "203.0.113.0/24".to_owned(),
            kind: "A".to_owned(),
            peer_asn: 64_510,
            peer_address: "192.0.2.1".to_owned(),
            origin_asn: Some(64_666),
            as_path: Some("64510 64666".to_owned()),
            next_hop: Some("192.0.2.1".to_owned()),
            communities: vec!["64500:1".to_owned(), "no-export".to_owned()],
            collector: "rrc00\u{1b}[2J".to_owned(),
            ..BgpUpdate::default()
        };
        let gone = BgpUpdate {
            kind: "W".to_owned(),
            origin_asn: None,
            as_path: None,
            next_hop: None,
            communities: Vec::new(),
            ..update.clone()
        };
        let mark = Mark {
            kind: "origin_change",
            state: "open",
            severity: "critical".to_owned(),
            prefix: "203.0.113.0/24".to_owned(),
            origin_asn: Some(64_666),
            expected_origins: vec![64_500],
            peers: 1,
            text: "203.0.113.0/24 is originated by AS64666; expected: AS64500 (1 peer)".to_owned(),
        };
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, format);
        writer.update(&update, std::slice::from_ref(&mark)).unwrap();
        writer.update(&gone, &[]).unwrap();
        writer.marks("2026-11-20T08:01:00Z", &[Mark { state: "ended", ..mark }]).unwrap();
        writer.marks("2026-11-20T08:02:00Z", &[]).unwrap();
        writer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn findings_stand_with_their_updates() {
        let lines: Vec<serde_json::Value> =
            written(Format::Ndjson).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let all: serde_json::Value = serde_json::from_str(&written(Format::Json)).unwrap();
        assert_eq!(all, serde_json::Value::Array(lines.clone()));
        assert_eq!(
            (&lines[0]["type"], &lines[0]["findings"][0]["kind"]),
            (&"A".into(), &"origin_change".into())
        );
        assert_eq!((&lines[1]["origin_asn"], lines[1].get("findings")), (&serde_json::Value::Null, None));
        assert_eq!((&lines[2]["timestamp"], lines[2].get("prefix")), (&"2026-11-20T08:01:00Z".into(), None));
        let csv = written(Format::Csv);
        let rows: Vec<_> =
            ::csv::Reader::from_reader(csv.as_bytes()).into_records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 3);
        assert!(rows[0][11].starts_with("critical origin_change open: ") && rows[1][11].is_empty());
        let table = written(Format::Table);
        assert!(
            !table.contains('\u{1b}') && table.contains("\n  ! critical origin_change open: "),
            "{table}"
        );
    }
}

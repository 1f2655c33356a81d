//! All measurements of a run together.

use std::{
    io::{self, Write},
    time::Duration,
};

use imn_metric::{Counts, percentile_with_loss};
use serde::Serialize;

use super::{Format, Row, csv, influx, json, prometheus};

/// One object for a whole run, as `--summary` writes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The form of what was measured, such as `ping`.
    #[serde(skip)]
    pub name: &'static str,
    /// Targets measured, or tried.
    pub targets: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets answered in time.
    pub received: u64,
    /// Packets lost.
    pub lost: u64,
    /// Packets of which nothing can be said.
    pub unknown: u64,
    /// Further answers to packets already answered.
    pub duplicates: u64,
    /// Time from the first to the last, in seconds.
    pub elapsed_s: f64,
    /// CPU time of this process, in seconds.
    pub cpu_s: f64,
    /// Round-trip times over all packets.
    pub rtt_ms: Spread,
}

/// Round-trip times in milliseconds. Percentiles count a lost packet as infinite, which is null; least and greatest
/// are over received packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Least.
    pub min: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// Greatest.
    pub max: Option<f64>,
}

impl Spread {
    pub(super) fn named(&self) -> [(&'static str, Option<f64>); 5] {
        [("min", self.min), ("p50", self.p50), ("p95", self.p95), ("p99", self.p99), ("max", self.max)]
    }
}

/// Adds measurements up.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    name: Option<&'static str>,
    targets: u64,
    answered: u64,
    sent: u64,
    received: u64,
    unknown: u64,
    duplicates: u64,
    /// Round-trip times in nanoseconds: exact percentiles need them all.
    rtts: Vec<u64>,
}

impl Tally {
    /// Takes one measurement in.
    pub fn add(&mut self, row: &Row) {
        let head = row.outcome.head();
        self.name.get_or_insert(row.outcome.name());
        self.targets += 1;
        self.answered += u64::from(head.success);
        self.sent += u64::from(head.sent);
        self.received += u64::from(head.received);
        self.unknown += u64::from(head.unknown);
        self.duplicates += u64::from(head.duplicates);
        self.rtts.extend(head.latencies_ms.iter().flatten().map(|ms| (ms * 1e6).round() as u64));
    }

    /// Takes in the figures of a ping alone: counts, and the round-trip times of received packets in nanoseconds.
    pub fn count(&mut self, counts: Counts, duplicates: u32, rtts_ns: &[u64]) {
        self.targets += 1;
        self.answered += u64::from(counts.received > 0);
        self.sent += counts.sent;
        self.received += counts.received;
        self.unknown += counts.unknown;
        self.duplicates += u64::from(duplicates);
        self.rtts.extend(rtts_ns);
    }

    /// Targets so far.
    pub fn targets(&self) -> u64 {
        self.targets
    }

    /// Of them, those whose measurement met its expectation; for pings: from which anything came back.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// The whole, given what it cost.
    pub fn finish(mut self, elapsed: Duration, cpu: Duration) -> Summary {
        self.rtts.sort_unstable();
        let lost = self.sent.saturating_sub(self.received).saturating_sub(self.unknown);
        let ms = |ns: u64| ns as f64 / 1e6;
        let at = |q| percentile_with_loss(&self.rtts, lost, q).map(ms);
        Summary {
            name: self.name.unwrap_or("ping"),
            targets: self.targets,
            sent: self.sent,
            received: self.received,
            lost,
            unknown: self.unknown,
            duplicates: self.duplicates,
            elapsed_s: seconds(elapsed),
            cpu_s: seconds(cpu),
            rtt_ms: Spread {
                min: self.rtts.first().copied().map(ms),
                p50: at(0.50),
                p95: at(0.95),
                p99: at(0.99),
                max: self.rtts.last().copied().map(ms),
            },
        }
    }
}

impl Summary {
    /// Writes the summary alone, in place of rows. `atlas` and `mtr-json` have no form for it and get
    /// the JSON object.
    ///
    /// # Errors
    /// When the output cannot be written to.
    pub fn write(&self, out: &mut impl Write, format: Format) -> io::Result<()> {
        match format {
            Format::Json | Format::Ndjson | Format::Atlas | Format::MtrJson => {
                writeln!(out, "{}", json::text(self)?)
            }
            Format::Table => self.text(out),
            Format::Csv => self.csv(out),
            Format::Influx => influx::summary(out, self),
            Format::Prometheus => {
                let mut page = prometheus::Page::default();
                page.add_summary(self);
                page.write(out)
            }
        }
    }

    fn text(&self, out: &mut impl Write) -> io::Result<()> {
        let observed = self.sent.saturating_sub(self.unknown);
        let loss = if observed == 0 {
            "-".to_owned()
        } else {
            format!("{:.2} %", self.lost as f64 * 100.0 / observed as f64)
        };
        let targets = if self.targets == 1 { "target" } else { "targets" };
        writeln!(
            out,
            "{} {targets}: {} sent, {} received, {} lost ({loss}), {} unknown, {} duplicates in {:.3} s, cpu {:.3} s",
            self.targets,
            self.sent,
            self.received,
            self.lost,
            self.unknown,
            self.duplicates,
            self.elapsed_s,
            self.cpu_s
        )?;
        let figures = self.rtt_ms.named().map(|(name, value)| {
            format!("{name} {}", value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.3}")))
        });
        writeln!(out, "rtt ms: {}", figures.join(", "))
    }

    fn csv(&self, out: &mut impl Write) -> io::Result<()> {
        let counts = [
            ("targets", self.targets.to_string()),
            ("sent", self.sent.to_string()),
            ("received", self.received.to_string()),
            ("lost", self.lost.to_string()),
            ("unknown", self.unknown.to_string()),
            ("duplicates", self.duplicates.to_string()),
            ("elapsed_s", self.elapsed_s.to_string()),
            ("cpu_s", self.cpu_s.to_string()),
        ];
        let spread = self.rtt_ms.named();
        let names = counts.iter().map(|(name, _)| (*name).to_owned());
        csv::record(out, names.chain(spread.iter().map(|(name, _)| format!("rtt_{name}_ms"))))?;
        let values = counts.iter().map(|(_, value)| value.clone());
        csv::record(
            out,
            values.chain(spread.iter().map(|(_, value)| value.map(|ms| ms.to_string()).unwrap_or_default())),
        )
    }
}

/// Seconds to the microsecond.
fn seconds(span: Duration) -> f64 {
    span.as_micros() as f64 / 1e6
}

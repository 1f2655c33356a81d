//! Rows as they come, the summary, and the exit code that they add up to.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Stdout},
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::Result;
use imn_contract::ModuleType;
use imn_module::local::Figures;
use imn_sink::format::{Format, Layout, Row, Tally, Writer};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

use super::{Work, view::View};
use crate::exit::Code;

/// An agent's name of a usual length.
const AGENT: &str = "frankfurt-01";

/// Rows of named targets are held back until those before them are there, and all rows while the live table is on the
/// screen; those of a file come as they come.
pub(super) struct Report {
    writer: Writer<BufWriter<Stdout>>,
    format: Format,
    tally: Tally,
    started: Instant,
    total: usize,
    finished: Vec<bool>,
    held: Option<Held>,
    rows: bool,
    summary: bool,
    /// Something ran out of time.
    timed_out: bool,
    pub(super) view: View,
}

#[derive(Default)]
struct Held {
    next: usize,
    rows: BTreeMap<usize, Vec<Row>>,
}

impl Report {
    pub(super) fn new(work: &Work, kind: ModuleType) -> Self {
        let mut layout = Layout::for_targets(work.targets.iter().map(String::as_str)).of(kind);
        let names = work.targets.iter().any(|target| target.parse::<IpAddr>().is_err());
        if names {
            layout = layout.with_addresses(!work.args.ipv4);
        }
        let view = View::new(work, &layout);
        if work.args.from.is_some() {
            // Who will measure is known only later.
            layout = layout.with_agents([AGENT]);
        }
        let format = work.format();
        Self {
            writer: Writer::new(BufWriter::new(io::stdout()), format, layout),
            format,
            tally: Tally::default(),
            started: Instant::now(),
            total: work.targets.len(),
            finished: vec![false; work.targets.len()],
            held: (work.args.file.is_none() || view.is_live()).then(Held::default),
            view,
            rows: !work.only_summary(),
            summary: work.args.summary,
            timed_out: false,
        }
    }

    /// The rows of one target, all of them.
    pub(super) fn target(&mut self, number: usize, rows: Vec<Row>) -> Result<()> {
        self.finished[number] = true;
        if let Some(row) = rows.first() {
            self.view.done(number, &row.outcome);
        }
        let live = self.view.is_live();
        let ready = match &mut self.held {
            None => rows,
            Some(held) => {
                held.rows.insert(number, rows);
                let mut ready = Vec::new();
                while !live && let Some(rows) = held.rows.remove(&held.next) {
                    ready.extend(rows);
                    held.next += 1;
                }
                ready
            }
        };
        self.write(ready)
    }

    /// The figures of one target, where there are no rows.
    pub(super) fn count(&mut self, number: usize, figures: &Figures) {
        self.finished[number] = true;
        self.view.count();
        self.tally.count(figures.counts, figures.duplicates, figures.rtts_ns.as_slice());
    }

    /// Hands on what is written so far.
    pub(super) fn flush(&mut self) -> Result<()> {
        let Self { writer, view, .. } = self;
        Ok(view.aside(|| writer.flush())?)
    }

    pub(super) fn note_timeout(&mut self) {
        self.timed_out = true;
    }

    /// Whether a target's rows are still to come.
    pub(super) fn is_open(&self, number: usize) -> bool {
        !self.finished[number]
    }

    pub(super) fn finish(mut self) -> Result<Code> {
        let answered = (self.tally.answered(), self.tally.targets());
        self.close(false)?;
        Ok(match answered {
            (0, _) if self.timed_out => Code::Partial,
            (0, _) => Code::Measurement,
            (some, all) if some < all || self.timed_out => Code::Partial,
            _ => Code::Ok,
        })
    }

    /// What is known so far, and a summary of it.
    pub(super) fn interrupted(mut self) -> Result<Code> {
        self.close(true)?;
        Ok(Code::Interrupted)
    }

    fn close(&mut self, interrupted: bool) -> Result<()> {
        self.view.clear();
        if let Some(held) = self.held.take() {
            self.write(held.rows.into_values().flatten().collect())?;
        }
        let for_people = self.format == Format::Table && interrupted && self.total > 0;
        if self.summary || for_people {
            let summary = std::mem::take(&mut self.tally).finish(self.started.elapsed(), cpu());
            if !self.rows {
                summary.write(&mut io::stdout().lock(), self.format)?;
                return Ok(());
            }
            if !self.writer.summary(&summary)? {
                summary.write(&mut io::stderr().lock(), Format::Json)?;
            }
        }
        if self.rows {
            self.writer.finish()?;
        }
        Ok(())
    }

    fn write(&mut self, rows: Vec<Row>) -> Result<()> {
        for mut row in rows {
            self.tally.add(&row);
            if !self.rows {
                continue;
            }
            if self.format == Format::Atlas && row.agent.is_none() {
                row.source = row.outcome.head().address.and_then(source);
            }
            let Self { writer, view, format, .. } = self;
            view.aside(|| {
                writer.row(&row)?;
                if *format == Format::Table { writer.flush() } else { Ok(()) }
            })?;
        }
        Ok(())
    }
}

/// The address from which this host reaches another; nothing is sent to find out.
pub(crate) fn source(address: &str) -> Option<IpAddr> {
    let address: IpAddr = address.parse().ok()?;
    let any: IpAddr = if address.is_ipv4() { "0.0.0.0".parse().ok()? } else { "::".parse().ok()? };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(address, 9)).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

//! mtr's JSON reports, of paths only.

use std::io::{self, Write};

use imn_contract::latest::{Outcome, TraceHop, TraceOutcome};
use serde::Serialize;

use super::{Format, Row, formless};

/// Hops without an answer that mtr shows at the end.
const MAX_UNKNOWN: usize = 5;
/// What mtr counts as size of a packet: with its IP header.
const HEADERS: u32 = 28;

#[derive(Serialize)]
struct Document<'a> {
    report: Report<'a>,
}

#[derive(Serialize)]
struct Report<'a> {
    mtr: Mtr<'a>,
    hubs: Vec<Hub<'a>>,
}

#[derive(Serialize)]
struct Mtr<'a> {
    src: &'a str,
    dst: &'a str,
    tos: u8,
    tests: u32,
    psize: String,
    bitpattern: &'static str,
}

#[derive(Serialize)]
struct Hub<'a> {
    count: u8,
    host: &'a str,
    #[serde(rename = "Loss%")]
    loss: f64,
    #[serde(rename = "Snt")]
    sent: u32,
    #[serde(rename = "Last")]
    last: f64,
    #[serde(rename = "Avg")]
    avg: f64,
    #[serde(rename = "Best")]
    best: f64,
    #[serde(rename = "Wrst")]
    worst: f64,
    #[serde(rename = "StDev")]
    stddev: f64,
}

/// A document for each target, as mtr writes for several.
pub(super) fn row(out: &mut impl Write, row: &Row) -> io::Result<()> {
    let Outcome::Trace(outcome) = &row.outcome else {
        return Err(formless(Format::MtrJson, &row.outcome));
    };
    serde_json::to_writer_pretty(&mut *out, &document(row, outcome)).map_err(io::Error::other)?;
    writeln!(out)
}

fn document<'a>(row: &'a Row, outcome: &'a TraceOutcome) -> Document<'a> {
    let answering = outcome.hops.iter().rposition(|hop| hop.address.is_some()).map_or(0, |last| last + 1);
    let shown = outcome.hops.len().min(answering + MAX_UNKNOWN);
    Document {
        report: Report {
            mtr: Mtr {
                src: row.agent.as_deref().or(outcome.source.as_deref()).unwrap_or_default(),
                dst: &outcome.target,
                tos: outcome.dscp << 2,
                tests: outcome.cycles,
                psize: (outcome.size.unwrap_or(0) + HEADERS).to_string(),
                bitpattern: "0x00",
            },
            hubs: outcome.hops[..shown].iter().map(hub).collect(),
        },
    }
}

/// mtr has zeros where nothing came back.
fn hub(hop: &TraceHop) -> Hub<'_> {
    let ms = |value: Option<f64>| value.map_or(0.0, |ms| (ms * 1e3).round() / 1e3);
    Hub {
        count: hop.hop,
        host: hop.host.as_deref().or(hop.address.as_deref()).unwrap_or("???"),
        loss: hop.loss_pct.map_or(0.0, |pct| (pct * 1e3).round() / 1e3),
        sent: hop.sent,
        last: ms(hop.last_ms),
        avg: ms(hop.avg_ms),
        best: ms(hop.best_ms),
        worst: ms(hop.worst_ms),
        stddev: ms(hop.stddev_ms),
    }
}

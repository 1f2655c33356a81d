//! InfluxDB line protocol under the names of Telegraf's `ping` input.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use super::{Row, Summary};

/// Telegraf's `result_code`.
const SUCCESS: u8 = 0;
const NO_SUCH_HOST: u8 = 1;
const PING_ERROR: u8 = 2;

pub(super) fn row(out: &mut impl Write, row: &Row) -> io::Result<()> {
    let outcome = &row.outcome;
    let mut line = String::from("ping");
    let mut tag = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = write!(line, ",{name}={}", escaped(value));
        }
    };
    tag("url", &outcome.target);
    tag("agent", row.agent.as_deref().unwrap_or_default());
    tag("ip", outcome.address.as_deref().unwrap_or_default());
    tag("protocol", &outcome.protocol);
    tag("port", &outcome.port.map(|port| port.to_string()).unwrap_or_default());
    let _ = write!(line, " packets_transmitted={}i,packets_received={}i", outcome.sent, outcome.received);
    let mut field = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            let _ = write!(line, ",{name}={value}");
        }
    };
    field("percent_packet_loss", outcome.loss_pct);
    field("minimum_response_ms", outcome.rtt_ms.min);
    field("average_response_ms", outcome.rtt_ms.avg);
    field("maximum_response_ms", outcome.rtt_ms.max);
    field("standard_deviation_ms", outcome.rtt_ms.stddev);
    field("percentile50_ms", outcome.rtt_ms.p50);
    field("percentile95_ms", outcome.rtt_ms.p95);
    field("jitter_ms", outcome.jitter_ms);
    let result = match (outcome.sent, &outcome.address) {
        (0, None) => NO_SUCH_HOST,
        (0, Some(_)) => PING_ERROR,
        _ => SUCCESS,
    };
    let _ = write!(
        line,
        ",packets_unknown={}i,packets_duplicate={}i,packets_late={}i,packets_reordered={}i,result_code={result}i",
        outcome.unknown, outcome.duplicates, outcome.late, outcome.reordered
    );
    if let Some(us) = row.time_us() {
        let _ = write!(line, " {us}000");
    }
    writeln!(out, "{line}")
}

pub(super) fn summary(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let mut line = format!(
        "imn_ping_summary targets={}i,sent={}i,received={}i,lost={}i,unknown={}i,duplicates={}i,elapsed_s={},cpu_s={}",
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

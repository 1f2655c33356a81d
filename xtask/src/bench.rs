//! Comparisons with peers, alternated in one run: medians and their ratio.

mod dns;
mod http;
mod icmp;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    install,
    run::{cargo, run},
};

/// What can be compared.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum What {
    /// CPU time per echo request, and rate, of our engine and of fping, over loopback.
    Icmp,
    /// CPU time and latency per query of our engine and of dig, over loopback.
    Dns,
    /// CPU time and latency per request of our engine, of curl and of blackbox_exporter, over loopback.
    Http,
    /// Time of a trace and of ten cycles of our engine and of mtr, over six emulated routers; needs root.
    Trace,
}

/// Alternated runs of each side; the median of an odd number is one of them.
const RUNS: usize = 5;

pub(crate) fn bench(what: What) -> Result<()> {
    match what {
        What::Icmp => icmp::icmp(),
        What::Dns => dns::dns(),
        What::Http => http::http(),
        What::Trace => trace(),
    }
}

fn trace() -> Result<()> {
    install::for_benches()?;
    // The comparison is a program of its own: it lives among emulated links.
    run(cargo().args(["run", "--release", "--quiet", "--package", "imn-probe", "--example", "versus_mtr"]))
}

/// CPU time of all children that have ended, in microseconds; resolution one clock tick.
fn children_cpu_us() -> Result<f64> {
    // After the name in brackets, cutime and cstime are fields 14 and 15 (proc(5) numbers them 16 and 17).
    cpu_us("/proc/self/stat", [13, 14])
}

/// The sum of two fields after the name in brackets, which are times in clock ticks.
fn cpu_us(path: &str, fields: [usize; 2]) -> Result<f64> {
    const TICK_US: f64 = 10_000.0;
    let stat = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let words: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.iter().filter_map(|at| words.get(*at)?.parse::<f64>().ok()).sum();
    Ok(ticks * TICK_US)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

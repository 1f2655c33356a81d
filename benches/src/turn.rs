//! What a turn cost, and the middle of several.

use anyhow::{Context, Result};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

/// Alternated turns of each side; the median of an odd number is one of them.
pub(crate) const TURNS: usize = 5;

/// CPU time so far of this process or of its ended children, in microseconds.
pub(crate) fn cpu_us(who: UsageWho) -> Result<f64> {
    let usage = getrusage(who).context("read CPU time")?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64)
}

/// CPU time so far of another process, in microseconds; resolution one clock tick.
pub(crate) fn cpu_us_of(pid: u32) -> Result<f64> {
    const TICK_US: f64 = 10_000.0;
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // After the name in brackets, utime and stime are fields 12 and 13 (proc(5) numbers them 14 and 15).
    let words: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|at| words.get(*at)?.parse::<f64>().ok()).sum();
    Ok(ticks * TICK_US)
}

/// The middle value; not a number when there is none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

//! Our batch engine beside fping: one echo request to each of many loopback addresses.

use std::{fmt::Write as _, net::Ipv4Addr, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result, bail};

use super::{RUNS, children_cpu_us, median};
use crate::{
    install,
    run::{build, target},
};

const OURS: u32 = 100_000;
/// fping ends itself beyond 65,535 probes in ten seconds.
const THEIRS: u32 = 50_000;

/// What one run cost.
struct Cost {
    /// CPU time per probe, in microseconds.
    cpu_us: f64,
    /// Probes per second.
    rate: f64,
}

pub(super) fn icmp() -> Result<()> {
    install::for_benches()?;
    let program = build()?;
    let (hundred, fifty) = (addresses(OURS)?, addresses(THEIRS)?);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let mut ping = Command::new(&program);
        ping.args(["ping", "--count", "1", "--summary", "--output", "json", "--file"]).arg(&hundred);
        let (cost, output) = cost(&mut ping, OURS)?;
        let summary: serde_json::Value =
            serde_json::from_slice(&output).context("read the summary of imn ping")?;
        if summary["received"] != OURS {
            bail!("imn ping: {summary}");
        }
        ours.push(cost);
        let mut fping = Command::new("/usr/bin/fping");
        fping.args(["-q", "-c", "1", "-i", "0", "-t", "1000", "-f"]).arg(&fifty);
        theirs.push(self::cost(&mut fping, THEIRS)?.0);
    }
    let of = |costs: &[Cost], value: fn(&Cost) -> f64| median(costs.iter().map(value).collect());
    let cpu = [of(&ours, |cost| cost.cpu_us), of(&theirs, |cost| cost.cpu_us)];
    let rate = [of(&ours, |cost| cost.rate), of(&theirs, |cost| cost.rate)];
    println!(
        "medians of {RUNS} alternated runs over loopback, one packet each, start of the program included"
    );
    println!("                          cpu per probe     probes per second");
    println!("  imn    {OURS:>7} targets  {:>10.2} us  {:>20.0}", cpu[0], rate[0]);
    println!("  fping  {THEIRS:>7} targets  {:>10.2} us  {:>20.0}", cpu[1], rate[1]);
    println!("  ratio                   {:>10.2}     {:>20.2}", cpu[0] / cpu[1], rate[0] / rate[1]);
    Ok(())
}

/// A file of that many addresses, one per line.
fn addresses(count: u32) -> Result<PathBuf> {
    let path = target().join(format!("loopback-{count}.txt"));
    let mut text = String::new();
    for number in 0..count {
        // A string takes everything.
        let _ = writeln!(text, "{}", Ipv4Addr::from_bits(0x7f01_0000 + number));
    }
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// What a whole run cost, and what it said.
fn cost(command: &mut Command, probes: u32) -> Result<(Cost, Vec<u8>)> {
    let (before, start) = (children_cpu_us()?, Instant::now());
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let elapsed = start.elapsed();
    // fping exits 1 when a target did not answer, which is a result.
    if output.status.code().is_none_or(|code| code > 1) {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let cpu_us = (children_cpu_us()? - before) / f64::from(probes);
    Ok((Cost { cpu_us, rate: f64::from(probes) / elapsed.as_secs_f64() }, output.stdout))
}

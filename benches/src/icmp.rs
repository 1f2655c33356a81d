//! `imn ping` beside fping and a bare loop over a socket: one echo request to each of many loopback addresses.

use std::{fmt::Write as _, net::Ipv4Addr, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::UsageWho;

use crate::{
    ceiling,
    turn::{TURNS, cpu_us, median},
};

const OURS: u32 = 100_000;
/// fping ends itself beyond 65,535 probes in ten seconds.
const THEIRS: u32 = 50_000;

/// What one run cost.
pub(super) struct Cost {
    /// CPU time per probe, in microseconds.
    pub cpu_us: f64,
    /// Probes per second.
    pub rate: f64,
}

pub(super) fn compare(program: &Path) -> Result<()> {
    let directory = tempfile::tempdir().context("make a directory")?;
    let files = [OURS, THEIRS].map(|count| (count, directory.path().join(count.to_string())));
    for (count, file) in &files {
        std::fs::write(file, addresses(*count)).with_context(|| format!("write {}", file.display()))?;
    }
    let [(_, hundred), (_, fifty)] = &files;
    let (mut bare, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        bare.push(ceiling::bare(OURS)?);
        let mut ping = Command::new(program);
        ping.args(["ping", "--count", "1", "--summary", "--output", "json", "--file"]).arg(hundred);
        let (cost, output) = cost(&mut ping, OURS)?;
        let summary: serde_json::Value =
            serde_json::from_slice(&output).context("read the summary of imn ping")?;
        if summary["received"] != OURS {
            bail!("imn ping: {summary}");
        }
        ours.push(cost);
        let mut fping = Command::new("/usr/bin/fping");
        fping.args(["-q", "-c", "1", "-i", "0", "-t", "1000", "-f"]).arg(fifty);
        theirs.push(self::cost(&mut fping, THEIRS)?.0);
    }
    let of = |costs: &[Cost], value: fn(&Cost) -> f64| median(costs.iter().map(value));
    let theirs = [of(&theirs, |cost| cost.cpu_us), of(&theirs, |cost| cost.rate)];
    println!(
        "medians of {TURNS} alternated runs over loopback, one packet each, start of the programs included"
    );
    println!("                        CPU per probe  to fping's  probes per second  to fping's");
    let line = |name: &str, targets: u32, cpu_us: f64, rate: f64| {
        let ratios = [cpu_us / theirs[0], rate / theirs[1]];
        println!(
            "  {name:<5} {targets:>7} targets {cpu_us:>10.2} us {:>11.2} {rate:>18.0} {:>11.2}",
            ratios[0], ratios[1]
        );
    };
    line("bare", OURS, of(&bare, |cost| cost.cpu_us), of(&bare, |cost| cost.rate));
    line("imn", OURS, of(&ours, |cost| cost.cpu_us), of(&ours, |cost| cost.rate));
    line("fping", THEIRS, theirs[0], theirs[1]);
    Ok(())
}

/// That many addresses, one per line.
fn addresses(count: u32) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        // A string takes everything.
        let _ = writeln!(text, "{}", Ipv4Addr::from_bits(0x7f01_0000 + number));
        text
    })
}

/// What a whole run cost, and what it said.
fn cost(command: &mut Command, probes: u32) -> Result<(Cost, Vec<u8>)> {
    let (before, start) = (cpu_us(UsageWho::RUSAGE_CHILDREN)?, Instant::now());
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let elapsed = start.elapsed();
    // fping exits 1 when a target did not answer, which is a result.
    if output.status.code().is_none_or(|code| code > 1) {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let spent = cpu_us(UsageWho::RUSAGE_CHILDREN)? - before;
    Ok((
        Cost { cpu_us: spent / f64::from(probes), rate: f64::from(probes) / elapsed.as_secs_f64() },
        output.stdout,
    ))
}

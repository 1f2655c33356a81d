//! How true a round-trip time is: `imn ping`, ping and fping over an emulated path of 10 ms, each beside what the
//! emulator says that it applied to the very packets of that run, its own lateness included.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use imn_testkit::{Lab, Node};
use serde_json::Value;

use crate::turn::{TURNS, median};

const LAB: &str = r#"
    name = "rtt"
    seed = 17
    awake = true
    hosts = ["a", "b"]
    links = [{ between = ["a", "b"], delay = "5ms" }]
"#;
const PROBES: usize = 1000;
const LONGEST: Duration = Duration::from_mins(1);

/// One run of one program, in milliseconds.
struct Lap {
    /// Its median less the median that was applied.
    median_off: f64,
    /// The standard deviation that it tells, if it tells one.
    stddev: Option<f64>,
    /// The standard deviation of what was applied.
    applied_stddev: f64,
}

type Side = fn(&Node, &Path, IpAddr) -> Result<(Vec<f64>, Option<f64>)>;

pub(super) fn compare(program: &Path) -> Result<()> {
    let lab = Lab::from_toml(LAB)?;
    let (node, target) = (lab.node("a")?, IpAddr::from(lab.node("b")?.v4()?));
    let sides: [(&str, Side); 3] = [("imn", imn), ("ping", ping), ("fping", fping)];
    let mut laps: [Vec<Lap>; 3] = Default::default();
    for _ in 0..TURNS {
        for ((name, side), laps) in sides.iter().zip(&mut laps) {
            lab.forget_echoes()?;
            let (rtts, stddev) = side(node, program, target)?;
            let applied = lab.echoes_where(|_, to| to == target)?;
            if rtts.len() != PROBES || applied.len() != PROBES {
                bail!("{name} tells {} round trips of {} that the links saw", rtts.len(), applied.len());
            }
            let applied: Vec<_> = applied.iter().map(|trip| trip.applied.as_secs_f64() * 1e3).collect();
            let applied_stddev = self::stddev(&applied);
            laps.push(Lap { median_off: median(rtts) - median(applied), stddev, applied_stddev });
        }
    }
    println!(
        "medians of {TURNS} alternated runs of {PROBES} probes at 2 ms over 10 ms; the links' own lateness is counted"
    );
    println!("         median off  largest off    stddev told  links' stddev    ratio");
    for ((name, _), laps) in sides.iter().zip(&laps) {
        let off = median(laps.iter().map(|lap| lap.median_off));
        let worst = laps.iter().map(|lap| lap.median_off.abs()).fold(0.0, f64::max);
        let links = median(laps.iter().map(|lap| lap.applied_stddev));
        print!("  {name:<6} {:>+7.1} us {:>9.1} us", off * 1e3, worst * 1e3);
        match laps.iter().map(|lap| lap.stddev).collect::<Option<Vec<_>>>() {
            Some(told) => {
                let told = median(told);
                println!(" {:>11.1} us {:>11.1} us {:>8.2}", told * 1e3, links * 1e3, told / links);
            }
            None => println!(" {:>14} {:>11.1} us", "-", links * 1e3),
        }
    }
    Ok(())
}

fn imn(node: &Node, program: &Path, target: IpAddr) -> Result<(Vec<f64>, Option<f64>)> {
    let imn = node.program(program).args(["ping", "--local", "-c", &PROBES.to_string(), "-i", "2ms"]);
    let told: Value =
        serde_json::from_str(&imn.args(["-o", "json"]).arg(target.to_string()).run_ok(LONGEST)?)?;
    let row = &told[0];
    if row["timestamp_source"] != "kernel" {
        bail!("imn ping: a time is not the kernel's: {}", row["timestamp_source"]);
    }
    let rtts = row["rtts_ms"].as_array().context("imn ping tells no rtts_ms")?;
    Ok((rtts.iter().filter_map(Value::as_f64).collect(), row["rtt_ms"]["stddev"].as_f64()))
}

/// It prints single round trips to three digits, so to 0.1 ms here; the summary has more.
fn ping(node: &Node, _: &Path, target: IpAddr) -> Result<(Vec<f64>, Option<f64>)> {
    let ping = node.program("ping").package("iputils-ping").args(["-n", "-i", "0.002", "-c"]);
    let told = ping.arg(PROBES.to_string()).arg(target.to_string()).run_ok(LONGEST)?;
    let rtts = told.lines().filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse().ok());
    let summary = told.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
    let mdev = summary.and_then(|line| line.split(' ').next()?.split('/').nth(3)?.parse().ok());
    Ok((rtts.collect(), mdev))
}

/// It prints three digits.
fn fping(node: &Node, _: &Path, target: IpAddr) -> Result<(Vec<f64>, Option<f64>)> {
    let fping = node.program("fping").package("fping").args(["-q", "-p", "2", "-t", "1000", "-C"]);
    let outcome = fping.arg(PROBES.to_string()).arg(target.to_string()).run(LONGEST)?;
    let (_, times) = outcome.stderr.split_once(" : ").context("fping tells no times")?;
    Ok((times.split_whitespace().filter_map(|time| time.parse().ok()).collect(), None))
}

/// Sample standard deviation.
fn stddev(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

//! The same questions by our engine and by dig, at a name server on loopback: what a query costs, and its latency.
//!
//! The two take turns, one query after the other. Latencies are what each of them tells.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, anyhow, bail};
use imn_probe::{
    TsSource,
    dns::{Config, Engine, Query, RecordType, Transport},
};
use imn_testkit::{NameServer, Program};
use nix::sys::resource::UsageWho;

use crate::turn::{TURNS, cpu_us, median};

/// Queries of one run.
const QUERIES: u32 = 2000;
const NAME: &str = "www.imn.test";
const LONGEST: Duration = Duration::from_mins(2);

/// One run of one side, per query: CPU time and median latency in microseconds.
struct Lap {
    cpu: f64,
    latency: f64,
}

pub(super) fn compare() -> Result<()> {
    let server = NameServer::start()?;
    println!(
        "median of {TURNS} alternated runs of {QUERIES} queries, one after the other, at named on loopback"
    );
    for transport in [Transport::Udp, Transport::Tcp] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            ours.push(engine(&server, transport)?);
            theirs.push(dig(&server, transport)?);
        }
        let [ours, theirs] = [ours, theirs].map(|laps| Lap {
            cpu: median(laps.iter().map(|lap| lap.cpu)),
            latency: median(laps.iter().map(|lap| lap.latency)),
        });
        println!("{transport}");
        println!("  imn    cpu {:7.1} us  latency {:7.1} us", ours.cpu, ours.latency);
        println!("  dig    cpu {:7.1} us  latency {:7.1} us", theirs.cpu, theirs.latency);
        println!(
            "  ratio      {:7.2}     difference {:7.1} us",
            ours.cpu / theirs.cpu,
            ours.latency - theirs.latency
        );
    }
    Ok(())
}

fn engine(server: &NameServer, transport: Transport) -> Result<Lap> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let engine = Engine::new(&Config::default());
    let query = Query { transport, nsid: false, ..Query::new(NAME, RecordType::A) };
    let before = cpu_us(UsageWho::RUSAGE_SELF)?;
    let mut latencies = Vec::new();
    runtime.block_on(async {
        for _ in 0..QUERIES {
            let outcome = engine
                .query(server.plain(), &query)
                .await
                .map_err(|(field, text)| anyhow!("{field}: {text}"))?;
            if let Some(failure) = outcome.failure {
                bail!("{failure}");
            }
            if outcome.source != TsSource::Kernel {
                bail!("a latency is not the kernel's");
            }
            latencies.extend(outcome.phases.query.map(|latency| latency.as_secs_f64() * 1e6));
        }
        Ok(())
    })?;
    let spent = cpu_us(UsageWho::RUSAGE_SELF)? - before;
    Ok(Lap { cpu: spent / f64::from(QUERIES), latency: median(latencies) })
}

fn dig(server: &NameServer, transport: Transport) -> Result<Lap> {
    let file = std::env::temp_dir().join(format!("imn-ask-{}", std::process::id()));
    let way = if transport == Transport::Tcp { "+tcp" } else { "+notcp" };
    let mut text = String::new();
    for _ in 0..QUERIES {
        let _ = writeln!(text, "{NAME} A {way} +nocookie");
    }
    std::fs::write(&file, text)?;
    let before = cpu_us(UsageWho::RUSAGE_CHILDREN)?;
    let shown = Program::new("dig")
        .package("bind9-dnsutils")
        .args(["-u", "@127.0.0.1", "-p", &server.plain().port().to_string(), "-f"])
        .arg(&file)
        .run_ok(LONGEST);
    let spent = cpu_us(UsageWho::RUSAGE_CHILDREN)? - before;
    std::fs::remove_file(&file)?;
    let shown = shown?;
    let times = shown
        .lines()
        .filter_map(|line| line.strip_prefix(";; Query time: ")?.split(' ').next()?.parse().ok());
    let latencies: Vec<f64> = times.collect();
    if latencies.len() != QUERIES as usize {
        bail!("dig answered {} of {QUERIES}", latencies.len());
    }
    Ok(Lap { cpu: spent / f64::from(QUERIES), latency: median(latencies) })
}

//! The same questions by our engine and by dig, at a name server on loopback: what a query costs, and its latency.
//!
//! `ask [QUERIES] [RUNS]`: the two take turns, one query after the other. Latencies are what each of them tells.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use std::fmt::Write as _;
use std::time::Duration;

use imn_probe::TsSource;
use imn_probe::dns::{Config, Engine, Query, RecordType, Transport};
use imn_testkit::{NameServer, Program};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const NAME: &str = "www.imn.test";
const LONGEST: Duration = Duration::from_mins(2);

/// One run of one side, per query: CPU time and median latency in microseconds.
struct Lap {
    cpu: f64,
    latency: f64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let queries: u32 = arguments.next().map_or(Ok(2000), |text| text.parse())?;
    let runs: usize = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let server = NameServer::start()?;
    println!("median of {runs} runs of {queries} queries, one after the other, at named on loopback");
    for transport in [Transport::Udp, Transport::Tcp] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            ours.push(engine(&server, transport, queries)?);
            theirs.push(dig(&server, transport, queries)?);
        }
        let [ours, theirs] = [ours, theirs].map(|laps| Lap {
            cpu: median(laps.iter().map(|lap| lap.cpu).collect()),
            latency: median(laps.iter().map(|lap| lap.latency).collect()),
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

fn engine(
    server: &NameServer,
    transport: Transport,
    queries: u32,
) -> Result<Lap, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let engine = Engine::new(&Config::default());
    let query = Query { transport, nsid: false, ..Query::new(NAME, RecordType::A) };
    let before = cpu(UsageWho::RUSAGE_SELF);
    let mut latencies = Vec::new();
    runtime.block_on(async {
        for _ in 0..queries {
            let outcome = engine
                .query(server.plain(), &query)
                .await
                .map_err(|(field, text)| format!("{field}: {text}"))?;
            if let Some(failure) = outcome.failure {
                return Err(failure.to_string());
            }
            if outcome.source != TsSource::Kernel {
                return Err("a latency is not the kernel's".to_owned());
            }
            latencies.extend(outcome.phases.query.map(|latency| latency.as_secs_f64() * 1e6));
        }
        Ok(())
    })?;
    let spent = cpu(UsageWho::RUSAGE_SELF).saturating_sub(before);
    Ok(Lap { cpu: spent.as_secs_f64() * 1e6 / f64::from(queries), latency: median(latencies) })
}

fn dig(server: &NameServer, transport: Transport, queries: u32) -> Result<Lap, Box<dyn std::error::Error>> {
    let file = std::env::temp_dir().join(format!("imn-ask-{}", std::process::id()));
    let way = if transport == Transport::Tcp { "+tcp" } else { "+notcp" };
    let mut text = String::new();
    for _ in 0..queries {
        let _ = writeln!(text, "{NAME} A {way} +nocookie");
    }
    std::fs::write(&file, text)?;
    let before = cpu(UsageWho::RUSAGE_CHILDREN);
    let shown = Program::new("dig")
        .package("bind9-dnsutils")
        .args(["-u", "@127.0.0.1", "-p", &server.plain().port().to_string(), "-f"])
        .arg(&file)
        .run_ok(LONGEST);
    let spent = cpu(UsageWho::RUSAGE_CHILDREN).saturating_sub(before);
    std::fs::remove_file(&file)?;
    let shown = shown?;
    let times = shown
        .lines()
        .filter_map(|line| line.strip_prefix(";; Query time: ")?.split(' ').next()?.parse().ok());
    let latencies: Vec<f64> = times.collect();
    if latencies.len() != queries as usize {
        return Err(format!("dig answered {} of {queries}", latencies.len()).into());
    }
    Ok(Lap { cpu: spent.as_secs_f64() * 1e6 / f64::from(queries), latency: median(latencies) })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn cpu(who: UsageWho) -> Duration {
    getrusage(who).map_or(Duration::ZERO, |usage| {
        Duration::from_micros(
            (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as u64,
        )
    })
}

//! One echo request to each of many loopback addresses: what it costs, and what came back.
//!
//! `flood [TARGETS] [ROUNDS] [SECONDS_PER_ROUND]`: with a round length the rounds are spread over it, else they are all due at once.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use imn_metric::Counts;
use imn_probe::icmp::{Config, Engine, Round};
use imn_probe::{Packet, Timestamp, TsSource};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let targets: u32 = arguments.next().map_or(Ok(50_000), |text| text.parse())?;
    let rounds: u32 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let length = arguments.next().map_or(Ok(0.0), |text| text.parse::<f64>())?;

    let engine = Engine::start(&Config { result_queue: 65_536, ..Config::default() })?;
    let before = cpu();
    let started = Instant::now();
    let (mut counts, mut kernel, mut rtts, mut outcomes) = (Counts::default(), 0_u64, Vec::new(), 0_u64);
    for number in 0..rounds {
        let begin = Timestamp::now() + Duration::from_millis(20);
        for chunk in (0..targets).collect::<Vec<_>>().chunks(1 + targets as usize / 10) {
            let batch = chunk.iter().map(|n| Round {
                due: begin + Duration::from_secs_f64(length * f64::from(*n) / f64::from(targets)),
                ..Round::new(u64::from(number), IpAddr::V4(Ipv4Addr::from_bits(0x7f00_0001 + n)))
            });
            engine.submit(batch.collect())?;
            if length > 0.0 {
                std::thread::sleep(Duration::from_secs_f64(length / 10.0));
            }
        }
        while outcomes < u64::from(targets) * u64::from(number + 1) {
            for (_, packets) in engine.outcomes().recv_timeout(Duration::from_secs(5))?.iter() {
                outcomes += 1;
                counts += Packet::counts(packets);
                kernel += u64::from(Packet::ts_source(packets) == Some(TsSource::Kernel));
                rtts.extend(packets.iter().filter_map(Packet::rtt).map(|rtt| rtt.as_nanos() as u64));
            }
        }
    }
    let (elapsed, spent) = (started.elapsed(), cpu().saturating_sub(before));
    rtts.sort_unstable();
    let quantile = |q| imn_metric::percentile(&rtts, q).unwrap_or(0) as f64 / 1e3;
    println!(
        "{counts:?}, kernel stamps {kernel}, {:.0} packets/s",
        counts.sent as f64 / elapsed.as_secs_f64()
    );
    println!(
        "cpu {:.2} µs per probe, {:.1} % of a core",
        spent.as_secs_f64() * 1e6 / counts.sent as f64,
        spent.as_secs_f64() / elapsed.as_secs_f64() * 100.0
    );
    println!("rtt µs p50 {:.1} p99 {:.1} max {:.1}", quantile(0.5), quantile(0.99), quantile(1.0));
    println!("{:#?}", engine.stats());
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    Ok(())
}

fn cpu() -> Duration {
    getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| {
        Duration::from_micros(
            (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as u64,
        )
    })
}

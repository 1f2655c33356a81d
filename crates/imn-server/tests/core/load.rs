//! What 20,000 targets at 5 s cost the server.

use std::{fs, time::Duration};

use imn_contract::{
    TargetId,
    latest::{Batch, Watermark, WatermarkRequest},
    subject,
};
use imn_domain::{MonitoringState, Target, TargetKind};
use tokio::time::Instant;

use crate::bench::{Bench, SOON, agent, batch, eventually, now_us};

const TARGETS: usize = 20_000;
const SECONDS: u64 = 20;
const ROUNDS_PER_BATCH: usize = 500;

/// User and system time of this process, in seconds, and its resident memory, in MB.
fn usage() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    let pages: f64 = fields[21].parse().unwrap();
    (ticks / 100.0, pages * 4096.0 / 1e6)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures this process: run it alone, in release"]
async fn twenty_thousand_targets_are_cheap() {
    let mut bench = Bench::start().await;
    let now = now_us();
    let target = |n: usize| Target {
        id: TargetId::generate(),
        kind: TargetKind::Ip,
        address: format!("127.{}.{}.{}", n / 62_500 + 1, n / 250 % 250, n % 250 + 1),
        display_name: None,
        tier: "critical".to_owned(),
        tags: std::collections::BTreeMap::default(),
        params: serde_json::Map::default(),
        expected_outcome: None,
        monitoring_state: MonitoringState::Unknown,
        state_reason: None,
        state_since_us: now,
        created_us: now,
        updated_us: now,
        revision: 1,
    };
    let targets: Vec<Target> = (0..TARGETS).map(target).collect();
    bench.catalog().create_targets(&targets).await.unwrap();
    bench.stop_server().await;
    bench.start_server().await;
    bench.agent("a", &["icmp"]).await;
    eventually("the assignments", async || {
        (bench.catalog().assignments().await.unwrap().len() == TARGETS).then_some(())
    })
    .await;

    // Sealing is the spool's work: it is done before.
    let base = now_us() / 1_000_000 * 1_000_000;
    let mut sealed: Vec<(Batch, bytes::Bytes)> = Vec::new();
    for second in 0..SECONDS {
        for chunk in 0..TARGETS / 5 / ROUNDS_PER_BATCH {
            let first = (second as usize % 5) * TARGETS / 5 + chunk * ROUNDS_PER_BATCH;
            let mut next = batch(1, sealed.len() as u64 + 1, &targets[0].id, base, 1);
            let round = next.rounds.remove(0);
            next.rounds.extend(targets[first..first + ROUNDS_PER_BATCH].iter().map(|target| {
                let mut round = round.clone();
                round.target = Some(target.id.clone());
                round.address = target.address.as_str().into();
                round.due_us = base + second as i64 * 1_000_000;
                round
            }));
            let bytes = next.seal().unwrap();
            sealed.push((next, bytes));
        }
    }
    let batches = sealed.len() as u64;
    let (cpu, idle_mb) = usage();
    let start = Instant::now();
    let per_second = batches / SECONDS;
    for (n, (batch, bytes)) in sealed.drain(..).enumerate() {
        let at = start + Duration::from_secs_f64(n as f64 / per_second as f64);
        tokio::time::sleep_until(at).await;
        let on = subject::ingest(0, &batch.agent, &batch.kind);
        let headers = async_nats::HeaderMap::new();
        bench.client.publish_bytes_acked(&on, bytes, Some(&n.to_string()), headers, SOON).await.unwrap();
    }
    let asked = WatermarkRequest { v: 1, epoch: 1 };
    eventually("everything committed", async || {
        let on = subject::commit(&agent("a"));
        let mark: Watermark = bench.client.request(&on, &asked).await.unwrap();
        (mark.committed == batches).then_some(())
    })
    .await;
    let (after, mb) = usage();
    let percent = (after - cpu) / start.elapsed().as_secs_f64() * 100.0;
    println!("{percent:.1} % of a core, {mb:.0} MB (before the load {idle_mb:.0} MB)");
    assert!(percent <= 25.0, "{percent} % of a core");
    assert!(mb <= 200.0, "{mb} MB");
}

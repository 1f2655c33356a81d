//! Agents can read what they are to measure, and the share of one that is gone moves.

use imn_contract::{
    TargetId,
    latest::{Assignment, AssignmentMeta, AssignmentShard},
    stream,
};

use crate::bench::{Bench, agent, batch, eventually, now_us};

/// What an agent reads.
async fn read(bench: &Bench, name: &str) -> Option<(u64, Vec<Assignment>)> {
    let key = |key: &str| stream::kv_subject(stream::ASSIGNMENTS_BUCKET, key);
    let meta =
        bench.client.direct_get(stream::ASSIGNMENTS, &key(&stream::meta_key(&agent(name)))).await.ok()??;
    let meta: AssignmentMeta = imn_contract::decode(&meta.payload, imn_contract::Encoding::Json).unwrap();
    let mut all = Vec::new();
    for (shard, hash) in meta.shards.iter().enumerate().filter(|(_, hash)| !hash.is_empty()) {
        let on = key(&stream::shard_key(&agent(name), shard as u32));
        let kept = bench.client.direct_get(stream::ASSIGNMENTS, &on).await.ok()??;
        if AssignmentShard::hash(&kept.payload) != *hash {
            return None;
        }
        all.extend(AssignmentShard::unpack(&kept.payload).unwrap().assignments);
    }
    Some((meta.generation, all))
}

async fn has(bench: &Bench, name: &str, count: usize) -> (u64, Vec<Assignment>) {
    eventually("the assignments", async || read(bench, name).await.filter(|(_, all)| all.len() == count))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_read_what_they_are_to_measure() {
    let mut bench = Bench::start().await;
    let first = bench.target("127.0.0.1", "critical").await;
    // The server is told of targets by its API; here the agent's arrival makes it look.
    bench.stop_server().await;
    bench.start_server().await;
    bench.agent("a", &["icmp"]).await;
    let (generation, all) = has(&bench, "a", 1).await;
    assert_eq!(
        (&all[0].target, all[0].interval_ms, all[0].timeout_ms, all[0].count),
        (&first, 5_000, 1_000, 1)
    );
    assert_eq!(all[0].kind.as_str(), "icmp");
    assert!(all[0].since_us > now_us() - 10_000_000);

    // After a restart, and after NATS has lost its store, they read the same.
    bench.kill_server();
    bench.start_server().await;
    bench.heartbeat("a", &["icmp"]).await;
    assert_eq!(has(&bench, "a", 1).await, (generation, all.clone()));
    let stream = bench.client.jetstream();
    stream.delete_stream(stream::ASSIGNMENTS).await.unwrap();
    bench.nats.restart().unwrap();
    let (later, again) = has(&bench, "a", 1).await;
    assert_eq!(again, all);
    assert!(later > generation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_targets_are_spread_and_sharded() {
    let mut bench = Bench::start().await;
    let mut targets: Vec<TargetId> = Vec::new();
    for n in 0..2_000 {
        targets.push(bench.target(&format!("127.1.{}.{}", n / 250, n % 250 + 1), "low").await);
    }
    bench.stop_server().await;
    bench.start_server().await;
    for name in ["a", "b", "c"] {
        bench.agent(name, &["icmp"]).await;
    }
    let counts = eventually("even shares", async || {
        let mut counts = Vec::new();
        for name in ["a", "b", "c"] {
            counts.push(read(&bench, name).await?.1.len());
        }
        (counts.iter().sum::<usize>() == 4_000 && counts.iter().all(|n| *n < 1_500)).then_some(counts)
    })
    .await;
    assert!(counts.iter().all(|n| (1_200..1_470).contains(n)), "{counts:?}");
    assert_eq!(bench.catalog().assignments().await.unwrap().len(), 4_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_change_the_monitoring_state() {
    let mut bench = Bench::start().await;
    let target = bench.target("127.0.0.1", "critical").await;
    bench.stop_server().await;
    bench.start_server().await;
    bench.agent("a", &["icmp"]).await;
    has(&bench, "a", 1).await;
    let base = now_us() - 8_000_000;
    let state = async |bench: &Bench| {
        let found = bench.catalog().target(target.as_str()).await.unwrap().unwrap();
        found.monitoring_state.as_str()
    };
    bench.send_batch(&batch(1, 1, &target, base, 1), "1").await;
    eventually("active", async || (state(&bench).await == "active").then_some(())).await;
    let mut lost = batch(1, 2, &target, base, 1);
    lost.rounds = (2..5)
        .map(|n| imn_contract::latest::Round {
            due_us: base + n * 1_000_000,
            received: 0,
            success: false,
            rtt_avg_ns: None,
            ..lost.rounds[0].clone()
        })
        .collect();
    bench.send_batch(&lost, "2").await;
    eventually("down", async || (state(&bench).await == "down").then_some(())).await;
    let history = bench.catalog().state_history(&target, 10).await.unwrap();
    let states: Vec<&str> = history.iter().map(|change| change.to.as_str()).collect();
    assert_eq!(states, ["down", "active"]);
    assert!(history[0].reason.contains("no agent reached it"), "{}", history[0].reason);
}

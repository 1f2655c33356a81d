//! Every round once, whatever comes twice, out of order, or broken.

use std::time::Duration;

use imn_contract::{
    AgentId, TargetId,
    latest::{Gap, Watermark, WatermarkRequest},
    subject,
};
use imn_store::{GapQuery, RoundQuery};

use crate::bench::{Bench, SOON, agent, batch, eventually, now_us};

async fn dues(bench: &Bench, target: &TargetId) -> Vec<i64> {
    let query = RoundQuery { target: Some(target.clone()), ..RoundQuery::default() };
    bench.results().rounds(&query).await.unwrap().iter().map(|row| row.due_us).collect()
}

async fn watermark(bench: &Bench, agent: &AgentId, epoch: u64) -> u64 {
    let asked = WatermarkRequest { v: 1, epoch };
    let mark: Watermark = bench.client.request(&subject::commit(agent), &asked).await.unwrap();
    mark.committed
}

async fn committed(bench: &Bench, epoch: u64, up_to: u64) {
    eventually("the watermark", async || (watermark(bench, &agent("a"), epoch).await == up_to).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_are_stored_exactly_once() {
    let bench = Bench::start().await;
    let target = TargetId::generate();
    let base = now_us() - 100_000_000;
    let mut told = bench.client.subscribe(&subject::commit(&agent("a"))).await.unwrap();
    bench.client.round_trip(SOON).await.unwrap();
    // 3 before 1 and 2: a hole that is filled later.
    for seq in [3, 1, 2] {
        bench.send_batch(&batch(7, seq, &target, base, 4), &format!("7-{seq}")).await;
    }
    committed(&bench, 7, 3).await;
    // Again, under other ids, as after the window of deduplication; and the next.
    for seq in [1, 3, 4] {
        bench.send_batch(&batch(7, seq, &target, base, 4), &format!("7-{seq}-1")).await;
    }
    committed(&bench, 7, 4).await;
    let expected: Vec<i64> = (4..20).map(|n| base + n * 1_000_000).collect();
    assert_eq!(dues(&bench, &target).await, expected);
    assert_eq!(watermark(&bench, &agent("a"), 8).await, 0);
    // The watermark was told without being asked for.
    let broadcast = async {
        loop {
            let message = futures::StreamExt::next(&mut told).await.unwrap();
            // What asks for an answer is a request of this test's own.
            if message.reply.is_none() {
                return imn_runtime::nats::decode::<Watermark>(&message).unwrap();
            }
        }
    };
    let mark = tokio::time::timeout(SOON, broadcast).await.expect("a broadcast");
    assert_eq!(mark.epoch, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_disturbs_nothing() {
    let bench = Bench::start().await;
    let target = TargetId::generate();
    let base = now_us() - 100_000_000;
    let good = batch(1, 1, &target, base, 3);
    let on = subject::ingest(0, &good.agent, &good.kind);
    let mut sealed = good.seal().unwrap().to_vec();
    let middle = sealed.len() / 2;
    sealed.truncate(middle);
    for garbage in [sealed, b"garbage".to_vec(), Vec::new(), vec![0; 900_000]] {
        let headers = async_nats::HeaderMap::new();
        bench.client.publish_bytes_acked(&on, garbage.into(), None, headers, SOON).await.unwrap();
    }
    // A batch of one agent on the subject of another.
    let other = subject::ingest(0, &agent("b"), &good.kind);
    let headers = async_nats::HeaderMap::new();
    bench.client.publish_bytes_acked(&other, good.seal().unwrap(), None, headers, SOON).await.unwrap();
    bench.send_batch(&good, "good").await;
    committed(&bench, 1, 1).await;
    assert_eq!(dues(&bench, &target).await.len(), 3);
    eventually("an empty stream", async || {
        let mut stream = bench.client.jetstream().get_stream(imn_contract::stream::INGEST).await.unwrap();
        (stream.info().await.unwrap().state.messages == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_that_cannot_be_filled_is_a_recorded_gap() {
    let bench = Bench::start().await;
    let target = TargetId::generate();
    let base = now_us() - 100_000_000;
    bench.send_batch(&batch(9, 1, &target, base, 1), "1").await;
    bench.send_batch(&batch(9, 4, &target, base, 1), "4").await;
    committed(&bench, 9, 1).await;
    let mut gone = batch(9, 2, &target, base, 0);
    gone.last_seq = 3;
    let gap = Gap {
        target: target.clone(),
        first_due_us: base + 2_000_000,
        last_due_us: base + 3_000_000,
        rounds: 2,
        reason: "spool_lost".to_owned(),
    };
    gone.gaps.push(gap);
    bench.send_batch(&gone, "2").await;
    committed(&bench, 9, 4).await;
    let gaps = bench.results().gaps(&GapQuery::default()).await.unwrap();
    assert_eq!((gaps.len(), gaps[0].rounds, gaps[0].reason.as_str()), (1, 2, "spool_lost"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_server_or_nats_are_killed() {
    let mut bench = Bench::start().await;
    let target = TargetId::generate();
    let base = now_us() - 1_000_000_000;
    for seq in 1..=200 {
        bench.send_batch(&batch(5, seq, &target, base, 2), &format!("5-{seq}")).await;
        match seq {
            40 | 80 | 160 => {
                bench.kill_server();
                bench.start_server().await;
            }
            120 => {
                bench.nats.kill9();
                bench.nats.restart().unwrap();
                assert!(bench.client.events().wait_connected(SOON).await);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            _ => {}
        }
    }
    // What NATS lost with its kill, a spool would send again from the watermark on.
    let done = watermark(&bench, &agent("a"), 5).await;
    for seq in done + 1..=200 {
        bench.send_batch(&batch(5, seq, &target, base, 2), &format!("5-{seq}-1")).await;
    }
    committed(&bench, 5, 200).await;
    let expected: Vec<i64> = (2..402).map(|n| base + n * 1_000_000).collect();
    assert_eq!(dues(&bench, &target).await, expected);
    bench.stop_server().await;
    bench.start_server().await;
    assert_eq!(dues(&bench, &target).await, expected);
}

//! The spool: what was appended survives a kill -9, sequences never repeat, and shipping delivers each batch until a
//! watermark passes it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use imn_contract::{
    latest::{Batch, Gap, Round, Watermark, WatermarkRequest},
    subject,
};
use imn_runtime::{
    nats,
    spool::{Config, Error, Shipper, Spool},
    task::{Shutdown, Tasks},
};
use imn_testkit::NatsServer;

const CHILD: &str = "IMN_SPOOL_CHILD";

fn config(dir: &Path, partitions: u32) -> Config {
    Config {
        dir: dir.to_owned(),
        agent: "vp1".parse().unwrap(),
        instance: "vp1-icmp-0".parse().unwrap(),
        kind: "icmp".parse().unwrap(),
        partitions,
        max_bytes: Config::MAX_BYTES,
    }
}

fn round(target: u32, due_us: i64) -> Round {
    Round {
        target: Some(format!("t{target}").parse().unwrap()),
        address: format!("127.0.0.{}", target % 250 + 1).into(),
        due_us,
        time_us: due_us + 7,
        sent: 1,
        received: 1,
        success: true,
        rtt_avg_ns: Some(12_345),
        ..Round::default()
    }
}

#[test]
fn what_was_not_committed_is_known_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    {
        let spool = Spool::open(config(dir.path(), 1)).unwrap();
        assert_eq!(spool.recovered().progress_us, None);
        spool.append(&[round(1, 1_000), round(2, 2_000)], &[]).unwrap();
        spool.set_progress(1_500);
        spool.close().unwrap();
    }
    {
        let spool = Spool::open(config(dir.path(), 1)).unwrap();
        assert_eq!(spool.recovered().progress_us, Some(1_500));
        assert!(spool.recovered().stopped_us.is_some());
        let done: Vec<_> = spool.recovered().done.iter().map(|(_, due)| *due).collect();
        assert_eq!(done, [2_000], "a round due before the mark is settled, the other was made");
        spool.append(&[round(3, 3_000)], &[]).unwrap();
    }
    let spool = Spool::open(config(dir.path(), 1)).unwrap();
    assert_eq!(spool.recovered().stopped_us, None, "dropped without close: a crash");
    assert_eq!(spool.recovered().done.len(), 2);
    assert_eq!(spool.state().rows, 3);
}

#[test]
fn partitions_that_nobody_names_are_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    {
        let spool = Spool::open(config(dir.path(), 16)).unwrap();
        let rounds: Vec<Round> = (0..32).map(|target| round(target, 1_000)).collect();
        spool.append(&rounds, &[]).unwrap();
        spool.set_progress(500);
        spool.close().unwrap();
    }
    let spool = Spool::open(config(dir.path(), 1)).unwrap();
    assert!(!spool.is_empty());
    assert_eq!((spool.state().rows, spool.recovered().done.len()), (32, 32));
}

/// Whatever byte is wrong: it opens, and either all is there or it says from when on it may not be.
#[test]
fn damage_is_set_aside_and_told() {
    let dir = tempfile::tempdir().unwrap();
    {
        let spool = Spool::open(config(dir.path(), 1)).unwrap();
        spool.append(&[round(1, 1_000), round(2, 2_000)], &[]).unwrap();
        spool.set_progress(2_500);
        spool.close().unwrap();
    }
    let mut files = Vec::new();
    let mut open = vec![dir.path().join("store")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files.push(path);
        }
    }
    let (mut whole, mut lost) = (0, 0);
    for path in files {
        let bytes = std::fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in (0..end).step_by(end / 16 + 1) {
            let trial = tempfile::tempdir().unwrap();
            assert!(
                Command::new("cp")
                    .arg("-a")
                    .arg(dir.path())
                    .arg(trial.path().join("spool"))
                    .status()
                    .unwrap()
                    .success()
            );
            let mut wrong = bytes.clone();
            wrong[at] ^= 0xff;
            std::fs::write(trial.path().join("spool").join(path.strip_prefix(dir.path()).unwrap()), wrong)
                .unwrap();
            let case = format!("byte {at} of {}", path.display());
            let spool =
                Spool::open(config(&trial.path().join("spool"), 1)).unwrap_or_else(|e| panic!("{case}: {e}"));
            if spool.recovered().damaged {
                assert_eq!(spool.recovered().progress_us, Some(1_000), "{case}: neither round was committed");
                lost += 1;
            } else {
                assert_eq!(spool.state().rows, 2, "{case}");
                whole += 1;
            }
            // It stays so until the mark has moved past it, whoever opens it meanwhile.
            let damaged = spool.recovered().damaged;
            drop(spool);
            let mut spool = Spool::open(config(&trial.path().join("spool"), 1)).unwrap();
            assert_eq!(spool.recovered().damaged, damaged, "{case}");
            spool.append(&[round(3, 3_000)], &[]).unwrap();
            spool.set_progress(3_500);
            spool.close().unwrap();
            drop(spool);
            spool = Spool::open(config(&trial.path().join("spool"), 1)).unwrap();
            assert_eq!(
                (spool.recovered().damaged, spool.recovered().progress_us),
                (false, Some(3_500)),
                "{case}"
            );
        }
    }
    assert!(whole > 0 && lost > 0, "{whole} whole, {lost} lost");
}

#[test]
fn a_gap_that_was_told_is_not_told_again() {
    let dir = tempfile::tempdir().unwrap();
    let gap = |first_due_us: i64, rounds: u64| Gap {
        target: "t1".parse().unwrap(),
        first_due_us,
        last_due_us: first_due_us + (rounds as i64 - 1) * 500,
        rounds,
        reason: "overload".to_owned(),
    };
    {
        let spool = Spool::open(config(dir.path(), 1)).unwrap();
        spool.append(&[round(2, 1_600)], &[gap(1_000, 3), gap(3_000, 1)]).unwrap();
        spool.set_progress(1_400);
        spool.close().unwrap();
    }
    let spool = Spool::open(config(dir.path(), 1)).unwrap();
    let mut settled: Vec<_> = spool.recovered().done.iter().map(|(_, due)| *due).collect();
    settled.sort_unstable();
    assert_eq!(settled, [1_500, 1_600, 2_000, 3_000]);
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Spool::open(config(dir.path(), 1)).unwrap();
    assert!(matches!(Spool::open(config(dir.path(), 1)), Err(Error::InUse { .. })));
}

/// Not a test of its own: the process that [`an_append_survives_kill_9`] kills.
#[test]
fn child_that_appends() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let spool = Spool::open(config(Path::new(&dir), 2)).unwrap();
    let start = spool.recovered().done.len() as i64;
    for n in start.. {
        spool.append(&[round(n as u32, n + 1)], &[]).unwrap();
        println!("appended {}", n + 1);
        if n % 50 == 0 {
            spool.tick().unwrap();
        }
    }
}

#[test]
fn an_append_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut appended = 0;
    for run in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_appends", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.split("appended ").nth(1) {
                appended = n.parse::<i64>().unwrap();
            }
            if appended > run * 400 {
                child.kill().unwrap();
                break;
            }
        }
        child.wait().unwrap();
    }
    let spool = Spool::open(config(dir.path(), 2)).unwrap();
    let done: HashSet<_> = spool.recovered().done.iter().map(|(_, due)| *due).collect();
    let missing: Vec<_> = (1..=appended).filter(|due| !done.contains(due)).collect();
    assert!(missing.is_empty(), "appended and then lost: {missing:?}");
    assert_eq!(spool.state().rows, done.len() as u64, "each round is in the spool once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_sent_until_a_watermark_passes_them() {
    let server = NatsServer::start().unwrap();
    let connect = |name: &str| nats::Config::new(server.url(), name);
    let client = nats::Client::connect(&connect("server")).await.unwrap();
    let ingest = async_nats::jetstream::stream::Config {
        name: "MMN_INGEST".to_owned(),
        subjects: vec![subject::INGEST_ALL.to_owned()],
        ..Default::default()
    };
    client.ensure_stream(ingest).await.unwrap();
    let mut rows = client.subscribe(subject::INGEST_ALL).await.unwrap();
    let mut requests = client.subscribe(subject::COMMIT_ALL).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(config(dir.path(), 1)).unwrap());
    let (stop, mut tasks) = (Shutdown::new(), Tasks::new());
    let shipping = nats::Client::connect(&connect("module")).await.unwrap();
    let shipper = Shipper::new(Arc::clone(&spool), shipping);
    tasks.spawn("ship", shipper.run(stop.stop(), false));

    let gap = Gap {
        target: "t9".parse().unwrap(),
        first_due_us: 5,
        last_due_us: 9,
        rounds: 2,
        reason: "stopped".to_owned(),
    };
    spool.append(&(0..500).map(|n| round(n, i64::from(n))).collect::<Vec<_>>(), &[gap]).unwrap();
    spool.set_progress(1_000_000);
    let deadline = Instant::now() + Duration::from_secs(10);
    let next = async |rows: &mut async_nats::Subscriber| {
        let message = tokio::time::timeout(Duration::from_secs(10), rows.next()).await.unwrap().unwrap();
        Batch::open(&message.payload).unwrap()
    };
    let first = next(&mut rows).await;
    assert_eq!((first.first_seq, first.rounds.len(), first.gaps.len()), (1, 500, 1));
    assert!(!spool.is_empty(), "published is not committed");

    // The watermark is asked for when no broadcast comes.
    let request = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let message = requests.next().await.unwrap();
            if message.reply.is_some() {
                return message;
            }
        }
    })
    .await
    .unwrap();
    let asked: WatermarkRequest = nats::decode(&request).unwrap();
    assert_eq!(asked.epoch, first.epoch);
    client.respond(&request, &Watermark { v: 1, epoch: first.epoch, committed: 1 }).await.unwrap();
    while !spool.is_empty() {
        assert!(Instant::now() < deadline, "the watermark did not empty the spool");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // A watermark that goes back asks for what is still there; the rest of the hole comes as an empty range.
    spool.append(&[round(1, 2_000_000)], &[]).unwrap();
    let second = next(&mut rows).await;
    assert_eq!((second.first_seq, second.last_seq, second.epoch), (2, 2, first.epoch));
    let back = Watermark { v: 1, epoch: first.epoch, committed: 2 };
    client.publish(&subject::commit(&"vp1".parse().unwrap()), &back).await.unwrap();
    while !spool.is_empty() {
        assert!(Instant::now() < deadline, "the broadcast did not empty the spool");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let back = Watermark { v: 1, epoch: first.epoch, committed: 0 };
    client.publish(&subject::commit(&"vp1".parse().unwrap()), &back).await.unwrap();
    let again = next(&mut rows).await;
    assert_eq!((again.first_seq, again.rounds.len()), (1, 0), "batch 1 is gone: an empty range in its place");
    let again = next(&mut rows).await;
    assert_eq!(again, second, "batch 2 is resent as it was");
    stop.request();
    assert!(tasks.drain(Duration::from_secs(5)).await.is_empty());
}

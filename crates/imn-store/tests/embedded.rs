//! What the embedded results do when processes die, disks fill and files are torn.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "fixture/duckdb.rs"]
mod duckdb;
#[path = "fixture/rounds.rs"]
mod fixture;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use fixture::{NOON_US, agent, batch, round};
use imn_contract::latest::Round;
use imn_store::{
    Committed, EmbeddedConfig, EmbeddedResults, IngestBatch, Results, ResultsError, RoundQuery, SqlCatalog,
};
use imn_testkit::Program;

/// Names the directory to work in, for a child process.
const DIRECTORY: &str = "IMN_STORE_TEST_DIRECTORY";
const ROUNDS_PER_BATCH: usize = 50;
const SECOND_US: i64 = 1_000_000;

async fn open(directory: &Path, config: EmbeddedConfig) -> Result<EmbeddedResults, ResultsError> {
    let catalog = SqlCatalog::sqlite(&directory.join("catalog.sqlite")).await.unwrap();
    EmbeddedResults::open(&directory.join("results"), &catalog, config).await
}

fn eager() -> EmbeddedConfig {
    EmbeddedConfig { flush_rows: 1, ..EmbeddedConfig::default() }
}

/// The rounds of sequence `seq`: all due in that second, which crosses hours.
fn nth(seq: u64) -> IngestBatch {
    let due_us = NOON_US + seq as i64 * 60 * SECOND_US;
    let rounds = (0..ROUNDS_PER_BATCH).map(|number| round(number, due_us)).collect();
    batch("lon1", "icmp", 1, seq, rounds)
}

/// The test program again, to run one of its `child_…` functions.
fn child(name: &str, directory: &Path) -> Program {
    Program::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(DIRECTORY, directory)
}

/// Commits for ever, and tells what is durable.
#[tokio::test(flavor = "multi_thread")]
async fn child_commits() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let results = open(Path::new(&directory), eager()).await.unwrap();
    let mut seq = results.watermark(&agent("lon1"), 1).await.unwrap();
    loop {
        let verdicts = results.commit(vec![nth(seq + 1), nth(seq + 2)]).await.unwrap();
        assert_eq!(verdicts, [Committed::Now(seq + 1), Committed::Now(seq + 2)]);
        seq += 2;
        println!("durable {seq}");
        if seq % 6 == 0 {
            results.maintain(NOON_US).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_durable_survives_kill_9_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut before = 0;
    for life in 0..12u64 {
        let path = directory.path().to_owned();
        let durable = tokio::task::spawn_blocking(move || {
            let mut process = child("child_commits", &path).spawn().unwrap();
            process
                .wait_for("to commit", Duration::from_secs(30), |process| {
                    last_durable(&process.stdout()).filter(|durable| *durable > before + 10)
                })
                .unwrap();
            // Any moment will do: the more different, the better.
            std::thread::sleep(Duration::from_micros(life * 7_919 % 40_000));
            process.kill9();
            last_durable(&process.stdout()).unwrap()
        })
        .await
        .unwrap();

        let results = open(directory.path(), eager()).await.unwrap();
        let watermark = results.watermark(&agent("lon1"), 1).await.unwrap();
        assert!(watermark >= durable, "life {life}: {watermark} is behind {durable}");
        check_complete(&results, watermark).await;
        before = watermark;
    }

    let results = open(directory.path(), eager()).await.unwrap();
    results.compact().await.unwrap();
    check_complete(&results, before).await;
    let live: BTreeSet<PathBuf> =
        results.files(i64::MIN, i64::MAX).await.unwrap().into_iter().map(|file| file.path).collect();
    let on_disk: BTreeSet<PathBuf> = fs::read_dir(directory.path().join("results/rounds/icmp"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(on_disk, live, "nothing is left over");
    let files: Vec<PathBuf> = live.into_iter().collect();
    if let Some(found) = duckdb::read("what_was_durable_survives_kill_9_exactly_once", &files) {
        let count = before * ROUNDS_PER_BATCH as u64;
        assert_eq!((found["count"].as_u64(), found["keys"].as_u64()), (Some(count), Some(count)));
    }
}

fn last_durable(output: &str) -> Option<u64> {
    // The last line may be cut.
    let complete = &output[..=output.rfind('\n')?];
    complete.lines().rev().find_map(|line| line.strip_prefix("durable ")?.parse().ok())
}

/// Every round up to `watermark` is there once, and nothing else.
async fn check_complete(results: &EmbeddedResults, watermark: u64) {
    let rows = results.rounds(&RoundQuery::default()).await.unwrap();
    assert_eq!(rows.len() as u64, watermark * ROUNDS_PER_BATCH as u64);
    let keys: BTreeSet<_> = rows.iter().map(|row| (row.due_us, row.target.as_str())).collect();
    assert_eq!(keys.len(), rows.len());
    let last = rows.last().map(|row| row.due_us);
    assert_eq!(last, Some(NOON_US + watermark as i64 * 60 * SECOND_US));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_log_loses_the_torn_batch_only() {
    let directory = tempfile::tempdir().unwrap();
    let results = open(directory.path(), EmbeddedConfig::default()).await.unwrap();
    for seq in 1..=5 {
        results.commit(vec![nth(seq)]).await.unwrap();
    }
    for (name, tear) in [("cut", Tear::Cut), ("flipped", Tear::Flip), ("garbage", Tear::Garbage)] {
        // A copy of what is on the disk while the log is open is what a crash would leave.
        let copy = tempfile::tempdir().unwrap();
        copy_tree(directory.path(), copy.path());
        let journal = fs::read_dir(copy.path().join("results/log"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == "jnl"))
            .unwrap();
        let mut bytes = fs::read(&journal).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        match tear {
            Tear::Cut => bytes.truncate(end - 40),
            Tear::Flip => bytes[end - 100] ^= 0x55,
            Tear::Garbage => bytes[end..end + 200].fill(0xa7),
        }
        fs::write(&journal, &bytes).unwrap();
        let kept = if matches!(tear, Tear::Garbage) { 5 } else { 4 };
        let torn = open(copy.path(), EmbeddedConfig::default()).await.unwrap();
        assert_eq!(torn.watermark(&agent("lon1"), 1).await.unwrap(), kept, "{name}");
        check_complete(&torn, kept).await;
        // The spool sends again what was not committed.
        for seq in 5..=6 {
            torn.commit(vec![nth(seq)]).await.unwrap();
        }
        torn.compact().await.unwrap();
        check_complete(&torn, 6).await;
    }
}

enum Tear {
    Cut,
    Flip,
    Garbage,
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs in a mount namespace of its own, with a small file system at `results`.
#[tokio::test(flavor = "multi_thread")]
async fn child_fills_the_disk() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let small = directory.join("results");
    // With the default reserve nothing is committed from the beginning.
    let careful = open(directory, EmbeddedConfig::default()).await.unwrap();
    let refused = careful.commit(vec![noisy(1)]).await.unwrap_err();
    assert!(matches!(&refused, ResultsError::NoSpace { .. }), "{refused}");
    assert!(refused.to_string().contains(&small.display().to_string()), "{refused}");
    assert_eq!(careful.watermark(&agent("lon1"), 1).await.unwrap(), 0);
    drop(careful);

    // Without any, the device itself refuses in the middle of a write.
    let ballast = small.join("ballast");
    fs::write(&ballast, vec![1; 6 << 20]).unwrap();
    let reckless = EmbeddedConfig { reserve_bytes: 0, ..EmbeddedConfig::default() };
    let results = open(directory, reckless.clone()).await.unwrap();
    let mut seq = 0;
    let mut refusals = 0;
    while refusals < 3 {
        match results.commit(vec![noisy(seq + 1)]).await {
            // Before: the refused write did reach the disk.
            Ok(verdicts) => {
                assert!(matches!(verdicts[0], Committed::Now(_) | Committed::Before(_)), "{verdicts:?}");
                seq += 1;
            }
            Err(error) => {
                assert!(matches!(error, ResultsError::NoSpace { .. }), "{error}");
                refusals += 1;
            }
        }
    }
    assert!(seq > 5, "{seq}");
    let full = results.compact().await;
    assert!(matches!(full, Err(ResultsError::NoSpace { .. })), "{full:?}");
    count_noisy(&results, seq).await;

    fs::remove_file(&ballast).unwrap();
    let verdicts = results.commit(vec![noisy(seq + 1)]).await.unwrap();
    assert!(matches!(verdicts[0], Committed::Now(_) | Committed::Before(_)), "{verdicts:?}");
    count_noisy(&results, seq + 1).await;
    drop(results);
    let results = open(directory, reckless).await.unwrap();
    assert_eq!(results.watermark(&agent("lon1"), 1).await.unwrap(), seq + 1);
    count_noisy(&results, seq + 1).await;
    println!("filled");
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    const NAME: &str = "a_full_disk_refuses_and_recovers";
    if !imn_testkit::require_root(NAME) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("results")).unwrap();
    let inside = "mount -t tmpfs -o size=24m tmpfs \"$1/results\" && exec \"$2\" --exact child_fills_the_disk --nocapture";
    let outcome = Program::new("unshare")
        .args(["--mount", "sh", "-c", inside, "sh"])
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .env(DIRECTORY, directory.path())
        .run(Duration::from_mins(2))
        .unwrap();
    assert!(outcome.status.success(), "{}\n{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.contains("filled"), "{}\n{}", outcome.stdout, outcome.stderr);
}

/// Rounds that hardly compress.
fn noisy(seq: u64) -> IngestBatch {
    let mut state = seq;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(state >> 8)
    };
    let rounds = (0..ROUNDS_PER_BATCH)
        .map(|number| Round {
            rtts_ns: (0..600).map(|_| noise()).collect(),
            ..round(number, NOON_US + seq as i64 * SECOND_US)
        })
        .collect();
    batch("lon1", "icmp", 1, seq, rounds)
}

async fn count_noisy(results: &EmbeddedResults, batches: u64) {
    let rows = results.rounds(&RoundQuery::default()).await.unwrap();
    let keys: BTreeSet<_> = rows.iter().map(|row| (row.due_us, row.target.as_str())).collect();
    assert_eq!((rows.len(), keys.len()), (batches as usize * ROUNDS_PER_BATCH, rows.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_open_once_and_belongs_to_its_catalog() {
    let directory = tempfile::tempdir().unwrap();
    let results = open(directory.path(), eager()).await.unwrap();
    results.commit(vec![nth(1)]).await.unwrap();
    let second = open(directory.path(), eager()).await.err().unwrap();
    assert!(matches!(second, ResultsError::InUse { .. }), "{second}");
    drop(results);

    let results = open(directory.path(), eager()).await.unwrap();
    check_complete(&results, 1).await;
    results.compact().await.unwrap();
    drop(results);
    let other = SqlCatalog::sqlite(&directory.path().join("other.sqlite")).await.unwrap();
    let foreign = EmbeddedResults::open(&directory.path().join("results"), &other, eager()).await;
    let foreign = foreign.err().unwrap().to_string();
    assert!(foreign.contains("belongs to another catalog"), "{foreign}");

    // Results that somebody removed are gone, and the catalog goes on with an empty directory.
    fs::remove_dir_all(directory.path().join("results")).unwrap();
    let results = open(directory.path(), eager()).await.unwrap();
    assert!(results.rounds(&RoundQuery::default()).await.unwrap().is_empty());
    assert_eq!(results.commit(vec![nth(1)]).await.unwrap(), [Committed::Now(1)]);
}

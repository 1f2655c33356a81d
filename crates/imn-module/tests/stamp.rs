//! `stamp` as a job and as standing work, with a reflector in this process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use imn_contract::latest::{Assignment, Outcome, StampOutcome, TimestampSource};
use imn_module::{Due, builtin, local::Worker};
use imn_probe::stamp::{Key, Reflector, ReflectorConfig};
use imn_runtime::clock;
use imn_testkit::wait_until;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(10);

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other}"),
    }
}

fn reflector(secret: Option<&[u8]>) -> (Reflector, u16) {
    let config = ReflectorConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        stateful: true,
        key: secret.and_then(Key::new),
        ..ReflectorConfig::default()
    };
    let reflector = Reflector::start(&config).unwrap();
    let port = reflector.addresses()[0].port();
    (reflector, port)
}

fn job(worker: &Worker, params: Value) -> (StampOutcome, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tell, mut signs) = mpsc::channel(1024);
    let outcome = runtime.block_on(worker.run("127.0.0.1", &object(params), SOON, tell)).unwrap();
    let Outcome::Stamp(outcome) = outcome else { panic!("{outcome:?}") };
    let mut told = 0;
    while signs.try_recv().is_ok() {
        told += 1;
    }
    (*outcome, told)
}

#[test]
fn a_job_tells_round_trips_directions_and_clocks() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("peer"), "hex:00ff10a0b0c0\n").unwrap();
    let (_reflector, port) = reflector(Some(&[0, 0xff, 0x10, 0xa0, 0xb0, 0xc0]));
    let worker = Worker::new("stamp").unwrap();
    let params = json!({"port": port, "count": 20, "interval": "2ms", "key_file": "peer", "size": 200});
    // A key needs a directory to be in, and what is no key there is said.
    let (outcome, _) = job(&worker, params.clone());
    assert!(outcome.error.is_some_and(|error| error.contains("key_dir")) && outcome.sent == 0);
    worker.configure(&object(json!({"key_dir": directory.path()}))).unwrap();
    let (outcome, _) = job(&worker, json!({"port": port, "key_file": "other"}));
    assert!(outcome.error.is_some_and(|error| error.contains("read key file")));

    let (outcome, told) = job(&worker, params);
    assert_eq!(
        (outcome.sent, outcome.received, outcome.loss_pct, outcome.error.as_deref()),
        (20, 20, Some(0.0), None)
    );
    assert_eq!((outcome.mode.as_str(), outcome.port, outcome.size), ("authenticated", port, 200));
    assert_eq!(outcome.timestamp_source, TimestampSource::Kernel);
    assert_eq!(told, 20, "a sign for each packet");
    assert!(outcome.error_us > 0.0 && outcome.residence_ms.is_some_and(|ms| ms > 0.0), "{outcome:?}");
    for way in [&outcome.forward, &outcome.backward] {
        assert_eq!(
            (way.sent, way.lost, way.duplicates, way.reordered),
            (Some(20), Some(0), Some(0), Some(0))
        );
        assert_eq!((way.delays_ms.len(), way.ttl), (20, Some(255)));
        assert!(way.delay_ms.min.is_some_and(|ms| (0.0..50.0).contains(&ms)), "{way:?}");
        assert!(way.ipdv_ms.is_some() && way.pdv_ms.is_some());
    }
    let both = outcome.forward.delays_ms[0].unwrap() + outcome.backward.delays_ms[0].unwrap();
    assert!((both - outcome.rtts_ms[0].unwrap()).abs() < 1e-5, "{outcome:?}");
    // Both ends are this host: whatever its kernel says, both say the same.
    let (ours, theirs) = (outcome.clock.local.synced, outcome.clock.remote.unwrap().synced);
    assert_eq!((ours, outcome.clock.synced), (theirs, ours));
    assert_eq!(outcome.clock.error_us.is_some(), ours);
}

#[test]
fn without_a_reflector_or_the_right_key_there_is_an_outcome_that_says_so() {
    let worker = Worker::new("stamp").unwrap();
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (outcome, _) =
        job(&worker, json!({"port": free, "count": 2, "interval": "10ms", "timeout": "300ms"}));
    assert_eq!(outcome.error.as_deref(), Some("port unreachable from 127.0.0.1"));
    assert_eq!((outcome.received, outcome.forward.lost, outcome.unattributed), (0, None, None));
    let (_reflector, port) = reflector(Some(b"theirs"));
    let (outcome, _) =
        job(&worker, json!({"port": port, "count": 2, "interval": "10ms", "timeout": "100ms"}));
    assert_eq!((outcome.error.as_deref(), outcome.loss_pct), (Some("no answer within tmax"), Some(100.0)));
}

#[test]
fn standing_work_makes_rounds_with_the_outcome() {
    let (_reflector, port) = reflector(None);
    let module = builtin("stamp").unwrap();
    let mut standing = module.standing().unwrap().unwrap();
    let assignment: Assignment = serde_json::from_value(json!({
        "target": "t1", "address": "127.0.0.1", "type": "stamp", "interval_ms": 1000, "timeout_ms": 500,
        "count": 5, "since_us": 0, "params": {"port": port}
    }))
    .unwrap();
    let plan = standing.plan(&assignment).unwrap();
    let due = Due {
        key: 9,
        due_us: clock::now_us() + 100_000,
        address: Some("127.0.0.1".parse().unwrap()),
        plan: plan.number,
        count: 5,
        timeout: Duration::from_millis(500),
    };
    assert_eq!(standing.begin(&[due]), 1);
    let mut done = Vec::new();
    wait_until("the round", SOON, || {
        standing.collect(&mut done);
        done.pop()
    })
    .map(|done| {
        let round = done.round;
        assert_eq!((done.key, round.sent, round.received, round.success), (9, 5, 5, true));
        assert!(round.time_us >= due.due_us && round.rtts_ns.len() == 5 && round.rtt_min_ns.is_some());
        let outcome: StampOutcome = serde_json::from_str(&round.outcome.unwrap()).unwrap();
        assert_eq!(
            (outcome.target.as_str(), outcome.tmax_ms, outcome.forward.lost),
            ("127.0.0.1", 500, Some(0))
        );
    })
    .unwrap();
}

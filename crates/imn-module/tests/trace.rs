//! Traces as jobs, over emulated routers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use imn_contract::latest::{Outcome, ProgressKind};
use imn_module::local::Worker;
use imn_testkit::{Lab, require_root};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

const LAB: &str = r#"
    name = "jobs"
    hosts = ["a", "b"]
    routers = ["r1", "r2"]
    links = [
        { between = ["a", "r1"], delay = "5ms" },
        { between = ["r1", "r2"], delay = "5ms" },
        { between = ["r2", "b"], delay = "10ms" },
    ]
"#;
const SOON: Duration = Duration::from_secs(20);

fn params(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other}"),
    }
}

#[test]
fn a_job_tells_hop_by_hop() {
    if !require_root("a_job_tells_hop_by_hop") {
        return;
    }
    let lab = Lab::from_toml(LAB).unwrap();
    let target = lab.node("b").unwrap().v4().unwrap().to_string();
    let (signs, outcome) = lab
        .node("a")
        .unwrap()
        .enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let worker = Worker::new("mtr").unwrap();
                let (sender, mut signs) = mpsc::channel(1024);
                let params = params(json!({"count": 5, "interval": "150ms"}));
                let outcome = worker.run(&target, &params, SOON, sender).await.unwrap();
                let mut told = Vec::new();
                while let Ok(sign) = signs.try_recv() {
                    told.push(sign);
                }
                (told, outcome)
            })
        })
        .unwrap();
    let Outcome::Trace(outcome) = outcome else { panic!("{outcome:?}") };
    assert!(outcome.reached && outcome.distance == Some(3), "{outcome:#?}");
    assert_eq!((outcome.sent, outcome.received, outcome.loss_pct), (5, 5, Some(0.0)));
    let least = outcome.rtt_ms.min.unwrap();
    assert!((40.0..50.0).contains(&least), "{least}");
    assert_eq!(outcome.hops.iter().map(|hop| hop.sent).collect::<Vec<_>>(), [5, 5, 5]);
    let hops: Vec<_> = signs.iter().filter(|sign| sign.kind == ProgressKind::Hop).collect();
    for hop in 1..=3 {
        let of = hops.iter().filter(|sign| sign.detail["hop"] == hop && sign.detail["status"] == "received");
        assert!(of.count() >= 5, "{signs:#?}");
    }
    // What is known so far is shown while the trace runs.
    let mut so_far = hops.iter().filter_map(|sign| sign.detail.get("outcome"));
    assert!(so_far.clone().count() >= 2, "{signs:#?}");
    let last = so_far.next_back().unwrap();
    assert_eq!((&last["hops"][1]["address"], &last["reached"]), (&json!("10.0.1.2"), &json!(true)));
}

#[test]
fn wrong_parameters_are_named() {
    let worker = Worker::new("traceroute").unwrap();
    for (value, field) in [
        (json!({"protocol": "icmp", "port": 80}), "params.port"),
        (json!({"max_hops": 65}), "params.max_hops"),
        (json!({"multipath": true, "count": 3}), "params.count"),
        (json!({"first_hop": 9, "max_hops": 3}), "params.first_hop"),
        (json!({"timeout": "0ms"}), "params.timeout"),
        (json!({"count": 60_000}), "params.count"),
        (json!({"nonsense": 1}), "params.nonsense"),
    ] {
        let fault = worker.check("127.0.0.1", &params(value.clone())).unwrap_err();
        assert_eq!(fault.field.as_deref(), Some(field), "{value}: {fault:?}");
    }
}

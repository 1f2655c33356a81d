//! A module that panics, floods and ends again and again disturbs nobody: no round of another is lost or late, no job of
//! another fails, and what became of it can be read.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells its figures"
)]

#[path = "site/job.rs"]
mod job;
#[path = "site/network.rs"]
mod network;
#[path = "site/verdict.rs"]
mod verdict;

use std::{collections::BTreeMap, time::Duration};

use network::{Network, soak, span};
use serde_json::{Value, json};

const TARGETS: u32 = 300;
const INTERVAL: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_mins(1);

fn faulty(network: &Network, mode: &str, number: usize, attempts: u32) -> Value {
    let params = json!({ "mode": mode, "delay_ms": 1_000 });
    let job = json!({ "type": "faulty", "target": format!("{mode}-{number}"), "params": params,
                      "max_attempts": attempts, "wait_for_module": true, "deadline": "1m" });
    job::end(network, &job::submit(network, &job), SOON)
}

#[test]
fn a_faulty_module_disturbs_nobody() {
    if !imn_testkit::require_root("isolation") {
        return;
    }
    let Some(_) = job::python_or_skip("isolation") else { return };
    let network = Network::start();
    let others = || -> BTreeMap<String, u32> {
        let parts = network.parts().into_iter().filter(|(name, _)| name != "local-faulty-0");
        parts.map(|(name, part)| (name, part.pid)).collect()
    };
    let before = others();
    verdict::load(&network, TARGETS, INTERVAL);
    verdict::wait_measured(&network, TARGETS, INTERVAL);
    let since = jiff::Timestamp::now();
    let jobs = if soak() { 30_000 } else { 1_000 };
    let load = job::load(&network, "echo", &json!({}), jobs, 4, "calm").unwrap();

    for number in 0..span(5, 50).as_secs() as usize {
        let ended = faulty(&network, "panic", number, 1);
        assert_eq!(job::outcome(&ended).0, "failed", "{ended}");
        assert_eq!(ended["tasks"][0]["result"]["error"]["name"], "module_crashed", "{ended}");
    }
    for number in 0..span(2, 30).as_secs() as usize {
        let ended = faulty(&network, "flood", number, 1);
        assert_eq!(job::outcome(&ended).0, "succeeded", "{ended}");
    }
    // It ends over each attempt; the fifth time within a minute is once too often.
    let ended = faulty(&network, "exit", 0, 3);
    assert_eq!(job::outcome(&ended), ("dead", 3), "{ended}");
    let last = json!({ "type": "faulty", "target": "exit-1", "params": { "mode": "exit" },
                       "wait_for_module": true, "deadline": "1m" });
    let last = job::submit(&network, &last);
    let reason = network.wait_get("/api/v1/modules/faulty", SOON, |module| {
        let one = &module["instances"][0];
        (one["state"] == "quarantined").then(|| one["reason"].as_str().map(str::to_owned)).flatten()
    });
    println!("quarantined: {reason}");
    assert!(reason.contains("ended 5 times within 60 s") && reason.contains("86"), "{reason}");
    let agent = network.get("/api/v1/agents/local");
    assert_eq!(agent["status"], "degraded", "{agent}");
    // Both of its attempts are told before long; a third has to wait.
    let job = network
        .wait_get(&last, SOON, |job| (job["tasks"][0]["attempts"].as_u64()? >= 2).then(|| job.clone()));
    assert_eq!(
        (job["terminal"].as_bool(), job["tasks"][0]["attempts"].as_u64()),
        (Some(false), Some(2)),
        "{job}"
    );
    assert_eq!(network.curl("DELETE", &last, None).status, 200);

    let seen = job::loaded(load, Duration::from_mins(10));
    println!("beside it: {seen}");
    assert_eq!(seen["status"], json!({ "succeeded": jobs }), "{seen}");
    assert_eq!(seen["attempts"], json!({ "1": jobs }), "{seen}");
    assert_eq!(seen["interruptions"], json!({}), "{seen}");
    let verdict = verdict::verdict(&network, INTERVAL, since.as_microsecond()).unwrap();
    println!("{verdict:?}");
    assert_eq!(verdict.targets, u64::from(TARGETS));
    assert_eq!((verdict.duplicates, verdict.unaccounted, verdict.contradictions), (0, 0, 0), "{verdict:?}");
    assert_eq!(verdict.gap_rounds, 0, "{verdict:?}");
    assert!(verdict.late_p99_us < 250_000.0, "{verdict:?}");
    assert_eq!(others(), before, "another was started again");
}

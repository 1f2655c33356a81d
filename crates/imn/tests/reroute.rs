//! One instance is busy, another idle: jobs go to the idle one and none waits. An instance that is killed loses its job
//! to the other within a second.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::time::{Duration, SystemTime};

use imn_testkit::Signal;
use network::{Network, soak};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const FAULTY: &str = "/api/v1/modules/faulty";

fn submit(network: &Network, delay_ms: u64) -> String {
    let body = json!({
        "type": "faulty", "target": "x", "params": { "mode": "delay", "delay_ms": delay_ms }, "deadline": "3m"
    });
    network.post("/api/v1/jobs", &body)["job_id"].as_str().unwrap().to_owned()
}

/// The instance that has a job, once one of them has.
fn busy(network: &Network) -> String {
    network.wait_get(FAULTY, SOON, |body| {
        let has = |one: &&Value| one["inflight"].as_u64().is_some_and(|jobs| jobs > 0);
        let busy: Vec<_> = body["instances"].as_array()?.iter().filter(has).collect();
        (busy.len() == 1).then(|| busy[0]["instance"].as_str().unwrap().to_owned())
    })
}

#[test]
fn jobs_go_where_there_is_room() {
    if !imn_testkit::require_root("reroute") {
        return;
    }
    let network = Network::start();
    network.wait_get("/api/v1/agents/local", SOON, |body| (body["status"] == "active").then_some(()));
    network.curl("PUT", &format!("{FAULTY}/settings"), Some(&json!({ "slots": 1 }).to_string()));
    network.post(&format!("{FAULTY}/scale"), &json!({ "instances": 2 }));
    network.wait_get(FAULTY, SOON, |body| {
        let ready = |one: &&Value| one["state"] == "ready" && one["slots"] == 1;
        (body["instances"].as_array()?.iter().filter(ready).count() == 2).then_some(())
    });

    let long = submit(&network, 120_000);
    let saturated = busy(&network);
    let idle = if saturated.ends_with('0') { "local-faulty-1" } else { "local-faulty-0" };
    let jobs = if soak() { 500 } else { 50 };
    let params = json!({ "mode": "delay", "delay_ms": 1 }).to_string();
    let args = ["faulty", &params, &jobs.to_string(), "1"];
    let Some(text) = network.python("jobs.py", &args, Duration::from_mins(2)) else {
        return imn_testkit::skip("reroute", "no Python with nats-py; `cargo xtask test` installs it");
    };
    let seen: Value = serde_json::from_str(&text).unwrap();
    println!("{jobs} jobs beside a busy instance: {seen}");
    assert_eq!(seen["instances"], json!({ idle: jobs }), "all by the idle one: {seen}");
    assert_eq!(seen["status"], json!({ "succeeded": jobs }), "{seen}");
    // One that waited for the busy one, or in the queue, would have taken much longer.
    assert!(seen["p99_ms"].as_f64().unwrap() < 5_000.0, "{seen}");

    // The busy one refuses at once, and keeps nothing for later.
    let text = network.python("offer.py", &["faulty", &saturated], Duration::from_mins(1)).unwrap();
    let offer: Value = serde_json::from_str(&text).unwrap();
    let reply = &offer["reply"];
    assert_eq!((&reply["accepted"], &reply["error"]["code"]), (&json!(false), &json!(429)), "{offer}");
    assert_eq!(offer["headers"]["Nats-Service-Error-Code"], "429", "{offer}");
    assert!(offer["seconds"].as_f64().unwrap() < 0.5, "an answer is due within 500 ms: {offer}");
    assert_eq!(network.get(FAULTY)["summary"]["queued"], 0);
    let cancelled = network.curl("DELETE", &format!("/api/v1/jobs/{long}"), None).body;
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");

    // Killed over a job.
    network.wait_get(FAULTY, SOON, |body| (body["summary"]["inflight"] == 0).then_some(()));
    let job = submit(&network, 5_000);
    let victim = busy(&network);
    let pid = network.pid(&victim);
    let killed = SystemTime::now();
    Network::signal(pid, Signal::SIGKILL);
    let path = format!("/api/v1/jobs/{job}");
    let ended = network.wait_get(&path, SOON, |body| (body["terminal"] == true).then(|| body.clone()));
    let result = &ended["tasks"][0]["result"];
    assert_eq!((&ended["state"], &result["attempt"]), (&json!("succeeded"), &json!(2)), "{ended}");
    assert_ne!(result["instance"], victim.as_str(), "{ended}");
    let begun: jiff::Timestamp = result["started"].as_str().unwrap().parse().unwrap();
    let after = SystemTime::from(begun).duration_since(killed).unwrap();
    println!("the job of a killed instance was running elsewhere after {after:?}");
    assert!(after < Duration::from_secs(1), "{after:?}");
}

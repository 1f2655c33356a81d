//! A target over which job after job ends in a fault is left alone for a while; others are not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::time::Duration;

use network::Network;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn run(network: &Network, target: &str, mode: &str) -> Value {
    let params = json!({ "mode": mode, "delay_ms": 1 });
    let job =
        json!({ "type": "faulty", "target": target, "params": params, "max_attempts": 1, "deadline": "20s" });
    network.post("/api/v1/jobs?wait=20s", &job)
}

fn code(job: &Value) -> Option<u64> {
    job["tasks"][0]["result"]["error"]["code"].as_u64()
}

#[test]
fn a_circuit_opens_and_closes_again() {
    if !imn_testkit::require_root("circuit") {
        return;
    }
    let network = Network::start();
    let faulty = "/api/v1/modules/faulty";
    network.wait_get("/api/v1/agents/local", SOON, |body| (body["status"] == "active").then_some(()));
    network.wait_get(faulty, SOON, |body| (body["instances"][0]["state"] == "ready").then_some(()));
    for _ in 0..5 {
        let job = run(&network, "192.0.2.1", "error");
        assert_eq!((&job["state"], code(&job)), (&json!("failed"), Some(500)), "{job}");
    }
    // Nothing is handed to the module any more, and whoever asks hears it at once.
    let refused = run(&network, "192.0.2.1", "delay");
    assert_eq!((&refused["state"], code(&refused)), (&json!("rejected"), Some(425)), "{refused}");
    let error = &refused["tasks"][0]["result"]["error"];
    assert_eq!((&error["name"], &error["retryable"]), (&json!("circuit_open"), &json!(true)));
    let wait = error["retry_after_ms"].as_u64().unwrap();
    assert!((1..=10_000).contains(&wait), "{refused}");
    let other = run(&network, "192.0.2.2", "delay");
    assert_eq!(other["state"], "succeeded", "{other}");
    network
        .wait_get(faulty, SOON, |body| (body["instances"][0]["health"]["circuits_open"] == 1).then_some(()));
    // After the pause one job is tried, and it closes the circuit.
    let tried = imn_testkit::wait_until("a job to be let through", SOON, || {
        let job = run(&network, "192.0.2.1", "delay");
        (code(&job) != Some(425)).then_some(job)
    })
    .unwrap();
    assert_eq!(tried["state"], "succeeded", "{tried}");
    assert_eq!(run(&network, "192.0.2.1", "delay")["state"], "succeeded");
    network
        .wait_get(faulty, SOON, |body| (body["instances"][0]["health"]["circuits_open"] == 0).then_some(()));
}

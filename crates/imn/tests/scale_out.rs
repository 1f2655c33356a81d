//! More instances of a module with one slot do more than one, without a restart of anything; how instances run is changed
//! while they run, and remembered.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::time::Duration;

use network::{Network, soak};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const FAULTY: &str = "/api/v1/modules/faulty";

/// Jobs of 50 ms each, more at a time than there are slots.
fn run(network: &Network, jobs: usize) -> Option<Value> {
    let params = json!({ "mode": "delay", "delay_ms": 50 }).to_string();
    let text =
        network.python("jobs.py", &["faulty", &params, &jobs.to_string(), "12"], Duration::from_mins(3))?;
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&seen["results"], &seen["jobs"]), (&jobs.into(), &jobs.into()), "each ends once: {seen}");
    assert_eq!(seen["status"], json!({ "succeeded": jobs }), "{seen}");
    Some(seen)
}

fn ready(network: &Network, instances: usize, slots: u64) {
    network.wait_get(FAULTY, SOON, |body| {
        let all = body["instances"].as_array()?;
        let fit = |one: &&Value| one["state"] == "ready" && one["slots"] == slots;
        (all.len() == instances && all.iter().filter(fit).count() == instances).then_some(())
    });
}

fn order(network: &Network, method: &str, path: &str, body: &Value, status: u16) -> Value {
    let answer = network.curl(method, &format!("{FAULTY}/{path}"), Some(&body.to_string()));
    assert_eq!(answer.status, status, "{}", answer.body);
    answer.body
}

#[test]
fn three_instances_do_more_than_one() {
    if !imn_testkit::require_root("scale_out") {
        return;
    }
    let mut network = Network::start();
    network.wait_get("/api/v1/agents/local", SOON, |body| (body["status"] == "active").then_some(()));
    order(&network, "PUT", "settings", &json!({ "slots": 1 }), 200);
    ready(&network, 1, 1);
    let before = network.pid("local-faulty-0");
    let jobs = if soak() { 600 } else { 120 };
    let Some(one) = run(&network, jobs) else {
        return imn_testkit::skip("scale_out", "no Python with nats-py; `cargo xtask test` installs it");
    };

    order(&network, "POST", "scale", &json!({ "instances": 3 }), 200);
    ready(&network, 3, 1);
    let three = run(&network, jobs).unwrap();
    assert_eq!(three["instances"].as_object().unwrap().len(), 3, "all take part: {three}");
    let ratio = one["seconds"].as_f64().unwrap() / three["seconds"].as_f64().unwrap();
    println!("{jobs} jobs of 50 ms: {one}; by three instances {three}; {ratio:.2} times as fast");
    // On processors of its own it is 2.8 and more; of those that others use as well the suite asks less.
    assert!(ratio >= if soak() { 2.8 } else { 2.2 }, "{ratio}");
    assert_eq!(network.pid("local-faulty-0"), before, "nobody was started again");

    // What is wrong changes nothing, and names the field.
    for (method, path, body, field) in [
        ("POST", "scale", json!({ "instances": 0 }), "instances"),
        ("POST", "scale", json!({ "instances": 65 }), "instances"),
        ("PUT", "settings", json!({ "slots": 0 }), "slots"),
    ] {
        let problem = order(&network, method, path, &body, 400);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    ready(&network, 3, 1);

    // Remembered over a restart of everything; and back again.
    network.stop();
    network.up();
    ready(&network, 3, 1);
    order(&network, "POST", "scale", &json!({ "instances": 1 }), 200);
    ready(&network, 1, 1);
}

//! A job that ends every process which takes it is tried as often as it says and no more, and kept as a dead letter;
//! nobody else notices.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::time::Duration;

use network::Network;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const BYSTANDERS: [&str; 3] = ["local-echo-0", "local-icmp-0", "local-heartbeat-0"];

#[test]
fn a_poison_job_dies_alone() {
    if !imn_testkit::require_root("poison_job") {
        return;
    }
    let network = Network::start();
    network.wait_get("/api/v1/agents/local", SOON, |body| (body["status"] == "active").then_some(()));
    for kind in ["faulty", "echo"] {
        network.wait_get(&format!("/api/v1/modules/{kind}"), SOON, |body| {
            (body["instances"][0]["state"] == "ready").then_some(())
        });
    }
    let before = BYSTANDERS.map(|part| network.pid(part));
    let Some(text) = network.python("poison.py", &[], Duration::from_mins(2)) else {
        return imn_testkit::skip("poison_job", "no Python with nats-py; `cargo xtask test` installs it");
    };
    let seen: Value = serde_json::from_str(&text).unwrap();
    println!("dead after three attempts and {} s", seen["seconds"]);

    let poison = &seen["poison"];
    assert_eq!((&poison["status"], &poison["attempt"]), (&json!("dead"), &json!(3)), "{poison}");
    assert_eq!(poison["error"]["code"], 520, "{poison}");
    assert_eq!(&seen["letter"], poison, "the dead letter is the result");
    // One job's retries do not quarantine an instance: it was started again as often as it ended.
    let instance = &seen["instance"];
    assert_eq!((&instance["state"], &instance["restarts"]), (&json!("ready"), &json!(3)), "{instance}");

    assert_eq!(seen["others"], json!({ "succeeded": 40 }), "{seen}");
    assert_eq!(seen["after"]["status"], "succeeded", "{seen}");
    assert_eq!(seen["results"], json!({ "1": 43 }), "each ends once: {seen}");

    // A panic is the end of one job, and of nothing else.
    let panic = &seen["panic"];
    assert_eq!((&panic["status"], &panic["attempt"]), (&json!("failed"), &json!(1)), "{panic}");
    assert!(panic["error"]["message"].as_str().unwrap().contains("on purpose"), "{panic}");
    assert_eq!(seen["no_letter"]["code"], 404, "{seen}");
    assert_eq!(seen["instance_after"]["pid"], instance["pid"], "{seen}");
    assert_eq!(BYSTANDERS.map(|part| network.pid(part)), before, "a bystander was started again");
}

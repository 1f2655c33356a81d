//! One id is one job, however often it is submitted, also after a NATS that was killed has forgotten it: one run, one
//! result, the same answer. Another job of the same id is a conflict.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::time::Duration;

use network::Network;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const JOB: &str = "one-and-the-same";

#[test]
fn one_id_is_one_job() {
    if !imn_testkit::require_root("same_job") {
        return;
    }
    let network = Network::start();
    let ready = || {
        network.wait_get("/api/v1/agents/local", SOON, |body| (body["status"] == "active").then_some(()));
        network.wait_get("/api/v1/modules/faulty", SOON, |body| {
            (body["instances"][0]["state"] == "ready").then_some(())
        });
    };
    ready();
    let Some(text) = network.python("same_job.py", &["first", JOB], Duration::from_mins(1)) else {
        return imn_testkit::skip("same_job", "no Python with nats-py; `cargo xtask test` installs it");
    };
    let first: Value = serde_json::from_str(&text).unwrap();
    let replies = first["replies"].as_array().unwrap();
    assert_eq!(replies.len(), 4, "{first}");
    assert!(replies.iter().all(|reply| *reply == replies[0] && reply["status"] == 202), "{first}");
    assert_eq!((&first["tasks"], &first["heard"]), (&json!(1), &json!(1)), "one run, one result: {first}");
    assert_eq!(first["conflict"]["error"]["code"], 409, "{first}");

    let old = network.kill9("nats-server");
    network.wait_restarted("nats-server", old);
    network.wait_get("/readyz", SOON, |_| Some(()));
    ready();
    let entry = first["entry"].to_string();
    let text = network.python("same_job.py", &["again", JOB, &entry], Duration::from_mins(1)).unwrap();
    let again: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(again["replies"], json!([replies[0]]), "{again}");
    assert_eq!((&again["tasks"], &again["heard"]), (&json!(0), &json!(0)), "it was done before: {again}");
    assert_eq!(again["conflict"]["error"]["code"], 409, "{again}");
    let stored = again["stored"].as_object().unwrap();
    assert_eq!(stored.values().collect::<Vec<_>>(), [&json!(1)], "one result in the stream: {again}");
    let job = &again["get"];
    assert_eq!((&job["state"], &job["tasks"][0]["attempts"]), (&json!("succeeded"), &json!(1)), "{again}");
}

//! All instances of a type are busy: no more is pulled than there are slots, the rest waits where it can be seen, what
//! would wait too long is refused, and whatever was accepted ends once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::time::Duration;

use network::{Network, soak};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const FAULTY: &str = "/api/v1/modules/faulty";
const INSTANCES: u64 = 2;
const DELAY_MS: u64 = 200;

#[test]
fn a_backlog_waits_in_the_queue_and_what_would_wait_too_long_is_refused() {
    if !imn_testkit::require_root("all_saturated") {
        return;
    }
    let network = Network::start();
    network.wait_get("/api/v1/agents/local", SOON, |body| (body["status"] == "active").then_some(()));
    network.curl("PUT", &format!("{FAULTY}/settings"), Some(&json!({ "slots": 1 }).to_string()));
    network.post(&format!("{FAULTY}/scale"), &json!({ "instances": INSTANCES }));
    network.wait_get(FAULTY, SOON, |body| {
        let ready = |one: &&Value| one["state"] == "ready" && one["slots"] == 1;
        (body["instances"].as_array()?.iter().filter(ready).count() as u64 == INSTANCES).then_some(())
    });

    let jobs = if soak() { 600 } else { 60 };
    let args = [jobs, DELAY_MS, INSTANCES].map(|number| number.to_string());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some(text) = network.python("backlog.py", &args, Duration::from_mins(4)) else {
        return imn_testkit::skip("all_saturated", "no Python with nats-py; `cargo xtask test` installs it");
    };
    let seen: Value = serde_json::from_str(&text).unwrap();

    assert_eq!(seen["accepted"], jobs, "{seen}");
    let samples = seen["samples"].as_array().unwrap();
    let most = |of: &str| samples.iter().map(|sample| sample[of].as_u64().unwrap()).max().unwrap();
    println!(
        "{jobs} jobs of {DELAY_MS} ms, {INSTANCES} slots, {} looks: at most {} in the stream, {} of them in hand, {} \
         open by the API",
        samples.len(),
        most("messages"),
        most("in_hand"),
        most("open")
    );
    // What is in hand has a slot, or has just given one back and is not acknowledged yet; at first there is also what was
    // asked for while there were more slots.
    let later = samples[samples.len() / 2..].iter().map(|sample| sample["in_hand"].as_u64().unwrap()).max();
    assert!(later.unwrap() <= 2 * INSTANCES, "more is pulled than there are slots: {seen}");
    assert!(most("waiting") >= jobs / 3, "no backlog in the stream: {seen}");
    assert!(most("open") >= jobs / 3, "no backlog in the API: {seen}");
    assert_eq!(most("parked"), 0, "an instance parks jobs: {seen}");

    let refused = &seen["refused"];
    let error = &refused["error"];
    assert_eq!((&refused["status"], &error["name"]), (&json!(429), &json!("saturated")), "{refused}");
    assert_eq!(error["retryable"], true, "{refused}");
    assert!(error["retry_after_ms"].as_u64().unwrap() >= 100, "{refused}");

    assert_eq!((&seen["results"], &seen["strangers"]), (&json!(jobs), &json!(0)), "each ends once: {seen}");
    assert_eq!(seen["status"], json!({ "succeeded": jobs }), "{seen}");
    assert_eq!(seen["open_after"], 0, "{seen}");
}

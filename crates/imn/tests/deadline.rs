//! A deadline is the whole time that is said, and a task that is over it has timed out, whoever notices first.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::time::Duration;

use network::{Network, soak};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn time(job: &Value, field: &str) -> jiff::Timestamp {
    job[field].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_deadline_is_what_is_said_and_ends_in_one_way() {
    if !imn_testkit::require_root("deadline") {
        return;
    }
    let network = Network::start();
    network.wait_get("/api/v1/agents/local", SOON, |body| (body["status"] == "active").then_some(()));
    network.wait_get("/api/v1/modules/faulty", SOON, |body| {
        (body["instances"][0]["state"] == "ready").then_some(())
    });
    let targets: Vec<String> = (0..if soak() { 64 } else { 16 }).map(|n| format!("t{n}")).collect();
    let measure = network.program().args(["measure", "faulty", "--from", "any", "--param", "mode=hang"]);
    let measure = measure.args(["--deadline", "1s", "-o", "json"]).args(&targets);
    let outcome = measure.run(Duration::from_mins(1)).unwrap();
    assert_eq!(outcome.status.code(), Some(7), "{}{}", outcome.stdout, outcome.stderr);

    let jobs = network.get(&format!("/api/v1/jobs?limit={}", targets.len()));
    let jobs = jobs["items"].as_array().unwrap();
    assert_eq!(jobs.len(), targets.len());
    for job in jobs {
        let said = time(job, "deadline").duration_since(time(job, "created"));
        assert_eq!(said.as_millis(), 1_000, "{job}");
        assert_eq!(job["state"], "timed_out", "{job}");
        let result = &job["tasks"][0]["result"];
        assert_eq!(
            (&result["status"], &result["error"]["code"]),
            (&json!("timed_out"), &json!(504)),
            "{job}"
        );
    }
}

//! An instance that says it is well and does not end a job, whatever it is told: it is killed, the job ends once, what it
//! had besides is done by its successor, and nobody else notices.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;
#[path = "site/roll.rs"]
mod roll;

use std::time::{Duration, Instant};

use network::Network;
use roll::SOON;
use serde_json::{Value, json};

const FAULTY: &str = "/api/v1/modules/faulty";

fn submit(network: &Network, params: &Value, deadline: &str) -> String {
    let job = json!({ "type": "faulty", "target": "x", "params": params, "deadline": deadline });
    network.post("/api/v1/jobs", &job)["job_id"].as_str().unwrap().to_owned()
}

fn ended(network: &Network, job: &str) -> Value {
    let path = format!("/api/v1/jobs/{job}");
    network.wait_get(&path, SOON, |body| (body["terminal"] == true).then(|| body.clone()))
}

#[test]
fn an_instance_that_hangs_is_killed_and_its_jobs_end_once() {
    if !imn_testkit::require_root("hang") {
        return;
    }
    let network = Network::start();
    network.wait_get(FAULTY, SOON, |body| (body["instances"][0]["state"] == "ready").then_some(()));
    let Some(load) = roll::load(&network, "echo", "{}", 5, Duration::from_secs(30)) else {
        return imn_testkit::skip("hang", "no Python with nats-py; `cargo xtask test` installs it");
    };
    let (old, echo) = (network.pid("local-faulty-0"), network.pid("local-echo-0"));
    let began = Instant::now();
    let stuck = submit(&network, &json!({ "mode": "stuck" }), "1s");
    let other = submit(&network, &json!({ "mode": "delay", "delay_ms": 14_000 }), "60s");
    let timed_out = ended(&network, &stuck);
    assert_eq!(timed_out["state"], "timed_out", "{timed_out}");
    // It says that all is well, and has the job.
    let one = network.get(FAULTY)["instances"][0].clone();
    assert_eq!((&one["state"], &one["pid"]), (&json!("ready"), &json!(old)), "{one}");

    let new = network.wait_restarted("local-faulty-0", old);
    println!("killed {:.1} s after it was given the job", began.elapsed().as_secs_f64());
    let one = network.wait_get(FAULTY, SOON, |body| {
        let one = &body["instances"][0];
        let again = one["state"] == "ready" && one["pid"] == new && one["restarts"] == 1;
        (again && one["reason"].is_string()).then(|| one.clone())
    });
    let reason = one["reason"].as_str().unwrap();
    assert!(reason.starts_with("hung: ") && reason.contains(&stuck), "{reason}");
    let done = ended(&network, &other);
    assert_eq!((&done["state"], &done["tasks"][0]["attempts"]), (&json!("succeeded"), &json!(2)), "{done}");
    assert_eq!(ended(&network, &stuck), timed_out, "what has ended stays so");

    let seen = load.end();
    assert_eq!(seen["status"], json!({ "succeeded": seen["jobs"] }));
    assert_eq!(seen["others"], json!({ stuck: 1, other: 1 }), "each ended once");
    assert_eq!(network.pid("local-echo-0"), echo, "nobody else was started again");
}

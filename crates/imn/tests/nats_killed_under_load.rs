//! kill -9 of nats-server, again and again, under a load of jobs: whatever was accepted ends exactly once.

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

use std::{collections::BTreeMap, time::Duration};

use network::{Network, soak};
use serde_json::json;

const WIDTH: usize = 32;

#[test]
fn every_accepted_job_ends_once() {
    if !imn_testkit::require_root("nats_killed_under_load") {
        return;
    }
    let Some(_) = job::python_or_skip("nats_killed_under_load") else { return };
    let network = Network::start();
    let modules = || -> BTreeMap<String, u32> {
        let parts = network.parts().into_iter().filter(|(name, _)| name.starts_with("local-"));
        parts.map(|(name, part)| (name, part.pid)).collect()
    };
    let before = modules();
    let (jobs, kills) = if soak() { (20_000, 10) } else { (800, 3) };
    let params = json!({ "mode": "delay", "delay_ms": 20 });
    let load = job::load(&network, "faulty", &params, jobs, WIDTH, "load").unwrap();
    for kill in 1..=kills {
        // In the midst of the load, at the same places of it every time.
        let done = (jobs * kill / (kills + 1)) as u64;
        job::wait_stream(&network, job::RESULTS, Duration::from_mins(5), |results| results.messages >= done);
        let old = network.kill9("nats-server");
        network.wait_restarted("nats-server", old);
    }
    let seen = job::loaded(load, Duration::from_mins(10));
    println!("{kills} kills of nats-server: {seen}");
    assert_eq!((&seen["jobs"], &seen["status"]), (&json!(jobs), &json!({ "succeeded": jobs })), "{seen}");
    assert!(!seen["interruptions"].as_object().unwrap().is_empty(), "nobody noticed the kills: {seen}");
    job::wait_stream(&network, job::RESULTS, Duration::from_mins(1), |results| {
        results.messages == jobs as u64
    });
    job::wait_stream(&network, "MMN_JOBS_faulty", Duration::from_mins(1), |queue| queue.messages == 0);
    job::one_result_each(&network, jobs);
    assert_eq!(modules(), before, "a module was started again");
}

//! kill -9 of the agent with 50 jobs running: the modules go on, the next agent follows what they have in work, and each
//! job is done once and ends once.

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
#[path = "site/tally.rs"]
mod tally;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use imn_testkit::wait_until;
use network::Network;
use serde_json::json;
use tally::Tally;

/// Half of the jobs end while nobody follows them, half are still in work when the queue hands them out again.
const HALF: usize = 25;
const SHORT: u64 = 4_000;
const LONG: u64 = 33_000;
const SOON: Duration = Duration::from_mins(1);

fn modules(network: &Network) -> BTreeMap<String, u32> {
    let parts = network.parts().into_iter().filter(|(name, _)| name.starts_with("local-"));
    parts.map(|(name, part)| (name, part.pid)).collect()
}

#[test]
fn jobs_in_work_outlive_their_agent() {
    if !imn_testkit::require_root("agent_killed_with_jobs") {
        return;
    }
    let Some(python) = job::python_or_skip("agent_killed_with_jobs") else { return };
    let network = Network::start();
    let tally = Tally::plug_in(&network, &python, 1, 50);
    let before = modules(&network);
    let loads = [(SHORT, "short"), (LONG, "long")].map(|(delay, prefix)| {
        job::load(&network, tally::TALLY, &json!({ "delay_ms": delay }), HALF, HALF, prefix).unwrap()
    });
    wait_until("50 jobs in work", SOON, || (tally.total().0 == 2 * HALF).then_some(())).unwrap();
    // That each runs, the server has heard: else an agent that is killed has nothing to do with it.
    job::wait_stream(&network, job::ATTEMPTS, SOON, |attempts| attempts.messages == 0);

    let killed = Instant::now();
    let agent = network.kill9("agent");
    network.wait_restarted("agent", agent);
    println!("the next agent runs after {:.0} ms", killed.elapsed().as_secs_f64() * 1e3);
    for load in loads {
        let seen = job::loaded(load, Duration::from_mins(2));
        println!("{seen}");
        assert_eq!(seen["status"], json!({ "succeeded": HALF }), "{seen}");
        assert_eq!(seen["attempts"], json!({ "1": HALF }), "{seen}");
    }
    // The queue has handed out again what the killed agent held, and nobody began it again.
    job::wait_stream(&network, tally::QUEUE, SOON, |queue| queue.messages == 0);
    println!("all settled {:.1} s after the kill", killed.elapsed().as_secs_f64());
    assert_eq!(tally.total(), (2 * HALF, 2 * HALF), "a job was done twice");
    job::one_result_each(&network, 2 * HALF);
    assert_eq!(modules(&network), before, "a module was started again");
}

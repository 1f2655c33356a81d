//! kill -9 of a module in the middle of its jobs: another instance does them, each ends once, and nobody does twice what
//! was done.

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
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use imn_testkit::Signal;
use network::{Network, soak};
use serde_json::json;
use tally::Tally;

const SOON: Duration = Duration::from_mins(1);

/// Kills one process; when, in seconds since the Unix epoch.
fn kill(pid: u32) -> f64 {
    Network::signal(pid, Signal::SIGKILL);
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn what_a_killed_module_had_in_work_is_done_by_another() {
    if !imn_testkit::require_root("module_killed_mid_job") {
        return;
    }
    let Some(python) = job::python_or_skip("module_killed_mid_job") else { return };
    let network = Network::start();
    let tally = Tally::plug_in(&network, &python, 2, 4);

    // One job, that would take far too long where it is.
    let path = job::submit(&network, &tally::job("one", &json!({ "delay_ms": 100_000, "again_ms": 10 })));
    let first = tally.wait_begun("one", 1, SOON);
    let killed = kill(first.pid);
    let second = tally.wait_begun("one", 2, SOON);
    assert_ne!(second.pid, first.pid);
    let elsewhere = second.at - killed;
    println!("from the kill to the second attempt: {:.0} ms", elsewhere * 1e3);
    assert!(elsewhere < if soak() { 1.0 } else { 10.0 }, "{elsewhere}");
    let ended = job::end(&network, &path, SOON);
    assert_eq!(job::outcome(&ended), ("succeeded", 2), "{ended}");
    tally::wait_ready(&network, tally::TALLY, 2);

    // All slots of both are taken when one of them is killed.
    let names: Vec<String> = (0..8).map(|n| format!("many-{n}")).collect();
    let params = json!({ "delay_ms": 3_000, "again_ms": 10 });
    let paths: Vec<String> =
        names.iter().map(|name| job::submit(&network, &tally::job(name, &params))).collect();
    let at: Vec<u32> = names.iter().map(|name| tally.wait_begun(name, 1, SOON).pid).collect();
    assert_eq!(at.iter().collect::<BTreeSet<_>>().len(), 2, "both take part");
    kill(at[0]);
    for ((name, path), pid) in names.iter().zip(&paths).zip(&at) {
        let ended = job::end(&network, path, SOON);
        let attempts = if *pid == at[0] { 2 } else { 1 };
        assert_eq!(job::outcome(&ended), ("succeeded", attempts), "{ended}");
        assert_eq!(tally.count(name), (attempts as usize, 1), "{name}");
    }
    tally::wait_ready(&network, tally::TALLY, 2);

    // One that may be tried only once ends with its module.
    let mut once = tally::job("once", &json!({ "delay_ms": 100_000 }));
    once["max_attempts"] = json!(1);
    let path = job::submit(&network, &once);
    kill(tally.wait_begun("once", 1, SOON).pid);
    let ended = job::end(&network, &path, SOON);
    assert_eq!(job::outcome(&ended), ("dead", 1), "{ended}");
    let error = &ended["tasks"][0]["result"]["error"];
    assert_eq!((&error["code"], &error["name"]), (&json!(520), &json!("module_crashed")), "{ended}");
    assert_eq!(tally.count("once"), (1, 0));

    // Each of the ten has one result, and its queue is empty.
    job::wait_stream(&network, tally::QUEUE, SOON, |stream| stream.messages == 0);
    job::one_result_each(&network, 10);
}

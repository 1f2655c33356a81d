//! A module that does not listen to SIGTERM: it is killed at the deadline, its job is done elsewhere, and `imn up` ends in
//! order and in time all the same.

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

const SOON: Duration = Duration::from_mins(1);
/// How long a module may take to drain.
const DRAIN: Duration = Duration::from_secs(7);

#[test]
fn a_module_that_does_not_end_is_killed() {
    if !imn_testkit::require_root("sigterm_past_deadline") {
        return;
    }
    let Some(python) = job::python_or_skip("sigterm_past_deadline") else { return };
    let mut network = Network::start();
    let tally = Tally::plug_in_stubborn(&network, &python, 2, 1);
    let doomed = network.pid("local-tally-1");
    // One slot each: each of them has one of the jobs.
    let params = json!({ "delay_ms": 100_000, "again_ms": 10 });
    let paths = ["left", "right"].map(|target| job::submit(&network, &tally::job(target, &params)));
    let at = ["left", "right"].map(|target| tally.wait_begun(target, 1, SOON).pid);
    assert_ne!(at[0], at[1]);
    let moved = usize::from(at[1] == doomed);

    // The second instance is no longer wanted, and the first has room for another job.
    let order = |path: &str, method: &str, body: serde_json::Value| {
        let answer = network.curl(method, &format!("/api/v1/modules/tally/{path}"), Some(&body.to_string()));
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    order("settings", "PUT", json!({ "slots": 2 }));
    let told = Instant::now();
    order("scale", "POST", json!({ "instances": 1 }));
    let second = tally.wait_begun(["left", "right"][moved], 2, SOON);
    let took = told.elapsed();
    println!("done elsewhere {:.1} s after it was told to end", took.as_secs_f64());
    assert!(took >= DRAIN, "it was given {took:?}");
    assert_eq!(second.pid, at[1 - moved]);
    let ended = job::end(&network, &paths[moved], SOON);
    assert_eq!(job::outcome(&ended), ("succeeded", 2), "{ended}");
    assert_eq!(tally.count(["left", "right"][moved]), (2, 1));
    wait_until("the instance to be gone", SOON, || {
        (!network.parts().contains_key("local-tally-1")).then_some(())
    })
    .unwrap();
    assert_eq!(network.pid("local-tally-0"), at[1 - moved], "the other was started again");

    // The other one, in the middle of a job, is in the way of the end of everything.
    let took = network.stop();
    println!("`imn up` stopped in {:.1} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(network.parts(), BTreeMap::new(), "still running after the end");
    let gone = |pid: u32| !std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert!(gone(at[0]) && gone(at[1]), "still running after the end");
    // Nobody has lost the job by that: it waits for the next start.
    network.up();
    tally::wait_ready(&network, tally::TALLY, 1);
    let ended = job::end(&network, &paths[1 - moved], SOON);
    assert_eq!(job::outcome(&ended).0, "succeeded", "{ended}");
    assert_eq!(tally.count(["left", "right"][1 - moved]).1, 1);
}

//! The server killed and kept from coming back: agent, modules and standing work go on, the agent answers what it is
//! asked, jobs are refused at once, and all is caught up afterwards.

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
#[path = "site/verdict.rs"]
mod verdict;

use std::{
    fs::{self, File},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use imn_testkit::wait_until;
use network::{Network, span};
use serde_json::json;
use tally::Tally;

const TARGETS: u32 = 500;
const INTERVAL: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_mins(1);

/// Kills the server and takes its state directory over in the same moment; it can run again when this is dropped.
fn keep_away(network: &Network) -> File {
    let file = File::options().read(true).write(true).open(network.state().join("server/lock")).unwrap();
    let waiting = thread::spawn(move || file.lock().map(|()| file));
    // The kernel gives it to the first who waits: the next server comes only after that.
    let own = std::process::id().to_string();
    wait_until("somebody to wait for the lock", SOON, || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let waits = |line: &str| line.contains("-> FLOCK") && line.split_whitespace().any(|word| word == own);
        locks.lines().any(waits).then_some(())
    })
    .unwrap();
    network.kill9("server");
    waiting.join().unwrap().unwrap()
}

#[test]
fn agents_and_modules_go_on_without_the_server() {
    if !imn_testkit::require_root("server_away") {
        return;
    }
    let Some(python) = job::python_or_skip("server_away") else { return };
    let network = Network::start();
    let tally = Tally::plug_in(&network, &python, 1, 4);
    verdict::quiet(&network);
    verdict::load(&network, TARGETS, INTERVAL);
    verdict::wait_measured(&network, TARGETS, INTERVAL);
    let parts = || {
        let mut parts = network.parts();
        parts.remove("server");
        parts
    };
    let before = parts();
    let begun = job::submit(&network, &tally::job("begun", &json!({ "delay_ms": 2_000 })));
    tally.wait_begun("begun", 1, SOON);

    let (away, echoes) = (keep_away(&network), network.kernel_echoes().0);
    let left = Instant::now();
    // Who wants a job done is told at once that nobody is there.
    let submit = json!({ "v": 1, "type": "echo", "target": "x", "deadline_ms": 10_000 });
    let refused = job::ask(&network, "mmn.jobs.submit", Some(&submit)).unwrap();
    assert_eq!(refused, json!({ "failed": "NoRespondersError" }));
    let submitted = network.program().args(["job", "submit", "echo", "x"]).run(SOON).unwrap();
    assert!(!submitted.status.success() && submitted.stderr.contains("no server answers"), "{submitted:?}");
    // The agent needs no server for what it is asked itself.
    let direct = json!({ "target": "127.0.0.1", "count": 2, "request_id": "away" });
    let answer = job::ask(&network, "agent.local.in", Some(&direct)).unwrap();
    assert_eq!((&answer["request_id"], &answer["packets_received"]), (&json!("away"), &json!(2)), "{answer}");
    // What was in work is done, and its report waits.
    wait_until("the job to be done", SOON, || (tally.count("begun") == (1, 1)).then_some(())).unwrap();
    job::wait_stream(&network, job::ATTEMPTS, SOON, |attempts| attempts.messages > 0);
    // How long it is away is what is under test.
    sleep(span(6, 120).saturating_sub(left.elapsed()));
    let made = network.kernel_echoes().0 - echoes;
    let owed = u64::from(TARGETS) * left.elapsed().as_secs();
    assert!(made >= owed * 9 / 10, "{made} echo requests in the time of {owed} rounds");

    drop(away);
    network.wait_get("/readyz", SOON, |_| Some(()));
    println!("away for {:.1} s: {made} echo requests, {owed} rounds owed", left.elapsed().as_secs_f64());
    let ended = job::end(&network, &begun, SOON);
    assert_eq!(job::outcome(&ended), ("succeeded", 1), "{ended}");
    assert_eq!(tally.count("begun"), (1, 1), "the job was done again");
    job::wait_stream(&network, job::RESULTS, SOON, |results| results.messages == 1);
    job::wait_stream(&network, tally::QUEUE, SOON, |queue| queue.messages == 0);
    verdict::caught_up(&network, Duration::from_mins(2));

    let verdict = verdict::verdict(&network, INTERVAL, 0).unwrap();
    println!("{verdict:?}");
    assert_eq!(verdict.targets, u64::from(TARGETS));
    assert_eq!((verdict.duplicates, verdict.unaccounted, verdict.contradictions), (0, 0, 0), "{verdict:?}");
    assert_eq!(parts(), before, "something else was started again");
}

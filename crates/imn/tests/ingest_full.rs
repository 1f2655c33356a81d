//! The stream of rounds full, because nobody takes them in: spools keep what it refuses, agent and modules say so, and
//! nothing is lost when there is room again.

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
#[path = "site/verdict.rs"]
mod verdict;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use imn_testkit::{Signal, wait_until};
use network::Network;
use serde_json::{Value, json};

const TARGETS: u32 = 1_000;
const INTERVAL: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_mins(1);
const STREAM: &str = "MMN_INGEST";

#[test]
fn spools_keep_what_a_full_stream_refuses() {
    if !imn_testkit::require_root("ingest_full") {
        return;
    }
    let Some(_) = job::python_or_skip("ingest_full") else { return };
    let network = Network::start_in(&[], &[("IMN_INGEST_MB", Path::new("1"))]);
    verdict::load(&network, TARGETS, INTERVAL);
    verdict::wait_measured(&network, TARGETS, INTERVAL);
    let icmp = network.pid("local-icmp-0");

    // A server that stands still takes nothing in, and somebody fills what room there is.
    let server = network.pid("server");
    Network::signal(server, Signal::SIGSTOP);
    let filled: Value = serde_json::from_str(&network.python("fill.py", &[], SOON).unwrap()).unwrap();
    assert_eq!(filled["description"], "maximum bytes exceeded", "{filled}");
    let full = Instant::now();
    let said = wait_until("the agent to say so", SOON, || {
        let beat = job::ask(&network, "heartbeat.local", None).unwrap();
        let modules = beat["modules"].as_array()?.clone();
        let icmp = modules.into_iter().find(|module| module["instance"] == "local-icmp-0")?;
        let told = icmp["reason"].as_str().is_some_and(|reason| reason.contains("maximum bytes exceeded"));
        (told && beat["status"] == "degraded" && beat["spool"]["rows"].as_u64()? > 5 * u64::from(TARGETS))
            .then_some(beat)
    })
    .unwrap();
    println!("said {:.1} s after: {}", full.elapsed().as_secs_f64(), said["spool"]);

    Network::signal(server, Signal::SIGCONT);
    let room = Instant::now();
    network.wait_get("/api/v1/modules", Duration::from_mins(2), |modules| {
        let all = modules["items"].as_array()?;
        all.iter().all(|one| one["state"] == "ready" && one["reason"].is_null()).then_some(())
    });
    verdict::caught_up(&network, Duration::from_mins(2));
    network.wait_get("/api/v1/agents/local", SOON, |agent| (agent["status"] == "active").then_some(()));
    println!("drained {:.1} s after there was room", room.elapsed().as_secs_f64());
    let verdict = verdict::verdict(&network, INTERVAL, 0).unwrap();
    println!("{verdict:?}");
    assert_eq!(verdict.targets, u64::from(TARGETS));
    assert_eq!((verdict.duplicates, verdict.unaccounted, verdict.contradictions), (0, 0, 0), "{verdict:?}");
    assert_eq!(network.pid("local-icmp-0"), icmp, "the module was started again");
    let limit = job::stream(&network, STREAM).unwrap().bytes;
    assert!(limit < 1 << 20, "{limit}");
    let job = job::submit(&network, &json!({ "type": "echo", "target": "after" }));
    assert_eq!(job::outcome(&job::end(&network, &job, SOON)).0, "succeeded");
}

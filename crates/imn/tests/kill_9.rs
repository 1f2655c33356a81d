//! kill -9 of each part in turn, and a NATS that stands still: every round made is stored once, the others are a
//! recorded gap, and nobody else notices.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking and tells its figures"
)]

#[path = "site/network.rs"]
mod network;
#[path = "site/verdict.rs"]
mod verdict;

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use imn_testkit::{Signal, wait_until};
use network::{Network, soak, span};

/// How many targets are measured, and how often; in soak it is the run of `twenty_thousand.rs`.
fn size() -> (u32, Duration) {
    if soak() { (20_000, Duration::from_secs(5)) } else { (2_000, Duration::from_secs(1)) }
}

#[test]
fn whatever_is_killed_each_round_is_stored_once_or_a_recorded_gap() {
    if !imn_testkit::require_root("kill_9") {
        return;
    }
    if network::python().is_none() {
        return imn_testkit::skip("kill_9", "no Python with duckdb; `cargo xtask test` installs it");
    }
    let (targets, interval) = size();
    let network = Network::start();
    verdict::load(&network, targets, interval);
    verdict::wait_measured(&network, targets, interval);
    let bystanders = ["local-tcp-0", "local-echo-0", "local-faulty-0", "local-heartbeat-0"];
    let pids = |parts: &[&str]| -> BTreeMap<String, u32> {
        parts.iter().map(|part| ((*part).to_owned(), network.pid(part))).collect()
    };
    let before = pids(&bystanders);
    let icmp = network.pid("local-icmp-0");

    for part in ["agent", "nats-server", "server"] {
        let old = network.kill9(part);
        network.wait_restarted(part, old);
        sleep(span(3, 20));
        assert_eq!(network.pid("local-icmp-0"), icmp, "the module stopped when the {part} was killed");
    }

    // A NATS that stands still, for as long as an operator needs to notice.
    let nats = network.pid("nats-server");
    Network::signal(nats, Signal::SIGSTOP);
    sleep(span(10, 60));
    Network::signal(nats, Signal::SIGCONT);
    sleep(span(3, 20));
    assert_eq!(network.pid("local-icmp-0"), icmp, "the module stopped when NATS stood still");

    // The module itself: what it could not do while it was gone is a gap.
    network.kill9("local-icmp-0");
    network.wait_restarted("local-icmp-0", icmp);
    sleep(span(5, 20));
    assert_eq!(pids(&bystanders), before, "another module stopped");

    drained(&network);
    let verdict = verdict::verdict(&network, interval, 0).unwrap();
    eprintln!("{verdict:?}");
    assert_eq!(verdict.targets, u64::from(targets));
    assert_eq!((verdict.duplicates, verdict.unaccounted, verdict.contradictions), (0, 0, 0), "{verdict:?}");
    assert!(verdict.gap_rounds > 0, "a killed module leaves no gap: {verdict:?}");
    // A module is back within seconds: its gap is no longer than that.
    assert!(verdict.gap_rounds < u64::from(targets) * 10, "{verdict:?}");
}

/// Waits until no spool holds rounds older than a few seconds.
fn drained(network: &Network) {
    wait_until("the spools to drain", Duration::from_mins(2), || {
        let agent = network.curl("GET", "/api/v1/agents/local", None).body;
        (agent["telemetry"]["spool"]["oldest_s"].as_u64()? <= 3).then_some(())
    })
    .unwrap();
}

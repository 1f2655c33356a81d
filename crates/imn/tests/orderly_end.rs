//! SIGTERM under load: `imn up` ends in time and loses nothing; started again it goes on as who it was.

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

use std::{collections::BTreeMap, fs, thread::sleep, time::Duration};

use network::{Network, span};

const TARGETS: u32 = 2_000;
const INTERVAL: Duration = Duration::from_secs(1);

#[test]
fn a_restart_under_load_loses_nothing() {
    if !imn_testkit::require_root("orderly_end") {
        return;
    }
    if network::python().is_none() {
        return imn_testkit::skip("orderly_end", "no Python with duckdb; `cargo xtask test` installs it");
    }
    let mut network = Network::start();
    verdict::load(&network, TARGETS, INTERVAL);
    verdict::wait_measured(&network, TARGETS, INTERVAL);
    let identities = |network: &Network| {
        let connect = fs::read_to_string(network.state().join("connect.json")).unwrap();
        let target = network.get("/api/v1/targets/10.100.0.2")["id"].clone();
        (connect, target, network.get("/api/v1/agents/local")["id"].clone())
    };
    let before = identities(&network);
    sleep(span(3, 30));

    let took = network.stop();
    eprintln!("stopped in {took:?}");
    assert!(took < Duration::from_secs(15), "an orderly end took {took:?}");
    assert_eq!(network.parts(), BTreeMap::new(), "still running after the end");
    network.up();
    assert_eq!(identities(&network), before);
    sleep(span(5, 30));

    let verdict = verdict::verdict(&network, INTERVAL, 0).unwrap();
    eprintln!("{verdict:?}");
    assert_eq!((verdict.duplicates, verdict.unaccounted, verdict.contradictions), (0, 0, 0), "{verdict:?}");
    assert!(verdict.gap_rounds > 0, "the time between is a recorded gap: {verdict:?}");
}

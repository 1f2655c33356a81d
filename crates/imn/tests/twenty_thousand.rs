//! 20,000 targets at 5 s from one agent: every round due is stored once, in time, and cheaply.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking and tells its figures"
)]

#[path = "site/network.rs"]
mod network;
#[path = "site/usage.rs"]
mod usage;
#[path = "site/verdict.rs"]
mod verdict;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use network::{Network, span};
use usage::Meter;

const TARGETS: u32 = 20_000;
const INTERVAL: Duration = Duration::from_secs(5);

#[test]
fn every_round_of_20_000_targets_is_stored_once() {
    if !imn_testkit::require_root("twenty_thousand") {
        return;
    }
    if network::python().is_none() {
        return imn_testkit::skip("twenty_thousand", "no Python with duckdb; `cargo xtask test` installs it");
    }
    let network = Network::start();
    verdict::quiet(&network);
    let echoes_before = network.kernel_echoes().0;
    verdict::load(&network, TARGETS, INTERVAL);
    verdict::wait_measured(&network, TARGETS, INTERVAL);

    let meters = ["local-icmp-0", "server"].map(|part| (part, Meter::start(network.pid(part))));
    let started = Instant::now();
    // The load itself is the time under test: the end of it is no condition that could be waited for.
    sleep(span(30, 120));
    let took = started.elapsed();
    for (part, meter) in &meters {
        let (cpu_pct, rss_mb) = meter.read(took);
        eprintln!("{part}: {cpu_pct:.1} % of a core, {rss_mb:.0} MB");
        let limit = if *part == "server" { 200.0 } else { 80.0 };
        assert!(cpu_pct <= 25.0, "{part} takes {cpu_pct:.1} % of a core");
        assert!(rss_mb <= limit, "{part} takes {rss_mb:.0} MB");
    }

    // Committed means on disk: the server is killed before anything is counted.
    let old = network.kill9("server");
    network.wait_restarted("server", old);
    network.wait_get("/readyz", Duration::from_secs(30), |_| Some(()));
    let verdict = verdict::verdict(&network, INTERVAL).unwrap();
    eprintln!("{verdict:?}");
    let rounds_each = took.as_secs() / INTERVAL.as_secs();
    assert_eq!(verdict.targets, u64::from(TARGETS));
    assert!(verdict.rows >= u64::from(TARGETS) * rounds_each, "{verdict:?}");
    assert_eq!((verdict.duplicates, verdict.unaccounted, verdict.gap_rounds), (0, 0, 0), "{verdict:?}");
    assert_eq!(verdict.sent, verdict.received, "loopback lost packets");
    assert!(verdict.late_p99_us <= 50_000.0, "{verdict:?}");

    // The kernel saw each packet that a row counts; what it saw beyond is still on its way to the files.
    let echoes = network.kernel_echoes().0 - echoes_before;
    assert!(echoes >= verdict.sent, "{echoes} echo requests, {} claimed", verdict.sent);
}

//! 20,000 targets at 5 s from one agent: every round due is stored once, in time, and cheaply.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking and tells its figures"
)]

#[path = "site/network.rs"]
mod network;
#[path = "site/standing.rs"]
mod standing;
#[path = "site/usage.rs"]
mod usage;
#[path = "site/verdict.rs"]
mod verdict;

use std::time::Duration;

use network::span;

#[test]
fn every_round_of_20_000_targets_is_stored_once() {
    if !imn_testkit::require_root("twenty_thousand") {
        return;
    }
    if network::python().is_none() {
        return imn_testkit::skip("twenty_thousand", "no Python with duckdb; `cargo xtask test` installs it");
    }
    let found = standing::stand(20_000, Duration::from_secs(5), span(30, 120));
    assert!(found.module.cpu_pct <= 25.0 && found.module.rss_mb <= 80.0, "the module takes too much");
    assert!(found.server.cpu_pct <= 25.0 && found.server.rss_mb <= 200.0, "the server takes too much");
    assert!(found.verdict.late_p99_us <= 50_000.0, "{:?}", found.verdict);
}

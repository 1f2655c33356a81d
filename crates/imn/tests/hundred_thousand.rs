//! 100,000 targets at 10 s from one module: a seventh of a core, no round missed, none late.

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

use network::{soak, span};

#[test]
fn every_round_of_100_000_targets_is_stored_once() {
    if !imn_testkit::require_root("hundred_thousand") {
        return;
    }
    if network::python().is_none() {
        return imn_testkit::skip(
            "hundred_thousand",
            "no Python with duckdb; `cargo xtask test` installs it",
        );
    }
    let found = standing::stand(100_000, Duration::from_secs(10), span(20, 60));
    assert!(found.module.rss_mb <= 120.0, "the module takes {:.0} MB", found.module.rss_mb);
    // The suite shares its cores with whatever else runs there: half as much again is allowed for that.
    let (cpu_pct, late_us) = if soak() { (15.0, 5_000.0) } else { (22.5, 50_000.0) };
    assert!(found.module.cpu_pct <= cpu_pct, "the module takes {:.1} % of a core", found.module.cpu_pct);
    assert!(found.verdict.late_p99_us <= late_us, "{:?}", found.verdict);
}

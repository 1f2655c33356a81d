//! nats-server away for long: it is killed, and its program cannot be started. Probing goes on, spools fill and then
//! drain, each round is stored once, and a job that was taken meanwhile is done.

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
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use network::{Network, span};
use serde_json::json;

const TARGETS: u32 = 1_000;
const INTERVAL: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_mins(1);

/// Where nats-server is on this host.
fn nats_server() -> PathBuf {
    let path = std::env::var_os("IMN_NATS_BIN").map(PathBuf::from);
    let path = path.into_iter().chain(["/usr/sbin/nats-server".into(), "/usr/local/bin/nats-server".into()]);
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).map(|directory| directory.join("nats-server"));
    path.chain(on_path).find(|path| path.is_file()).unwrap()
}

fn take_away(program: &Path) {
    fs::remove_file(program).unwrap();
}

#[test]
fn probing_goes_on_without_nats() {
    if !imn_testkit::require_root("nats_away") {
        return;
    }
    let Some(_) = job::python_or_skip("nats_away") else { return };
    let bin = tempfile::tempdir().unwrap();
    let program = bin.path().join("nats-server");
    symlink(nats_server(), &program).unwrap();
    let network = Network::start_in(&[], &[("IMN_NATS_BIN", &program)]);
    verdict::quiet(&network);
    verdict::load(&network, TARGETS, INTERVAL);
    verdict::wait_measured(&network, TARGETS, INTERVAL);
    let parts = || {
        let mut parts = network.parts();
        parts.remove("nats-server");
        parts
    };
    let before = parts();

    take_away(&program);
    let old = network.kill9("nats-server");
    let (left, echoes) = (Instant::now(), network.kernel_echoes().0);
    network.wait_readyz_fails("not connected to NATS", SOON);
    // What is asked of the server meanwhile is taken, and done when it can be.
    let late = job::submit(&network, &json!({ "type": "echo", "target": "late", "deadline": "30m" }));
    // How long it is away is what is under test.
    sleep(span(15, 180).saturating_sub(left.elapsed()));
    let made = network.kernel_echoes().0 - echoes;
    let owed = u64::from(TARGETS) * left.elapsed().as_secs();
    assert!(made >= owed * 9 / 10, "{made} echo requests in the time of {owed} rounds");
    let job = network.get(&late);
    assert_eq!(job["state"], "queued", "{job}");
    assert!(!network.parts().contains_key("nats-server"));

    symlink(nats_server(), &program).unwrap();
    network.wait_restarted("nats-server", old);
    let back = Instant::now();
    println!("away for {:.1} s: {made} echo requests, {owed} rounds owed", left.elapsed().as_secs_f64());
    let done = job::end(&network, &late, SOON);
    assert_eq!(job::outcome(&done).0, "succeeded", "{done}");
    verdict::caught_up(&network, Duration::from_mins(2));
    let active = |agent: &serde_json::Value| (agent["status"] == "active").then_some(());
    network.wait_get("/api/v1/agents/local", SOON, active);
    println!("drained {:.1} s after it was back", back.elapsed().as_secs_f64());

    let verdict = verdict::verdict(&network, INTERVAL, 0).unwrap();
    println!("{verdict:?}");
    assert_eq!(verdict.targets, u64::from(TARGETS));
    assert_eq!((verdict.duplicates, verdict.unaccounted, verdict.contradictions), (0, 0, 0), "{verdict:?}");
    assert!(verdict.rows >= made, "{made} echo requests were sent meanwhile: {verdict:?}");
    assert_eq!(parts(), before, "something was started again");
}

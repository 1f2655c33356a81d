//! A spool whose last record was torn, by a module that was killed while it wrote: all before it is stored once, what
//! was torn off is a gap, and the module starts.

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
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use imn_testkit::{Signal, wait_until};
use network::Network;

const TARGETS: u32 = 500;
const INTERVAL: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_mins(1);
const ICMP: &str = "local-icmp-0";

/// The file that a store wrote last.
fn last_written(directory: &Path) -> PathBuf {
    let (mut newest, mut open) = ((SystemTime::UNIX_EPOCH, PathBuf::new()), vec![directory.to_owned()]);
    while let Some(path) = open.pop() {
        let meta = fs::metadata(&path).unwrap();
        if meta.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            newest = newest.max((meta.modified().unwrap(), path));
        }
    }
    newest.1
}

/// Cuts the last bytes off, as a power cut would.
fn tear(path: &Path) {
    let bytes = fs::read(path).unwrap();
    // What was set aside for more is no record.
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(end - 9).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
}

#[test]
fn what_was_whole_is_stored_and_the_rest_is_a_gap() {
    if !imn_testkit::require_root("torn_spool") {
        return;
    }
    let Some(_) = job::python_or_skip("torn_spool") else { return };
    let network = Network::start();
    verdict::load(&network, TARGETS, INTERVAL);
    verdict::wait_measured(&network, TARGETS, INTERVAL);
    let echoes = || network.kernel_echoes().0;

    // Nothing leaves the spool any more, and a few seconds of rounds are in it and nowhere else.
    let nats = network.pid("nats-server");
    Network::signal(nats, Signal::SIGSTOP);
    let before = echoes();
    wait_until("rounds that are nowhere else", SOON, || {
        (echoes() - before >= 4 * u64::from(TARGETS)).then_some(())
    })
    .unwrap();
    // The module is not started again before its spool is torn.
    let agent = network.pid("agent");
    Network::signal(agent, Signal::SIGSTOP);
    let old = network.kill9(ICMP);
    wait_until("the module to be gone", SOON, || {
        fs::read(format!("/proc/{old}/cmdline")).is_ok_and(|line| line.is_empty()).then_some(())
    })
    .unwrap();
    let spool = network.state().join("agents/local/spool").join(ICMP);
    tear(&last_written(&spool.join("store")));
    Network::signal(agent, Signal::SIGCONT);
    let torn = network.wait_restarted(ICMP, old);
    Network::signal(nats, Signal::SIGCONT);

    let since = echoes();
    wait_until("rounds of the new process", SOON, || {
        (echoes() - since >= 3 * u64::from(TARGETS)).then_some(())
    })
    .unwrap();
    network.wait_get("/api/v1/modules/icmp", SOON, |module| {
        (module["instances"][0]["state"] == "ready").then_some(())
    });
    verdict::caught_up(&network, Duration::from_mins(2));
    let verdict = verdict::verdict(&network, INTERVAL, 0).unwrap();
    println!("{verdict:?}");
    assert_eq!(verdict.targets, u64::from(TARGETS));
    assert_eq!((verdict.duplicates, verdict.unaccounted, verdict.contradictions), (0, 0, 0), "{verdict:?}");
    assert!(verdict.gap_rounds > 0, "{verdict:?}");
    // What was whole was not given up with what was torn: a module is back within seconds.
    assert!(!spool.join("store.damaged").exists(), "a torn record has cost the whole spool");
    assert_eq!(network.pid(ICMP), torn, "it ended again");
}

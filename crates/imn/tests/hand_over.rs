//! Standing work goes from one instance to another: a second one is started, each is replaced by a new process, and one of
//! them ends again. Every round is made, and by one of them: each packet that tshark sees is a row, and each row a packet.
//! Of one that is killed instead, and does not come back, what it owed is a recorded gap.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;
#[path = "site/verdict.rs"]
mod verdict;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use imn_testkit::{Process, wait_until};
use network::{Network, span};
use serde_json::Value;

const TARGETS: u32 = 200;
const INTERVAL: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_mins(2);

/// How many targets an instance has to itself, by the file that it reads.
fn share(network: &Network, instance: &str) -> usize {
    let file = network.state().join(format!("agents/local/assignments/{instance}.json"));
    let file: Value = serde_json::from_str(&fs::read_to_string(file).unwrap_or_default()).unwrap_or_default();
    let all = file["assignments"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter(|one| one["until_us"].is_null()).count()
}

fn wait_shares(network: &Network, what: &str, wanted: impl Fn(&[usize]) -> bool) -> Vec<usize> {
    wait_until(what, SOON, || {
        let shares: Vec<usize> =
            [0, 1, 64].iter().map(|slot| share(network, &format!("local-icmp-{slot}"))).collect();
        wanted(&shares).then_some(shares)
    })
    .unwrap()
}

/// Captures the echo requests to the targets.
fn capture(network: &Network) -> (PathBuf, Process) {
    let file = network.state().join("echoes.pcap");
    let filter = "icmp[0] == 8 and dst net 10.100.0.0/14";
    let tshark =
        network.node().program("tshark").package("tshark").args(["-i", "lo", "-q", "-f", filter, "-w"]);
    let tshark = tshark.arg(&file).spawn().unwrap();
    let begun = || fs::metadata(&file).is_ok_and(|file| file.len() > 0).then_some(());
    wait_until("tshark to listen", SOON, begun).unwrap();
    (file, tshark)
}

fn packets(network: &Network, capture: &Path) -> u64 {
    let tshark = network.node().program("tshark").args(["-T", "fields", "-e", "frame.number", "-r"]);
    tshark.arg(capture).run_ok(SOON).unwrap().lines().count() as u64
}

#[test]
fn every_round_is_made_once_whoever_makes_it() {
    if !imn_testkit::require_root("hand_over") {
        return;
    }
    if network::python().is_none() {
        return imn_testkit::skip("hand_over", "no Python with duckdb; `cargo xtask test` installs it");
    }
    let mut network = Network::start();
    let run = |args: &[&str]| network.program().args(args).run_ok(Duration::from_secs(30)).unwrap();
    verdict::quiet(&network);
    let (capture, mut tshark) = capture(&network);
    let since = jiff::Timestamp::now();
    verdict::load(&network, TARGETS, INTERVAL);
    verdict::wait_measured(&network, TARGETS, INTERVAL);

    run(&["module", "scale", "icmp", "2"]);
    let halves = wait_shares(&network, "two instances", |of| of[1] > 0);
    assert!(halves[1] > 60 && halves[0] + halves[1] == TARGETS as usize, "{halves:?}");
    verdict::caught_up(&network, SOON);

    // Each is replaced by another process; meanwhile the one that was tried first makes its rounds.
    let before: Vec<u32> = [0, 1].map(|slot| network.pid(&format!("local-icmp-{slot}"))).into();
    run(&["module", "roll", "icmp"]);
    wait_shares(&network, "the one that is tried to stand in", |of| of[2] == halves[0] && of[0] == 0);
    wait_shares(&network, "it to stand in for the other", |of| of[2] >= halves[1] && of[1] == 0);
    network
        .wait_get("/api/v1/modules/icmp", SOON, |body| (body["rolls"][0]["state"] == "done").then_some(()));
    let shares = wait_shares(&network, "both to have their own again", |of| of[2] == 0);
    assert_eq!(shares[..2], halves[..2]);
    for (slot, before) in before.iter().enumerate() {
        assert_ne!(network.pid(&format!("local-icmp-{slot}")), *before, "slot {slot} has a new process");
    }
    // In the long form they go on for a while.
    std::thread::sleep(span(0, 30));

    run(&["module", "scale", "icmp", "1"]);
    wait_until("one to end", SOON, || (!network.parts().contains_key("local-icmp-1")).then_some(())).unwrap();
    assert_eq!(share(&network, "local-icmp-0"), TARGETS as usize);
    verdict::caught_up(&network, SOON);

    // Nobody asks any more: what was seen is all.
    run(&["module", "disable", "icmp"]);
    wait_until("all to end", SOON, || (!network.parts().contains_key("local-icmp-0")).then_some(())).unwrap();
    let seconds = jiff::Timestamp::now().duration_since(since).as_secs() as u64;
    tshark.terminate();
    tshark.wait_deadline(SOON).unwrap();
    let echoes = packets(&network, &capture);
    let verdict = wait_until("all rounds in the files", SOON, || {
        let verdict = verdict::verdict(&network, INTERVAL, since.as_microsecond()).unwrap();
        (verdict.sent >= echoes).then_some(verdict)
    })
    .unwrap();
    eprintln!("{verdict:?} in {seconds} s, {echoes} echo requests");
    assert_eq!(verdict.targets, u64::from(TARGETS));
    assert!(verdict.rows >= u64::from(TARGETS) * seconds.saturating_sub(15), "{verdict:?}");
    assert_eq!((verdict.duplicates, verdict.unaccounted, verdict.gap_rounds), (0, 0, 0), "{verdict:?}");
    assert_eq!((verdict.sent, verdict.received, verdict.unknown), (echoes, echoes, 0), "as tshark saw it");
    // The spool of what is disabled is emptied, once.
    let log = network.process().stderr();
    let is_icmp = |line: &&str| line.contains("orphaned spool is shipped") && line.contains("local-icmp-0");
    assert!(
        log.lines().filter(is_icmp).count() <= 1,
        "the spool of what is disabled is opened again and again"
    );
}

#[test]
fn what_a_killed_instance_owed_is_a_gap() {
    if !imn_testkit::require_root("hand_over") {
        return;
    }
    if network::python().is_none() {
        return imn_testkit::skip("hand_over", "no Python with duckdb; `cargo xtask test` installs it");
    }
    let network = Network::start();
    let run = |args: &[&str]| network.program().args(args).run_ok(Duration::from_secs(30)).unwrap();
    verdict::quiet(&network);
    verdict::load(&network, TARGETS, INTERVAL);
    verdict::wait_measured(&network, TARGETS, INTERVAL);
    let file = network.state().join("agents/local/assignments/local-icmp-1.json");
    let mut owed = 0;
    // Before its targets have gone to the other, and before it is taken away.
    for promised in [true, false] {
        run(&["module", "scale", "icmp", "2"]);
        owed += wait_shares(&network, "two instances", |of| of[1] > 0)[1] as u64;
        verdict::caught_up(&network, SOON);
        if promised {
            run(&["module", "scale", "icmp", "1"]);
            wait_shares(&network, "its targets to be promised to the other", |of| of[1] == 0);
        }
        network.kill9("local-icmp-1");
        run(&["module", "scale", "icmp", "1"]);
        wait_until("it to be gone for good", SOON, || (!file.exists()).then_some(())).unwrap();
        wait_shares(&network, "the other to have all", |of| of[0] == TARGETS as usize);
        verdict::caught_up(&network, SOON);
    }
    run(&["module", "disable", "icmp"]);
    wait_until("all to end", SOON, || (!network.parts().contains_key("local-icmp-0")).then_some(())).unwrap();
    let verdict = wait_until("every round to be a row or within a gap", SOON, || {
        let verdict = verdict::verdict(&network, INTERVAL, 0).unwrap();
        (verdict.unaccounted == 0).then_some(verdict)
    })
    .unwrap();
    eprintln!("{verdict:?}, of {owed} targets of those that were killed");
    assert_eq!((verdict.targets, verdict.duplicates), (u64::from(TARGETS), 0), "{verdict:?}");
    assert_eq!(verdict.contradictions, 0, "{verdict:?}");
    // The moment is four seconds ahead; it takes some to start one.
    assert!(verdict.gap_rounds > 0 && verdict.gap_rounds <= 8 * owed, "{verdict:?}");
}

//! What a module's process writes is told live, also by the agent that has taken the process over, and a flood is cut.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use imn_testkit::wait_until;
use network::Network;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(40);
/// A program that speaks no NATS at all: a line now and then, and at the start a flood.
const TALKER: &str = "#!/bin/sh
echo 'one to standard output'
echo '2026-11-28T08:00:00Z WARN two to standard error' >&2
echo '{\"level\":\"ERROR\",\"message\":\"three\",\"password\":\"hush\"}' >&2
seq 1 3000 >&2
n=0
while :; do n=$((n+1)); echo \"INFO tick $n\" >&2; sleep 0.2; done
";

fn lines(network: &Network) -> Vec<Value> {
    let shown = network
        .program()
        .args(["module", "logs", "talker", "-n", "10000", "-o", "ndjson"])
        .run(SOON)
        .unwrap();
    shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The number of the last tick among these lines.
fn tick(lines: &[Value]) -> Option<u64> {
    lines.iter().filter_map(|line| line["message"].as_str()?.strip_prefix("tick ")?.parse().ok()).max()
}

#[test]
fn lines_are_told_live_and_over_the_death_of_the_agent() {
    if !imn_testkit::require_root("module_logs") {
        return;
    }
    let network = Network::start();
    let directory = network.state().join("agents/local/modules.d");
    fs::create_dir_all(&directory).unwrap();
    let draft = network.state().join("talker");
    fs::write(&draft, TALKER).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&draft, directory.join("talker")).unwrap();

    let told = wait_until("the lines of the module", SOON, || {
        let told = lines(&network);
        (tick(&told)? >= 10).then_some(told)
    })
    .unwrap();
    let of = |message: &str| told.iter().find(|line| line["message"].as_str().unwrap().contains(message));
    // The server keeps the latest 200 of each instance; the flood has pushed the first ones out.
    assert!(told.len() <= 200, "{}", told.len());
    let suppressed: u64 = told.iter().map(|line| line["dropped"].as_u64().unwrap()).sum();
    assert!(suppressed > 2_000, "{suppressed} lines were told to be too many");
    let ticking = of("tick 5").unwrap();
    assert_eq!((&ticking["level"], &ticking["stream"]), (&"info".into(), &"stderr".into()), "{ticking}");
    assert_eq!(
        (&ticking["instance"], &ticking["type"]),
        (&"local-talker-0".into(), &"talker".into()),
        "{ticking}"
    );
    // All of it is in the files.
    let log = network.state().join("agents/local/log");
    let errors = fs::read_to_string(log.join("local-talker-0.log")).unwrap();
    assert!(errors.contains("\n3000\n") && errors.contains("two to standard error"));
    assert_eq!(fs::read_to_string(log.join("local-talker-0.out")).unwrap(), "one to standard output\n");

    // Followed by a person.
    let mut following =
        network.program().args(["module", "logs", "local-talker-0", "-f", "-n", "0"]).spawn().unwrap();
    following
        .wait_for("live lines", SOON, |process| {
            (process.stdout().lines().filter(|line| line.contains("INFO  tick ")).count() >= 3).then_some(())
        })
        .unwrap();

    // The agent is killed; the module goes on, and the next agent tells of it.
    let module = network.pid("local-talker-0");
    let agent = network.kill9("agent");
    network.wait_restarted("agent", agent);
    let before = tick(&lines(&network)).unwrap();
    let later = wait_until("lines after the agent's death", SOON, || {
        tick(&lines(&network)).filter(|later| *later > before + 10)
    });
    later.unwrap();
    assert_eq!(network.pid("local-talker-0"), module, "the module was not started again");

    let unknown = network.program().args(["module", "logs", "nonsense"]).run(SOON).unwrap();
    assert_eq!(unknown.status.code(), Some(5), "{unknown:?}");
}

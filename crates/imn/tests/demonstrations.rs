//! The demonstrations of the runbook, and its example jobs, against a running network: they stay true.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use network::Network;
use serde_json::Value;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
const SOON: Duration = Duration::from_secs(30);

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(EXAMPLES).join(directory)).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|of| of == extension));
    found.sort();
    found
}

#[test]
fn what_the_runbook_shows_is_so() {
    if !imn_testkit::require_root("demonstrations") {
        return;
    }
    let network = Network::start();
    let jobs = files("jobs", "json");
    assert!(jobs.len() >= 6, "{jobs:?}");
    let types: BTreeSet<String> = jobs
        .iter()
        .map(|job| serde_json::from_str::<Value>(&fs::read_to_string(job).unwrap()).unwrap()["type"].clone())
        .map(|kind| imn_contract::canonical_type(kind.as_str().unwrap()).to_owned())
        .collect();
    network.wait_get("/api/v1/modules", SOON, |body| {
        let items = body["items"].as_array()?;
        let ready = |kind: &String| {
            items.iter().any(|module| module["type"] == kind.as_str() && module["state"] == "ready")
        };
        types.iter().all(ready).then_some(())
    });

    for job in &jobs {
        let body = fs::read_to_string(job).unwrap();
        let ended = network.curl("POST", "/api/v1/jobs?wait=20s", Some(&body));
        assert_eq!(ended.body["state"], "succeeded", "{}: {}", job.display(), ended.body);
    }

    let mut shown = BTreeSet::new();
    for script in files("faults", "sh") {
        let name = script.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "steps" {
            continue;
        }
        let began = Instant::now();
        let program = network.node().program(&script).arg(network.state());
        let outcome = program.env("IMN", network::program()).run(Duration::from_mins(3)).unwrap();
        println!("{name}: {:.1} s\n{}{}", began.elapsed().as_secs_f64(), outcome.stdout, outcome.stderr);
        assert!(outcome.status.success(), "{name}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stdout.contains("== done: "), "{name}: {}", outcome.stdout);
        shown.insert(name);
    }
    let wanted = ["backpressure", "hot-plug", "isolation", "scale-out"].map(str::to_owned);
    assert_eq!(shown, BTreeSet::from(wanted));

    // They say so when it is not so: nothing runs in another directory.
    let empty = tempfile::tempdir().unwrap();
    let script = Path::new(EXAMPLES).join("faults/isolation.sh");
    let program = network.node().program(script).arg(empty.path());
    let outcome = program.env("IMN", network::program()).run(SOON).unwrap();
    assert_eq!(outcome.status.code(), Some(1), "{}{}", outcome.stdout, outcome.stderr);
}

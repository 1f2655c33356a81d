//! A module is replaced by another program under load: one instance is tried, gets its share of the jobs in waves, and
//! then the others follow. No job is lost, none is answered twice, nobody waits for long.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;
#[path = "site/roll.rs"]
mod roll;

use std::{collections::BTreeMap, time::Duration};

use network::{Network, soak};
use roll::{SOON, Wave};
use serde_json::{Value, json};

const PARAMS: &str = r#"{"mode":"delay","delay_ms":1}"#;

fn manifest(version: u32) -> String {
    format!(
        "type = \"work\"\nversion = \"{version}\"\ninstances = 2\nslots = 32\n\
         [self_test]\ntarget = \"x\"\nparams = {{ mode = \"delay\", delay_ms = 1 }}\n"
    )
}

fn others(network: &Network) -> BTreeMap<String, u32> {
    let parts = network.parts().into_iter().filter(|(name, _)| !name.starts_with("local-work-"));
    parts.map(|(name, part)| (name, part.pid)).collect()
}

/// How much of the jobs the new version did in a wave, by the client's own clock and counts.
fn share(seen: &Value, wave: &Wave) -> (f64, usize) {
    let when = seen["when"].as_array().unwrap();
    // What is told of a wave comes after it, by as much as heartbeats are apart.
    let within = |job: &&Value| (wave.from..wave.to - 2.5).contains(&job[0].as_f64().unwrap());
    let all: Vec<&Value> = when.iter().filter(within).collect();
    let new = all.iter().filter(|job| job[1] == "struck").count();
    (new as f64 / all.len().max(1) as f64, all.len())
}

#[test]
fn a_module_is_replaced_under_load_and_nobody_notices() {
    if !imn_testkit::require_root("rolling_replacement") {
        return;
    }
    let network = Network::start();
    network.wait_get("/api/v1/agents/local", SOON, |body| (body["status"] == "active").then_some(()));
    roll::install(&network, "echo", "the old one", &manifest(1));
    roll::wait_ready(&network, 2);
    let before = others(&network);
    let rate = if soak() { 500 } else { 40 };
    let Some(load) = roll::load(&network, "work", PARAMS, rate, Duration::from_secs(30)) else {
        return imn_testkit::skip(
            "rolling_replacement",
            "no Python with nats-py; `cargo xtask test` installs it",
        );
    };
    // The load is there before the new version is.
    network.wait_get(roll::WORK, SOON, |body| {
        let done = |one: &Value| one["health"]["done"].as_u64();
        let all: Option<u64> = body["instances"].as_array()?.iter().map(done).sum();
        (all? >= 20).then_some(())
    });

    roll::install(&network, "faulty", "the new one", &manifest(2));
    let (waves, ended) = roll::follow(&network, "2", &["done", "rolled_back", "abandoned"]);
    assert_eq!(ended["state"], "done", "{ended}");
    roll::wait_alone(&network, 2);
    roll::wait_ready(&network, 2);
    for slot in 0..2 {
        let command = &network.parts()[&format!("local-work-{slot}")].command;
        assert!(command.contains("module faulty"), "{command}");
    }
    let seen = load.end();
    println!("{waves:?}");

    assert_eq!(seen["status"], json!({ "succeeded": seen["jobs"] }), "no job is lost");
    let told: Vec<(u64, u64)> = waves.iter().map(|wave| (wave.wave, wave.share)).collect();
    assert_eq!(told, [(1, 5), (2, 25), (3, 100)]);
    for version in ["echo", "struck"] {
        assert!(
            seen["outcomes"][version].as_u64().is_some_and(|jobs| jobs > 0),
            "both versions answered: {seen}"
        );
    }
    let canary = seen["instances"]["local-work-64"].as_u64();
    assert!(canary.is_some_and(|jobs| jobs > 0), "the instance that was tried had jobs");
    for (wave, bounds) in waves.iter().zip([0.0..0.15, 0.1..0.4, 0.8..1.01]) {
        let (share, jobs) = share(&seen, wave);
        println!("wave {}: {:.1} % of {jobs} jobs", wave.wave, share * 100.0);
        // By few jobs chance tells more than the share.
        assert!(jobs < 200 || bounds.contains(&share), "wave {}: {share} of {jobs}", wave.wave);
    }
    if soak() {
        assert!(seen["max_ms"].as_f64().unwrap() <= 1_000.0, "{}", seen["max_ms"]);
    }
    assert_eq!(others(&network), before, "nobody else was started again");
}

//! Monitoring states from rounds, one case per table of `cases/monitor.toml`.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::{collections::BTreeMap, fs};

use imn_domain::{Consensus, Finding, Monitor, MonitoringState, Vote, consensus};
use toml::{Table, Value};

fn state(name: &str) -> MonitoringState {
    *MonitoringState::ALL.iter().find(|state| state.as_str() == name).unwrap()
}

/// `up`, `down`, `split`, `?`, or a loss in percent such as `40%`.
fn finding(text: &str) -> Finding {
    let (consensus, loss_pct) = match text {
        "up" => (Consensus::Reachable, Some(0.0)),
        "down" => (Consensus::Unreachable, Some(100.0)),
        "split" => (Consensus::Degraded, Some(50.0)),
        "?" => (Consensus::Unknown, None),
        loss => (Consensus::Reachable, Some(loss.strip_suffix('%').unwrap().parse().unwrap())),
    };
    Finding { consensus, loss_pct }
}

fn cases(file: &str) -> BTreeMap<String, Table> {
    let path = format!("{}/tests/cases/{file}", env!("CARGO_MANIFEST_DIR"));
    let table: Table = fs::read_to_string(path).unwrap().parse().unwrap();
    table.into_iter().map(|(name, case)| (name, case.as_table().unwrap().clone())).collect()
}

fn words(case: &Table, key: &str) -> Vec<String> {
    case[key].as_str().unwrap().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn states_follow_from_rounds() {
    for (name, case) in cases("monitor.toml") {
        let mut monitor = Monitor::new(state(case["begin"].as_str().unwrap()), 0);
        let step_us = case.get("step_s").and_then(Value::as_integer).unwrap_or(5) * 1_000_000;
        let mut now_us = 0;
        let mut states = Vec::new();
        for round in words(&case, "rounds") {
            now_us += step_us;
            let before = monitor.state();
            let transition = monitor.observe(finding(&round), now_us);
            assert_eq!(transition.as_ref().map_or(before, |t| t.to), monitor.state(), "{name}");
            assert!(transition.is_none_or(|t| t.from == before && !t.reason.is_empty()), "{name}");
            states.push(monitor.state().as_str().to_owned());
        }
        assert_eq!(states, words(&case, "states"), "{name}");
    }
}

#[test]
fn agents_agree_or_not() {
    for (name, case) in cases("consensus.toml") {
        let votes = case["votes"].as_str().unwrap().split_whitespace().map(|vote| match vote {
            "up" => Vote::Reached,
            "down" => Vote::Missed,
            _ => Vote::Mixed,
        });
        let assigned = usize::try_from(case["assigned"].as_integer().unwrap()).unwrap();
        let found = serde_json::to_value(consensus(votes, assigned)).unwrap();
        assert_eq!(found.as_str(), case["consensus"].as_str(), "{name}");
    }
}

//! The disk of the agent full, and that of nobody else: rounds become recorded gaps, agent and modules say so, what needs
//! no disk goes on, and all is well again when there is space.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells its figures"
)]

#[path = "site/cell.rs"]
mod cell;
#[path = "site/network.rs"]
mod network;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cell::Cell;
use imn_testkit::{Signal, wait_until};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);
const HOSTS: std::ops::Range<u32> = 10..18;
const INTERVAL_US: i64 = 1_000_000;

fn instances(cell: &Cell) -> BTreeMap<String, Value> {
    let list = cell.get("/api/v1/modules").1;
    let items = list["items"].as_array().unwrap().clone();
    items.into_iter().map(|one| (one["instance"].as_str().unwrap().to_owned(), one)).collect()
}

fn pids(cell: &Cell) -> BTreeMap<String, Value> {
    instances(cell).into_iter().map(|(name, one)| (name, one["pid"].clone())).collect()
}

fn job(cell: &Cell, kind: &str) {
    let job = json!({ "type": kind, "target": "127.0.0.1", "deadline": "20s" });
    let (status, job) = cell.try_post("/api/v1/jobs?wait=20s", &job);
    assert_eq!((status, &job["state"]), (200, &json!("succeeded")), "{job}");
}

fn due(row: &Value, key: &str) -> i64 {
    row[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

/// Every due time of a target is told once, as a round or within a gap; how many gaps tell.
fn told_once(cell: &Cell, target: &str) -> u64 {
    let rows = cell.get(&format!("/api/v1/targets/{target}/results?limit=1000")).1;
    let gaps = cell.get(&format!("/api/v1/targets/{target}/gaps")).1;
    let mut told: Vec<i64> = rows["items"].as_array().unwrap().iter().map(|row| due(row, "due")).collect();
    let stored = told.len() as u64;
    for gap in gaps["items"].as_array().unwrap() {
        let rounds = gap["rounds"].as_i64().unwrap();
        told.extend((0..rounds).map(|n| due(gap, "first_due") + n * INTERVAL_US));
    }
    told.sort_unstable();
    let even = |pair: &[i64]| pair[1] - pair[0] == INTERVAL_US;
    assert!(told.windows(2).all(even), "{target}: {told:?} {gaps}");
    told.len() as u64 - stored
}

#[test]
fn rounds_become_gaps_while_the_agents_disk_is_full() {
    if !imn_testkit::require_root("agent_disk_full") {
        return;
    }
    let mut cell = Cell::new("600m");
    cell.agent_disk("200m");
    cell.up();
    let tier = json!({ "name": "second", "probes": [{ "type": "icmp" }], "probe_interval": "1s",
                       "probe_timeout": "500ms", "count": 1, "agent_selection": { "strategy": "all" } });
    cell.post("/api/v1/tiers", &tier);
    for host in HOSTS {
        cell.post("/api/v1/targets", &json!({ "ip": format!("127.0.1.{host}"), "tier": "second" }));
    }
    let measured = |cell: &Cell, host: u32, least: usize| {
        let path = format!("/api/v1/targets/127.0.1.{host}/results?limit=1000");
        cell.wait_get(&path, SOON, |rows| (rows["items"].as_array()?.len() >= least).then_some(()));
    };
    HOSTS.for_each(|host| measured(&cell, host, 3));
    let before = pids(&cell);

    cell.fill_agent_disk();
    let full = Instant::now();
    let reason = cell.wait_get("/api/v1/modules", SOON, |modules| {
        let icmp = modules["items"].as_array()?.iter().find(|one| one["instance"] == "local-icmp-0")?;
        icmp["reason"].as_str().filter(|reason| reason.contains("new rounds become gaps")).map(str::to_owned)
    });
    println!("said {:.1} s after the disk was full: {reason}", full.elapsed().as_secs_f64());
    cell.wait_get("/api/v1/agents/local", SOON, |agent| (agent["status"] == "degraded").then_some(()));
    // What needs no disk of the agent goes on; so does the server.
    job(&cell, "echo");
    job(&cell, "icmp");
    assert_eq!(cell.get("/readyz").0, 200);

    // One that is killed now waits for space, and is not given up for it.
    let tcp = before["local-tcp-0"].as_u64().unwrap() as u32;
    cell::signal(cell.outside(tcp), Signal::SIGKILL);
    let waits = cell.wait_get("/api/v1/modules", SOON, |modules| {
        let tcp = modules["items"].as_array()?.iter().find(|one| one["instance"] == "local-tcp-0")?;
        let reason = tcp["reason"].as_str()?;
        (tcp["state"] == "backoff" && reason.contains("no space left")).then(|| reason.to_owned())
    });
    println!("a module that is killed meanwhile: {waits}");
    // And so does an agent: what runs it takes over.
    let agent = cell.pid_of_role("agent");
    cell::signal(agent, Signal::SIGKILL);
    let again = || Some(cell.pid_of_role("agent")).filter(|pid| *pid != agent);
    let again = wait_until("the agent to be started again", SOON, again).unwrap();
    cell.wait_get("/api/v1/agents/local", SOON, |agent| {
        (agent["status"] == "degraded" && agent["telemetry"]["uptime_s"].as_u64()? < 30).then_some(())
    });
    job(&cell, "echo");

    cell.free_agent_disk();
    let freed = Instant::now();
    cell.wait_get("/api/v1/modules", SOON, |modules| {
        let all = modules["items"].as_array()?;
        all.iter().all(|one| one["state"] == "ready" && one["reason"].is_null()).then_some(())
    });
    cell.wait_get("/api/v1/agents/local", SOON, |agent| (agent["status"] == "active").then_some(()));
    println!("all is well {:.1} s after there was space", freed.elapsed().as_secs_f64());
    let rows = cell.get("/api/v1/targets/127.0.1.10/results?limit=1000").1["items"].as_array().unwrap().len();
    HOSTS.for_each(|host| measured(&cell, host, rows + 3));
    let missed: Vec<u64> = HOSTS.map(|host| told_once(&cell, &format!("127.0.1.{host}"))).collect();
    println!("rounds told as missed, by target: {missed:?}");
    assert!(missed.iter().all(|rounds| *rounds > 0), "{missed:?}");
    assert_eq!(cell.pid_of_role("agent"), again, "the agent ended again");
    let mut after = pids(&cell);
    after.insert("local-tcp-0".to_owned(), before["local-tcp-0"].clone());
    assert_eq!(after, before, "a module was started again");
    let log = cell.log();
    assert!(!log.contains("panicked") && !log.contains("set aside"), "{log}");
    cell.stop();
}

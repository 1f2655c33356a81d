//! Management from the command line against a whole network: what is written, and what the exit code says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::time::Duration;

use imn_testkit::{Outcome, wait_until};
use network::Network;
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(30);

/// Runs one line of `imn`, which must end with this code.
#[track_caller]
fn ends(network: &Network, line: &str, code: i32) -> Outcome {
    let outcome = network.program().args(line.split_whitespace()).run(WITHIN).unwrap();
    let Outcome { status, stdout, stderr } = &outcome;
    assert_eq!(status.code(), Some(code), "imn {line}: {stdout}{stderr}");
    outcome
}

#[track_caller]
fn json(network: &Network, line: &str) -> Value {
    serde_json::from_str(&ends(network, &format!("{line} -o json"), 0).stdout).unwrap()
}

#[test]
fn everything_can_be_done_from_the_command_line() {
    if !imn_testkit::require_root("manage") {
        return;
    }
    let mut network = Network::start();
    wait_until("the agent's modules to be ready", WITHIN, || {
        let modules = json(&network, "module list");
        let ready = modules.as_array()?.iter().filter(|module| module["state"] == "ready").count();
        (ready == imn_module::KINDS.len()).then_some(())
    })
    .unwrap();

    targets(&network);
    tiers(&network);
    jobs(&network);
    refusals(&network);
    lists(&network);
    transfer(&network);

    let agents = json(&network, "agent list");
    assert_eq!((agents.as_array().unwrap().len(), &agents[0]["id"]), (1, &"local".into()));
    assert_eq!(json(&network, "agent show local")["status"], "active");
    assert!(ends(&network, "agent list", 0).stdout.starts_with("ID "));

    // The same files with the server and without it.
    let rows = || json(&network, "results compact")["rows"].as_u64().filter(|rows| *rows > 0);
    wait_until("rounds in files", WITHIN, rows).unwrap();
    let before = json(&network, "results files");
    network.stop();
    let after = json(&network, "results files");
    assert!(
        before.as_array().unwrap().iter().all(|file| after.as_array().unwrap().contains(file)),
        "{before} {after}"
    );
    assert!(ends(&network, "target list", 1).stderr.contains("`imn up`"));
}

fn targets(network: &Network) {
    let made = json(network, "target add 127.0.0.5 --tier standard --tag pop=jfk --display-name five");
    assert_eq!((&made["tier"], &made["tags"]["pop"]), (&"standard".into(), &"jfk".into()));
    let changed = json(network, "target set 127.0.0.5 --tier low --tag a=b --untag pop");
    assert_eq!((&changed["id"], &changed["tier"]), (&made["id"], &"low".into()));
    assert_eq!(changed["tags"], serde_json::json!({ "a": "b" }));
    assert!(ends(network, "target set 127.0.0.5 --tier low", 2).stderr.contains("nothing to change"));
    let found = json(network, "target list --filter tags.a=b");
    assert_eq!((found.as_array().unwrap().len(), &found[0]["address"]), (1, &"127.0.0.5".into()));
    assert_eq!(json(network, "target list --filter tags.a=none"), serde_json::json!([]));
    assert_eq!(json(network, "target list --limit 2").as_array().unwrap().len(), 2);
    assert!(ends(network, "target show 127.0.0.5 -o yaml", 0).stdout.contains("address: 127.0.0.5\n"));

    let file = network.state().join("targets.csv");
    std::fs::write(&file, "address,tier\n127.0.0.7,low\n127.0.0.8,gold\n").unwrap();
    let outcome = ends(network, &format!("target import {}", file.display()), 7);
    assert!(outcome.stdout.starts_with("1 created, 0 updated, 0 unchanged, 1 wrong"), "{}", outcome.stdout);
    assert!(outcome.stderr.starts_with("line 3: tier: "), "{}", outcome.stderr);

    let status = |address: &str| {
        let status = json(network, &format!("target status {address}"));
        (status["consensus"] == "reachable").then_some(())
    };
    wait_until("::1 to be reachable", WITHIN, || status("::1")).unwrap();
    assert!(!json(network, "target history ::1").as_array().unwrap().is_empty());
    assert!(ends(network, "target history ::1", 0).stdout.starts_with("TIME "));
    let rounds = json(network, "target results ::1 --limit 3");
    assert_eq!((&rounds[0]["address"], &rounds[0]["type"]), (&"::1".into(), &"icmp".into()));
    assert!(ends(network, "target results ::1", 0).stdout.starts_with("DUE "));
    assert_eq!(json(network, "target gaps ::1"), serde_json::json!([]));
    assert!(ends(network, "target gaps ::1", 0).stdout.starts_with("FIRST DUE "));
    follow(network);
    let twice = ends(network, "target add 127.0.0.6 --tag a=1 --tag a=2", 2);
    assert!(twice.stderr.contains("--tag a=") && twice.stderr.contains("twice"), "{}", twice.stderr);
    let url = ends(network, "target add https://example.com/", 2);
    assert!(url.stderr.contains("http"), "{}", url.stderr);
    ends(network, "target remove 127.0.0.5 127.0.0.7", 0);
    let part = ends(network, "target remove 127.0.0.5 127.0.0.7", 5);
    assert_eq!(part.stderr.lines().count(), 2, "{}", part.stderr);
}

/// Rounds are seen as they are committed, and Ctrl-C ends it.
fn follow(network: &Network) {
    let mut live = network.program().args(["target", "live", "::1", "-o", "ndjson"]).spawn().unwrap();
    let seen = wait_until("a round to be seen", WITHIN, || live.stdout().lines().next().map(str::to_owned));
    let round: Value = serde_json::from_str(&seen.unwrap()).unwrap();
    assert_eq!((&round["event"], &round["address"]), (&"round".into(), &"::1".into()));
    live.terminate();
    assert_eq!(live.wait_deadline(WITHIN).unwrap().code(), Some(130));
    ends(network, "target live nope", 5);
}

fn tiers(network: &Network) {
    let made = json(network, "tier add gold --interval 10s --timeout 1s --count 2 --agents 2");
    assert_eq!((&made["probe_interval"], &made["agent_selection"]["count"]), (&"10s".into(), &2.into()));
    let changed = json(network, "tier set gold --count 5 --agents all");
    assert_eq!((&changed["count"], &changed["agent_selection"]["strategy"]), (&5.into(), &"all".into()));
    assert_eq!(json(network, "tier list").as_array().unwrap().len(), 4);
    ends(network, "tier remove gold", 0);
    assert!(ends(network, "tier remove critical", 1).stderr.contains("critical"));
}

fn jobs(network: &Network) {
    let echo = json(network, "job submit echo hello --param x=1");
    assert_eq!(echo["tasks"][0]["result"]["outcome"]["echo"]["params"]["x"], 1);
    let id = echo["job_id"].as_str().unwrap();
    assert_eq!(json(network, &format!("job show {id}"))["state"], "succeeded");
    assert_eq!(json(network, "job list")[0]["job_id"], id);

    // From agents, by every kind of selector, the same rows as from here, with the agent's name.
    for from in ["any", "all", "local", id] {
        let rows = json(network, &format!("ping 127.0.0.1 -c 2 -i 10ms --from {from}"));
        assert_eq!((&rows[0]["agent"], &rows[0]["received"]), (&"local".into(), &2.into()), "{from}");
    }
    let closed = ends(network, "tcp 127.0.0.1 -p 1 -c 1 --from any -o ndjson", 3);
    assert!(closed.stdout.contains("connection refused by 127.0.0.1"), "{}", closed.stdout);
    assert!(ends(network, "ping 127.0.0.1 --from nowhere", 5).stderr.contains("agents: local"));
    ends(network, "ping 127.0.0.1 --from pop=none", 5);

    let hanging = json(network, "job submit faulty x --param mode=hang --no-wait --deadline 20s");
    let id = hanging["job_id"].as_str().unwrap();
    ends(network, &format!("job cancel {id}"), 0);
    wait_until("the job to be cancelled", WITHIN, || {
        (json(network, &format!("job show {id}"))["state"] == "cancelled").then_some(())
    })
    .unwrap();
    // Nothing comes before the deadline.
    ends(network, "job submit faulty x --param mode=hang --deadline 1s", 7);
}

fn lists(network: &Network) {
    let names = |line: &str, field: &str| -> Vec<String> {
        let list = json(network, line);
        list.as_array().unwrap().iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        names("tier list --filter probe_interval<=30s --order-by name", "name"),
        ["critical", "standard"]
    );
    assert_eq!(names("tier list --order-by probe_interval --limit 1", "name"), ["critical"]);
    assert_eq!(names("agent list --filter modules:icmp --order-by id", "id"), ["local"]);
    assert_eq!(names("module list --filter type=icmp", "instance"), ["local-icmp-0"]);
    assert_eq!(names("module list --filter state=quarantined", "instance"), Vec::<String>::new());
    for line in
        ["tier list --filter colour=red", "module list --filter state=asleep", "agent list --order-by x"]
    {
        assert!(ends(network, line, 2).stderr.contains("at position"), "{line}");
    }

    // Nobody is where this tier wants it measured from, and the status says so.
    ends(network, "tier add mars --interval 5s --region mars", 0);
    ends(network, "target add 127.0.0.40 --tier mars", 0);
    let why = wait_until("the status to say why", WITHIN, || {
        let text = ends(network, "target status 127.0.0.40", 0).stdout;
        text.contains("no agent fits").then_some(text)
    });
    let why = why.unwrap();
    assert!(why.contains("by icmp") && why.contains("  local: region"), "{why}");
    ends(network, "target remove 127.0.0.40", 0);
    ends(network, "tier remove mars", 0);
}

/// Whatever lists targets for programs can be taken back where there are none.
fn transfer(network: &Network) {
    ends(network, "target add 127.0.0.41 --tier low --tag a=b,c=d --tag q=\"x\" --param size=100", 0);
    ends(network, "target add example.net --state inactive --display-name a,b", 0);
    let targets = || {
        let mut list = json(network, "target list --order-by address");
        for target in list.as_array_mut().unwrap() {
            let target = target.as_object_mut().unwrap();
            target.retain(|name, _| {
                !["id", "created", "updated", "state_since", "state_reason", "monitoring_state"]
                    .contains(&&**name)
            });
        }
        list
    };
    let before = targets();
    let all: Vec<String> = before
        .as_array()
        .unwrap()
        .iter()
        .map(|target| target["address"].as_str().unwrap().to_owned())
        .collect();
    for (line, file) in [
        ("target export", "export.ndjson"),
        ("target export -o csv", "export.csv"),
        ("target list -o ndjson", "list.ndjson"),
        ("target list -o csv", "list.csv"),
    ] {
        let text = ends(network, line, 0).stdout;
        let path = network.state().join(file);
        std::fs::write(&path, &text).unwrap();
        ends(network, &format!("target remove {}", all.join(" ")), 0);
        assert_eq!(json(network, "target list"), serde_json::json!([]));
        let done = ends(network, &format!("target import {}", path.display()), 0);
        assert!(done.stdout.starts_with(&format!("{} created", all.len())), "{line}: {}", done.stdout);
        assert_eq!(targets(), before, "{line}: {text}");
    }
    let one = ends(network, "target export --filter tier=low -o csv", 0).stdout;
    assert_eq!(one.lines().last(), Some("# count=1"), "{one}");
    ends(network, "target export --filter tier=", 2);
    ends(network, "target export -o xml", 2);
}

fn refusals(network: &Network) {
    let wrong = ends(network, "target add 300.1.1.1", 2);
    assert!(wrong.stderr.contains("300.1.1.1") && wrong.stdout.is_empty(), "{}", wrong.stderr);
    assert!(ends(network, "target add 127.0.0.6 --tier gold", 2).stderr.contains("tier"));
    assert!(ends(network, "target list --filter tier=", 2).stderr.contains("filter"));
    for (line, words) in [
        ("job submit icmp 127.0.0.1 --param count=none", "params.count"),
        ("module scale echo 0", "instances: "),
        ("module set echo --slots 0", "slots: "),
        ("tier add t --interval 0s", "probe_interval: "),
        ("tier add t --interval 10s --count -1", "--count"),
        ("tier add t --interval 1s --timeout 61s", "probe_timeout: "),
        ("target import /etc/passwd", "column, which is none"),
        ("target history ::1 --step 1ms", "step: "),
    ] {
        let wrong = ends(network, line, 2);
        assert!(wrong.stderr.contains(words) && wrong.stdout.is_empty(), "{line}: {}", wrong.stderr);
    }
    ends(network, "target show nope", 5);
    ends(network, "agent show nope", 5);
    ends(network, "job show nope", 5);
    let denied = ends(network, "target list --token imn_none_none", 4);
    assert!(denied.stderr.contains("--token"), "{}", denied.stderr);
}

//! A new version of a module that does not start, crashes, errs or hangs is rolled back and turned down, with its reason;
//! the old one answers all jobs meanwhile. Somebody who knows better has it rolled out all the same.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;
#[path = "site/roll.rs"]
mod roll;

use std::time::Duration;

use imn_testkit::wait_until;
use network::{Network, program};
use roll::SOON;
use serde_json::{Value, json};

const RATE: u32 = 40;
const TRIED: &str = "local-work-64";

fn manifest(version: &str) -> String {
    format!(
        "type = \"work\"\nversion = \"{version}\"\nslots = 8\n\
         [self_test]\ntarget = \"x\"\nparams = {{ mode = \"delay\", delay_ms = 1 }}\n"
    )
}

/// Waits until a version is turned down, and tells why, as the API, the heartbeat and the command line do.
fn turned_down(network: &Network, version: &str) -> String {
    let (_, ended) = roll::follow(network, version, &["rolled_back", "done", "abandoned"]);
    assert_eq!(ended["state"], "rolled_back", "{ended}");
    let reason = ended["reason"].as_str().unwrap().to_owned();
    let shown = network.wait_get(roll::WORK, SOON, |body| {
        let tried = body["instances"].as_array()?.iter().find(|one| one["instance"] == TRIED)?;
        (tried["state"] == "quarantined" && tried["pid"].is_null()).then(|| tried["reason"].clone())
    });
    let shown = shown.as_str().unwrap();
    assert!(shown.contains(&format!("version {version} (")) && shown.ends_with(&reason), "{shown}");
    let list = network.program().args(["module", "list", "--type", "work", "-o", "json"]);
    let list: Value = serde_json::from_str(&list.run_ok(SOON).unwrap()).unwrap();
    assert!(list.to_string().contains(&reason), "{list}");
    println!("{version}: {reason}");
    reason
}

#[test]
fn a_version_that_does_worse_is_rolled_back() {
    if !imn_testkit::require_root("bad_version") {
        return;
    }
    let network = Network::start();
    network.wait_get("/api/v1/agents/local", SOON, |body| (body["status"] == "active").then_some(()));
    // Whatever its jobs say, the old version echoes it; the new ones do it.
    roll::install(&network, "echo", "good", &manifest("good"));
    roll::wait_ready(&network, 1);
    let old = network.pid("local-work-0");
    let load = |params: &str, deadline: u64| {
        roll::load(&network, "work", params, RATE, Duration::from_secs(deadline))
    };

    // One that does not start.
    let Some(client) = load(r#"{"mode":"delay","delay_ms":1}"#, 30) else {
        return imn_testkit::skip("bad_version", "no Python with nats-py; `cargo xtask test` installs it");
    };
    roll::install_script(&network, "#!/bin/sh\necho no such luck >&2\nexit 7\n", &manifest("dead"));
    let reason = turned_down(&network, "dead");
    assert!(reason.contains("exit status: 7: no such luck"), "{reason}");
    let seen = client.end();
    assert_eq!(seen["outcomes"], json!({ "echo": seen["jobs"] }));

    // One that ends over its jobs: they are done by the old version.
    let client = load(r#"{"mode":"exit"}"#, 30).unwrap();
    roll::install(&network, "faulty", "crashes", &manifest("crashing"));
    let reason = turned_down(&network, "crashing");
    assert!(
        reason.starts_with("wave 1 of 3, 5 % of the jobs: its process ended: exit status: 86"),
        "{reason}"
    );
    let seen = client.end();
    assert_eq!(seen["outcomes"], json!({ "echo": seen["jobs"] }));

    // One whose jobs fail: only those that it was tried with.
    let client = load(r#"{"mode":"error","message":"no"}"#, 30).unwrap();
    roll::install(&network, "faulty", "errs", &manifest("erring"));
    let reason = turned_down(&network, "erring");
    assert!(reason.contains("it errs: "), "{reason}");
    only_tried(&client.end(), 12);

    // One that does not end its jobs.
    let client = load(r#"{"mode":"hang"}"#, 6).unwrap();
    roll::install(&network, "faulty", "hangs", &manifest("hanging"));
    let reason = turned_down(&network, "hanging");
    assert!(reason.contains("it hangs: "), "{reason}");
    only_tried(&client.end(), 4);

    assert_eq!(network.pid("local-work-0"), old, "the old version has not been disturbed");

    // An operator says that it is good.
    let told = network.program().args(["module", "roll", "work"]).run_ok(SOON).unwrap();
    assert!(told.contains("local"), "{told}");
    let (_, ended) = roll::follow(&network, "hanging", &["done"]);
    assert_eq!(ended["reason"], Value::Null, "{ended}");
    roll::wait_alone(&network, 1);
    roll::wait_ready(&network, 1);
    wait_until("the process to be another", SOON, || {
        let part = network.parts().get("local-work-0").cloned()?;
        (part.pid != old && part.command.contains(&program().display().to_string())).then_some(())
    })
    .unwrap();
    let job = json!({ "type": "work", "target": "x", "params": { "mode": "delay", "delay_ms": 1 }, "deadline": "20s" });
    let done = network.post("/api/v1/jobs?wait=20s", &job);
    assert_eq!(done["tasks"][0]["result"]["outcome"], json!({ "struck": true }), "{done}");
}

/// A few jobs have ended badly, all with the instance that was tried; the others were done by the old version.
fn only_tried(seen: &Value, most: u64) {
    // Whether the module or the server says first that the time is over, is chance.
    let bad: u64 = ["failed", "timed_out"].iter().filter_map(|how| seen["status"][how].as_u64()).sum();
    assert!((1..=most).contains(&bad), "{}", seen["status"]);
    assert_eq!(seen["failed_by"], json!({ TRIED: bad }), "{}", seen["status"]);
    assert_eq!(
        seen["outcomes"]["echo"].as_u64(),
        seen["jobs"].as_u64().map(|jobs| jobs - bad),
        "{}",
        seen["status"]
    );
}

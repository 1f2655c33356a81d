//! A module that somebody else has started announces itself: it is listed, does jobs, and what it says of its
//! parameters is known for as long as it runs, whoever else is started again.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use imn_runtime::credential::{Authority, Role};
use imn_testkit::{Process, wait_until};
use network::Network;
use serde_json::{Value, json};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/python/hello_module.py");
const INSTANCE: &str = "local-hello-7";
const SOON: Duration = Duration::from_secs(40);

/// Starts the example as somebody would who has its credentials.
fn start(network: &Network, python: &Path) -> Process {
    let authority = Authority::open(&network.state().join("keys")).unwrap();
    let role = Role::Module {
        agent: "local".parse().unwrap(),
        kind: "hello".parse().unwrap(),
        instance: INSTANCE.parse().unwrap(),
    };
    let credentials = authority.issue(&role, None).unwrap();
    let connect = fs::read_to_string(network.state().join("connect.json")).unwrap();
    let connect: Value = serde_json::from_str(&connect).unwrap();
    let config = json!({
        "v": 1,
        "agent": "local",
        "type": "hello",
        "instance": INSTANCE,
        "nats_url": connect["nats_url"],
        "creds": credentials.text(),
        "inbox_prefix": credentials.inbox_prefix(),
        "config": { "greeting": "good day" },
    });
    let path = network.state().join("announced.json");
    fs::write(&path, config.to_string()).unwrap();
    let shell = network.node().program("sh").args(["-c", "exec \"$0\" \"$1\" < \"$2\""]);
    shell.arg(python).arg(EXAMPLE).arg(path).spawn().unwrap()
}

fn wait_listed(network: &Network) {
    network.wait_get("/api/v1/modules", SOON, |body| {
        let mut items = body["items"].as_array()?.iter();
        items.any(|one| one["instance"] == INSTANCE && one["state"] == "ready").then_some(())
    });
}

/// It does a job, and what its schema does not allow is refused before it is asked.
fn does_its_work(network: &Network) {
    let job = json!({ "type": "hello", "target": "world", "deadline": "20s" });
    let ended = network.post("/api/v1/jobs?wait=20s", &job);
    let result = &ended["tasks"][0]["result"];
    assert_eq!(result["outcome"]["greeting"], "good day world", "{ended}");
    assert_eq!(result["instance"], INSTANCE, "{ended}");
    let wrong = json!({ "type": "hello", "target": "world", "params": { "delay_ms": -1 } });
    let refused = network.curl("POST", "/api/v1/jobs", Some(&wrong.to_string()));
    let field = &refused.body["errors"][0]["field"];
    assert_eq!((refused.status, field), (400, &json!("params.delay_ms")), "{}", refused.body);
}

#[test]
fn a_module_that_announces_itself_is_one_of_the_network() {
    if !imn_testkit::require_root("announced_module") {
        return;
    }
    let Some(python) = network::python() else {
        return imn_testkit::skip(
            "announced_module",
            "no Python with nats-py; `cargo xtask test` installs it",
        );
    };
    let network = Network::start();
    network.wait_get("/api/v1/agents/local", SOON, |body| (body["status"] == "active").then_some(()));
    let mut module = start(&network, &python);
    wait_listed(&network);
    does_its_work(&network);

    // It outlives its agent and the server, which know it again.
    for part in ["agent", "server"] {
        let began = Instant::now();
        let killed = network.kill9(part);
        network.wait_restarted(part, killed);
        wait_listed(&network);
        wait_until("the agent to hand it jobs again", SOON, || {
            let job = json!({ "type": "hello", "target": "x", "deadline": "5s" });
            let ended = network.curl("POST", "/api/v1/jobs?wait=6s", Some(&job.to_string()));
            (ended.body["state"] == "succeeded").then_some(())
        })
        .unwrap();
        does_its_work(&network);
        println!("{:.1} s after the {part} was killed, all is as before", began.elapsed().as_secs_f64());
        assert!(module.is_running(), "{}", module.tail());
    }

    // Its end is its own affair: it drains, and nobody starts it again.
    module.terminate();
    assert!(module.wait_deadline(SOON).unwrap().success(), "{}", module.tail());
    network.wait_get("/api/v1/modules", SOON, |body| {
        let items = body["items"].as_array()?;
        items.iter().all(|one| one["instance"] != INSTANCE || one["state"] != "ready").then_some(())
    });
    assert!(!network.parts().contains_key(INSTANCE));
}

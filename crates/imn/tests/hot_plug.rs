//! A module of somebody else's, in another language, is put into a running network, killed, and taken out again; nobody
//! else notices.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use imn_testkit::wait_until;
use network::{Network, soak};
use serde_json::{Value, json};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/python");
const MANIFEST: &str = "type = \"hello\"\nversion = \"1.0.0\"\nslots = 1\n";
const SOON: Duration = Duration::from_secs(30);

/// Puts the example into the directory as a person would: written elsewhere, then moved.
fn plug_in(network: &Network, python: &Path) {
    let directory = network.state().join("agents/local/modules.d");
    fs::create_dir_all(&directory).unwrap();
    // What is no executable is no module.
    fs::copy(Path::new(EXAMPLES).join("imn_module.py"), directory.join("imn_module.py")).unwrap();
    fs::set_permissions(directory.join("imn_module.py"), fs::Permissions::from_mode(0o644)).unwrap();
    let text = fs::read_to_string(Path::new(EXAMPLES).join("alone_module.py")).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    let draft = network.state().join("hello");
    fs::write(
        &draft,
        format!("#!{}\n{rest}", fs::canonicalize(python.parent().unwrap()).unwrap().join("python").display()),
    )
    .unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.join("hello.toml"), MANIFEST).unwrap();
    fs::rename(draft, directory.join("hello")).unwrap();
}

fn job(target: &str, params: &Value) -> Value {
    json!({ "type": "hello", "target": target, "params": params, "wait_for_module": true, "deadline": "20s" })
}

fn others(network: &Network) -> BTreeMap<String, u32> {
    let parts = network.parts().into_iter().filter(|(name, _)| name != "local-hello-0");
    parts.map(|(name, part)| (name, part.pid)).collect()
}

#[test]
fn a_module_is_plugged_in_killed_and_taken_out() {
    if !imn_testkit::require_root("hot_plug") {
        return;
    }
    let Some(python) = network::python() else {
        return imn_testkit::skip("hot_plug", "no Python with nats-py; `cargo xtask test` installs it");
    };
    let network = Network::start();
    network.wait_get("/api/v1/agents/local", SOON, |body| (body["status"] == "active").then_some(()));
    network.wait_get("/api/v1/modules", SOON, |body| {
        let items = body["items"].as_array()?;
        items.iter().all(|module| module["state"] == "ready").then_some(())
    });
    let before = others(&network);

    // The first job is there before the module is.
    let began = Instant::now();
    plug_in(&network, &python);
    let first = network.post("/api/v1/jobs?wait=20s", &job("world", &json!({})));
    let took = began.elapsed();
    assert_eq!(first["state"], "succeeded", "{first}");
    assert_eq!(first["tasks"][0]["result"]["outcome"]["greeting"], "hello world", "{first}");
    println!("from the new file to the first result: {:.2} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(if soak() { 2 } else { 5 }), "{took:?}");
    // Its credentials allow what an instance of its own may do, and no more.
    let creds = network.state().join("agents/local/creds/local-hello-0.creds");
    assert_eq!(fs::metadata(creds).unwrap().permissions().mode() & 0o777, 0o600);

    // What no parameter of its schema allows is refused before it is handed to anybody.
    let wrong = network.curl("POST", "/api/v1/jobs", Some(&job("x", &json!({ "delay_ms": -1 })).to_string()));
    assert_eq!(
        (wrong.status, &wrong.body["errors"][0]["field"]),
        (400, &json!("params.delay_ms")),
        "{}",
        wrong.body
    );

    // Killed in the middle of a job: that is done again by the next process, and ends once.
    let slow = network.post("/api/v1/jobs", &job("slow", &json!({ "delay_ms": 3000 })));
    let path = format!("/api/v1/jobs/{}", slow["job_id"].as_str().unwrap());
    network.wait_get(&path, SOON, |body| (body["state"] == "running").then_some(()));
    let killed = network.kill9("local-hello-0");
    let ended = network.wait_get(&path, SOON, |body| (body["terminal"] == true).then(|| body.clone()));
    assert_eq!(
        (&ended["state"], &ended["tasks"][0]["attempts"]),
        (&json!("succeeded"), &json!(2)),
        "{ended}"
    );
    network.wait_restarted("local-hello-0", killed);

    // Taken out: it drains, and nobody has the type any more.
    fs::remove_file(network.state().join("agents/local/modules.d/hello")).unwrap();
    wait_until("the module to be gone", SOON, || {
        (!network.parts().contains_key("local-hello-0")).then_some(())
    })
    .unwrap();
    network.wait_get("/api/v1/modules", SOON, |body| {
        let items = body["items"].as_array()?;
        items.iter().all(|module| module["type"] != "hello").then_some(())
    });
    let late = json!({ "type": "hello", "target": "world", "deadline": "2s" });
    let refused = network.curl("POST", "/api/v1/jobs", Some(&late.to_string()));
    assert_eq!(refused.status, 404, "{}", refused.body);
    assert_eq!(others(&network), before, "nobody else was started again");
}

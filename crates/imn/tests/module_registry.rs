//! A module is published to a running network, replaced, tampered with on its way, and unpublished. What is not as its
//! publisher has signed it is not run, and says so; what ran before goes on.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use imn_testkit::{Program, Signal, wait_until};
use network::{Network, soak};
use serde_json::{Value, json};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/python");
const SOON: Duration = Duration::from_secs(40);

/// The example and its SDK as one executable.
fn pack(network: &Network, python: &Path, version: &str) -> PathBuf {
    let draft = network.state().join(format!("draft-{version}"));
    fs::create_dir(&draft).unwrap();
    fs::copy(Path::new(EXAMPLES).join("imn_module.py"), draft.join("imn_module.py")).unwrap();
    let text = fs::read_to_string(Path::new(EXAMPLES).join("hello_module.py")).unwrap();
    let ours = format!("version = \"{version}\"");
    assert!(text.contains("version = \"1.0.0\""), "the example has another version");
    fs::write(draft.join("__main__.py"), text.replace("version = \"1.0.0\"", &ours)).unwrap();
    // Not what it links to: an interpreter of a virtual environment is known by its link.
    let interpreter = fs::canonicalize(python.parent().unwrap()).unwrap().join("python");
    let packed = network.state().join(format!("hello-{version}"));
    Program::new(&interpreter)
        .args(["-m", "zipapp", "--python"])
        .arg(&interpreter)
        .arg("--output")
        .arg(&packed)
        .arg(&draft)
        .run_ok(SOON)
        .unwrap();
    packed
}

/// `imn module publish`, as a person would.
fn publish(network: &Network, file: &Path, version: &str, greeting: &str) -> Value {
    let config = json!({ "greeting": greeting }).to_string();
    let program = network.program().args(["module", "publish"]).arg(file);
    let program =
        program.args(["--type", "hello", "--version", version, "--slots", "2", "--config", &config]);
    serde_json::from_str(&program.args(["-o", "json"]).run_ok(SOON).unwrap()).unwrap()
}

/// What a NATS client with the server's credentials sees and does.
fn nats(network: &Network, args: &[&str]) -> Value {
    serde_json::from_str(&network.python("registry.py", args, SOON).unwrap()).unwrap()
}

fn greeting(network: &Network) -> Value {
    let job = json!({ "type": "hello", "target": "world", "wait_for_module": true, "deadline": "20s" });
    let ended = network.post("/api/v1/jobs?wait=20s", &job);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    ended["tasks"][0]["result"]["outcome"]["greeting"].clone()
}

fn wait_version(network: &Network, version: &str) {
    network.wait_get("/api/v1/modules?type=hello", SOON, |body| {
        let items = body["items"].as_array()?;
        let fits = |one: &Value| one["version"] == version && one["state"] == "ready";
        // The one that was tried first is gone again.
        (items.len() == 1 && items.iter().all(fits)).then_some(())
    });
}

/// Waits until the network says of the agent what is wrong, in these words.
fn wait_problem(network: &Network, words: &str) -> String {
    network.wait_get("/api/v1/modules", SOON, |body| {
        let mut told = body["problems"].as_array()?.iter().filter_map(|one| one["problem"].as_str());
        told.find(|problem| problem.contains(words)).map(str::to_owned)
    })
}

fn others(network: &Network) -> BTreeMap<String, u32> {
    let parts = network.parts().into_iter().filter(|(name, _)| name != "local-hello-0");
    parts.map(|(name, part)| (name, part.pid)).collect()
}

#[test]
fn a_module_is_published_replaced_defended_and_unpublished() {
    if !imn_testkit::require_root("module_registry") {
        return;
    }
    let Some(python) = network::python() else {
        return imn_testkit::skip(
            "module_registry",
            "no Python with nats-py; `cargo xtask test` installs it",
        );
    };
    let network = Network::start();
    network.wait_get("/api/v1/modules", SOON, |body| {
        let items = body["items"].as_array()?;
        (!items.is_empty() && items.iter().all(|module| module["state"] == "ready")).then_some(())
    });
    let before = others(&network);
    let [one, two, three, four] = ["1.0.0", "2.0.0", "3.0.0", "4.0.0"].map(|v| pack(&network, &python, v));

    // Published: fetched, verified, run. Nobody has touched the agent's host.
    let began = Instant::now();
    let published = publish(&network, &one, "1.0.0", "hello");
    assert_eq!(greeting(&network), "hello world");
    let took = began.elapsed();
    println!("from `imn module publish` to the first result: {:.2} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(if soak() { 2 } else { 6 }), "{took:?}");
    assert_eq!((&published["revision"], &published["agents"]), (&json!(1), &json!(["local"])), "{published}");
    let part = &network.parts()["local-hello-0"];
    let copy = format!("artifacts/{}/hello", published["sha256"].as_str().unwrap());
    assert!(part.command.contains(&copy), "{}", part.command);
    // Any client of object stores finds the executable as it was published.
    let stored = nats(&network, &["objects"]);
    assert_eq!(stored[0]["sha256"], published["sha256"], "{stored}");
    assert_eq!(stored[0]["size"].as_u64(), Some(fs::metadata(&one).unwrap().len()), "{stored}");

    // What the agent itself may do, by what NATS says.
    let rights = nats(&network, &["denied"]);
    let refusals: Vec<&str> =
        rights["refusals"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(refusals.len(), 7, "{rights}");
    assert!(
        refusals.iter().all(|text| text.to_lowercase().contains("permissions violation for publish to")),
        "{rights}"
    );
    assert!(rights["own"].as_u64() > Some(0) && rights["chunk"].as_u64() > Some(0), "{rights}");

    // Published anew: replaced.
    let first = nats(&network, &["kept"]);
    publish(&network, &two, "2.0.0", "good day");
    wait_version(&network, "2.0.0");
    assert_eq!(greeting(&network), "good day world");
    let two_runs = network.pid("local-hello-0");

    // Altered in the store before the agent reads it: refused, and told; the version before goes on.
    let agent = network.pid("agent");
    Network::signal(agent, Signal::SIGSTOP);
    publish(&network, &three, "3.0.0", "never");
    let object = wait_until("the list of the agent to name the third", SOON, || {
        let kept = nats(&network, &["kept"]);
        let module = &kept["list"]["modules"][0];
        (module["version"] == "3.0.0").then(|| module["object"].as_str().unwrap().to_owned())
    })
    .unwrap();
    nats(&network, &["tamper", &object]);
    Network::signal(agent, Signal::SIGCONT);
    let problem = wait_problem(&network, "3.0.0");
    println!("refused: {problem}");
    assert!(problem.contains("sha256") && problem.contains("2.0.0 goes on"), "{problem}");
    let listed = network.program().args(["module", "list"]).run_ok(SOON).unwrap();
    assert!(listed.contains("problem at local: hello 3.0.0"), "{listed}");
    assert_eq!(network.pid("local-hello-0"), two_runs, "it was not even started again");
    assert_eq!(greeting(&network), "good day world");

    // An older list, however well signed, and one that is not signed by the registry's key.
    let path = network.state().join("list.json");
    for (list, words) in [(first.clone(), "older than"), (forged(&first), "signature")] {
        fs::write(&path, list.to_string()).unwrap();
        let answer = nats(&network, &["put", &path.display().to_string()]);
        assert_eq!(answer["ok"], true, "{answer}");
        println!("refused: {}", wait_problem(&network, words));
        assert_eq!(network.pid("local-hello-0"), two_runs);
    }

    // What is whole is taken again, and nothing is amiss.
    publish(&network, &four, "4.0.0", "welcome");
    wait_version(&network, "4.0.0");
    assert_eq!(greeting(&network), "welcome world");
    network.wait_get("/api/v1/modules", SOON, |body| (body["problems"] == json!([])).then_some(()));

    refuses(&network);

    // Unpublished: it drains, and its files are gone.
    let out = network.program().args(["module", "unpublish", "hello"]).run_ok(SOON).unwrap();
    assert!(out.contains("hello unpublished"), "{out}");
    wait_until("the module to be gone", SOON, || {
        (!network.parts().contains_key("local-hello-0")).then_some(())
    })
    .unwrap();
    network.wait_get("/api/v1/modules", SOON, |body| {
        let items = body["items"].as_array()?;
        items.iter().all(|module| module["type"] != "hello").then_some(())
    });
    assert_eq!(network.get("/api/v1/registry")["items"], json!([]));
    let left = fs::read_dir(network.state().join("agents/local/registry.d")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(others(&network), before, "nobody else was started again");
}

/// The same list with one byte changed.
fn forged(list: &Value) -> Value {
    let mut forged = list.clone();
    let data = list["data"].as_str().unwrap();
    // The twelfth character of base64 is within the text of the list's first fields.
    let other = if &data[11..12] == "A" { "B" } else { "A" };
    forged["data"] = Value::String(format!("{}{other}{}", &data[..11], &data[12..]));
    forged
}

/// What is no module of the registry is refused before anything is stored.
fn refuses(network: &Network) {
    let connect = network.connect();
    let put = |path: &str, file: &Path| {
        let curl = network.node().program("curl").package("curl");
        let curl = curl.args(["-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}"]);
        let key = format!("Authorization: Bearer {}", connect.api_key);
        let curl = curl.args(["-H", &key, "-T"]).arg(file);
        curl.arg(format!("{}/api/v1/registry/{path}", connect.http_url)).run_ok(SOON).unwrap()
    };
    let large = network.state().join("large");
    File::create(&large).unwrap().set_len((256 << 20) + 1).unwrap();
    assert_eq!(put("large?version=1", &large), "413");
    let small = network.state().join("small");
    fs::write(&small, "#!/bin/sh\n").unwrap();
    for path in
        ["icmp?version=1", "small", "small?version=1&instances=65", "small?version=1&agents={\"limit\":1}"]
    {
        let path = path.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
        assert_eq!(put(&path, &small), "400", "{path}");
    }
    let operator = network.post("/api/v1/api-keys", &json!({ "name": "operator", "role": "operator" }));
    let key = format!("Authorization: Bearer {}", operator["key"].as_str().unwrap());
    let url = format!("{}/api/v1/registry/small?version=1", connect.http_url);
    let curl =
        network.node().program("curl").args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", &key]);
    assert_eq!(curl.arg("-T").arg(&small).arg(&url).run_ok(SOON).unwrap(), "403");
    let unknown = network.curl("DELETE", "/api/v1/registry/small", None);
    assert_eq!(unknown.status, 404, "{}", unknown.body);
    let published = network.get("/api/v1/registry");
    assert_eq!(published["items"].as_array().map(Vec::len), Some(1), "{published}");
    let audit = network.get("/api/v1/audit");
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().filter_map(|entry| entry["action"].as_str()).collect();
    assert_eq!(actions.iter().filter(|action| **action == "registry.publish").count(), 4, "{audit}");
}

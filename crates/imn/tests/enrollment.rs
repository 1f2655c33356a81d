//! An agent of another host comes in by a token, over TLS 1.3, measures, and is back without the token; a token that is
//! spent, old or another's lets nobody in.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/keys.rs"]
mod keys;
#[path = "site/network.rs"]
mod network;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use imn_testkit::{Outcome, wait_until};
use keys::{Elsewhere, SOON, command, connections_of, wait_connected};
use network::Network;
use serde_json::{Value, json};

fn imn(network: &Network, args: &[&str]) -> Outcome {
    network.program().args(args).run(SOON).unwrap()
}

fn token(network: &Network, args: &[&str]) -> Value {
    let made = imn(network, &[&["token", "create", "-o", "json"][..], args].concat());
    assert!(made.status.success(), "{}", made.stderr);
    serde_json::from_str(&made.stdout).unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// One who must not come in: with which code, and what the words must hold.
fn stays_out(network: &Network, name: &str, args: &[&str], code: i32, words: &[&str]) {
    let state = network.state().join("outside").join(name);
    let outcome = command(network, &state, name, args).run(SOON).unwrap();
    assert_eq!(outcome.status.code(), Some(code), "{name}: {}", outcome.stderr);
    let error = outcome.stderr.lines().rfind(|line| line.starts_with("error: ")).unwrap_or_default();
    for word in words {
        assert!(error.contains(word), "{name}: no {word:?} in {error:?}");
    }
    assert!(!state.join("agent.creds").exists(), "{name} has credentials");
    println!("{name}: {error}");
}

fn curl(network: &Network, args: &[&str]) -> bool {
    let connect = network.connect();
    let url = format!("{}/healthz", connect.http_url);
    let ca = connect.ca_file.unwrap();
    let program = network.node().program("curl").package("curl");
    program.args(["-sS", "-m", "20", "--cacert", &ca]).args(args).arg(url).run(SOON).unwrap().status.success()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_agent_comes_in_by_a_token_once() {
    if !imn_testkit::require_root("enrollment") {
        return;
    }
    let network = Network::start_with(&["--tls", "--nats-listen", "127.0.0.1:0"]);
    let connect = network.connect();
    assert!(connect.http_url.starts_with("https://"), "{connect:?}");
    assert_eq!(mode(&network.state().join("keys/tls/ca.key")), 0o600);
    // The client's word, not ours: nothing below 1.3 is spoken.
    assert!(curl(&network, &["--tlsv1.3"]));
    assert!(!curl(&network, &["--tls-max", "1.2"]));

    let made = token(&network, &["--agent", "lon1"]);
    let (secret, pin) = (text(&made, "token"), text(&made, "ca_fingerprint"));
    let plane = ["--control-plane", &connect.http_url];
    let by_token = ["--token", secret, "--ca-fingerprint", pin];
    let mut lon1 = Elsewhere::new(&network, "lon1");
    lon1.start(&network, "lon1", &[&plane[..], &by_token].concat());
    network.wait_get("/api/v1/agents/lon1", SOON, |agent| (agent["status"] == "active").then_some(()));
    for connection in wait_connected(&network, "lon1") {
        assert_eq!(connection["tls_version"], "1.3", "{connection}");
    }
    for file in ["agent.creds", "enrolled.json", "creds/lon1-icmp-0.creds"] {
        assert_eq!(mode(&lon1.state.join(file)), 0o600, "{file}");
    }
    let kept = fs::read_to_string(lon1.state.join("enrolled.json")).unwrap();
    assert!(!kept.contains(secret), "a token that is spent is not kept");

    // It follows the registry of the network that it came into.
    let module = network.state().join("elsewhere.sh");
    fs::write(&module, "#!/bin/sh\nexec sleep 60\n").unwrap();
    let path = module.to_str().unwrap();
    let published = imn(
        &network,
        &["module", "publish", path, "--type", "elsewhere", "--version", "1", "--agents", "lon1"],
    );
    assert!(published.status.success(), "{}", published.stderr);
    let fetched = || {
        let artifacts = fs::read_dir(lon1.state.join("artifacts")).ok()?;
        artifacts.flatten().find(|copy| copy.path().join("elsewhere").is_file()).map(|_| ())
    };
    wait_until("what is published for it to be fetched", SOON, fetched).unwrap();

    // It measures, and does jobs.
    let rounds = "/api/v1/targets/127.0.0.1/results?agent=lon1";
    network.wait_get(rounds, SOON, |body| body["items"].as_array()?.first().map(|_| ()));
    let job = |n: u32| {
        network.wait_get("/api/v1/modules/echo", SOON, |body| {
            let mut all = body["instances"].as_array()?.iter();
            all.any(|one| one["instance"] == "lon1-echo-0" && one["state"] == "ready").then_some(())
        });
        let target = format!("hello{n}");
        let done = imn(&network, &["job", "submit", "echo", &target, "--from", "lon1", "-o", "json"]);
        assert!(done.status.success(), "{}{}", done.stdout, done.stderr);
        assert!(done.stdout.contains("succeeded") && done.stdout.contains("lon1"), "{}", done.stdout);
    };
    job(1);

    // Back without the token; and with it, as a unit file that still names it would have it.
    for again in [&[][..], &[&plane[..], &by_token].concat()[..]] {
        lon1.stop();
        wait_until("its connections to end", SOON, || {
            connections_of(&network, "lon1").is_empty().then_some(())
        })
        .unwrap();
        lon1.start(&network, "lon1", again);
        wait_connected(&network, "lon1");
        job(2 + again.len() as u32);
    }
    let used = network.get("/api/v1/enrollment-tokens");
    let used =
        used["items"].as_array().unwrap().iter().find(|token| token["id"] == made["id"]).unwrap().clone();
    assert_eq!((text(&used, "state"), text(&used, "used_by")), ("used", "lon1"));

    let out = |name: &str, token: &str, code: i32, words: &[&str]| {
        let args = [&plane[..], &["--token", token, "--ca-fingerprint", pin]].concat();
        stays_out(&network, name, &args, code, words);
    };
    out("lon1", secret, 1, &["409", "used by lon1", "another token"]);
    let bound = token(&network, &["--agent", "ams1"]);
    out("par1", text(&bound, "token"), 4, &["403", "for the agent ams1", "--id ams1"]);
    let open = token(&network, &[]);
    out("local", text(&open, "token"), 1, &["409", "keys in force", "imn agent revoke local"]);
    let brief = token(&network, &["--ttl", "1s"]);
    network.wait_get("/api/v1/enrollment-tokens", SOON, |list| {
        let found = list["items"].as_array()?.iter().find(|token| token["id"] == brief["id"])?;
        (found["state"] == "expired").then_some(())
    });
    out("fra1", text(&brief, "token"), 1, &["410", "expired", "imn token create"]);
    let removed = token(&network, &[]);
    assert!(imn(&network, &["token", "remove", text(&removed, "id")]).status.success());
    out("mad1", text(&removed, "token"), 4, &["403", "not known", "imn token create"]);
    out("rom1", "nonsense", 4, &["403", "not known"]);

    // Whoever is not the server is not told the token.
    let pin_of_another = format!("sha256:{}", "00".repeat(32));
    let mistrusting = ["--token", text(&open, "token"), "--ca-fingerprint", &pin_of_another];
    stays_out(
        &network,
        "osl1",
        &[&plane[..], &mistrusting].concat(),
        1,
        &["UnknownIssuer", "--ca-fingerprint"],
    );
    let mistrusting = ["--token", text(&open, "token")];
    stays_out(&network, "osl2", &[&plane[..], &mistrusting].concat(), 1, &["--ca-file"]);
    let clear = ["--control-plane", "http://192.0.2.1:8080", "--token", text(&open, "token")];
    stays_out(&network, "osl3", &clear, 2, &["in the clear", "https://"]);
    stays_out(&network, "osl4", &plane, 2, &["--token is needed"]);

    // A signature by another key, or over another nonce.
    let nonce = network.curl("POST", "/api/v1/enroll/nonce", Some("{}"));
    assert_eq!(nonce.status, 200, "{}", nonce.body);
    let key = "UBDPHDHVXZ6TXL3GB4LJLG4SKZT2GVXCTJLDLOB4JNJVQW5S3VKOTDRF";
    for (nonce, field) in [(text(&nonce.body, "nonce"), "signature"), ("AAAA", "nonce")] {
        let body = json!({
            "token": open["token"], "agent": "sto1", "public_key": key, "nonce": nonce, "signature": "AAAA",
        });
        let refused = network.curl("POST", "/api/v1/enroll", Some(&body.to_string()));
        assert_eq!(
            (refused.status, &refused.body["errors"][0]["field"]),
            (403, &json!(field)),
            "{}",
            refused.body
        );
    }

    let audit = network.get("/api/v1/audit?limit=1000");
    let done: Vec<_> = audit["items"].as_array().unwrap().iter().map(|entry| text(entry, "action")).collect();
    for action in ["enrollment_token.create", "enrollment_token.delete", "agent.enroll"] {
        assert!(done.contains(&action), "{action} is not in {done:?}");
    }
    assert!(!audit.to_string().contains(secret));
    lon1.stop();
}

#[test]
fn keys_do_not_cross_a_network_in_the_clear() {
    let state = tempfile::tempdir().unwrap();
    for role in ["up", "server"] {
        let program = imn_testkit::Program::new(network::program()).env("IMN_STATE_DIR", state.path());
        let outcome = program.args([role, "--listen", "0.0.0.0:0"]).run(Duration::from_secs(20)).unwrap();
        assert_eq!(outcome.status.code(), Some(2), "{role}: {}", outcome.stderr);
        for word in ["loopback only", "--tls", "--insecure"] {
            assert!(outcome.stderr.contains(word), "{role}: {}", outcome.stderr);
        }
    }
}

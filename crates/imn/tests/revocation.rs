//! Credentials that end are renewed while everything goes on, and do not let anybody in once they have ended; an agent that
//! is revoked is disconnected at once, with its modules, and stays out until it is enrolled anew.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/keys.rs"]
mod keys;
#[path = "site/network.rs"]
mod network;

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant, SystemTime},
};

use async_nats::Event;
use imn_runtime::credential::Credentials;
use imn_testkit::wait_until;
use keys::{Elsewhere, Insider, SOON, connections_of, inside, url, wait_connected};
use network::{Network, span};
use serde_json::Value;

/// How long credentials are good for here.
const LIFETIME: Duration = Duration::from_secs(12);

fn pids(network: &Network) -> BTreeSet<(String, u32)> {
    network.parts().into_iter().map(|(name, part)| (name, part.pid)).collect()
}

fn keys_of(connections: &[Value]) -> BTreeSet<String> {
    connections.iter().map(|connection| connection["authorized_user"].as_str().unwrap().to_owned()).collect()
}

fn token(network: &Network, agent: &str) -> String {
    let made =
        network.program().args(["token", "create", "--agent", agent, "-o", "json"]).run_ok(SOON).unwrap();
    let made: Value = serde_json::from_str(&made).unwrap();
    made["token"].as_str().unwrap().to_owned()
}

/// That nats-server refuses credentials, in its own words.
fn is_refused(network: &Network, creds: &str) {
    let url = url(network);
    let refused = inside(network, async { Insider::connect(&url, creds).await.err() });
    let refused = refused.unwrap_or_else(|| panic!("it was let in")).to_string();
    assert!(refused.to_lowercase().contains("authorization violation"), "{refused}");
}

#[test]
fn credentials_are_renewed_in_time_and_useless_after() {
    if !imn_testkit::require_root("revocation") {
        return;
    }
    let lifetime = format!("{}s", LIFETIME.as_secs());
    let network = Network::start_with(&["--credential-lifetime", &lifetime]);
    let read = |path: &str| fs::read_to_string(network.state().join(path)).unwrap();
    let (agent, module) = ("keys/agent-local.creds", "agents/local/creds/local-icmp-0.creds");
    // An agent of another host that is switched off past the end of what it has.
    let mut ams1 = Elsewhere::new(&network, "ams1");
    let plane = network.connect().http_url;
    ams1.start(&network, "ams1", &["--control-plane", &plane, "--token", &token(&network, "ams1")]);
    let keys_of_ams1 = keys_of(&wait_connected(&network, "ams1"));
    ams1.stop();

    let old = [read(agent), read(module)];
    let began = Instant::now();
    let connected = wait_connected(&network, "local");
    let (before, keys) = (pids(&network), keys_of(&connected));

    // Past the end of everything that was issued at the start, by the clock that the JWTs are made with.
    let ended = |creds: &String| {
        let end = Credentials::parse(creds).unwrap().expires_s().unwrap();
        // Some count the second of the end, some do not.
        SystemTime::now() > SystemTime::UNIX_EPOCH + Duration::from_secs(end + 1)
    };
    let long = LIFETIME + span(2, 60);
    wait_until("the first credentials to end", long + SOON, || {
        (began.elapsed() >= long && old.iter().all(ended)).then_some(())
    })
    .unwrap();
    for creds in &old {
        is_refused(&network, creds);
    }
    let connected = wait_connected(&network, "local");
    assert_eq!(keys_of(&connected), keys, "renewed credentials are of the same keys");
    assert_eq!(pids(&network), before, "nothing was started anew");
    for path in [agent, module] {
        assert!(!ended(&read(path)), "{path} was not renewed");
    }
    let own = || read("agents/ams1/agent.creds");
    wait_until("the credentials of ams1 to end", LIFETIME + SOON, || ended(&own()).then_some(())).unwrap();
    is_refused(&network, &own());
    ams1.start(&network, "ams1", &[]);
    assert_eq!(
        keys_of(&wait_connected(&network, "ams1")),
        keys_of_ams1,
        "it renewed what had ended, over HTTP"
    );
    ams1.stop();
    let done =
        network.program().args(["job", "submit", "echo", "hello", "--from", "local"]).run(SOON).unwrap();
    assert!(done.status.success(), "{}{}", done.stdout, done.stderr);
    println!(
        "{} connections outlived their first credentials of {} s, by the same processes",
        connected.len(),
        LIFETIME.as_secs()
    );
}

#[test]
fn a_revoked_agent_is_disconnected_at_once_and_stays_out() {
    if !imn_testkit::require_root("revocation") {
        return;
    }
    let mut network = Network::start();
    let plane = network.connect().http_url;
    let mut lon1 = Elsewhere::new(&network, "lon1");
    lon1.start(&network, "lon1", &["--control-plane", &plane, "--token", &token(&network, "lon1")]);
    network.wait_get("/api/v1/agents/lon1", SOON, |agent| (agent["status"] == "active").then_some(()));
    wait_connected(&network, "lon1");
    let others = wait_connected(&network, "local");
    let creds = fs::read_to_string(lon1.state.join("agent.creds")).unwrap();

    // A client of somebody else's with the agent's credentials notes the moment.
    let url = url(&network);
    let request = network.program().args(["agent", "revoke", "lon1", "-o", "json"]);
    let (decided, cut, said) = inside(&network, async {
        let mut insider = Insider::connect(&url, &creds).await.unwrap();
        let revoking = tokio::task::spawn_blocking(move || request.run(SOON).unwrap());
        let mut said = Vec::new();
        let cut = loop {
            match tokio::time::timeout(SOON, insider.said.recv()).await.unwrap().unwrap() {
                Event::Disconnected => break SystemTime::now(),
                event => said.push(event.to_string()),
            }
        };
        let done = revoking.await.unwrap();
        assert!(done.status.success(), "{}", done.stderr);
        let answer: Value = serde_json::from_str(&done.stdout).unwrap();
        let all = imn_module::KINDS.len() as u64 + 1;
        assert_eq!((&answer["status"], answer["keys"].as_u64()), (&"revoked".into(), Some(all)), "{answer}");
        (answer["revoked"].as_str().unwrap().to_owned(), cut, said)
    });
    let gone = connections_of(&network, "lon1");
    assert!(gone.is_empty(), "still connected once the command has ended: {gone:?}");
    let decided: SystemTime = decided.parse::<jiff::Timestamp>().unwrap().into();
    let took = cut.duration_since(decided).unwrap_or_default();
    println!("revoked in the catalog to disconnected: {} ms; it said {said:?}", took.as_millis());
    assert!(said.iter().any(|text| text.to_lowercase().contains("revo")), "{said:?}");
    // Milliseconds, and on a machine that does much else at the same time more.
    assert!(took < Duration::from_secs(5), "{took:?}");
    is_refused(&network, &creds);
    is_refused(&network, &Credentials::parse(&creds).unwrap().of_queue().unwrap().text());
    let shown = network.get("/api/v1/agents/lon1");
    assert_eq!(shown["status"], "revoked");
    assert!(shown["key"]["revoked"].is_string(), "{shown}");
    let listed = network.program().args(["agent", "list", "--status", "revoked"]).run_ok(SOON).unwrap();
    assert!(listed.contains("lon1") && !listed.contains("local"), "{listed}");

    // Nobody else has noticed.
    let cids = |connections: &[Value]| -> BTreeSet<u64> {
        connections.iter().map(|connection| connection["cid"].as_u64().unwrap()).collect()
    };
    assert_eq!(cids(&connections_of(&network, "local")), cids(&others));

    // Neither asking again nor starting again helps; nor does it come back when nats-server does.
    lon1.process()
        .wait_for("to be told why it is out", SOON, |process| {
            process.stderr().contains("the keys of lon1 were revoked").then_some(())
        })
        .unwrap();
    lon1.stop();
    let nats = network.kill9("nats-server");
    network.wait_restarted("nats-server", nats);
    wait_connected(&network, "local");
    is_refused(&network, &creds);
    lon1.start(&network, "lon1", &[]);
    lon1.process()
        .wait_for("to be told why it is out", SOON, |process| {
            process.stderr().contains("the keys of lon1 were revoked").then_some(())
        })
        .unwrap();
    assert!(connections_of(&network, "lon1").is_empty());
    lon1.stop();

    // A new token and a new key let it in again, with its modules.
    lon1.start(&network, "lon1", &["--control-plane", &plane, "--token", &token(&network, "lon1")]);
    wait_connected(&network, "lon1");
    network.wait_get("/api/v1/agents/lon1", SOON, |agent| (agent["status"] == "active").then_some(()));
    is_refused(&network, &creds);
    lon1.stop();

    // The embedded agent is one like any other, and stays out over a restart of everything.
    let own = fs::read_to_string(network.state().join("keys/agent-local.creds")).unwrap();
    let revoked = network.program().args(["agent", "revoke", "local"]).run(SOON).unwrap();
    assert!(revoked.status.success(), "{}", revoked.stderr);
    assert!(connections_of(&network, "local").is_empty());
    network.stop();
    network.up();
    is_refused(&network, &own);
    assert_eq!(network.get("/api/v1/agents/local")["status"], "revoked");
    assert!(connections_of(&network, "local").is_empty());
}

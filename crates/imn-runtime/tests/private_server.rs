//! The private nats-server and its credentials: what each role may do, and a server that lives through everything.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the functions of a test fail as the test does")]

use std::{
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use futures::StreamExt;
use imn_contract::{AgentId, InstanceId, ModuleType};
use imn_runtime::{
    credential::{Authority, Credentials, Role},
    nats::{self, Client, Violation},
    nats_server::{Config, Error, NatsServer, Status},
    process::{Identity, Signal},
};

const WAIT: Duration = Duration::from_secs(20);

/// A state directory; the server in it, which is made to outlive its keeper, does not outlive the test.
struct State(tempfile::TempDir);

impl State {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let recorded = std::fs::read(self.path().join("nats/process.json")).unwrap_or_default();
        if let Ok(identity) = serde_json::from_slice::<Identity>(&recorded) {
            let _ = identity.signal(Signal::SIGKILL);
        }
    }
}

fn config(directory: &Path) -> Config {
    Config { directory: directory.join("nats"), binary: None, public: None }
}

async fn start(directory: &Path) -> (Authority, NatsServer) {
    let authority = Authority::open(&directory.join("keys")).unwrap();
    let server = NatsServer::start(&config(directory), &authority).await.unwrap();
    (authority, server)
}

async fn connect(server: &NatsServer, credentials: &Credentials) -> Client {
    let client = Client::connect(&nats::Config {
        credentials: Some(credentials.text()),
        inbox_prefix: credentials.inbox_prefix().to_owned(),
        ..nats::Config::new(server.url(), "test")
    })
    .await
    .unwrap();
    client.round_trip(WAIT).await.unwrap();
    client
}

fn module(agent: &str, kind: &str, instance: &str) -> Role {
    Role::Module {
        agent: AgentId::new(agent).unwrap(),
        kind: ModuleType::new(kind).unwrap(),
        instance: InstanceId::new(instance).unwrap(),
    }
}

fn agent(agent: &str) -> Role {
    Role::Agent { agent: AgentId::new(agent).unwrap() }
}

async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + WAIT;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < end, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the server refuses of some actions: `pub SUBJECT`, `sub SUBJECT` and `sub SUBJECT QUEUE`.
async fn refused(client: &Client, actions: &[&str]) -> Vec<String> {
    let mut violations = client.events().violations();
    let mut refused = Vec::new();
    for action in actions {
        let words: Vec<&str> = action.split(' ').collect();
        let mut subscription = None;
        match words[..] {
            ["pub", subject] => client.publish_bytes(subject, Bytes::new(), HeaderMap::new()).await.unwrap(),
            ["sub", subject] => subscription = Some(client.subscribe(subject).await.unwrap()),
            ["sub", subject, queue] => {
                subscription = Some(client.queue_subscribe(subject, queue).await.unwrap());
            }
            _ => panic!("{action}"),
        }
        // Nobody may publish here. Refusals come in order, so after this one nothing is on the way.
        client.publish_bytes("fence", Bytes::new(), HeaderMap::new()).await.unwrap();
        loop {
            let Violation { text, subject, .. } =
                tokio::time::timeout(WAIT, violations.recv()).await.expect(action).unwrap();
            if subject.as_deref() == Some("fence") {
                break;
            }
            let verb = if words[0] == "pub" { "Publish" } else { "Subscription" };
            assert!(
                text.contains(&format!("Permissions Violation for {verb} to \"{}\"", words[1])),
                "{text}"
            );
            refused.push((*action).to_owned());
        }
        drop(subscription);
    }
    refused
}

/// For each role: what it must be able to do, and what must be refused.
const GRANTS: &str = include_str!("grants.txt");

#[tokio::test]
async fn each_role_may_do_what_it_must_and_nothing_else() {
    let directory = State::new();
    let (authority, server) = start(directory.path()).await;
    let mut roles = 0;
    for section in GRANTS.split("\n[").skip(1) {
        let (name, body) = section.split_once("]\n").unwrap();
        let role = match name {
            "server" => Role::Server,
            "agent" => agent("lon1"),
            "queue" => Role::Queue { agent: AgentId::new("lon1").unwrap() },
            "module" => module("lon1", "icmp", "lon1-icmp-0"),
            "operator" => Role::Operator,
            "viewer" => Role::Viewer,
            _ => panic!("{name}"),
        };
        let lines = |sign: &str| -> Vec<&str> { body.lines().filter_map(|l| l.strip_prefix(sign)).collect() };
        let (may, must_not) = (lines("+ "), lines("- "));
        assert!(!may.is_empty() && !must_not.is_empty());
        let client = connect(&server, &authority.issue(&role, None).unwrap()).await;
        let none: [&str; 0] = [];
        assert_eq!(refused(&client, &may).await, none, "{name} may do these");
        assert_eq!(refused(&client, &must_not).await, must_not, "{name} must not do these");
        roles += 1;
    }
    assert_eq!(roles, 6);
    server.stop(WAIT).await;
}

#[tokio::test]
async fn scoped_roles_work_together() {
    let directory = State::new();
    let (authority, server) = start(directory.path()).await;
    let control = connect(&server, &authority.issue(&Role::Server, None).unwrap()).await;
    let lon1 = connect(&server, &authority.issue(&agent("lon1"), None).unwrap()).await;
    let icmp =
        connect(&server, &authority.issue(&module("lon1", "icmp", "lon1-icmp-0"), None).unwrap()).await;

    // The server makes the streams and the agent's consumer.
    control
        .ensure_stream(jetstream::stream::Config {
            name: "MMN_JOBS_icmp".to_owned(),
            subjects: vec!["mmn.jobs.q.icmp.>".to_owned()],
            retention: jetstream::stream::RetentionPolicy::WorkQueue,
            ..Default::default()
        })
        .await
        .unwrap();
    let consumer = |name: &str| jetstream::consumer::pull::Config {
        durable_name: Some(name.to_owned()),
        filter_subject: format!("mmn.jobs.q.icmp.{name}.>"),
        ..Default::default()
    };
    control.ensure_consumer("MMN_JOBS_icmp", consumer("lon1")).await.unwrap();
    control.ensure_consumer("MMN_JOBS_icmp", consumer("nyc1")).await.unwrap();
    for key in ["lon1", "nyc1"] {
        let subject = format!("mmn.jobs.q.icmp.{key}.j1");
        control.publish_bytes_acked(&subject, "job".into(), Some(key), HeaderMap::new(), WAIT).await.unwrap();
    }
    // The agent pulls its own queue, keeps a message by progress, acks it; nobody else's.
    let queue = lon1.pull_consumer("MMN_JOBS_icmp", "lon1").await.unwrap();
    let mut messages = queue.fetch().max_messages(1).messages().await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    message.ack_with(jetstream::AckKind::Progress).await.unwrap();
    message.double_ack().await.unwrap();
    let denied = lon1.pull_consumer("MMN_JOBS_icmp", "nyc1").await.err().unwrap();
    assert!(matches!(denied, nats::Error::Denied { .. }), "{denied}");

    // It reads its own assignments and no others.
    control.ensure_stream(nats::bucket("assignments", -1)).await.unwrap();
    for subject in ["$KV.assignments.lon1.meta", "$KV.assignments.nyc1.meta"] {
        control.publish_bytes_acked(subject, "m".into(), None, HeaderMap::new(), WAIT).await.unwrap();
    }
    let kept = lon1.direct_get("KV_assignments", "$KV.assignments.lon1.meta").await.unwrap().unwrap();
    assert_eq!(kept.payload.as_ref(), b"m");
    let denied = lon1.direct_get("KV_assignments", "$KV.assignments.nyc1.meta").await.unwrap_err();
    assert!(matches!(denied, nats::Error::Denied { .. }), "{denied}");

    // The module answers its agent, although it may not publish to the agent's inbox of itself.
    let mut work = icmp.queue_subscribe("mmn.jobs.do.lon1.icmp", "m-icmp").await.unwrap();
    icmp.round_trip(WAIT).await.unwrap();
    let answer = async {
        let request = work.next().await.unwrap();
        let reply = request.reply.unwrap();
        icmp.publish_bytes(&reply, "yes".into(), HeaderMap::new()).await.unwrap();
    };
    let ask = lon1.request_bytes("mmn.jobs.do.lon1.icmp", "?".into(), HeaderMap::new(), WAIT);
    let (answered, ()) = tokio::join!(ask, answer);
    assert_eq!(answered.unwrap().payload.as_ref(), b"yes");

    // A module's acknowledged publishing into a stream of the server.
    control
        .ensure_stream(jetstream::stream::Config {
            name: "MMN_INGEST".to_owned(),
            subjects: vec!["mmn.ingest.rows.>".to_owned()],
            ..Default::default()
        })
        .await
        .unwrap();
    let acked =
        icmp.publish_bytes_acked("mmn.ingest.rows.0.lon1.icmp", "b".into(), None, HeaderMap::new(), WAIT);
    assert_eq!(acked.await.unwrap().stream, "MMN_INGEST");
    server.stop(WAIT).await;
}

#[tokio::test]
async fn expired_and_foreign_credentials_are_refused_in_words() {
    let directory = State::new();
    let (authority, server) = start(directory.path()).await;
    let brief = authority.issue(&Role::Viewer, Some(Duration::from_secs(1))).unwrap();
    let client = connect(&server, &brief).await;
    let text = until("the expiry", async || client.events().last_violation().map(|v| v.text)).await;
    assert!(
        text.to_lowercase().contains("expired") || text.to_lowercase().contains("authorization"),
        "{text}"
    );

    let elsewhere = Authority::open(&directory.path().join("other")).unwrap();
    let foreign = elsewhere.issue(&Role::Server, None).unwrap();
    let mut config = nats::Config::new(server.url(), "foreign");
    config.credentials = Some(foreign.text());
    let client = Client::connect(&config).await.unwrap();
    let text = until("the refusal", async || client.events().last_violation().map(|v| v.text)).await;
    assert!(text.contains("authorization violation"), "{text}");
    server.stop(WAIT).await;
}

#[tokio::test]
async fn it_comes_back_after_a_kill_is_taken_over_and_keeps_its_store() {
    let directory = State::new();
    let (authority, server) = start(directory.path()).await;
    let client = connect(&server, &authority.issue(&Role::Server, None).unwrap()).await;
    client.ensure_stream(nats::bucket("b", -1)).await.unwrap();
    client.publish_bytes_acked("$KV.b.k", "kept".into(), None, HeaderMap::new(), WAIT).await.unwrap();

    let first = Identity::of(server.pid().unwrap()).unwrap();
    let mut status = server.status();
    first.signal(Signal::SIGKILL).unwrap();
    let again = status.wait_for(|s: &Status| s.restarts == 1 && s.pid.is_some());
    let second = tokio::time::timeout(WAIT, again).await.unwrap().unwrap().pid.unwrap();
    assert_ne!(first.pid, second);
    client.round_trip(WAIT).await.unwrap();

    // Its keeper goes away without a word; the next one takes the same process over.
    let url = server.url();
    drop(server);
    let second = Identity::of(second).unwrap();
    assert!(second.is_alive());
    let server = NatsServer::start(&config(directory.path()), &authority).await.unwrap();
    assert_eq!(server.pid(), Some(second.pid));
    assert_eq!(server.url(), url);
    let kept = until("the store", async || client.direct_get("KV_b", "$KV.b.k").await.ok().flatten()).await;
    assert_eq!(kept.payload.as_ref(), b"kept");

    // The one that was taken over is watched as well.
    let mut status = server.status();
    second.signal(Signal::SIGKILL).unwrap();
    let again = status.wait_for(|s: &Status| s.restarts == 1 && s.pid.is_some());
    tokio::time::timeout(WAIT, again).await.unwrap().unwrap();
    server.stop(WAIT).await;

    // Its ports are kept for it: somebody else on one of them is named, not worked around.
    let taken = TcpListener::bind(url.strip_prefix("nats://").unwrap()).unwrap();
    let error = NatsServer::start(&config(directory.path()), &authority).await.unwrap_err();
    assert!(matches!(error, Error::PortTaken { port, .. } if url.ends_with(&port.to_string())), "{error}");
    drop(taken);
    let server = NatsServer::start(&config(directory.path()), &authority).await.unwrap();
    assert_eq!(server.url(), url);
    let pid = Identity::of(server.pid().unwrap()).unwrap();
    server.stop(WAIT).await;
    assert!(!pid.is_alive());
}

#[tokio::test]
async fn a_missing_or_broken_program_is_named_with_the_fix() {
    let directory = State::new();
    let authority = Authority::open(&directory.path().join("keys")).unwrap();
    let mut config = config(directory.path());
    config.binary = Some("/no/such/nats-server".into());
    let error = NatsServer::start(&config, &authority).await.unwrap_err().to_string();
    assert!(
        error.contains("/no/such/nats-server") && error.contains("apt-get install nats-server"),
        "{error}"
    );
    config.binary = Some("/bin/false".into());
    let error = NatsServer::start(&config, &authority).await.unwrap_err();
    assert!(matches!(error, Error::Ended { .. }), "{error}");
}

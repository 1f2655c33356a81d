//! A server on a loopback port, over a real nats-server, a real catalog and real results.

use std::{sync::Arc, time::Duration};

use async_nats::HeaderMap;
use futures::StreamExt;
use imn_contract::{
    AgentId,
    latest::{Batch, ControlReply, Heartbeat},
    subject,
};
use imn_runtime::{
    nats::{self, Client},
    task::Tasks,
};
use imn_server::{Config, Role, Running, Server, mint};
use imn_store::{Catalog, EmbeddedConfig, EmbeddedResults, Results, SqlCatalog};
use imn_testkit::NatsServer;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

pub(crate) struct Bench {
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    pub(crate) admin: String,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) results: Arc<dyn Results>,
    pub(crate) running: Running,
    client: Client,
    _nats: NatsServer,
    _directory: TempDir,
}

/// An answer, read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let nats = tokio::task::spawn_blocking(|| NatsServer::start().unwrap()).await.unwrap();
        let catalog = Arc::new(SqlCatalog::sqlite(&directory.path().join("catalog.sqlite")).await.unwrap());
        let config = EmbeddedConfig::default();
        let results =
            EmbeddedResults::open(&directory.path().join("results"), &catalog, config).await.unwrap();
        let (catalog, results): (Arc<dyn Catalog>, Arc<dyn Results>) = (catalog, Arc::new(results));
        let client = Client::connect(&nats::Config::new(nats.url(), "server")).await.unwrap();
        let config = Config::new("127.0.0.1:0".parse().unwrap());
        let running = Server::start(config, client.clone(), catalog.clone(), results.clone()).await.unwrap();
        let admin = mint(&*catalog, "first", Role::Admin, None).await.unwrap().token;
        let url = format!("http://{}", running.http_address());
        imn_runtime::tls::install();
        let http = reqwest::Client::new();
        Self { url, http, admin, catalog, results, running, client, _nats: nats, _directory: directory }
    }

    /// Waits until the server can do its work.
    pub(crate) async fn ready(self) -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get("/readyz").await;
            if answer.status == 200 {
                return self;
            }
            assert!(Instant::now() < deadline, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends an agent's sign of life, and waits until it is heard.
    pub(crate) async fn heartbeat(&self, agent: &str) {
        self.heartbeat_with(agent, "echo").await;
    }

    /// As [`Self::heartbeat`], of an agent with a module of this type.
    pub(crate) async fn heartbeat_with(&self, agent: &str, kind: &str) {
        let module = json!({ "instance": format!("{agent}-{kind}-0"), "type": kind, "state": "ready" });
        self.heartbeat_of(agent, &[module]).await;
    }

    /// As [`Self::heartbeat`], of an agent with these modules.
    pub(crate) async fn heartbeat_of(&self, agent: &str, modules: &[Value]) {
        let module = |given: &Value| {
            let mut module = json!({ "version": "0.1.0", "inflight": 0, "slots": 4 });
            module.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
            module
        };
        let heartbeat: Heartbeat = serde_json::from_value(json!({
            "agent": agent, "time": "2026-11-20T08:00:00Z", "status": "active", "version": "0.1.0", "uptime_s": 1,
            "modules": modules.iter().map(module).collect::<Vec<_>>(),
            "targets": 5, "rounds_per_s": 1.5, "spool": { "bytes": 0, "rows": 0, "oldest_s": 0 },
            "assignment": { "generation": 0, "hash": "" }, "clock": { "offset_us": null, "synced": false },
            "cpu_pct": 1.0, "rss_mb": 10.0, "region": "eu", "tags": { "pop": agent },
        }))
        .unwrap();
        self.client.publish(&subject::heartbeat(&heartbeat.agent), &heartbeat).await.unwrap();
        self.wait(&format!("/api/v1/agents/{agent}"), |_| true).await;
    }

    /// Asks until the answer is a good one and as it should be.
    pub(crate) async fn wait(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get(path).await;
            if answer.status == 200 && wanted(&answer.json()) {
                return answer.json();
            }
            assert!(Instant::now() < deadline, "{path}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks with these parameters.
    pub(crate) async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Answer {
        let encoded = |text: &str| {
            let bytes: Vec<String> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            bytes.concat()
        };
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        self.get(&format!("{path}?{}", query.join("&"))).await
    }

    /// Answers, for an agent, the next thing that it is told; the future is what it was told.
    pub(crate) async fn agent(&self, agent: &str) -> impl Future<Output = String> + use<> {
        let client = self.client.clone();
        let subject = subject::agent_control(&AgentId::new(agent).unwrap());
        let mut told = client.subscribe(&subject).await.unwrap();
        client.round_trip(Duration::from_secs(5)).await.unwrap();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let mut tasks = Tasks::new();
        tasks.spawn("agent", async move {
            let message = told.next().await.unwrap();
            let reply = ControlReply { v: 1, ok: true, error: None };
            client.respond(&message, &reply).await.unwrap();
            sender.send(String::from_utf8(message.payload.to_vec()).unwrap()).unwrap();
        });
        async move {
            let text = receiver.await.unwrap();
            drop(tasks);
            text
        }
    }

    /// Sends a batch as a spool does.
    pub(crate) async fn publish(&self, batch: &Batch) {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{:016x}-{}", batch.epoch, batch.first_seq));
        let subject = subject::ingest(0, &batch.agent, &batch.kind);
        let jetstream = self.client.jetstream();
        let sent = jetstream.publish_with_headers(subject, headers, batch.seal().unwrap()).await.unwrap();
        sent.await.unwrap();
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.admin)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        read(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        read(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        read(self.request(Method::DELETE, path).header("If-Match", "*")).await
    }
}

pub(crate) async fn read(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The body, if the status is this one.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// The problem, if the answer is a well-formed one of this status.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        for field in ["type", "title", "detail", "instance"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {problem}");
        }
        problem
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().unwrap()
    }
}

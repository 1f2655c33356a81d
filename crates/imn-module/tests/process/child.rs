//! A module process and a client that looks at it.

use std::{path::Path, time::Duration};

use async_nats::{Client, HeaderMap, Message as Raw, Subscriber, jetstream};
use futures::StreamExt;
use imn_contract::latest::{
    Announce, AnnounceEvent, Attempt, ControlReply, ModuleConfig, ModuleControl, ModuleOp, Task, TaskReply,
};
use imn_contract::{AgentId, InstanceId, JobId, ModuleType, subject};
use imn_testkit::{NatsServer, Process, Program};
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;

/// Names the type to a child process.
pub(crate) const KIND: &str = "IMN_TEST_MODULE";
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn agent() -> AgentId {
    AgentId::new("lon1").unwrap()
}

pub(crate) fn instance(kind: &str) -> InstanceId {
    InstanceId::new(format!("lon1-{kind}-0")).unwrap()
}

pub(crate) fn config(kind: &str, url: &str) -> ModuleConfig {
    ModuleConfig {
        v: 1,
        agent: agent(),
        kind: ModuleType::new(kind).unwrap(),
        instance: instance(kind),
        nats_url: url.to_owned(),
        creds: None,
        nats_ca: None,
        inbox_prefix: format!("_INBOX_{kind}"),
        config: serde_json::Map::new(),
        slots: None,
        assignments: None,
        spool: None,
        partitions: 1,
    }
}

/// Starts this test program again as a module.
pub(crate) fn start(config: &ModuleConfig, directory: &Path) -> Process {
    let input = directory.join("config.json");
    std::fs::write(&input, serde_json::to_vec(config).unwrap()).unwrap();
    Program::new("sh")
        .args(["-c", "exec \"$0\" --exact module_process --ignored --nocapture < \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg(input)
        .env(KIND, config.kind.as_str())
        .spawn()
        .unwrap()
}

/// Held while a server looks for a port, and while one is down and its port must not be taken.
pub(crate) static PORTS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub(crate) async fn server() -> NatsServer {
    let _ports = PORTS.lock().await;
    NatsServer::start().unwrap()
}

/// A server, a client, and one module process.
pub(crate) struct Bench {
    pub kind: String,
    pub client: Client,
    pub announcements: Subscriber,
    pub module: Process,
    pub server: NatsServer,
    _directory: TempDir,
}

impl Bench {
    /// Starts a module and waits until it is ready.
    pub(crate) async fn start(kind: &str, slots: Option<u32>) -> Self {
        let server = server().await;
        let client = async_nats::connect(server.url()).await.unwrap();
        let context = jetstream::new(client.clone());
        let attempts = jetstream::stream::Config {
            name: "MMN_ATTEMPTS".to_owned(),
            subjects: vec!["mmn.jobs.attempt.>".to_owned()],
            ..Default::default()
        };
        context.create_stream(attempts).await.unwrap();
        let announcements = client.subscribe(subject::ANNOUNCE).await.unwrap();
        client.flush().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let module = start(&ModuleConfig { slots, ..config(kind, &server.url()) }, directory.path());
        let mut bench = Self::of(kind, client, announcements, module, server, directory);
        assert_eq!(bench.announced().await.event, AnnounceEvent::Hello);
        assert_eq!(bench.announced().await.event, AnnounceEvent::Ready);
        bench
    }

    /// One of parts that were started otherwise.
    pub(crate) fn of(
        kind: &str,
        client: Client,
        announcements: Subscriber,
        module: Process,
        server: NatsServer,
        directory: TempDir,
    ) -> Self {
        Self { kind: kind.to_owned(), client, announcements, module, server, _directory: directory }
    }

    pub(crate) async fn announced(&mut self) -> Announce {
        json(&next(&mut self.announcements).await)
    }

    pub(crate) fn task(&self, params: serde_json::Value) -> Task {
        let serde_json::Value::Object(params) = params else { panic!("params are an object") };
        Task {
            v: 1,
            job_id: JobId::generate(),
            kind: ModuleType::new(self.kind.as_str()).unwrap(),
            target: "127.0.0.1".to_owned(),
            params,
            agent: agent(),
            attempt: 1,
            attempt_token: "secret".to_owned(),
            ttl_ms: 10_000,
            max_attempts: 3,
            direct: false,
        }
    }

    /// Hands a task to the queue group.
    pub(crate) async fn hand(&self, task: &Task) -> TaskReply {
        json(&self.request(&subject::work(&agent(), &task.kind), task).await)
    }

    /// Hands a task to the queue group without waiting for an answer.
    pub(crate) async fn send(&self, task: &Task) {
        let payload = serde_json::to_vec(task).unwrap();
        let (subject, reply) = (subject::work(&agent(), &task.kind), self.client.new_inbox());
        self.client.publish_with_reply(subject, reply, payload.into()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    pub(crate) async fn control(&self, op: ModuleOp) -> ControlReply {
        let subject = subject::module_control(&agent(), &instance(&self.kind));
        json(&self.request(&subject, &ModuleControl { v: 1, op }).await)
    }

    pub(crate) async fn request(&self, subject: &str, body: &impl Serialize) -> Raw {
        let payload = serde_json::to_vec(body).unwrap();
        self.client.request(subject.to_owned(), payload.into()).await.unwrap()
    }

    /// What a request with these bytes is answered: the error's code, by header and by body.
    pub(crate) async fn refusal(&self, subject: &str, bytes: &[u8]) -> (String, u16) {
        let reply = self.client.request(subject.to_owned(), bytes.to_vec().into()).await.unwrap();
        let header = reply.headers.as_ref().and_then(|h: &HeaderMap| h.get("Nats-Service-Error-Code"));
        let header = header.map_or_else(String::new, |value| value.as_str().to_owned());
        let body: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
        (header, body["error"]["code"].as_u64().unwrap() as u16)
    }

    /// The attempts of a job in the stream, once there are as many as `count`.
    pub(crate) async fn attempts(&self, job: &JobId, count: usize) -> Vec<Attempt> {
        let subject = subject::attempt(&agent(), &instance(&self.kind), job);
        let stream = jetstream::new(self.client.clone()).get_stream("MMN_ATTEMPTS").await.unwrap();
        let consumer = stream
            .create_consumer(jetstream::consumer::pull::Config {
                filter_subject: subject,
                ack_policy: jetstream::consumer::AckPolicy::None,
                ..Default::default()
            })
            .await
            .unwrap();
        let mut messages = consumer.messages().await.unwrap();
        let mut attempts = Vec::new();
        while attempts.len() < count {
            let message = tokio::time::timeout(DEADLINE, messages.next()).await.expect("an attempt in time");
            attempts.push(json(&message.unwrap().unwrap()));
        }
        attempts
    }

    pub(crate) async fn attempt(&self, job: &JobId) -> Attempt {
        self.attempts(job, 1).await.remove(0)
    }
}

pub(crate) async fn next(subscriber: &mut Subscriber) -> Raw {
    tokio::time::timeout(DEADLINE, subscriber.next()).await.expect("a message in time").unwrap()
}

pub(crate) fn json<T: DeserializeOwned>(message: &Raw) -> T {
    serde_json::from_slice(&message.payload)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&message.payload)))
}

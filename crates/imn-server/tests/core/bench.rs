//! A server that can be killed and started again, and a player of agents.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{self, consumer::PullConsumer},
};
use futures::StreamExt;
use imn_contract::{
    AgentId, InstanceId, Message, ModuleType, TargetId,
    latest::{
        AgentStatus, AssignmentMark, Attempt, AttemptStatus, Batch, ClockState, Heartbeat, ModuleState,
        ModuleSummary, Round, SpoolState, SubmitReply, Task,
    },
    stream, subject,
};
use imn_domain::{MonitoringState, Target, TargetKind};
use imn_runtime::nats::{self, Client};
use imn_server::{Config, Running, Server};
use imn_store::{Catalog, EmbeddedConfig, EmbeddedResults, Results, SqlCatalog};
use imn_testkit::NatsServer;
use tempfile::TempDir;
use tokio::time::Instant;

pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Bench {
    pub(crate) catalog: Option<Arc<dyn Catalog>>,
    pub(crate) results: Option<Arc<dyn Results>>,
    running: Option<Running>,
    /// The client that plays everybody else.
    pub(crate) client: Client,
    pub(crate) nats: NatsServer,
    directory: TempDir,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        imn_runtime::tls::install();
        let directory = tempfile::tempdir().unwrap();
        let nats = tokio::task::spawn_blocking(|| NatsServer::start().unwrap()).await.unwrap();
        let client = Client::connect(&nats::Config::new(nats.url(), "player")).await.unwrap();
        let mut bench = Self { catalog: None, results: None, running: None, client, nats, directory };
        bench.start_server().await;
        bench
    }

    pub(crate) async fn start_server(&mut self) {
        let path = self.directory.path();
        let catalog = Arc::new(SqlCatalog::sqlite(&path.join("catalog.sqlite")).await.unwrap());
        let deadline = Instant::now() + SOON;
        let results = loop {
            let config = EmbeddedConfig::default();
            match EmbeddedResults::open(&path.join("results"), &catalog, config).await {
                Ok(results) => break Arc::new(results),
                // The calls of the server that was killed may still run.
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let (catalog, results): (Arc<dyn Catalog>, Arc<dyn Results>) = (catalog, results);
        let client = Client::connect(&nats::Config::new(self.nats.url(), "server")).await.unwrap();
        let config = Config::new("127.0.0.1:0".parse().unwrap());
        let running = Server::start(config, client, catalog.clone(), results.clone()).await.unwrap();
        (self.catalog, self.results, self.running) = (Some(catalog), Some(results), Some(running));
        let url = format!("http://{}/readyz", self.running.as_ref().unwrap().http_address());
        eventually("readiness", async || {
            let answer = reqwest::get(&url).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Ends the server without any order.
    pub(crate) fn kill_server(&mut self) {
        (self.running, self.catalog, self.results) = (None, None, None);
    }

    pub(crate) async fn stop_server(&mut self) {
        let left = self.running.take().unwrap().drain(SOON).await;
        assert!(left.is_empty(), "{left:?}");
        (self.catalog, self.results) = (None, None);
    }

    pub(crate) fn catalog(&self) -> &dyn Catalog {
        &**self.catalog.as_ref().unwrap()
    }

    pub(crate) fn results(&self) -> &dyn Results {
        &**self.results.as_ref().unwrap()
    }

    /// Tells of an agent with one instance of each type, and waits until the server knows it.
    pub(crate) async fn agent(&self, name: &str, types: &[&str]) {
        self.heartbeat(name, types).await;
        eventually("the agent in the catalog", async || {
            let agents = self.catalog().agents().await.unwrap();
            agents.iter().any(|a| a.id == agent(name)).then_some(())
        })
        .await;
    }

    pub(crate) async fn heartbeat(&self, name: &str, types: &[&str]) {
        let module = |kind: &&str| ModuleSummary {
            instance: instance(name, kind),
            kind: ModuleType::new(*kind).unwrap(),
            version: "1".to_owned(),
            state: ModuleState::Ready,
            inflight: 0,
            slots: 4,
            pid: None,
            restarts: 0,
            standing: matches!(*kind, "icmp" | "tcp"),
            reason: None,
        };
        let heartbeat = Heartbeat {
            v: 1,
            agent: agent(name),
            time: String::new(),
            status: AgentStatus::Active,
            version: "1".to_owned(),
            uptime_s: 100,
            modules: types.iter().map(module).collect(),
            targets: 0,
            rounds_per_s: 0.0,
            spool: SpoolState::default(),
            assignment: AssignmentMark::default(),
            clock: ClockState::default(),
            cpu_pct: 0.0,
            rss_mb: 0.0,
            name: None,
            region: None,
            location: None,
            provider: None,
            tags: BTreeMap::default(),
            problems: Vec::new(),
            rolls: Vec::new(),
        };
        self.client.publish(&subject::heartbeat(&agent(name)), &heartbeat).await.unwrap();
        self.client.round_trip(SOON).await.unwrap();
    }

    pub(crate) async fn target(&self, address: &str, tier: &str) -> TargetId {
        let target = Target {
            id: TargetId::generate(),
            kind: TargetKind::Ip,
            address: address.to_owned(),
            display_name: None,
            tier: tier.to_owned(),
            tags: BTreeMap::default(),
            params: serde_json::Map::default(),
            expected_outcome: None,
            monitoring_state: MonitoringState::Unknown,
            state_reason: None,
            state_since_us: now_us(),
            created_us: now_us(),
            updated_us: now_us(),
            revision: 1,
        };
        self.catalog().create_targets(std::slice::from_ref(&target)).await.unwrap();
        target.id
    }

    pub(crate) async fn submit(&self, body: serde_json::Value) -> SubmitReply {
        let payload = serde_json::to_vec(&body).unwrap();
        let answer =
            self.client.request_bytes(subject::SUBMIT, payload.into(), HeaderMap::new(), SOON).await.unwrap();
        nats::decode(&answer).unwrap()
    }

    /// The queue of an agent, as the agent reads it.
    pub(crate) async fn queue(&self, name: &str, kind: &str) -> PullConsumer {
        let kind = ModuleType::new(kind).unwrap();
        eventually("the queue", async || {
            let context = self.client.jetstream();
            let consumer = stream::jobs_consumer(&agent(name));
            context.get_consumer_from_stream(&consumer, &stream::jobs(&kind)).await.ok()
        })
        .await
    }

    /// The next task of a queue, and its message.
    pub(crate) async fn pull(&self, queue: &PullConsumer) -> (Task, jetstream::Message) {
        let mut batch = queue.fetch().max_messages(1).expires(SOON).messages().await.unwrap();
        let message = batch.next().await.expect("a task in time").unwrap();
        (nats::decode(&message.message).unwrap(), message)
    }

    pub(crate) async fn report(&self, task: &Task, by: &str, attempt: u32, status: AttemptStatus) {
        let name = task.agent.as_str();
        let by_agent = by == "agent";
        let report = Attempt {
            v: 1,
            job_id: task.job_id.clone(),
            agent: task.agent.clone(),
            instance: instance(name, task.kind.as_str()),
            kind: task.kind.clone(),
            target: task.target.clone(),
            attempt,
            attempt_token: task.attempt_token.clone(),
            status,
            started: None,
            finished: None,
            outcome: serde_json::json!({"echo": task.target}),
            error: None,
        };
        let token = if by_agent { InstanceId::new("agent").unwrap() } else { report.instance.clone() };
        let on = subject::attempt(&task.agent, &token, &task.job_id);
        self.client.publish_acked(&on, &report, None, HeaderMap::new()).await.unwrap();
    }

    pub(crate) async fn send_batch(&self, batch: &Batch, id: &str) {
        let on = subject::ingest(0, &batch.agent, &batch.kind);
        let sealed = batch.seal().unwrap();
        self.client.publish_bytes_acked(&on, sealed, Some(id), HeaderMap::new(), SOON).await.unwrap();
    }
}

pub(crate) async fn next<M: Message>(subscriber: &mut async_nats::Subscriber) -> M {
    let message = tokio::time::timeout(SOON, subscriber.next()).await.expect("a message in time").unwrap();
    nats::decode(&message).unwrap()
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn agent(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

pub(crate) fn instance(name: &str, kind: &str) -> InstanceId {
    InstanceId::new(format!("{name}-{kind}-0")).unwrap()
}

pub(crate) fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// A batch of `rounds` rounds of one target, one per second up to `seq` times so many.
pub(crate) fn batch(epoch: u64, seq: u64, target: &TargetId, base_us: i64, rounds: u64) -> Batch {
    let round = |n: u64| Round {
        target: Some(target.clone()),
        address: "127.0.0.1".into(),
        due_us: base_us + ((seq * rounds + n) * 1_000_000) as i64,
        time_us: base_us + ((seq * rounds + n) * 1_000_000) as i64 + 100,
        sent: 1,
        received: 1,
        success: true,
        rtt_min_ns: Some(1_000),
        rtt_avg_ns: Some(1_000),
        rtt_max_ns: Some(1_000),
        tmax_us: 1_000_000,
        ..Round::default()
    };
    Batch {
        agent: agent("a"),
        instance: instance("a", "icmp"),
        kind: ModuleType::new("icmp").unwrap(),
        epoch,
        first_seq: seq,
        last_seq: seq,
        rounds: (0..rounds).map(round).collect(),
        gaps: Vec::new(),
    }
}

//! The test's side: server, agent process, and the part of the control plane.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test that asked for it")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{Client, Message, Subscriber, jetstream};
use futures::StreamExt;
use imn_contract::{
    AgentId, Encoding, Fault, InstanceId, JobId, Message as Wire, ModuleType, TargetId, decode, encode,
    latest::{
        AgentControl, AgentOp, AgentStatus, Assignment, AssignmentFile, AssignmentMeta, AssignmentShard,
        Attempt, AttemptStatus, ControlReply, Heartbeat, JobState, JobView, ModuleState, ModuleSummary, Task,
        TaskView,
    },
    stream, subject,
};
use imn_runtime::{
    credential::{Authority, Role},
    nats_server,
};
use imn_testkit::{NatsServer, Process, Program, Signal};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio::sync::Mutex as Lock;

const PATIENCE: Duration = Duration::from_secs(40);

/// What the control plane knows of a job.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) job: JobId,
    pub(crate) state: JobState,
    pub(crate) attempts: u32,
}

pub(crate) struct Bench {
    agent: Option<Process>,
    /// Without authentication.
    nats: Option<NatsServer>,
    /// With the operator mode and the scoped rights of the product.
    private: Option<Private>,
    url: String,
    state: TempDir,
    id: AgentId,
    client: Client,
    attempts: Lock<Subscriber>,
    beats: Lock<Subscriber>,
    known: Arc<Mutex<HashMap<JobId, Queued>>>,
    /// Aborted with the test.
    _server: tokio::task::JoinSet<()>,
}

/// A private server, killed with the test.
struct Private {
    _server: nats_server::NatsServer,
    pid: u32,
    authority: Authority,
    creds: PathBuf,
}

impl Drop for Private {
    fn drop(&mut self) {
        kill(self.pid, Signal::SIGKILL);
    }
}

impl Bench {
    /// An agent with these third-party modules, each with its manifest.
    pub(crate) async fn start(modules: &[(&str, &str)]) -> Self {
        Self::start_on(tempfile::tempdir().unwrap(), modules).await
    }

    /// The same on a state directory that is not empty.
    pub(crate) async fn start_on(state: TempDir, modules: &[(&str, &str)]) -> Self {
        let nats = NatsServer::start().unwrap();
        let url = nats.url();
        let connect = async_nats::ConnectOptions::new();
        Self::start_with(state, Some(nats), None, url, connect, modules).await
    }

    /// The same with scoped credentials for the agent and each module.
    pub(crate) async fn start_secured(modules: &[(&str, &str)]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let authority = Authority::open(&state.path().join("keys")).unwrap();
        let place = nats_server::Config { directory: state.path().join("nats"), binary: None, public: None };
        let server = nats_server::NatsServer::start(&place, &authority).await.unwrap();
        let creds = state.path().join("creds");
        fs::create_dir(&creds).unwrap();
        let agent = authority.issue(&Role::Agent { agent: AgentId::new("lab1").unwrap() }, None).unwrap();
        fs::write(creds.join("agent.creds"), agent.text()).unwrap();
        let own = authority.issue(&Role::Server, None).unwrap();
        let connect = async_nats::ConnectOptions::new()
            .credentials(&own.text())
            .unwrap()
            .custom_inbox_prefix(own.inbox_prefix());
        let url = server.url();
        let pid = server.pid().unwrap();
        let private = Private { _server: server, pid, authority, creds };
        Self::start_with(state, None, Some(private), url, connect, modules).await
    }

    async fn start_with(
        state: TempDir,
        nats: Option<NatsServer>,
        private: Option<Private>,
        url: String,
        connect: async_nats::ConnectOptions,
        modules: &[(&str, &str)],
    ) -> Self {
        let id = AgentId::new("lab1").unwrap();
        let client = connect.retry_on_initial_connect().connect(&url).await.unwrap();
        let js = jetstream::new(client.clone());
        let kv = imn_runtime::nats::bucket(stream::ASSIGNMENTS_BUCKET, 64 << 20);
        js.create_stream(kv).await.unwrap();
        js.create_stream(stream_config(stream::ATTEMPTS, subject::ATTEMPT_ALL)).await.unwrap();
        let attempts = client.subscribe(subject::ATTEMPT_ALL).await.unwrap();
        let beats = client.subscribe(subject::heartbeat(&id)).await.unwrap();
        let known: Arc<Mutex<HashMap<JobId, Queued>>> = Arc::default();
        let mut server = tokio::task::JoinSet::new();
        let mut asked = client.subscribe(subject::GET_ALL).await.unwrap();
        let (answering, book, agent) = (client.clone(), Arc::clone(&known), id.clone());
        server.spawn(async move {
            while let Some(message) = asked.next().await {
                let view = view(&message, &book.lock().unwrap(), &agent);
                let payload = encode(&view, Encoding::Json).unwrap();
                answering.publish(message.reply.unwrap(), payload).await.unwrap();
            }
        });
        client.flush().await.unwrap();
        let mut bench = Self {
            agent: None,
            nats,
            private,
            url,
            state,
            id,
            client,
            attempts: Lock::new(attempts),
            beats: Lock::new(beats),
            known,
            _server: server,
        };
        for (name, manifest) in modules {
            bench.install(name, manifest);
        }
        bench.restart_agent();
        bench
    }

    pub(crate) fn agent(&mut self) -> &mut Process {
        self.agent.as_mut().unwrap()
    }

    /// Starts the agent (again); its state stays.
    pub(crate) fn restart_agent(&mut self) {
        let mut agent =
            Program::new(example("agent")).args([self.id.as_str(), &self.url]).arg(self.state.path());
        if let Some(private) = &self.private {
            agent = agent.arg(&private.creds);
        }
        self.agent = Some(agent.spawn().unwrap());
    }

    /// Everything that the agent and its modules have logged.
    pub(crate) fn logs(&self) -> String {
        let mut text = self.agent.as_ref().unwrap().stderr();
        for entry in fs::read_dir(self.state.path().join("log")).unwrap() {
            text.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap());
        }
        text
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn stop_nats(&mut self) {
        self.nats.as_mut().unwrap().stop().unwrap();
    }

    /// Puts a module into the agent's directory; its name is its type.
    pub(crate) fn install(&self, name: &str, manifest: &str) {
        let directory = self.state.path().join("modules.d");
        fs::create_dir_all(&directory).unwrap();
        let link = directory.join(name);
        let staged = directory.join(format!(".{name}"));
        fs::copy(example("fake_module"), &staged).unwrap();
        fs::set_permissions(&staged, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.join(format!("{name}.toml")), manifest).unwrap();
        if let Some(private) = &self.private {
            let kind = ModuleType::new(name).unwrap();
            for slot in 0..4 {
                let instance = InstanceId::slot(&self.id, &kind, slot).unwrap();
                let role =
                    Role::Module { agent: self.id.clone(), kind: kind.clone(), instance: instance.clone() };
                let text = private.authority.issue(&role, None).unwrap().text();
                fs::write(private.creds.join(format!("{instance}.creds")), text).unwrap();
            }
        }
        fs::rename(staged, link).unwrap();
    }

    pub(crate) fn uninstall(&self, name: &str) {
        fs::remove_file(self.state.path().join("modules.d").join(name)).unwrap();
    }

    /// Copies of programs that the agent keeps.
    pub(crate) fn artifacts(&self) -> usize {
        fs::read_dir(self.state.path().join("artifacts")).unwrap().count()
    }

    /// Waits for a heartbeat of which the condition holds.
    pub(crate) async fn beat(&self, what: &str, holds: impl Fn(&Heartbeat) -> bool) -> Heartbeat {
        let mut last = None;
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let message = self.beats.lock().await.next().await.unwrap();
                let beat: Heartbeat = read(&message);
                if holds(&beat) {
                    return beat;
                }
                last = Some(beat);
            }
        })
        .await;
        found.unwrap_or_else(|_| panic!("waited for {what}; last: {last:#?}"))
    }

    /// Waits for the instances of a type to be as wanted.
    pub(crate) async fn module(
        &self,
        kind: &str,
        what: &str,
        holds: impl Fn(&[ModuleSummary]) -> bool,
    ) -> Vec<ModuleSummary> {
        let of = |beat: &Heartbeat| -> Vec<ModuleSummary> {
            beat.modules.iter().filter(|module| module.kind.as_str() == kind).cloned().collect()
        };
        // One from the past may be waiting.
        while futures::FutureExt::now_or_never(self.beats.lock().await.next()).is_some() {}
        of(&self.beat(what, |beat| holds(&of(beat))).await)
    }

    /// Waits for `count` instances of a type to be ready.
    pub(crate) async fn ready(&self, kind: &str, count: usize) -> Vec<ModuleSummary> {
        self.module(kind, "ready instances", |modules| {
            modules.len() == count
                && modules.iter().all(|module| module.state == ModuleState::Ready && module.pid.is_some())
        })
        .await
    }

    /// The status in the last heartbeat that there is.
    pub(crate) async fn last_status(&self) -> AgentStatus {
        self.client.flush().await.unwrap();
        let mut status = None;
        let mut beats = self.beats.lock().await;
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(200), beats.next()).await {
            status = Some(read::<Heartbeat>(&message).status);
        }
        status.unwrap()
    }

    pub(crate) async fn tell(&self, op: AgentOp) -> Result<(), Fault> {
        let payload = encode(&AgentControl { v: 1, op }, Encoding::Json).unwrap();
        let answer = self.client.request(subject::agent_control(&self.id), payload).await.unwrap();
        let reply: ControlReply = read(&answer);
        assert_eq!(reply.ok, reply.error.is_none());
        reply.error.map_or(Ok(()), Err)
    }

    /// Makes the queue of a type and the agent's consumer, as the server does.
    pub(crate) async fn queue(&self, kind: &str) -> jetstream::stream::Stream {
        let kind = ModuleType::new(kind).unwrap();
        let js = jetstream::new(self.client.clone());
        let queue =
            js.create_stream(stream_config(&stream::jobs(&kind), &subject::queue_all(&kind))).await.unwrap();
        let consumer = jetstream::consumer::pull::Config {
            durable_name: Some(stream::jobs_consumer(&self.id)),
            filter_subject: subject::queue_agent(&kind, &self.id),
            // The contract's 30 s, made short.
            ack_wait: Duration::from_secs(3),
            ..Default::default()
        };
        queue.create_consumer(consumer).await.unwrap();
        queue
    }

    pub(crate) async fn submit(&self, kind: &str, job: &JobId, params: Value) {
        self.submit_within(kind, job, params, 60_000).await;
    }

    pub(crate) async fn submit_within(&self, kind: &str, job: &JobId, params: Value, ttl_ms: u64) {
        let kind = ModuleType::new(kind).unwrap();
        let task = Task {
            v: 1,
            job_id: job.clone(),
            kind: kind.clone(),
            target: "target".into(),
            params: params.as_object().cloned().unwrap(),
            agent: self.id.clone(),
            attempt: 1,
            attempt_token: format!("token of {job}"),
            ttl_ms,
            max_attempts: 3,
            direct: false,
        };
        let known = Queued { job: job.clone(), state: JobState::Queued, attempts: 0 };
        self.known.lock().unwrap().entry(job.clone()).or_insert(known);
        let payload = encode(&task, Encoding::Json).unwrap();
        let js = jetstream::new(self.client.clone());
        js.publish(subject::queue(&kind, &self.id, job), payload).await.unwrap().await.unwrap();
    }

    /// Puts bytes that are no task into a queue.
    pub(crate) async fn put(&self, kind: &str, bytes: &'static [u8]) {
        let subject = subject::queue(&ModuleType::new(kind).unwrap(), &self.id, &JobId::generate());
        let js = jetstream::new(self.client.clone());
        js.publish(subject, bytes.into()).await.unwrap().await.unwrap();
    }

    /// The next report of an attempt, whoever makes it.
    pub(crate) async fn attempt(&self) -> (String, Attempt) {
        let mut attempts = self.attempts.lock().await;
        let message = tokio::time::timeout(PATIENCE, attempts.next()).await.expect("a report").unwrap();
        let attempt: Attempt = read(&message);
        assert_eq!(attempt.attempt_token, format!("token of {}", attempt.job_id));
        (message.subject.to_string(), attempt)
    }

    /// Whether nothing is reported of a job for so long.
    pub(crate) async fn no_attempt(&self, job: &JobId, within: Duration) -> bool {
        let mut attempts = self.attempts.lock().await;
        let reported = async { while read::<Attempt>(&attempts.next().await.unwrap()).job_id != *job {} };
        tokio::time::timeout(within, reported).await.is_err()
    }

    /// The verdicts that are reported of a job within so long, each with its attempt.
    pub(crate) async fn verdicts(&self, job: &JobId, within: Duration) -> Vec<(AttemptStatus, u32)> {
        let mut attempts = self.attempts.lock().await;
        let mut verdicts = Vec::new();
        let gather = async {
            loop {
                let report: Attempt = read(&attempts.next().await.unwrap());
                if report.job_id == *job && report.status != AttemptStatus::Running {
                    verdicts.push((report.status, report.attempt));
                }
            }
        };
        let _ = tokio::time::timeout(within, gather).await;
        verdicts
    }

    pub(crate) fn know(&self, queued: Queued) {
        self.known.lock().unwrap().insert(queued.job.clone(), queued);
    }

    /// Makes a task terminal and tells the agent.
    pub(crate) async fn decide(&self, job: &JobId, state: JobState) {
        self.know(Queued { job: job.clone(), state, attempts: 1 });
        self.tell(AgentOp::TaskDone { job_id: job.clone() }).await.unwrap();
    }

    /// Waits until a queue has no entry left.
    pub(crate) async fn empty(&self, queue: &jetstream::stream::Stream) {
        let emptied = tokio::time::timeout(PATIENCE, async {
            while queue.get_info().await.unwrap().state.messages > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        emptied.await.expect("the queue to be emptied");
    }

    /// A request on `.in`, and the answer on `.out` or `.error`, as bytes and read.
    pub(crate) async fn simple<T: DeserializeOwned>(&self, side: &str, body: &Value) -> (Vec<u8>, T) {
        let mut answers = self.client.subscribe(format!("agent.{}.{side}", self.id)).await.unwrap();
        let bytes = if body.is_string() { b"\xff{ garbage".to_vec() } else { body.to_string().into_bytes() };
        self.client.publish(subject::simple_in(&self.id), bytes.into()).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await;
        let message = answer.unwrap_or_else(|_| panic!("no answer on .{side} to {body}")).unwrap();
        (message.payload.to_vec(), serde_json::from_slice(&message.payload).unwrap())
    }

    pub(crate) async fn ask(&self, body: &Value) -> Vec<u8> {
        let request = body.to_string().into_bytes().into();
        self.client.request(subject::simple_in(&self.id), request).await.unwrap().payload.to_vec()
    }

    /// Writes the agent's assignments as the server does: shards, then the list.
    pub(crate) async fn assign(&self, kind: &str, generation: u64, targets: &[&str]) {
        const SHARDS: u32 = 3;
        let kind = ModuleType::new(kind).unwrap();
        let js = jetstream::new(self.client.clone());
        let mut hashes = Vec::new();
        let put = |key: String, payload: bytes::Bytes| {
            let subject = stream::kv_subject(stream::ASSIGNMENTS_BUCKET, &key);
            let js = js.clone();
            async move { js.publish(subject, payload).await.unwrap().await.unwrap() }
        };
        for shard in 0..SHARDS {
            let assignments: Vec<Assignment> = targets
                .iter()
                .map(|target| TargetId::new(*target).unwrap())
                .filter(|target| imn_contract::shard(target, SHARDS) == shard)
                .map(|target| Assignment {
                    target,
                    kind: kind.clone(),
                    address: "127.0.0.1".into(),
                    interval_ms: 1000,
                    timeout_ms: 1000,
                    count: 1,
                    params: Map::new(),
                    since_us: 0,
                    until_us: None,
                })
                .collect();
            if assignments.is_empty() {
                hashes.push(String::new());
                continue;
            }
            let packed = AssignmentShard { v: 1, assignments }.pack().unwrap();
            hashes.push(AssignmentShard::hash(&packed));
            put(stream::shard_key(&self.id, shard), packed).await;
        }
        let meta = AssignmentMeta { v: 1, agent: self.id.clone(), generation, shards: hashes, partitions: 1 };
        put(stream::meta_key(&self.id), encode(&meta, Encoding::Json).unwrap()).await;
    }

    /// Waits until the instances' files hold `count` targets in all; gives them by instance.
    pub(crate) async fn standing(
        &self,
        count: usize,
        within: Duration,
    ) -> BTreeMap<String, BTreeSet<String>> {
        let read = || {
            let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for path in self.standing_files() {
                let text = fs::read(path).unwrap();
                let file: AssignmentFile = decode(&text, Encoding::Json).unwrap();
                let targets = file.assignments.iter().map(|a| a.target.to_string()).collect();
                found.insert(file.instance.to_string(), targets);
            }
            found
        };
        let waited = tokio::time::timeout(within, async {
            loop {
                let found = read();
                if found.values().map(BTreeSet::len).sum::<usize>() == count {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{count} targets, have {:?}", read()))
    }

    pub(crate) fn forget_standing(&self) {
        for path in self.standing_files() {
            fs::remove_file(path).unwrap();
        }
    }

    fn standing_files(&self) -> Vec<PathBuf> {
        let directory = fs::read_dir(self.state.path().join("assignments"));
        let paths = directory.into_iter().flatten().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
    }
}

impl Drop for Bench {
    /// Modules outlive their agent, so they are looked up and killed one by one.
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            if std::thread::panicking() {
                let _ = std::io::Write::write_all(&mut std::io::stderr(), agent.stderr().as_bytes());
            }
            agent.kill9();
        }
        let text = fs::read_to_string(self.state.path().join("instances.json")).unwrap_or_default();
        let records: Value = serde_json::from_str(&text).unwrap_or_default();
        for record in records["instances"].as_array().into_iter().flatten() {
            let pid = record["pid"].as_u64().unwrap_or_default() as u32;
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if String::from_utf8_lossy(&environ).contains("IMN_INSTANCE=lab1-") {
                kill(pid, Signal::SIGKILL);
            }
        }
    }
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    let _ = nix::sys::signal::kill(Pid::from_raw(pid as i32), signal);
}

pub(crate) fn alive(pid: u32) -> bool {
    imn_runtime::process::Identity::of(pid).is_some()
}

pub(crate) fn token(subject: &str, index: usize) -> &str {
    subject::token(subject, index).unwrap()
}

fn view(message: &Message, known: &HashMap<JobId, Queued>, agent: &AgentId) -> JobView {
    let job = JobId::new(subject::last_token(&message.subject)).unwrap();
    let mut view = JobView {
        v: 1,
        status: 404,
        job_id: None,
        state: None,
        kind: None,
        target: None,
        created: None,
        tasks: Vec::new(),
        error: None,
    };
    if let Some(queued) = known.get(&job) {
        view.status = 200;
        view.state = Some(queued.state);
        let task =
            TaskView { agent: agent.clone(), state: queued.state, attempts: queued.attempts, result: None };
        view.tasks = vec![task];
    }
    view
}

pub(crate) fn stream_config(name: &str, subjects: &str) -> jetstream::stream::Config {
    jetstream::stream::Config {
        name: name.to_owned(),
        subjects: vec![subjects.to_owned()],
        retention: jetstream::stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    }
}

fn read<M: Wire>(message: &Message) -> M {
    decode(&message.payload, Encoding::Json).unwrap()
}

/// A program of this crate's `examples`, which `cargo test` builds beside the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(2).map(Path::to_owned).unwrap();
    target.join("examples").join(name)
}

//! A third-party module written over async-nats and the contract alone: what the agent's tests supervise.
//!
//! Its outcome is `{"pid", "attempt"}`. Parameters: `delay_ms`; `mode`: `exit` (the process ends), `exit_once` (only on
//! the first attempt), `fail`; `refuse`: the job is refused; `deaf`: it heeds no cancellation. Configuration:
//! `exit_at_start`; `exit_at_job`; `stall`: it tells of rounds that fall due and never makes one. It ends when its log's
//! directory is gone, so that no test leaves one behind.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    io::Read,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, jetstream};
use futures::StreamExt;
use imn_contract::{
    Encoding, ErrorCode, Fault, JobId, Message as Wire, decode, encode, header,
    latest::{
        Announce, AnnounceEvent, Attempt, AttemptStatus, ControlReply, Health, ModuleConfig, ModuleControl,
        ModuleOp, ModuleState, SpoolState, Task, TaskReply,
    },
    subject,
};
use imn_runtime::credential::Credentials;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Mutex,
    task::{AbortHandle, JoinSet},
};

type Failure = Box<dyn Error + Send + Sync>;

const SLOTS: u32 = 2;

struct Fake {
    config: ModuleConfig,
    client: Client,
    slots: u32,
    epoch: u64,
    jobs: Mutex<HashMap<JobId, AbortHandle>>,
    deaf: Mutex<HashSet<JobId>>,
    beats: AtomicU64,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text)?;
    let config: ModuleConfig = decode(&text, Encoding::Json)?;
    if config.config.contains_key("exit_at_start") {
        std::process::exit(7);
    }
    let mut options = async_nats::ConnectOptions::new();
    if let Some(text) = &config.creds {
        options = options.credentials(text)?;
    }
    let client = options
        .custom_inbox_prefix(&config.inbox_prefix)
        .retry_on_initial_connect()
        .connect(&config.nats_url)
        .await?;
    let epoch = u64::from(std::process::id());
    let slots = config.slots.unwrap_or(SLOTS);
    let fake = Arc::new(Fake {
        config,
        client,
        slots,
        epoch,
        jobs: Mutex::default(),
        deaf: Mutex::default(),
        beats: AtomicU64::new(0),
    });
    fake.run().await
}

impl Fake {
    async fn run(self: Arc<Self>) -> Result<(), Failure> {
        let ModuleConfig { agent, kind, instance, .. } = &self.config;
        let mut terminate = signal(SignalKind::terminate())?;
        self.announce(AnnounceEvent::Hello).await?;
        let mut work =
            self.client.queue_subscribe(subject::work(agent, kind), subject::work_queue(kind)).await?;
        let mut at = self.client.subscribe(subject::at(agent, instance)).await?;
        let mut control = self.client.subscribe(subject::module_control(agent, instance)).await?;
        self.client.flush().await?;
        self.announce(AnnounceEvent::Ready).await?;
        let mut health = tokio::time::interval(Duration::from_millis(500));
        let mut running: JoinSet<()> = JoinSet::new();
        loop {
            tokio::select! {
                // What is asked after an offer is answered after it.
                biased;
                _ = terminate.recv() => break,
                Some(message) = work.next() => self.offered(&message, &mut running).await?,
                Some(message) = at.next() => self.offered(&message, &mut running).await?,
                Some(message) = control.next() => self.told(&message).await?,
                Some(_) = running.join_next() => {}
                _ = health.tick() => {
                    if !state_dir().exists() {
                        return Ok(());
                    }
                    self.publish(subject::health(instance), &self.health().await).await?;
                }
            }
        }
        self.announce(AnnounceEvent::Draining).await?;
        work.unsubscribe().await?;
        at.unsubscribe().await?;
        while running.join_next().await.is_some() {}
        self.announce(AnnounceEvent::Bye).await?;
        self.client.flush().await?;
        Ok(())
    }

    async fn offered(self: &Arc<Self>, message: &Message, running: &mut JoinSet<()>) -> Result<(), Failure> {
        let task: Task = decode(&message.payload, Encoding::Json)?;
        let mut jobs = self.jobs.lock().await;
        let fault = if task.params.contains_key("refuse") {
            Some(Fault::invalid("params.refuse", "refused as asked"))
        } else if jobs.len() >= self.slots as usize {
            Some(Fault::new(ErrorCode::Saturated, "no slot"))
        } else {
            None
        };
        let accepted = fault.is_none();
        let instance = Some(self.config.instance.clone());
        let reply = TaskReply { v: 1, accepted, instance, attempt: Some(task.attempt), error: fault };
        if accepted {
            let (job, this) = (task.job_id.clone(), Arc::clone(self));
            if task.params.contains_key("deaf") {
                self.deaf.lock().await.insert(job.clone());
            }
            jobs.insert(job, running.spawn(async move { this.work(task).await }));
        }
        drop(jobs);
        match &message.reply {
            Some(to) => self.publish(to.to_string(), &reply).await,
            None => Ok(()),
        }
    }

    async fn work(&self, task: Task) {
        let text = |name: &str| task.params.get(name).and_then(|value| value.as_str()).unwrap_or_default();
        if let Some(delay) = task.params.get("delay_ms").and_then(serde_json::Value::as_u64) {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if self.config.config.contains_key("exit_at_job")
            || text("mode") == "exit"
            || (text("mode") == "exit_once" && task.attempt == 1)
        {
            std::process::exit(3);
        }
        let failed = text("mode") == "fail";
        let attempt = Attempt {
            v: 1,
            job_id: task.job_id.clone(),
            agent: task.agent.clone(),
            instance: self.config.instance.clone(),
            kind: task.kind.clone(),
            target: task.target.clone(),
            attempt: task.attempt,
            attempt_token: task.attempt_token.clone(),
            status: if failed { AttemptStatus::Failed } else { AttemptStatus::Succeeded },
            started: None,
            finished: None,
            outcome: json!({ "pid": std::process::id(), "attempt": task.attempt }),
            error: failed.then(|| Fault::new(ErrorCode::Unavailable, "failed as asked")),
        };
        let reported = self.report(&task, &attempt).await;
        self.jobs.lock().await.remove(&task.job_id);
        if let Err(error) = reported {
            complain(&error);
        }
    }

    async fn report(&self, task: &Task, attempt: &Attempt) -> Result<(), Failure> {
        let ModuleConfig { agent, instance, .. } = &self.config;
        if task.direct {
            return self.publish(subject::direct(agent, instance, &task.job_id), attempt).await;
        }
        let subject = subject::attempt(agent, instance, &task.job_id);
        let payload = encode(attempt, Encoding::Json)?;
        jetstream::new(self.client.clone()).publish(subject, payload).await?.await?;
        Ok(())
    }

    async fn told(&self, message: &Message) -> Result<(), Failure> {
        let control: ModuleControl = decode(&message.payload, Encoding::Json)?;
        let mut jobs = self.jobs.lock().await;
        let ok = match &control.op {
            ModuleOp::Has { job_id } => jobs.contains_key(job_id),
            ModuleOp::Cancel { job_id } => {
                let deaf = self.deaf.lock().await.contains(job_id);
                !deaf && jobs.remove(job_id).map(|job| job.abort()).is_some()
            }
            _ => false,
        };
        drop(jobs);
        match &message.reply {
            Some(to) => self.publish(to.to_string(), &ControlReply { v: 1, ok, error: None }).await,
            None => Ok(()),
        }
    }

    async fn announce(&self, event: AnnounceEvent) -> Result<(), Failure> {
        let ModuleConfig { agent, kind, instance, .. } = self.config.clone();
        let announce = Announce {
            v: 1,
            event,
            instance,
            agent,
            kind,
            version: "9.9.9".to_owned(),
            accepts: vec!["job/1".to_owned()],
            slots: self.slots,
            params_schema: serde_json::Value::Null,
            pid: Some(std::process::id()),
        };
        let payload = encode(&announce, Encoding::Json)?;
        let mut headers = HeaderMap::new();
        if let Some(text) = &self.config.creds {
            let credentials = Credentials::parse(text)?;
            headers.insert(header::NKEY, credentials.public_key());
            headers.insert(header::SIGNATURE, credentials.sign(&payload)?);
        }
        Ok(self.client.publish_with_headers(subject::ANNOUNCE, headers, payload).await?)
    }

    async fn health(&self) -> Health {
        let ModuleConfig { agent, kind, instance, .. } = self.config.clone();
        let beats = self.beats.fetch_add(1, Relaxed);
        Health {
            v: 1,
            instance,
            agent,
            kind,
            version: "9.9.9".to_owned(),
            state: ModuleState::Ready,
            inflight: self.jobs.lock().await.len() as u32,
            queued: 0,
            slots: self.slots,
            oldest_ms: 0,
            ewma_ms: 0.0,
            done: 0,
            errors: 0,
            circuits_open: 0,
            rounds_due: if self.config.config.contains_key("stall") { beats } else { 0 },
            rounds_done: 0,
            rounds_skipped: 0,
            late_p99_us: 0,
            seq: 1,
            epoch: self.epoch,
            time: String::new(),
            spool: SpoolState::default(),
        }
    }

    async fn publish<M: Wire>(&self, subject: String, message: &M) -> Result<(), Failure> {
        Ok(self.client.publish(subject, encode(message, Encoding::Json)?).await?)
    }
}

/// The directory that its standard output, the log of its instance, is in.
fn state_dir() -> PathBuf {
    let log = std::fs::read_link("/proc/self/fd/1").unwrap_or_default();
    log.parent().map(PathBuf::from).unwrap_or_default()
}

#[expect(clippy::print_stderr, reason = "its standard error is its log")]
fn complain(error: &Failure) {
    eprintln!("report: {error}");
}

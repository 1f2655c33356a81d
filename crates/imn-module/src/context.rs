//! What a job may do while it runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use imn_contract::{
    AgentId, InstanceId, JobId,
    latest::{LogLine, Progress, ProgressKind},
    subject,
};
use imn_runtime::{clock, nats::Client, task::Stop};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

/// The surroundings of one running job.
#[derive(Debug)]
pub struct JobContext {
    pub(crate) outlet: Outlet,
    pub(crate) deadline: Instant,
    pub(crate) stop: Stop,
}

/// A sign of what a job is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct Sign {
    /// What it tells.
    pub kind: ProgressKind,
    /// Its details, such as `n`, `rtt_ms` and `from` of a packet, or `text`.
    pub detail: Map<String, Value>,
}

/// Where what a job tells goes.
#[derive(Debug)]
pub(crate) enum Outlet {
    /// To whoever listens on NATS.
    Network(Box<Wire>),
    /// To whoever has the job done in this process.
    Local(mpsc::Sender<Sign>),
}

/// A job's place on NATS.
#[derive(Debug)]
pub(crate) struct Wire {
    pub client: Client,
    pub agent: AgentId,
    pub instance: InstanceId,
    pub job: JobId,
    pub seq: Arc<AtomicU64>,
}

impl JobContext {
    /// Publishes live progress. Lossy: nothing is kept while NATS is away or whoever listens is slow.
    pub async fn progress(&self, kind: ProgressKind, detail: Map<String, Value>) {
        match &self.outlet {
            Outlet::Network(wire) => wire.progress(kind, detail).await,
            // Full: progress is lossy.
            Outlet::Local(signs) => drop(signs.try_send(Sign { kind, detail })),
        }
    }

    /// Whether the job is done for somebody in this process.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.outlet, Outlet::Local(_))
    }

    /// Publishes progress in words.
    pub async fn text(&self, text: impl Into<String>) {
        let detail = Map::from_iter([("text".to_owned(), Value::String(text.into()))]);
        self.progress(ProgressKind::Text, detail).await;
    }

    /// Publishes a line of this job's log. Lossy, as [`progress`](Self::progress). In a process without a network of
    /// modules it goes to the process' own log.
    pub async fn log(&self, level: tracing::Level, message: impl Into<String>) {
        match &self.outlet {
            Outlet::Network(wire) => wire.log(level, message.into()).await,
            Outlet::Local(_) => tracing::info!(%level, "{}", message.into()),
        }
    }

    /// Waits until the job is cancelled or its process drains past the deadline. The SDK drops the job then anyway:
    /// this is for work outside of its future.
    pub async fn cancelled(&self) {
        self.stop.requested().await;
    }

    /// Whether the job is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.stop.is_requested()
    }

    /// Time left until the deadline.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl Wire {
    async fn progress(&self, kind: ProgressKind, detail: Map<String, Value>) {
        if !self.client.events().is_connected() {
            return;
        }
        let message = Progress {
            v: 1,
            job_id: self.job.clone(),
            agent: self.agent.clone(),
            seq: self.seq.fetch_add(1, Relaxed) + 1,
            kind,
            detail,
        };
        let subject = subject::progress(&self.agent, &self.instance, &self.job);
        if let Err(error) = self.client.publish(&subject, &message).await {
            tracing::debug!(%error, "progress dropped");
        }
    }

    async fn log(&self, level: tracing::Level, message: String) {
        if !self.client.events().is_connected() {
            return;
        }
        let line = LogLine {
            v: 1,
            job_id: Some(self.job.clone()),
            instance: self.instance.clone(),
            level: level.as_str().to_ascii_lowercase(),
            message,
            time: clock::now_rfc3339(),
        };
        let subject = subject::log(&self.agent, &self.instance, Some(&self.job));
        if let Err(error) = self.client.publish(&subject, &line).await {
            tracing::debug!(%error, "log line dropped");
        }
    }
}

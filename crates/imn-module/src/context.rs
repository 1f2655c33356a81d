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

/// The surroundings of one running job.
#[derive(Debug)]
pub struct JobContext {
    pub(crate) client: Client,
    pub(crate) agent: AgentId,
    pub(crate) instance: InstanceId,
    pub(crate) job: JobId,
    pub(crate) deadline: Instant,
    pub(crate) stop: Stop,
    pub(crate) seq: Arc<AtomicU64>,
}

impl JobContext {
    /// Publishes live progress. Lossy: nothing is kept while NATS is away.
    pub async fn progress(&self, kind: ProgressKind, detail: Map<String, Value>) {
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

    /// Publishes progress in words.
    pub async fn text(&self, text: impl Into<String>) {
        let detail = Map::from_iter([("text".to_owned(), Value::String(text.into()))]);
        self.progress(ProgressKind::Text, detail).await;
    }

    /// Publishes a line of this job's log. Lossy, as [`progress`](Self::progress).
    pub async fn log(&self, level: tracing::Level, message: impl Into<String>) {
        if !self.client.events().is_connected() {
            return;
        }
        let line = LogLine {
            v: 1,
            job_id: Some(self.job.clone()),
            instance: self.instance.clone(),
            level: level.as_str().to_ascii_lowercase(),
            message: message.into(),
            time: clock::now_rfc3339(),
        };
        let subject = subject::log(&self.agent, &self.instance, Some(&self.job));
        if let Err(error) = self.client.publish(&subject, &line).await {
            tracing::debug!(%error, "log line dropped");
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

//! Jobs: taken in, queued, followed to their one terminal state, and told.

mod open;
mod outbox;
mod schemas;
mod service;
mod settle;
mod submit;
mod sweep;

use std::sync::Arc;

use imn_contract::{
    AgentId, ErrorCode, Fault, JobId, ModuleType,
    latest::{JobState, JobView, ResultStatus, TaskView},
};
use imn_runtime::nats::{self, Client};
use imn_store::{Catalog, CatalogError, Job};

use crate::{clock, live::Hub, metrics::Metrics, registry::Registry, streams::Streams};
use open::Open;
use schemas::Schemas;

pub(crate) use outbox::Outbox;

/// Where jobs are taken in and asked for; cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    catalog: Arc<dyn Catalog>,
    registry: Registry,
    hub: Hub,
    metrics: Metrics,
    streams: Streams,
    open: Open,
    outbox: Outbox,
    schemas: Schemas,
}

/// What a desk works with.
pub(crate) struct Parts {
    pub(crate) client: Client,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) registry: Registry,
    pub(crate) hub: Hub,
    pub(crate) metrics: Metrics,
    pub(crate) streams: Streams,
    pub(crate) outbox: Outbox,
}

impl Desk {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { client, catalog, registry, hub, metrics, streams, outbox } = parts;
        let (open, schemas) = (Open::default(), Schemas::default());
        let shared = Shared { client, catalog, registry, hub, metrics, streams, open, outbox, schemas };
        Self { shared: Arc::new(shared) }
    }

    /// Tasks of a type that are accepted and have not ended, in the queue or in work.
    pub(crate) fn open_tasks(&self, kind: &ModuleType) -> u32 {
        self.shared.open.of_type(kind)
    }

    /// Open tasks of each agent and type that has any.
    pub(crate) fn depths(&self) -> Vec<(AgentId, ModuleType, u32)> {
        self.shared.open.depths()
    }

    /// The authoritative state of a job.
    ///
    /// # Errors
    /// 404 when there is no such job, 503 when the catalog fails.
    pub(crate) async fn get(&self, id: &JobId) -> Result<JobView, Fault> {
        let job = self.shared.catalog.job(id).await.map_err(|error| unavailable(&error))?;
        job.map(|job| view(&job)).ok_or_else(|| unknown(id))
    }

    /// Cancels what is not terminal yet of a job; the state after it.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn cancel(&self, id: &JobId) -> Result<JobView, Fault> {
        let job = self.shared.catalog.job(id).await.map_err(|error| unavailable(&error))?;
        let job = job.ok_or_else(|| unknown(id))?;
        let fault = Fault::new(ErrorCode::Cancelled, "cancelled on request");
        let open = job.tasks.iter().filter(|task| !task.state.is_terminal());
        let ends = open.map(|task| settle::end(&job, task, ResultStatus::Cancelled, &fault)).collect();
        self.settle(ends).await.map_err(|error| unavailable(&error))?;
        self.get(id).await
    }
}

/// A job as the wire shows it.
pub(crate) fn view(job: &Job) -> JobView {
    JobView {
        v: 1,
        status: 200,
        job_id: Some(job.id.clone()),
        state: Some(imn_domain::job_state(job.tasks.iter().map(|task| task.state))),
        kind: Some(job.kind.clone()),
        target: Some(job.target.clone()),
        created: Some(clock::rfc3339(job.created_us)),
        tasks: job
            .tasks
            .iter()
            .map(|task| TaskView {
                agent: task.agent.clone(),
                state: task.state,
                attempts: task.attempts,
                result: task.result.clone(),
            })
            .collect(),
        error: None,
    }
}

fn unknown(id: &JobId) -> Fault {
    Fault { name: "no_job".to_owned(), ..Fault::new(ErrorCode::NoVantage, format!("no job {id} is known")) }
        .at("job_id")
}

/// The name, within the server, of the fault of a full disk; the contract has none, and says `unavailable`.
pub(crate) const NO_SPACE: &str = "no_space";

fn no_space(message: String) -> Fault {
    Fault { name: NO_SPACE.to_owned(), ..Fault::new(ErrorCode::Unavailable, message) }
}

/// The queue of a task could not be made.
fn no_queue(error: &nats::Error) -> Fault {
    if error.is_no_space() {
        return no_space(format!("{error}: the disk of nats-server is full; free some, or move its store"));
    }
    Fault::new(ErrorCode::Unavailable, error.to_string()).retry_after_ms(1000)
}

fn unavailable(error: &CatalogError) -> Fault {
    tracing::error!(%error, "catalog failed");
    if matches!(error, CatalogError::NoSpace { .. }) {
        return no_space(error.to_string());
    }
    Fault::new(ErrorCode::Unavailable, error.to_string()).retry_after_ms(1000)
}

/// The name of a state as the wire writes it.
fn state_name(state: JobState) -> &'static str {
    match state {
        JobState::Submitted => "submitted",
        JobState::Rejected => "rejected",
        JobState::Queued => "queued",
        JobState::Dispatched => "dispatched",
        JobState::Running => "running",
        JobState::RetryWait => "retry_wait",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::TimedOut => "timed_out",
        JobState::Cancelled => "cancelled",
        JobState::Dead => "dead",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_and_says_what_to_do() {
        let full = unavailable(&CatalogError::NoSpace { operation: "create job" });
        assert_eq!((full.code, full.name.as_str(), full.retryable), (503, NO_SPACE, true));
        assert!(full.message.contains("disk is full") && full.message.contains("free some"), "{full}");
        let other = CatalogError::Backend { operation: "create job", message: "gone".to_owned() };
        assert_eq!(unavailable(&other).name, "unavailable");
        let said = |message: &str| nats::Error::Client {
            operation: "create consumer",
            subject: "S/c".to_owned(),
            message: message.to_owned(),
        };
        let full = no_queue(&said("open /x: no space left on device"));
        assert_eq!(full.name, NO_SPACE);
        assert!(full.message.contains("disk of nats-server is full"), "{full}");
        assert_eq!(no_queue(&said("timed out")).name, "unavailable");
    }
}

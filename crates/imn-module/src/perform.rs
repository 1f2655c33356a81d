//! Doing one task and reporting it until somebody has taken the report.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use futures::FutureExt;
use imn_contract::{
    Encoding, ErrorCode, Fault, JobId, encode, header,
    latest::{Attempt, AttemptStatus, ModuleConfig, Task},
    subject,
};
use imn_runtime::{
    clock,
    nats::{Client, Error},
    task::Stop,
    telemetry::{Messaging, Side, Step, TraceParent},
};
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    context::{JobContext, Outlet, Wire},
    desk::{Desk, Report},
    module::{Job, SharedModule},
};

/// Longest time that a task may ask for.
const LONGEST: Duration = Duration::from_hours(1);
/// An attempt with headers must fit into one message.
const REPORT_BYTES: usize = imn_contract::MAX_MESSAGE_BYTES - 4096;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// What the jobs of one process share.
pub(crate) struct Shared {
    pub module: SharedModule,
    pub config: ModuleConfig,
    pub client: Client,
    pub desk: Desk,
    /// A threshold may have been crossed: the health is worth a look.
    pub changed: Notify,
}

impl Shared {
    /// The job within a task.
    pub(crate) fn job(task: &Task) -> Job {
        Job {
            id: task.job_id.clone(),
            agent: task.agent.clone(),
            target: task.target.clone(),
            params: task.params.clone(),
            attempt: task.attempt,
        }
    }

    /// What is wrong with a task before its type looks at it.
    pub(crate) fn check(&self, task: &Task) -> Result<(), Fault> {
        let own = &self.config;
        if task.kind != own.kind {
            let text = format!("instance {} does {}, not {}", own.instance, own.kind, task.kind);
            return Err(Fault::no_module(text).at("type"));
        }
        if task.agent != own.agent {
            let text = format!("instance {} belongs to agent {}", own.instance, own.agent);
            return Err(Fault::invalid("agent", text));
        }
        if task.attempt == 0 {
            return Err(Fault::invalid("attempt", "attempts count from 1"));
        }
        if task.ttl_ms == 0 {
            return Err(Fault::new(ErrorCode::Deadline, "no time is left for this task").at("ttl_ms"));
        }
        self.module.check(&Self::job(task))
    }

    /// Does a task, frees its slot, and reports; `trace` is where its agent stands.
    pub(crate) async fn perform(
        self: Arc<Self>,
        task: Task,
        stop: Stop,
        received: Instant,
        trace: Option<TraceParent>,
    ) {
        let what = Messaging::new("run", Side::Server, "mmn.jobs.do");
        let step = self.step(what, &task.job_id, task.attempt, trace);
        let done = async {
            tracing::debug!(job = %task.job_id, attempt = task.attempt, target = task.target, "job begun");
            let report = self.work(task, stop, received).await;
            if let Some(fault) = &report.attempt.error {
                step.failed(fault);
            }
            self.desk.finish(&report);
            self.changed.notify_one();
            self.deliver(&report).await;
            self.desk.reported(&report);
        };
        step.run(done).await;
    }

    fn step(&self, what: Messaging<'_>, job: &JobId, attempt: u32, trace: Option<TraceParent>) -> Step {
        let what = Messaging {
            job: Some(job.as_str()),
            kind: Some(self.config.kind.as_str()),
            agent: Some(self.config.agent.as_str()),
            instance: Some(self.config.instance.as_str()),
            attempt: Some(attempt),
            ..what
        };
        Step::messaging(what, trace)
    }

    async fn work(self: &Arc<Self>, task: Task, stop: Stop, received: Instant) -> Arc<Report> {
        let started = clock::now_rfc3339();
        let ttl = Duration::from_millis(task.ttl_ms).min(LONGEST);
        let deadline = received + ttl;
        let wire = Wire {
            client: self.client.clone(),
            agent: self.config.agent.clone(),
            instance: self.config.instance.clone(),
            job: task.job_id.clone(),
            seq: Arc::new(AtomicU64::new(0)),
        };
        let context = JobContext { outlet: Outlet::Network(Box::new(wire)), deadline, stop: stop.clone() };
        let work = AssertUnwindSafe(self.module.run(Self::job(&task), &context)).catch_unwind();
        let verdict = tokio::select! {
            biased;
            () = stop.requested() => Err(Fault::new(ErrorCode::Cancelled, "stopped on request")),
            done = tokio::time::timeout_at(deadline.into(), work) => match done {
                Ok(Ok(result)) => result,
                Ok(Err(panic)) => Err(panicked(panic.as_ref())),
                Err(_) => {
                    let text = format!("not done within {} ms", ttl.as_millis());
                    Err(Fault::new(ErrorCode::Deadline, text))
                }
            },
        };
        Arc::new(self.report(task, started, verdict))
    }

    fn report(&self, task: Task, started: String, verdict: Result<Value, Fault>) -> Report {
        let (status, outcome, error) = match verdict {
            Ok(outcome) => (AttemptStatus::Succeeded, outcome, None),
            Err(fault) if fault.is(ErrorCode::Cancelled) => {
                (AttemptStatus::Cancelled, Value::Null, Some(fault))
            }
            Err(fault) => (AttemptStatus::Failed, Value::Null, Some(fault)),
        };
        let mut attempt = Attempt {
            v: 1,
            job_id: task.job_id,
            agent: self.config.agent.clone(),
            instance: self.config.instance.clone(),
            kind: task.kind,
            target: task.target,
            attempt: task.attempt,
            attempt_token: task.attempt_token,
            status,
            started: Some(started),
            finished: Some(clock::now_rfc3339()),
            outcome,
            error,
        };
        let length = encode(&attempt, Encoding::Json).map_or(usize::MAX, |bytes| bytes.len());
        if length > REPORT_BYTES {
            let text = format!("the outcome does not fit into one message of {REPORT_BYTES} bytes");
            attempt.status = AttemptStatus::Failed;
            attempt.outcome = Value::Null;
            attempt.error = Some(Fault::invalid("outcome", text));
        }
        Report { attempt, direct: task.direct }
    }

    /// Publishes a report until it is acknowledged, however long NATS stays away.
    pub(crate) async fn deliver(&self, report: &Report) {
        let mut pause = FIRST_RETRY;
        while let Err(error) = self.publish(report).await {
            tracing::warn!(job = %report.attempt.job_id, %error, "attempt not reported; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_RETRY);
            let mut connected = self.client.events().connected();
            // The owner of the channel is the client itself, which lives here.
            let _ = connected.wait_for(|up| *up).await;
        }
    }

    async fn publish(&self, report: &Report) -> Result<(), Error> {
        let attempt = &report.attempt;
        let own = &self.config;
        let mut headers = HeaderMap::new();
        headers.insert(header::JOB, attempt.job_id.as_str());
        headers.insert(header::ATTEMPT, attempt.attempt.to_string());
        if report.direct {
            let subject = subject::direct(&own.agent, &own.instance, &attempt.job_id);
            return self.client.publish_with(&subject, attempt, headers).await;
        }
        if let Ok(token) = attempt.attempt_token.parse::<async_nats::HeaderValue>() {
            headers.insert(header::ATTEMPT_TOKEN, token);
        }
        let subject = subject::attempt(&own.agent, &own.instance, &attempt.job_id);
        let id = format!("{}.{}.{}", attempt.job_id, own.agent, attempt.attempt);
        let what = Messaging::new("report", Side::Producer, "mmn.jobs.attempt");
        let step = self.step(what, &attempt.job_id, attempt.attempt, TraceParent::current());
        let published = step.run(self.client.publish_acked(&subject, attempt, Some(&id), headers)).await;
        if published.is_err() {
            step.failed_as("not_reported");
        }
        published.map(drop)
    }
}

/// What a panic is told as.
pub(crate) fn panicked(payload: &(dyn Any + Send)) -> Fault {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_owned());
    Fault::new(ErrorCode::ModuleCrashed, format!("the job panicked: {text}"))
}

//! From reports, deadlines and cancellations to states, committed and then told.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{self, AckKind};
use futures::{FutureExt, StreamExt};
use imn_contract::{
    AgentId, ErrorCode, Fault, JobId, ModuleType,
    latest::{AgentControl, AgentOp, Attempt, JobResult, JobState, JobView, ResultStatus, TaskView},
    subject,
};
use imn_domain::verdict;
use imn_runtime::{
    nats,
    task::Stop,
    telemetry::{Messaging, Side, Step, TraceParent},
};
use imn_store::{CatalogError, Job, TaskRow, TaskTransition};
use subtle::ConstantTimeEq;

use super::{Desk, open::OpenTask, state_name};
use crate::{
    clock::{now_us, rfc3339},
    live::Event,
    metrics::label,
    readiness::{Part, Readiness},
};

/// Reports of one transaction at most.
const BATCH: usize = 512;
/// How long reports that end nothing wait for others, so that they do not cost a transaction each.
const COMPANY: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_millis(500);

/// A transition, and what is told of it.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) transition: TaskTransition,
    pub(super) kind: ModuleType,
    pub(super) created_us: i64,
    /// The step of a trace that it is, and of whoever reported it.
    pub(super) step: Step,
}

impl Desk {
    /// Follows the reports of attempts until `stop`.
    pub(crate) async fn follow_attempts(self, readiness: Readiness, stop: Stop) {
        while !stop.is_requested() {
            if let Err(error) = self.follow(&readiness, &stop).await {
                readiness.fails(Part::Jobs, error.to_string());
            }
            stop.sleep(RETRY).await;
        }
    }

    async fn follow(&self, readiness: &Readiness, stop: &Stop) -> nats::Result<()> {
        let fail = |error: &dyn std::fmt::Display| nats::Error::Client {
            operation: "pull",
            subject: subject::ATTEMPT_ALL.to_owned(),
            message: error.to_string(),
        };
        let consumer = self.shared.streams.attempts().await?;
        let stream = consumer.stream().max_messages_per_batch(BATCH).heartbeat(Duration::from_secs(2));
        let mut messages =
            stream.expires(Duration::from_secs(30)).messages().await.map_err(|error| fail(&error))?;
        readiness.ok(Part::Jobs);
        while let Some(Some(first)) = stop.until(messages.next()).await {
            let mut batch = vec![first.map_err(|error| fail(&error))?];
            let mut reports = Vec::new();
            loop {
                while batch.len() < BATCH
                    && let Some(Some(next)) = messages.next().now_or_never()
                {
                    batch.push(next.map_err(|error| fail(&error))?);
                }
                for message in batch.drain(..) {
                    if let Some(report) = self.read(message).await {
                        reports.push(report);
                    }
                }
                if reports.is_empty() || reports.iter().any(Report::ends) || reports.len() >= BATCH {
                    break;
                }
                match tokio::time::timeout(COMPANY, messages.next()).await {
                    Ok(Some(next)) => batch.push(next.map_err(|error| fail(&error))?),
                    Ok(None) | Err(_) => break,
                }
            }
            if let Err(error) = self.take(reports).await {
                readiness.fails(Part::Jobs, error.to_string());
            } else {
                readiness.ok(Part::Jobs);
            }
        }
        Ok(())
    }

    /// Reads one report; what cannot be a report is settled at once and disturbs nothing.
    async fn read(&self, message: jetstream::Message) -> Option<Report> {
        let attempt = nats::decode::<Attempt>(&message.message).and_then(|attempt| {
            let expected = subject::attempt(&attempt.agent, &attempt.instance, &attempt.job_id);
            let by_agent = subject::token(&message.subject, 4) == Some("agent")
                && subject::token(&message.subject, 3) == Some(attempt.agent.as_str())
                && subject::last_token(&message.subject) == attempt.job_id.as_str();
            if message.subject.as_str() == expected || by_agent {
                Ok(attempt)
            } else {
                Err(Fault::new(ErrorCode::Denied, "the report is for another than its subject says"))
            }
        });
        let attempt = match attempt {
            Ok(attempt) => attempt,
            Err(fault) => {
                self.shared.metrics.garbage.get_or_create(&label("kind", "attempt")).inc();
                tracing::warn!(subject = %message.subject, %fault, "report refused");
                acknowledge(&message, AckKind::Term).await;
                return None;
            }
        };
        Some(Report { message, attempt })
    }

    async fn take(&self, reports: Vec<Report>) -> Result<(), CatalogError> {
        let mut moves: Vec<Move> = Vec::with_capacity(reports.len());
        let mut at: HashMap<(JobId, AgentId), usize> = HashMap::new();
        for report in &reports {
            let Report { attempt, message } = report;
            let key = (attempt.job_id.clone(), attempt.agent.clone());
            let Some(task) = self.open_task(&key.0, &key.1).await? else {
                // Terminal or unknown: the agent may not know, or it would not report.
                self.notify_done(&key.1, &key.0).await;
                continue;
            };
            if !bool::from(task.token.as_bytes().ct_eq(attempt.attempt_token.as_bytes())) {
                self.shared.metrics.garbage.get_or_create(&label("kind", "token")).inc();
                tracing::warn!(subject = %message.subject, job = %key.0, "report without the task's token refused");
                continue;
            }
            // One that does not hand the trace on is still of the job's.
            let trace = TraceParent::of(message.message.headers.as_ref()).or_else(|| task.job.trace.clone());
            let step = Messaging {
                job: Some(key.0.as_str()),
                kind: Some(task.job.kind.as_str()),
                agent: Some(key.1.as_str()),
                instance: Some(attempt.instance.as_str()),
                attempt: Some(attempt.attempt),
                ..Messaging::new("settle", Side::Consumer, "mmn.jobs.attempt")
            };
            let next = transition(attempt.clone(), &task, Step::messaging(step, trace));
            match at.get(&key) {
                Some(&index) if moves[index].transition.to.is_terminal() => {}
                Some(&index) => {
                    next.step.follows(moves[index].step.traceparent().as_ref());
                    moves[index] = next;
                }
                None => {
                    at.insert(key, moves.len());
                    moves.push(next);
                }
            }
        }
        let settled = self.settle(moves).await;
        for Report { message, .. } in &reports {
            let kind = if settled.is_ok() { AckKind::Ack } else { AckKind::Nak(Some(RETRY)) };
            acknowledge(message, kind).await;
        }
        settled
    }

    /// An open task from memory, or from the catalog after a restart.
    pub(super) async fn open_task(
        &self,
        job: &JobId,
        agent: &AgentId,
    ) -> Result<Option<OpenTask>, CatalogError> {
        if let Some(task) = self.shared.open.get(job, agent) {
            return Ok(Some(task));
        }
        if self.shared.open.is_closed(job, agent) {
            return Ok(None);
        }
        if let Some(job) = self.shared.catalog.job(job).await? {
            self.shared.open.add(&job);
        }
        Ok(self.shared.open.get(job, agent))
    }

    /// Commits transitions in one transaction, then tells those that took effect.
    pub(super) async fn settle(&self, moves: Vec<Move>) -> Result<(), CatalogError> {
        if moves.is_empty() {
            return Ok(());
        }
        let transitions: Vec<TaskTransition> = moves.iter().map(|m| m.transition.clone()).collect();
        let effective = self.shared.catalog.transition(&transitions).await?;
        for (next, took) in moves.into_iter().zip(effective) {
            let Move { transition: t, kind, created_us, step } = next;
            step.set("imn.status", state_name(t.to));
            if !t.to.is_terminal() {
                self.shared.open.attempted(&t.job, &t.agent, t.attempts);
                continue;
            }
            self.shared.open.close(&t.job, &t.agent);
            if let (true, Some(result)) = (took, t.result) {
                self.shared.metrics.task_seconds.observe((t.now_us - created_us) as f64 / 1e6);
                self.shared.metrics.tasks.get_or_create(&label("state", state_name(t.to))).inc();
                step.run(self.tell_end(result, t.to, &kind)).await;
            }
        }
        self.count_open();
        Ok(())
    }

    pub(super) fn count_open(&self) {
        self.shared.metrics.open_tasks.set(self.shared.open.len() as i64);
    }

    async fn tell_end(&self, result: JobResult, state: JobState, kind: &ModuleType) {
        let shared = &self.shared;
        tracing::debug!(job = %result.job_id, agent = %result.agent, state = state_name(state), "task settled");
        let (job, agent) = (result.job_id.clone(), result.agent.clone());
        self.publish_result(&result, TraceParent::current());
        if !matches!(state, JobState::Succeeded | JobState::Failed | JobState::Rejected) {
            self.withdraw(kind, &agent, &job);
            // It may still be in work: whoever does it is not to go on until the result is out.
            self.notify_done(&agent, &job).await;
        }
        if state == JobState::Dead {
            let dead = subject::dead(kind, &agent, &job);
            if let Err(error) = shared.client.publish(&dead, &result).await {
                tracing::warn!(%error, "dead job not kept in its queue");
            }
        }
        shared.hub.tell(Event::Result(result.into()));
    }

    /// Tells those who need not wait for it that a task is terminal: its agent, and whoever follows states.
    pub(super) async fn tell_settled(&self, result: &JobResult) {
        self.notify_done(&result.agent, &result.job_id).await;
        let state = JobState::from(result.status);
        let task = TaskView { agent: result.agent.clone(), state, attempts: result.attempt, result: None };
        let view = JobView {
            v: 1,
            status: 200,
            job_id: Some(result.job_id.clone()),
            state: Some(state),
            kind: Some(result.kind.clone()),
            target: Some(result.target.clone()),
            created: None,
            tasks: vec![task],
            error: None,
        };
        self.tell_state(&view).await;
    }

    /// Tells the state of a job.
    pub(super) async fn tell_state(&self, view: &JobView) {
        let Some(job) = &view.job_id else { return };
        if let Err(error) = self.shared.client.publish(&subject::state(job), view).await {
            tracing::debug!(%error, "transition not told");
        }
    }

    /// Tells an agent that a task is terminal, so that it settles the queue entry.
    async fn notify_done(&self, agent: &AgentId, job: &JobId) {
        let control = AgentControl { v: 1, op: AgentOp::TaskDone { job_id: job.clone() } };
        if let Err(error) = self.shared.client.publish(&subject::agent_control(agent), &control).await {
            tracing::debug!(%error, "agent not told of the end");
        }
    }
}

/// What ends a task without a report of its own.
pub(super) fn end(job: &Job, task: &TaskRow, status: ResultStatus, fault: &Fault) -> Move {
    let now = now_us();
    let result = JobResult {
        v: 1,
        job_id: job.id.clone(),
        agent: task.agent.clone(),
        instance: task.instance.clone(),
        kind: job.kind.clone(),
        target: job.target.clone(),
        attempt: task.attempts,
        status,
        started: None,
        finished: Some(rfc3339(now)),
        outcome: serde_json::Value::Null,
        error: Some(fault.clone()),
    };
    Move {
        transition: TaskTransition {
            job: job.id.clone(),
            agent: task.agent.clone(),
            to: status.into(),
            attempts: task.attempts,
            instance: task.instance.clone(),
            result: Some(result),
            now_us: now,
        },
        kind: job.kind.clone(),
        created_us: job.created_us,
        step: Step::messaging(
            Messaging {
                job: Some(job.id.as_str()),
                kind: Some(job.kind.as_str()),
                agent: Some(task.agent.as_str()),
                ..Messaging::new("settle", Side::Producer, "mmn.jobs.state")
            },
            job.traceparent.as_deref().and_then(TraceParent::parse),
        ),
    }
}

struct Report {
    message: jetstream::Message,
    attempt: Attempt,
}

impl Report {
    fn ends(&self) -> bool {
        use imn_contract::latest::AttemptStatus::{Cancelled, Failed, Rejected, Succeeded};
        matches!(self.attempt.status, Succeeded | Failed | Rejected | Cancelled)
    }
}

fn transition(attempt: Attempt, task: &OpenTask, step: Step) -> Move {
    let (job, agent, number) = (attempt.job_id.clone(), attempt.agent.clone(), attempt.attempt);
    let instance = Some(attempt.instance.clone());
    let verdict = verdict(attempt, task.job.max_attempts);
    // The catalog's words hold for what is published, whatever a report says.
    let result = verdict.result.map(|result| JobResult {
        kind: task.job.kind.clone(),
        target: task.job.target.clone(),
        ..result
    });
    Move {
        transition: TaskTransition {
            job,
            agent,
            to: verdict.state,
            attempts: number.max(task.attempts),
            instance,
            result,
            now_us: now_us(),
        },
        kind: task.job.kind.clone(),
        created_us: task.job.created_us,
        step,
    }
}

async fn acknowledge(message: &jetstream::Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        // It will be delivered again, and found to be settled.
        tracing::debug!(%error, "report not acknowledged");
    }
}

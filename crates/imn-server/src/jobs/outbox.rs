//! What follows from committed jobs: queue entries, published results. Whatever does not get through at once is
//! found in the catalog later, so nothing depends on this memory.

use std::time::Duration;

use async_nats::HeaderMap;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use imn_contract::{
    AgentId, ErrorCode, Fault, InstanceId, JobId, ModuleType, header,
    latest::{JobResult, JobView, ResultStatus, Task},
    subject,
};
use imn_runtime::{
    nats::Client,
    task::Stop,
    telemetry::{Messaging, Side, Step, TraceParent},
};
use imn_store::{Job, TaskRow};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{Desk, settle::end, view};
use crate::clock::now_us;

/// Work waiting at most; more is found in the catalog.
const CAPACITY: usize = 8192;
/// Operations under way at once.
const WIDTH: usize = 256;
/// How long marks are collected for one transaction.
const FLUSH: Duration = Duration::from_millis(100);
/// How often the catalog is searched for what was left over.
const SCAN: Duration = Duration::from_secs(5);
/// Age before which a task is left to the fast path, in microseconds.
const LEFT_OVER_US: i64 = 5_000_000;
/// How often deadlines are looked at while tasks are open.
const DEADLINES: Duration = Duration::from_millis(250);
/// Tasks looked at in one go.
const PAGE: usize = 1000;

#[derive(Debug)]
enum Work {
    Queue {
        task: Box<Task>,
        deadline_us: i64,
        trace: Option<TraceParent>,
        /// What is told when it is there.
        view: Option<Box<JobView>>,
    },
    Publish {
        result: Box<JobResult>,
        trace: Option<TraceParent>,
    },
    Withdraw {
        kind: ModuleType,
        agent: AgentId,
        job: JobId,
    },
}

pub(crate) enum Done {
    Queued(JobId, AgentId),
    Published(JobId, AgentId),
    /// What could not be noted.
    Unmarked(Marks),
    Nothing,
}

/// What is to be noted in the catalog.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    queued: Vec<(JobId, AgentId)>,
    published: Vec<(JobId, AgentId)>,
}

impl Marks {
    fn take_in(&mut self, done: Done) {
        match done {
            Done::Queued(job, agent) => self.queued.push((job, agent)),
            Done::Published(job, agent) => self.published.push((job, agent)),
            Done::Unmarked(marks) => {
                self.queued.extend(marks.queued);
                self.published.extend(marks.published);
            }
            Done::Nothing => {}
        }
    }
}

/// Hands work that has begun to [`Desk::run_outbox`]; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<BoxFuture<'static, Done>>,
}

/// The receiving end of an [`Outbox`].
#[derive(Debug)]
pub(crate) struct Inbox {
    receiver: mpsc::Receiver<BoxFuture<'static, Done>>,
}

impl Outbox {
    pub(crate) fn new() -> (Self, Inbox) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        (Self { sender }, Inbox { receiver })
    }
}

impl Desk {
    /// Queues those tasks of a job that are not terminal.
    pub(super) fn queue(&self, job: &Job) {
        // That the job is queued is told once.
        let mut view = Some(Box::new(view(job)));
        for row in job.tasks.iter().filter(|row| !row.state.is_terminal()) {
            self.queue_task(job, row, view.take());
        }
    }

    /// Queues a task; `view` is told when it is there.
    pub(super) fn queue_task(&self, job: &Job, row: &TaskRow, view: Option<Box<JobView>>) {
        let task = Task {
            v: 1,
            job_id: job.id.clone(),
            kind: job.kind.clone(),
            target: job.target.clone(),
            params: job.params.clone(),
            agent: row.agent.clone(),
            attempt: 1,
            attempt_token: row.token.clone(),
            ttl_ms: 0,
            max_attempts: job.max_attempts,
            direct: false,
        };
        let (deadline_us, trace) = (job.deadline_us, trace_of(job));
        self.begin(Work::Queue { task: Box::new(task), deadline_us, trace, view });
    }

    /// Publishes a committed result; `trace` is where that was found.
    pub(super) fn publish_result(&self, result: &JobResult, trace: Option<TraceParent>) {
        self.begin(Work::Publish { result: Box::new(result.clone()), trace });
    }

    /// Takes a settled task's entry out of the queue.
    pub(super) fn withdraw(&self, kind: &ModuleType, agent: &AgentId, job: &JobId) {
        self.begin(Work::Withdraw { kind: kind.clone(), agent: agent.clone(), job: job.clone() });
    }

    /// Begins at once, so that what is sent goes out with, and before, what the caller sends next; the answer is the
    /// outbox's to wait for.
    fn begin(&self, work: Work) {
        let mut work: BoxFuture<'static, Done> = Box::pin(self.clone().work(work));
        if let Some(done) = (&mut work).now_or_never() {
            work = Box::pin(std::future::ready(done));
        }
        // A full channel is no loss: the catalog knows what is left over.
        if self.shared.outbox.sender.try_send(work).is_err() {
            tracing::debug!("outbox full");
        }
    }

    /// Does the work of the outbox until `stop`, and looks for what was left over.
    pub(crate) async fn run_outbox(self, mut inbox: Inbox, stop: Stop) {
        let mut under_way: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        let mut marks = Marks::default();
        let mut flush = ticker(FLUSH);
        let mut scan = ticker(SCAN);
        loop {
            tokio::select! {
                () = stop.requested() => break,
                Some(work) = inbox.receiver.recv(), if under_way.len() < WIDTH => {
                    under_way.push(work);
                }
                Some(done) = under_way.next(), if !under_way.is_empty() => marks.take_in(done),
                // Queue entries and results do not wait for what is only noted.
                _ = flush.tick() => under_way.push(Box::pin(self.clone().mark(std::mem::take(&mut marks)))),
                _ = scan.tick() => self.scan().await,
            }
        }
        // What is under way may be finished by others from the catalog; what is done is noted.
        while let Ok(Some(done)) = tokio::time::timeout(FLUSH, under_way.next()).await {
            marks.take_in(done);
        }
        self.mark(marks).await;
    }

    /// Times out what is overdue, until `stop`.
    pub(crate) async fn run_deadlines(self, stop: Stop) {
        let mut idle = 0_u32;
        while stop.sleep(DEADLINES).await {
            // Without open tasks in memory only those of an earlier process could be overdue.
            idle = if self.shared.open.len() == 0 { idle + 1 } else { 0 };
            if idle > 0 && !idle.is_multiple_of(20) {
                continue;
            }
            if let Err(error) = self.time_out().await {
                tracing::warn!(%error, "deadlines not looked at");
            }
        }
    }

    /// Loads the tasks that an earlier process left open.
    pub(crate) async fn load_open(&self) -> Result<(), imn_store::CatalogError> {
        for row in self.shared.catalog.tasks_overdue(i64::MAX, CAPACITY).await? {
            self.open_task(&row.job, &row.agent).await?;
        }
        self.count_open();
        Ok(())
    }

    async fn time_out(&self) -> Result<(), imn_store::CatalogError> {
        let fault = Fault::new(ErrorCode::Deadline, "the deadline passed before the task was done");
        let mut moves = Vec::new();
        for row in self.shared.catalog.tasks_overdue(now_us(), PAGE).await? {
            if let Some(job) = self.shared.catalog.job(&row.job).await? {
                moves.push(end(&job, &row, ResultStatus::TimedOut, &fault));
            }
        }
        self.settle(moves).await
    }

    async fn work(self, work: Work) -> Done {
        let client = &self.shared.client;
        match work {
            Work::Queue { mut task, deadline_us, trace, view } => {
                let left_us = deadline_us.saturating_sub(now_us());
                if left_us <= 0 {
                    return Done::Nothing;
                }
                task.ttl_ms = (left_us as u64).div_ceil(1000);
                match enqueue(client, &task, trace).await {
                    Ok(()) => {
                        if let Some(view) = view {
                            self.tell_state(&view).await;
                        }
                        Done::Queued(task.job_id, task.agent)
                    }
                    Err(error) => {
                        tracing::warn!(job = %task.job_id, agent = %task.agent, %error, "task not queued yet");
                        Done::Nothing
                    }
                }
            }
            Work::Publish { result, trace } => {
                let published = publish(client, &result, trace).await;
                self.tell_settled(&result).await;
                match published {
                    Ok(()) => Done::Published(result.job_id, result.agent),
                    Err(error) => {
                        tracing::warn!(job = %result.job_id, agent = %result.agent, %error, "result not published yet");
                        Done::Nothing
                    }
                }
            }
            Work::Withdraw { kind, agent, job } => {
                let entry = subject::queue(&kind, &agent, &job);
                if let Err(error) = self.shared.streams.withdraw_task(&kind, &entry).await {
                    tracing::debug!(%error, "queue entry not withdrawn");
                }
                Done::Nothing
            }
        }
    }

    /// Notes what is done, in one transaction; gives back what could not be noted.
    async fn mark(self, mut marks: Marks) -> Done {
        let catalog = &self.shared.catalog;
        // Of a task that has ended meanwhile nobody asks whether it is queued.
        self.shared.open.retain(&mut marks.queued);
        let queued = async {
            match catalog.mark_queued(&marks.queued).await {
                Ok(()) => Vec::new(),
                Err(error) => {
                    tracing::warn!(%error, "queued tasks not marked");
                    marks.queued.clone()
                }
            }
        };
        let published = async {
            match catalog.mark_published(&marks.published).await {
                Ok(()) => Vec::new(),
                Err(error) => {
                    tracing::warn!(%error, "published results not marked");
                    marks.published.clone()
                }
            }
        };
        let (queued, published) = tokio::join!(queued, published);
        if queued.is_empty() && published.is_empty() {
            return Done::Nothing;
        }
        Done::Unmarked(Marks { queued, published })
    }

    async fn scan(&self) {
        if let Err(error) = self.find_left_over().await {
            tracing::warn!(%error, "left-over tasks not looked for");
        }
    }

    async fn find_left_over(&self) -> Result<(), imn_store::CatalogError> {
        let before = now_us() - LEFT_OVER_US;
        let catalog = &self.shared.catalog;
        for row in catalog.tasks_unqueued(PAGE).await?.iter().filter(|row| row.updated_us < before) {
            if let Some(job) = catalog.job(&row.job).await? {
                self.queue_task(&job, row, Some(Box::new(view(&job))));
            }
        }
        for row in catalog.tasks_unpublished(PAGE).await?.iter().filter(|row| row.updated_us < before) {
            if let Some(result) = &row.result {
                let job = catalog.job(&row.job).await?;
                self.publish_result(result, job.as_ref().and_then(trace_of));
            }
        }
        Ok(())
    }
}

/// Where whoever submitted a job stood in a trace.
fn trace_of(job: &Job) -> Option<TraceParent> {
    TraceParent::parse(job.traceparent.as_deref()?)
}

async fn enqueue(client: &Client, task: &Task, trace: Option<TraceParent>) -> imn_runtime::nats::Result<()> {
    let destination = format!("mmn.jobs.q.{}", task.kind);
    let step = Step::messaging(
        Messaging {
            job: Some(task.job_id.as_str()),
            kind: Some(task.kind.as_str()),
            agent: Some(task.agent.as_str()),
            ..Messaging::new("queue", Side::Producer, &destination)
        },
        trace,
    );
    let mut headers = HeaderMap::new();
    headers.insert(header::JOB, task.job_id.as_str());
    headers.insert(header::ATTEMPT, "1");
    headers.insert(header::ATTEMPT_TOKEN, task.attempt_token.as_str());
    let id = format!("{}.{}", task.job_id, task.agent);
    let entry = subject::queue(&task.kind, &task.agent, &task.job_id);
    match step.run(client.publish_acked(&entry, task, Some(&id), headers)).await {
        Ok(_) => Ok(()),
        // One message per subject: it is there already.
        Err(imn_runtime::nats::Error::JetStream { message, .. })
            if message.contains("maximum messages per subject") =>
        {
            Ok(())
        }
        Err(error) => {
            step.failed_as("not_queued");
            Err(error)
        }
    }
}

async fn publish(
    client: &Client,
    result: &JobResult,
    trace: Option<TraceParent>,
) -> imn_runtime::nats::Result<()> {
    let step = Step::messaging(
        Messaging {
            job: Some(result.job_id.as_str()),
            kind: Some(result.kind.as_str()),
            agent: Some(result.agent.as_str()),
            instance: result.instance.as_ref().map(InstanceId::as_str),
            attempt: Some(result.attempt),
            ..Messaging::new("result", Side::Producer, "mmn.jobs.result")
        },
        trace,
    );
    let mut headers = HeaderMap::new();
    headers.insert(header::JOB, result.job_id.as_str());
    headers.insert(header::ATTEMPT, result.attempt.to_string());
    let id = format!("{}.{}", result.job_id, result.agent);
    let subject = subject::result(&result.job_id);
    let published = step.run(client.publish_acked(&subject, result, Some(&id), headers)).await;
    if published.is_err() {
        step.failed_as("not_published");
    }
    published.map(drop)
}

fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticker = interval_at(Instant::now() + period, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

//! Jobs: taken from the durable queue as far as there are free slots, handed to an instance, followed to their end.
//!
//! The verdict of a task is the server's. The agent hands attempts out, tells when one began and when its instance
//! died, and returns to the queue what it cannot place. A queue message is acknowledged when the server says that
//! its task is terminal, and not before.

mod board;
mod direct;
mod dispatch;
mod follow;
mod pull;
mod suspect;
mod trial;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use imn_contract::{
    AgentId, Fault, JobId,
    latest::{Attempt, AttemptStatus, JobRequest, JobView, ModuleControl, ModuleOp},
    subject,
};
use imn_runtime::{
    nats::{self, Client},
    task::{Stop, Tasks},
};

use crate::{metrics::Counters, roster::Roster, supervise::Supervisor};
use board::{Board, Note};
use dispatch::Dispatcher;
use suspect::Suspects;

pub(crate) use direct::Order as DirectOrder;

/// How long the server may take to tell a job's state.
const STATE_WITHIN: Duration = Duration::from_secs(2);

/// The routing of jobs, of the queue and of the agent's own.
#[derive(Debug)]
pub(crate) struct Jobs {
    agent: AgentId,
    client: Client,
    roster: Arc<Roster>,
    dispatcher: Dispatcher,
    board: Board,
    direct: direct::Waiting,
    suspects: Suspects,
    counters: Arc<Counters>,
}

/// What the server says of this agent's part of a job.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    /// It is decided, or the server knows no such job: nothing is left to do.
    Terminal,
    /// It is open, after this many attempts.
    Open(u32),
}

impl Jobs {
    pub(crate) fn new(agent: AgentId, client: Client, roster: Arc<Roster>, counters: Arc<Counters>) -> Self {
        let dispatcher = Dispatcher::new(agent.clone(), client.clone());
        Self {
            agent,
            client,
            roster,
            dispatcher,
            board: Board::default(),
            direct: direct::Waiting::default(),
            suspects: Suspects::default(),
            counters,
        }
    }

    /// Pulls, routes and follows until the end; then until every job has ended or this is dropped.
    ///
    /// # Errors
    /// When what instances report cannot be subscribed to.
    pub(crate) async fn run(
        self: Arc<Self>,
        supervisor: Arc<Supervisor>,
        stop: Stop,
    ) -> Result<(), nats::Error> {
        let mut reports = self.client.subscribe(&format!("mmn.jobs.attempt.{}.>", self.agent)).await?;
        let mut direct = self.client.subscribe(&subject::direct_agent(&self.agent)).await?;
        let mut roster = self.roster.changes();
        let mut tasks = Tasks::new();
        let mut pulled = Vec::new();
        tasks.spawn("suspects", Arc::clone(&self).watch_suspects(supervisor, stop.clone()));
        loop {
            for kind in self.roster.types() {
                if !stop.is_requested() && !pulled.contains(&kind) {
                    pulled.push(kind.clone());
                    tasks.spawn(format!("jobs {kind}"), pull::run(Arc::clone(&self), kind, stop.clone()));
                }
            }
            tokio::select! {
                Some(message) = reports.next() => self.take_report(&message),
                Some(message) = direct.next() => self.take_direct(&message),
                Ok(()) = roster.changed() => {}
                ended = tasks.next(), if stop.is_requested() => {
                    if ended.is_none() {
                        return Ok(());
                    }
                }
                () = stop.requested(), if !stop.is_requested() => {}
            }
        }
    }

    /// The server says that a task is terminal.
    pub(crate) async fn task_done(&self, job: &JobId) {
        match self.board.tell(job, Note::Done) {
            // It may be on its way still: it is then not begun at all.
            None => self.board.remember_done(job),
            Some((Note::Working, Some(instance))) => {
                let cancel = ModuleControl { v: 1, op: ModuleOp::Cancel { job_id: job.clone() } };
                self.dispatcher.tell(&instance, &cancel).await;
            }
            Some(_) => {}
        }
    }

    /// An instance's verdict on an attempt of the queue frees its slot at once; the server's follows.
    fn take_report(&self, message: &async_nats::Message) {
        let Some(instance) = subject::token(&message.subject, 4) else { return };
        if instance == dispatch::AGENT_INSTANCE {
            return;
        }
        match nats::decode::<Attempt>(message) {
            Ok(attempt)
                if attempt.instance.as_str() == instance && attempt.status != AttemptStatus::Running =>
            {
                self.roster.reported(&attempt);
                self.board.tell(&attempt.job_id, Note::Reported(attempt.attempt));
            }
            Ok(_) => {}
            Err(fault) => tracing::warn!(instance, %fault, "report of an attempt unreadable"),
        }
    }

    /// Whether the queues can be reached.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.events().is_connected()
    }

    /// Jobs of the queue in hand.
    pub(crate) fn followed(&self) -> usize {
        self.board.followed()
    }

    /// Asks the server for the state of this agent's part of a job.
    async fn ask(&self, job: &JobId) -> Result<Known, nats::Error> {
        let view: JobView = self
            .client
            .request_within(
                &subject::get(job),
                &JobRequest { v: 1 },
                async_nats::HeaderMap::new(),
                STATE_WITHIN,
            )
            .await?;
        if view.status == 404 {
            return Ok(Known::Terminal);
        }
        let task = view.tasks.iter().find(|task| task.agent == self.agent);
        Ok(match task {
            Some(task) if !task.state.is_terminal() => Known::Open(task.attempts),
            None if view.state.is_none_or(|state| !state.is_terminal()) => Known::Open(0),
            _ => Known::Terminal,
        })
    }
}

/// A fault that names what happened to an attempt.
fn crashed(instance: &imn_contract::InstanceId) -> Fault {
    let message = format!("the process of {instance} ended while it worked on the job");
    Fault::new(imn_contract::ErrorCode::ModuleCrashed, message)
}

/// A fault that names what happened to an attempt that was taken and not answered.
fn lost() -> Fault {
    let message = "the instance that took the job did not answer, and no instance has it";
    Fault::new(imn_contract::ErrorCode::ModuleCrashed, message)
}

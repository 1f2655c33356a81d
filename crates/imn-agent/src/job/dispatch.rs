//! Handing one attempt to one instance.

use std::time::Duration;

use async_nats::HeaderMap;
use futures::future::join_all;
use imn_contract::{
    AgentId, ErrorCode, Fault, InstanceId, JobId, ModuleType, header,
    latest::{ControlReply, ModuleControl, ModuleOp, Task, TaskReply},
    subject,
};
use imn_runtime::nats::{self, Client};

use crate::roster::{Lease, Mark, Roster};

/// What stands in place of an instance where the agent itself speaks.
pub(super) const AGENT_INSTANCE: &str = "agent";
/// How long an instance may take to accept or refuse.
const ACCEPT_WITHIN: Duration = Duration::from_millis(500);

/// Hands tasks to instances.
#[derive(Debug)]
pub(super) struct Dispatcher {
    agent: AgentId,
    client: Client,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Dispatch<'a> {
    /// This instance does it.
    Accepted(Lease<'a>),
    /// Nobody has room, or nobody is there.
    NoSlot,
    /// It was refused; by whom, where that is known.
    Refused(Option<InstanceId>, Fault),
    /// Somebody took it and did not answer, and nobody has it: its instance died over it, most likely.
    Lost,
    /// Somebody may have accepted it.
    Unclear,
}

enum Reply {
    Accepted(InstanceId),
    /// It has no room; who says so, where that is known.
    Saturated(Option<InstanceId>),
    Refused(Option<InstanceId>, Fault),
    Silent,
}

impl Dispatcher {
    pub(super) fn new(agent: AgentId, client: Client) -> Self {
        Self { agent, client }
    }

    /// Offers a task to the queue group, and then, when the one that was chosen has no room, to the other instances
    /// directly, the least loaded first.
    pub(super) async fn dispatch<'a>(&self, roster: &'a Roster, task: &Task) -> Dispatch<'a> {
        // While two versions share the jobs, chance must not do it.
        if let Some(choices) = roster.choices(&task.kind) {
            return self.dispatch_among(roster, &choices, task).await;
        }
        let mut reply = self.offer(&subject::work(&self.agent, &task.kind), task).await;
        if let Reply::Saturated(by) = &reply {
            let others = roster.candidates(&task.kind).into_iter().filter(|other| Some(other) != by.as_ref());
            for other in others.collect::<Vec<_>>() {
                reply = self.offer(&subject::at(&self.agent, &other), task).await;
                if !matches!(reply, Reply::Saturated(_)) {
                    break;
                }
            }
        }
        self.replied(roster, reply, task).await
    }

    /// Offers a task to these instances, one after the other, until one has room.
    pub(super) async fn dispatch_among<'a>(
        &self,
        roster: &'a Roster,
        choices: &[InstanceId],
        task: &Task,
    ) -> Dispatch<'a> {
        let mut reply = Reply::Saturated(None);
        for instance in choices {
            reply = self.offer(&subject::at(&self.agent, instance), task).await;
            match reply {
                Reply::Saturated(_) => continue,
                Reply::Refused(..) | Reply::Silent => roster.note(instance, Mark::NotTaken),
                Reply::Accepted(_) => {}
            }
            break;
        }
        self.replied(roster, reply, task).await
    }

    async fn replied<'a>(&self, roster: &'a Roster, reply: Reply, task: &Task) -> Dispatch<'a> {
        match reply {
            Reply::Accepted(instance) => self.accepted(roster, &instance, task).await,
            Reply::Saturated(_) => Dispatch::NoSlot,
            Reply::Refused(instance, fault) => Dispatch::Refused(instance, fault),
            Reply::Silent => match self.who_has(roster, &task.kind, &task.job_id).await {
                Ok(Some(instance)) => self.accepted(roster, &instance, task).await,
                Ok(None) => Dispatch::Lost,
                Err(()) => Dispatch::Unclear,
            },
        }
    }

    /// The instance that has a job in work.
    ///
    /// # Errors
    /// When one that may have it does not answer.
    pub(super) async fn who_has(
        &self,
        roster: &Roster,
        kind: &ModuleType,
        job: &JobId,
    ) -> Result<Option<InstanceId>, ()> {
        let candidates = roster.living(kind);
        let answers = join_all(candidates.iter().map(|instance| self.has(instance, job))).await;
        if let Some(at) = answers.iter().position(|answer| *answer == Some(true)) {
            return Ok(Some(candidates[at].clone()));
        }
        if answers.contains(&None) { Err(()) } else { Ok(None) }
    }

    /// Whether an instance has a job in work; `None` when it does not say.
    pub(super) async fn has(&self, instance: &InstanceId, job: &JobId) -> Option<bool> {
        let has = ModuleControl { v: 1, op: ModuleOp::Has { job_id: job.clone() } };
        let subject = subject::module_control(&self.agent, instance);
        let answer: nats::Result<ControlReply> =
            self.client.request_within(&subject, &has, HeaderMap::new(), ACCEPT_WITHIN).await;
        match answer {
            Ok(reply) => Some(reply.ok),
            // Nobody there has nothing.
            Err(nats::Error::NoResponders { .. }) => Some(false),
            Err(_) => None,
        }
    }

    /// Tells an instance something without waiting for an answer.
    pub(super) async fn tell(&self, instance: &InstanceId, control: &ModuleControl) {
        let subject = subject::module_control(&self.agent, instance);
        if let Err(error) = self.client.publish(&subject, control).await {
            tracing::warn!(%instance, %error, "instance not told");
        }
    }

    async fn accepted<'a>(&self, roster: &'a Roster, instance: &InstanceId, task: &Task) -> Dispatch<'a> {
        if let Some(lease) = roster.lease(instance, &task.job_id) {
            return Dispatch::Accepted(lease);
        }
        // It speaks for the type, but has neither announced itself nor sent health: nobody would see it end.
        let cancel = ModuleControl { v: 1, op: ModuleOp::Cancel { job_id: task.job_id.clone() } };
        self.tell(instance, &cancel).await;
        Dispatch::NoSlot
    }

    async fn offer(&self, subject: &str, task: &Task) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(header::JOB, task.job_id.as_str());
        headers.insert(header::ATTEMPT, task.attempt.to_string());
        let answer: nats::Result<TaskReply> =
            self.client.request_within(subject, task, headers, ACCEPT_WITHIN).await;
        match answer {
            Ok(TaskReply { accepted: true, instance: Some(instance), .. }) => Reply::Accepted(instance),
            Ok(TaskReply { accepted: false, error: Some(fault), instance, .. }) => {
                if fault.is(ErrorCode::Saturated) || fault.is(ErrorCode::Unavailable) {
                    Reply::Saturated(instance)
                } else {
                    Reply::Refused(instance, fault)
                }
            }
            Err(nats::Error::NoResponders { .. }) => Reply::Saturated(None),
            Ok(reply) => {
                tracing::warn!(subject, ?reply, "answer to a task makes no sense");
                Reply::Silent
            }
            Err(error) => {
                tracing::debug!(subject, %error, "task not answered");
                Reply::Silent
            }
        }
    }
}

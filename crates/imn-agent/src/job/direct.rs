//! Jobs that the agent admits itself: its own outcome, no queue, no server.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use imn_contract::{
    ErrorCode, Fault, InstanceId, JobId, ModuleType,
    latest::{Attempt, AttemptStatus, ModuleControl, ModuleOp, ModuleState, Task},
    subject,
};
use imn_runtime::nats;
use serde_json::{Map, Value};
use tokio::{sync::oneshot, time::Instant};

use super::{Jobs, crashed, dispatch::Dispatch, lost};
use crate::roster::Mark;

/// Attempts at one order: a second only where the instance died over the first.
const ATTEMPTS: u32 = 3;
/// How long an order waits for a slot.
const SLOT_WITHIN: Duration = Duration::from_secs(2);
/// How long the verdict of an instance that has ended may still take to arrive.
const VERDICT_IN_HAND: Duration = Duration::from_millis(100);
const SLOT_RETRY: Duration = Duration::from_millis(50);

/// One measurement to be made now.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) kind: ModuleType,
    pub(crate) target: String,
    pub(crate) params: Map<String, Value>,
    pub(crate) ttl: Duration,
}

/// Orders whose answer is awaited.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    waiting: Mutex<HashMap<JobId, (String, oneshot::Sender<Attempt>)>>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, (String, oneshot::Sender<Attempt>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an order out again, however its future ends.
struct Awaited<'a>(&'a Waiting, JobId);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Jobs {
    /// Has an instance of this agent make a measurement; gives its outcome.
    ///
    /// # Errors
    /// 404 without such a module, 423 when it is disabled, 429 without a free slot, 504 past its time, 520 when its
    /// instances died over it; else what the module says.
    pub(crate) async fn run_direct(&self, order: Order) -> Result<Value, Fault> {
        let deadline = Instant::now() + order.ttl;
        let mut attempt = 1;
        loop {
            let task = self.direct_task(&order, attempt, deadline);
            let fault = match self.attempt_direct(&task, None, deadline).await {
                Ok(outcome) => return Ok(outcome),
                Err(fault) => fault,
            };
            if !fault.is(ErrorCode::ModuleCrashed) || attempt == ATTEMPTS {
                return Err(fault);
            }
            attempt += 1;
        }
    }

    pub(super) fn direct_task(&self, order: &Order, attempt: u32, deadline: Instant) -> Task {
        let left = deadline.saturating_duration_since(Instant::now());
        Task {
            v: 1,
            job_id: JobId::generate(),
            kind: order.kind.clone(),
            target: order.target.clone(),
            params: order.params.clone(),
            agent: self.agent.clone(),
            attempt,
            attempt_token: format!("{:032x}", rand::random::<u128>()),
            ttl_ms: left.as_millis() as u64,
            max_attempts: ATTEMPTS,
            direct: true,
        }
    }

    /// One attempt, by this instance or by any.
    pub(super) async fn attempt_direct(
        &self,
        task: &Task,
        only: Option<&InstanceId>,
        deadline: Instant,
    ) -> Result<Value, Fault> {
        let (sender, mut answer) = oneshot::channel();
        self.direct.lock().insert(task.job_id.clone(), (task.attempt_token.clone(), sender));
        let _awaited = Awaited(&self.direct, task.job_id.clone());
        let slot_until = deadline.min(Instant::now() + SLOT_WITHIN);
        let mut lease = loop {
            self.there_is(&task.kind)?;
            let dispatch = match only {
                Some(one) => {
                    self.dispatcher.dispatch_among(&self.roster, std::slice::from_ref(one), task).await
                }
                None => self.dispatcher.dispatch(&self.roster, task).await,
            };
            match dispatch {
                Dispatch::Accepted(lease) => break lease,
                Dispatch::Refused(_, fault) => return Err(fault),
                Dispatch::NoSlot if Instant::now() < slot_until => tokio::time::sleep(SLOT_RETRY).await,
                Dispatch::NoSlot => {
                    let message = format!("no instance of {} has a free slot; try again later", task.kind);
                    return Err(Fault::new(ErrorCode::Saturated, message).retry_after_ms(1_000));
                }
                Dispatch::Lost => return Err(lost()),
                Dispatch::Unclear => {
                    let message = format!("no instance of {} answers", task.kind);
                    return Err(Fault::new(ErrorCode::Unavailable, message));
                }
            }
        };
        let instance = lease.instance.clone();
        tokio::select! {
            biased;
            answer = &mut answer => match answer {
                Ok(attempt) => verdict(attempt),
                // The sender is taken out only by this function's end.
                Err(_) => Err(crashed(&instance)),
            },
            // Its end and its verdict come over two connections.
            _ = lease.ended() => match tokio::time::timeout(VERDICT_IN_HAND, &mut answer).await {
                Ok(Ok(attempt)) => verdict(attempt),
                Ok(Err(_)) | Err(_) => Err(crashed(&instance)),
            },
            () = tokio::time::sleep_until(deadline) => {
                let cancel = ModuleControl { v: 1, op: ModuleOp::Cancel { job_id: task.job_id.clone() } };
                self.dispatcher.tell(&instance, &cancel).await;
                self.roster.note(&instance, Mark::Overdue);
                self.suspect(&instance, &task.job_id);
                Err(Fault::new(ErrorCode::Deadline, format!("{instance} has not answered in time")))
            }
        }
    }

    /// Takes what an instance reports of an order.
    pub(super) fn take_direct(&self, message: &async_nats::Message) {
        let attempt: Attempt = match nats::decode(message) {
            Ok(attempt) => attempt,
            Err(fault) => {
                tracing::warn!(subject = %message.subject, %fault, "direct report unreadable");
                return;
            }
        };
        let from = subject::token(&message.subject, 4);
        let mut waiting = self.direct.lock();
        let known = waiting.get(&attempt.job_id).is_some_and(|(token, _)| *token == attempt.attempt_token);
        if !known || from != Some(attempt.instance.as_str()) || attempt.status == AttemptStatus::Running {
            return;
        }
        self.roster.reported(&attempt);
        if let Some((_, sender)) = waiting.remove(&attempt.job_id) {
            // Nobody waits any more: its time was over.
            let _ = sender.send(attempt);
        }
    }

    fn there_is(&self, kind: &ModuleType) -> Result<(), Fault> {
        if !self.roster.has_type(kind) {
            let known: Vec<String> = self.roster.types().iter().map(ToString::to_string).collect();
            let message = format!("this agent has no module of type {kind}; it has {}", known.join(", "));
            return Err(Fault::no_module(message).at("module"));
        }
        let of_type: Vec<_> = self.roster.summaries().into_iter().filter(|m| m.kind == *kind).collect();
        if !of_type.is_empty() && of_type.iter().all(|module| module.state == ModuleState::Disabled) {
            let message = format!("the module {kind} is disabled here; enable it first");
            return Err(Fault::new(ErrorCode::Disabled, message).at("module"));
        }
        Ok(())
    }
}

fn verdict(attempt: Attempt) -> Result<Value, Fault> {
    match (attempt.status, attempt.error) {
        (AttemptStatus::Succeeded, _) => Ok(attempt.outcome),
        (_, Some(fault)) => Err(fault),
        (status, None) => {
            Err(Fault::new(ErrorCode::Unavailable, format!("the module says {status:?} and no more")))
        }
    }
}

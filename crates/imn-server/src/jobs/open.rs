//! The tasks that are not terminal, in memory: what a report is checked against without asking the catalog.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imn_contract::{AgentId, JobId, ModuleType};
use imn_runtime::telemetry::TraceParent;
use imn_store::Job;

/// What all tasks of a job share.
#[derive(Debug)]
pub(super) struct JobFacts {
    pub(super) kind: ModuleType,
    pub(super) target: String,
    pub(super) created_us: i64,
    pub(super) max_attempts: u32,
    /// Where whoever submitted it stood in a trace.
    pub(super) trace: Option<TraceParent>,
}

/// One task that is not terminal.
#[derive(Clone, Debug)]
pub(super) struct OpenTask {
    pub(super) job: Arc<JobFacts>,
    pub(super) token: Arc<str>,
    pub(super) attempts: u32,
}

#[derive(Debug, Default)]
pub(super) struct Open {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tasks: HashMap<(JobId, AgentId), OpenTask>,
    /// Open tasks of each (agent, type).
    depth: HashMap<(AgentId, ModuleType), u32>,
}

impl Open {
    /// Adds those tasks of a job that are not terminal.
    pub(super) fn add(&self, job: &Job) {
        let facts = Arc::new(JobFacts {
            kind: job.kind.clone(),
            target: job.target.clone(),
            created_us: job.created_us,
            max_attempts: job.max_attempts,
            trace: job.traceparent.as_deref().and_then(TraceParent::parse),
        });
        let mut state = self.state();
        for task in job.tasks.iter().filter(|task| !task.state.is_terminal()) {
            let open =
                OpenTask { job: facts.clone(), token: task.token.as_str().into(), attempts: task.attempts };
            if state.tasks.insert((job.id.clone(), task.agent.clone()), open).is_none() {
                *state.depth.entry((task.agent.clone(), job.kind.clone())).or_default() += 1;
            }
        }
    }

    /// A task, if it is open.
    pub(super) fn get(&self, job: &JobId, agent: &AgentId) -> Option<OpenTask> {
        self.state().tasks.get(&(job.clone(), agent.clone())).cloned()
    }

    /// Notes that an attempt has begun.
    pub(super) fn attempted(&self, job: &JobId, agent: &AgentId, attempts: u32) {
        if let Some(task) = self.state().tasks.get_mut(&(job.clone(), agent.clone())) {
            task.attempts = task.attempts.max(attempts);
        }
    }

    /// Takes a task out: it is terminal.
    pub(super) fn close(&self, job: &JobId, agent: &AgentId) {
        let mut state = self.state();
        let Some(task) = state.tasks.remove(&(job.clone(), agent.clone())) else { return };
        let key = (agent.clone(), task.job.kind.clone());
        if let Some(depth) = state.depth.get_mut(&key) {
            *depth -= 1;
            if *depth == 0 {
                state.depth.remove(&key);
            }
        }
    }

    /// Open tasks of an agent and type.
    pub(super) fn depth(&self, agent: &AgentId, kind: &ModuleType) -> u32 {
        self.state().depth.get(&(agent.clone(), kind.clone())).copied().unwrap_or(0)
    }

    /// Open tasks of each agent and type that has any.
    pub(super) fn depths(&self) -> Vec<(AgentId, ModuleType, u32)> {
        let state = self.state();
        state.depth.iter().map(|((agent, kind), depth)| (agent.clone(), kind.clone(), *depth)).collect()
    }

    /// Open tasks in all.
    pub(super) fn len(&self) -> usize {
        self.state().tasks.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

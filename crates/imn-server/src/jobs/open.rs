//! The tasks that are not terminal, in memory: what a report is checked against without asking the catalog.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imn_contract::{AgentId, JobId, ModuleType};
use imn_runtime::telemetry::TraceParent;
use imn_store::Job;

/// Tasks remembered after their end, so that a late report of one does not ask the catalog.
const CLOSED_REMEMBERED: usize = 16_384;

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
    closed: HashSet<(JobId, AgentId)>,
    /// The same in order of their ends.
    closed_order: VecDeque<(JobId, AgentId)>,
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
        let ended = (job.clone(), agent.clone());
        let Some(task) = state.tasks.remove(&ended) else { return };
        state.remember_closed(ended);
        let key = (agent.clone(), task.job.kind.clone());
        if let Some(depth) = state.depth.get_mut(&key) {
            *depth -= 1;
            if *depth == 0 {
                state.depth.remove(&key);
            }
        }
    }

    /// Whether a task is known to have ended.
    pub(super) fn is_closed(&self, job: &JobId, agent: &AgentId) -> bool {
        self.state().closed.contains(&(job.clone(), agent.clone()))
    }

    /// Keeps of these tasks those that are open.
    pub(super) fn retain(&self, tasks: &mut Vec<(JobId, AgentId)>) {
        let state = self.state();
        tasks.retain(|task| state.tasks.contains_key(task));
    }

    /// Open tasks of a type, at all agents.
    pub(super) fn of_type(&self, kind: &ModuleType) -> u32 {
        self.state().depth.iter().filter(|((_, of), _)| of == kind).map(|(_, depth)| depth).sum()
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

impl State {
    fn remember_closed(&mut self, task: (JobId, AgentId)) {
        if self.closed.insert(task.clone()) {
            self.closed_order.push_back(task);
        }
        if self.closed_order.len() > CLOSED_REMEMBERED
            && let Some(oldest) = self.closed_order.pop_front()
        {
            self.closed.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use imn_contract::latest::JobState;
    use imn_store::TaskRow;

    use super::*;

    #[test]
    fn what_has_ended_is_remembered_and_the_memory_is_bounded() {
        let (open, agent) = (Open::default(), AgentId::new("a").unwrap());
        let kind = ModuleType::new("echo").unwrap();
        for number in 0..CLOSED_REMEMBERED + 10 {
            let id = JobId::new(format!("j{number}")).unwrap();
            open.add(&job(&id, &agent, &kind));
            assert_eq!((open.len(), open.of_type(&kind), open.depth(&agent, &kind)), (1, 1, 1));
            assert!(!open.is_closed(&id, &agent));
            open.close(&id, &agent);
            assert!(open.is_closed(&id, &agent));
        }
        assert!(!open.is_closed(&JobId::new("j0").unwrap(), &agent));
        let state = open.state();
        assert_eq!((state.closed.len(), state.closed_order.len()), (CLOSED_REMEMBERED, CLOSED_REMEMBERED));
        assert!(state.tasks.is_empty() && state.depth.is_empty());
    }

    fn job(id: &JobId, agent: &AgentId, kind: &ModuleType) -> Job {
        let task = TaskRow {
            job: id.clone(),
            agent: agent.clone(),
            state: JobState::Queued,
            attempts: 0,
            instance: None,
            token: String::new(),
            queued: false,
            result: None,
            published: false,
            updated_us: 0,
        };
        Job {
            id: id.clone(),
            kind: kind.clone(),
            target: "t".to_owned(),
            params: serde_json::Map::new(),
            body_hash: String::new(),
            created_us: 0,
            deadline_us: 0,
            max_attempts: 1,
            traceparent: None,
            tasks: vec![task],
        }
    }
}

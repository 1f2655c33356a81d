//! The desk where tasks are taken in: slots, duplicates, cancellation, counts. It knows nothing of NATS.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use imn_contract::{
    ErrorCode, Fault, JobId,
    latest::{Attempt, ModuleState, Task},
};
use imn_runtime::task::{Shutdown, Stop};

use crate::circuit::Circuits;

/// Finished attempts remembered, so that a task delivered again is answered by its report, not by new work.
const REMEMBERED: usize = 1024;
/// Finished attempts that no stream has acknowledged yet; beyond this no new task is taken.
const UNREPORTED: usize = 10_000;
/// Weight of the newest service time.
const EWMA: f64 = 0.2;

/// One attempt at one job.
type Key = (JobId, u32);

/// What is done with a task.
pub(crate) enum Offer {
    /// It has a slot now: do it, and end early when this asks for it.
    Begin(Stop),
    /// It is in work already.
    Running,
    /// It was done: report it again.
    Done(Arc<Report>),
    /// It is not taken.
    Refused(Fault),
}

/// A finished attempt on its way to the server.
#[derive(Debug)]
pub(crate) struct Report {
    pub attempt: Attempt,
    /// Reported to the agent alone, which admitted it.
    pub direct: bool,
}

/// Where the instance stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub state: ModuleState,
    pub inflight: u32,
    pub slots: u32,
    pub oldest_ms: u64,
    pub ewma_ms: f64,
    pub requests: u64,
    pub done: u64,
    pub errors: u64,
    pub busy: Duration,
    pub unreported: usize,
    pub circuits_open: u32,
}

struct Running {
    token: String,
    since: Instant,
    cancel: Shutdown,
}

struct State {
    slots: u32,
    draining: bool,
    running: HashMap<Key, Running>,
    recent: HashMap<Key, Arc<Report>>,
    order: VecDeque<Key>,
    unreported: HashSet<Key>,
    ewma_ms: f64,
    requests: u64,
    done: u64,
    errors: u64,
    busy: Duration,
    circuits: Circuits,
}

/// The desk; shared by the loop that reads messages and the jobs in work.
pub(crate) struct Desk {
    state: Mutex<State>,
}

impl Desk {
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            state: Mutex::new(State {
                slots: slots.max(1),
                draining: false,
                running: HashMap::new(),
                recent: HashMap::new(),
                order: VecDeque::new(),
                unreported: HashSet::new(),
                ewma_ms: 0.0,
                requests: 0,
                done: 0,
                errors: 0,
                busy: Duration::ZERO,
                circuits: Circuits::default(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it holds the lock; if it ever did, the counts are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides upon a task at once: a task is never parked. `check` looks at it before it takes a slot.
    pub(crate) fn offer(&self, task: &Task, check: impl FnOnce() -> Result<(), Fault>) -> Offer {
        let key = (task.job_id.clone(), task.attempt);
        let mut state = self.lock();
        state.requests += 1;
        if let Some(running) = state.running.get(&key) {
            return if running.token == task.attempt_token { Offer::Running } else { reused(task) };
        }
        if let Some(report) = state.recent.get(&key) {
            let same = report.attempt.attempt_token == task.attempt_token;
            return if same { Offer::Done(Arc::clone(report)) } else { reused(task) };
        }
        if state.draining {
            let text = "this instance is draining; hand the task to another";
            return Offer::Refused(Fault::new(ErrorCode::Unavailable, text).retry_after_ms(250));
        }
        if state.unreported.len() >= UNREPORTED {
            let text = format!("{UNREPORTED} finished attempts wait for jetstream to take them");
            return Offer::Refused(Fault::new(ErrorCode::Unavailable, text).retry_after_ms(1000));
        }
        if let Err(fault) = check() {
            return Offer::Refused(fault);
        }
        if state.running.len() >= state.slots as usize {
            let text = format!("all {} slots are taken", state.slots);
            let wait = state.ewma_ms.clamp(50.0, 5000.0) as u64;
            return Offer::Refused(Fault::new(ErrorCode::Saturated, text).retry_after_ms(wait));
        }
        if let Err(fault) = state.circuits.admit(&task.target, Instant::now()) {
            return Offer::Refused(fault);
        }
        let cancel = Shutdown::new();
        let stop = cancel.stop();
        let token = task.attempt_token.clone();
        state.running.insert(key, Running { token, since: Instant::now(), cancel });
        Offer::Begin(stop)
    }

    /// Frees the slot of a finished attempt and remembers its report until it is acknowledged and beyond.
    pub(crate) fn finish(&self, report: &Arc<Report>) {
        let key = (report.attempt.job_id.clone(), report.attempt.attempt);
        let mut state = self.lock();
        if let Some(running) = state.running.remove(&key) {
            let took = running.since.elapsed();
            let ms = took.as_secs_f64() * 1e3;
            state.ewma_ms = if state.done == 0 { ms } else { state.ewma_ms + EWMA * (ms - state.ewma_ms) };
            state.busy += took;
            let Attempt { target, error, .. } = &report.attempt;
            state.circuits.ended(target, error.as_ref(), took, Instant::now());
        }
        state.done += 1;
        state.errors += u64::from(report.attempt.error.is_some());
        state.unreported.insert(key.clone());
        if state.recent.insert(key.clone(), Arc::clone(report)).is_none() {
            state.order.push_back(key);
        }
        if state.order.len() > REMEMBERED
            && let Some(oldest) = state.order.pop_front()
        {
            state.recent.remove(&oldest);
        }
    }

    /// The report of a finished attempt has arrived, or has nowhere to go.
    pub(crate) fn reported(&self, report: &Report) {
        self.lock().unreported.remove(&(report.attempt.job_id.clone(), report.attempt.attempt));
    }

    /// Asks every attempt at a job to end; tells whether there was one.
    pub(crate) fn cancel(&self, job: &JobId) -> bool {
        let state = self.lock();
        let mut found = false;
        for ((id, _), running) in &state.running {
            if id == job {
                running.cancel.request();
                found = true;
            }
        }
        found
    }

    /// Whether a job is in work, or its report on the way: until that has arrived, nobody else is to do it.
    pub(crate) fn has(&self, job: &JobId) -> bool {
        let state = self.lock();
        state.running.keys().chain(&state.unreported).any(|(id, _)| id == job)
    }

    /// Changes the number of jobs done at once; those in work go on.
    pub(crate) fn set_slots(&self, slots: u32) {
        self.lock().slots = slots.max(1);
    }

    /// Takes no more tasks.
    pub(crate) fn drain(&self) {
        self.lock().draining = true;
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        let inflight = state.running.len() as u32;
        let oldest = state.running.values().map(|running| running.since.elapsed()).max();
        Snapshot {
            state: if state.draining {
                ModuleState::Draining
            } else if inflight >= state.slots {
                ModuleState::Saturated
            } else {
                ModuleState::Ready
            },
            inflight,
            slots: state.slots,
            oldest_ms: oldest.unwrap_or_default().as_millis() as u64,
            ewma_ms: state.ewma_ms,
            requests: state.requests,
            done: state.done,
            errors: state.errors,
            busy: state.busy,
            unreported: state.unreported.len(),
            circuits_open: state.circuits.open(Instant::now()),
        }
    }
}

fn reused(task: &Task) -> Offer {
    let text =
        format!("attempt {} of job {} is known here with another attempt_token", task.attempt, task.job_id);
    Offer::Refused(Fault::new(ErrorCode::Conflict, text).at("attempt_token"))
}

#[cfg(test)]
mod tests {
    use imn_contract::{AgentId, InstanceId, ModuleType, latest::AttemptStatus};

    use super::*;

    fn task(job: &str, attempt: u32) -> Task {
        Task {
            v: 1,
            job_id: JobId::new(job).unwrap(),
            kind: ModuleType::new("echo").unwrap(),
            target: "t".to_owned(),
            params: serde_json::Map::new(),
            agent: AgentId::new("a").unwrap(),
            attempt,
            attempt_token: "secret".to_owned(),
            ttl_ms: 1000,
            max_attempts: 3,
            direct: false,
        }
    }

    fn report(task: &Task) -> Arc<Report> {
        Arc::new(Report {
            attempt: Attempt {
                v: 1,
                job_id: task.job_id.clone(),
                agent: task.agent.clone(),
                instance: InstanceId::new("i").unwrap(),
                kind: task.kind.clone(),
                target: task.target.clone(),
                attempt: task.attempt,
                attempt_token: task.attempt_token.clone(),
                status: AttemptStatus::Succeeded,
                started: None,
                finished: None,
                outcome: serde_json::Value::Null,
                error: None,
            },
            direct: false,
        })
    }

    fn refusal(offer: Offer) -> u16 {
        match offer {
            Offer::Refused(fault) => fault.code,
            _ => 0,
        }
    }

    #[test]
    fn a_task_has_a_slot_at_once_or_is_refused() {
        let desk = Desk::new(1);
        let first = task("j1", 1);
        assert!(matches!(desk.offer(&first, || Ok(())), Offer::Begin(_)));
        assert_eq!(desk.snapshot().state, ModuleState::Saturated);
        assert_eq!(refusal(desk.offer(&task("j2", 1), || Ok(()))), 429);
        assert!(matches!(desk.offer(&first, || Ok(())), Offer::Running));
        desk.finish(&report(&first));
        assert!(matches!(desk.offer(&first, || Ok(())), Offer::Done(_)));
        assert!(matches!(desk.offer(&task("j1", 2), || Ok(())), Offer::Begin(_)));
        let stranger = Task { attempt_token: "guess".to_owned(), ..first };
        assert_eq!(refusal(desk.offer(&stranger, || Ok(()))), 409);
        desk.drain();
        assert_eq!(refusal(desk.offer(&task("j3", 1), || Ok(()))), 503);
    }

    #[test]
    fn what_is_wrong_takes_no_slot() {
        let desk = Desk::new(1);
        let wrong = || Err(Fault::invalid("params.count", "at least 1"));
        assert_eq!(refusal(desk.offer(&task("j1", 1), wrong)), 400);
        assert_eq!(desk.snapshot().inflight, 0);
    }

    #[test]
    fn cancel_finds_every_attempt() {
        let desk = Desk::new(4);
        let Offer::Begin(stop) = desk.offer(&task("j1", 1), || Ok(())) else { panic!("no slot") };
        assert!(desk.has(&JobId::new("j1").unwrap()));
        assert!(desk.cancel(&JobId::new("j1").unwrap()));
        assert!(stop.is_requested());
        assert!(!desk.cancel(&JobId::new("j2").unwrap()));
    }

    #[test]
    fn memory_is_bounded() {
        let desk = Desk::new(1);
        for number in 0..3 * REMEMBERED {
            let task = task(&format!("j{number}"), 1);
            assert!(matches!(desk.offer(&task, || Ok(())), Offer::Begin(_)));
            desk.finish(&report(&task));
            assert!(desk.has(&task.job_id), "its report is on the way");
            desk.reported(&report(&task));
            assert!(!desk.has(&task.job_id));
        }
        let state = desk.lock();
        assert_eq!((state.recent.len(), state.order.len()), (REMEMBERED, REMEMBERED));
    }
}

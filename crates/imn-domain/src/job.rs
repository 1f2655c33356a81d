//! Jobs: the states of their tasks, and which agents are chosen for them.

use imn_contract::{
    AgentId, ErrorCode, Fault, ModuleType,
    latest::{Attempt, AttemptStatus, JobResult, JobState, ResultStatus, Selector, Submit},
};

/// Longest deadline of a job, in milliseconds.
const MAX_DEADLINE_MS: u64 = 3_600_000;
/// Most attempts of a task.
const MAX_ATTEMPTS: u32 = 10;
/// Longest target of a job, in bytes.
const MAX_TARGET: usize = 2_048;
/// Longest parameters of a job as JSON, in bytes.
const MAX_PARAMS: usize = 64 * 1024;

/// Whether a task in state `from` may become `to`. Nothing follows a terminal state; otherwise reports may overtake
/// each other, so every state can be skipped.
pub const fn may_follow(from: JobState, to: JobState) -> bool {
    !from.is_terminal() && !matches!(to, JobState::Submitted)
}

/// The state of a job from those of its tasks: not terminal while any task is not; then `succeeded` if all are, else
/// the gravest.
pub fn job_state(tasks: impl IntoIterator<Item = JobState>) -> JobState {
    const GRAVE_FIRST: [JobState; 11] = [
        JobState::Running,
        JobState::Dispatched,
        JobState::RetryWait,
        JobState::Queued,
        JobState::Submitted,
        JobState::Dead,
        JobState::Failed,
        JobState::TimedOut,
        JobState::Rejected,
        JobState::Cancelled,
        JobState::Succeeded,
    ];
    let rank = |state: &JobState| GRAVE_FIRST.iter().position(|s| s == state);
    tasks.into_iter().min_by_key(rank).unwrap_or(JobState::Submitted)
}

/// What a report of an attempt makes of its task.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The state that follows.
    pub state: JobState,
    /// The result, if that state is terminal.
    pub result: Option<JobResult>,
}

/// What follows from a valid report of a task that may be tried `max_attempts` times. A crash is followed by another
/// attempt as long as any is left. Whoever notices first that the deadline has passed, the task has timed out.
pub fn verdict(attempt: Attempt, max_attempts: u32) -> Verdict {
    let late = attempt.error.as_ref().is_some_and(|fault| fault.is(ErrorCode::Deadline));
    let status = match attempt.status {
        AttemptStatus::Failed | AttemptStatus::Rejected if late => ResultStatus::TimedOut,
        AttemptStatus::Running => return Verdict { state: JobState::Running, result: None },
        AttemptStatus::Crashed if attempt.attempt < max_attempts => {
            return Verdict { state: JobState::RetryWait, result: None };
        }
        AttemptStatus::Succeeded => ResultStatus::Succeeded,
        AttemptStatus::Failed => ResultStatus::Failed,
        AttemptStatus::Crashed => ResultStatus::Dead,
        AttemptStatus::Rejected => ResultStatus::Rejected,
        AttemptStatus::Cancelled => ResultStatus::Cancelled,
    };
    let result = JobResult {
        v: 1,
        job_id: attempt.job_id,
        agent: attempt.agent,
        instance: Some(attempt.instance),
        kind: attempt.kind,
        target: attempt.target,
        attempt: attempt.attempt,
        status,
        started: attempt.started,
        finished: attempt.finished,
        outcome: attempt.outcome,
        error: attempt.error,
    };
    Verdict { state: status.into(), result: Some(result) }
}

/// Checks what can be checked of a submission without knowing the network.
///
/// # Errors
/// A fault of code 400 that names the field and the fix.
pub fn check_submit(submit: &Submit) -> Result<ModuleType, Fault> {
    let name = imn_contract::canonical_type(&submit.kind);
    let kind = ModuleType::new(name).map_err(|error| Fault::invalid("type", error.to_string()))?;
    if submit.target.trim().is_empty() {
        return Err(Fault::invalid("target", "the target is empty; name an address, a host or a URL"));
    }
    if submit.target.len() > MAX_TARGET {
        let message = format!("the target has {} bytes; at most {MAX_TARGET} are taken", submit.target.len());
        return Err(Fault::invalid("target", message));
    }
    if submit.target.chars().any(char::is_control) {
        return Err(Fault::invalid("target", "the target holds control characters"));
    }
    let params = serde_json::to_string(&submit.params).map_or(usize::MAX, |text| text.len());
    if params > MAX_PARAMS {
        return Err(Fault::invalid("params", format!("the parameters exceed {MAX_PARAMS} bytes of JSON")));
    }
    if !(1..=MAX_DEADLINE_MS).contains(&submit.deadline_ms) {
        let message = format!("deadline_ms is {}; use 1 to {MAX_DEADLINE_MS}", submit.deadline_ms);
        return Err(Fault::invalid("deadline_ms", message));
    }
    if !(1..=MAX_ATTEMPTS).contains(&submit.max_attempts) {
        let message = format!("max_attempts is {}; use 1 to {MAX_ATTEMPTS}", submit.max_attempts);
        return Err(Fault::invalid("max_attempts", message));
    }
    if submit.from.as_ref().is_some_and(|from| from.limit == Some(0)) {
        return Err(Fault::invalid("from.limit", "the limit is 0; use at least 1, or leave it out for all"));
    }
    Ok(kind)
}

/// An agent as far as the choice for a job depends on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate<'a> {
    /// Identifier.
    pub id: &'a AgentId,
    /// Name for people.
    pub name: Option<&'a str>,
    /// Coarse place.
    pub region: Option<&'a str>,
    /// Tags.
    pub tags: &'a std::collections::BTreeMap<String, String>,
    /// Whether it is heard of.
    pub online: bool,
    /// Ready slots for the job's type; 0: it has no module of the type.
    pub slots: u32,
    /// Its load for the type: tasks in work and waiting per slot.
    pub load: f64,
}

/// Chooses the agents of a job. Absent a selector: the one with the least load. With one: all that match, or the
/// `limit` least loaded of them. Agents that are offline are taken only when named.
///
/// # Errors
/// 404 `no_vantage` when no agent matches, or a named one is unknown; 404 `no_module` when none that matches has a
/// module of the type, unless `wait_for_module`.
pub fn select<'a>(
    candidates: &[Candidate<'a>],
    from: Option<&Selector>,
    kind: &ModuleType,
    wait_for_module: bool,
) -> Result<Vec<&'a AgentId>, Fault> {
    use imn_contract::ErrorCode::NoVantage;
    let any = Selector { limit: Some(1), ..Selector::default() };
    let from = from.unwrap_or(&any);
    let named =
        |c: &Candidate<'_>| from.agents.iter().any(|n| n == c.id.as_str() || Some(n.as_str()) == c.name);
    let unknown = from.agents.iter().find(|name| {
        !candidates.iter().any(|c| name.as_str() == c.id.as_str() || Some(name.as_str()) == c.name)
    });
    if let Some(name) = unknown {
        let message = format!("no agent {name:?} is known; `imn agent list` shows those that are");
        return Err(Fault::new(NoVantage, message).at("from.agents"));
    }
    let mut fitting: Vec<&Candidate<'a>> = candidates
        .iter()
        .filter(|c| if from.agents.is_empty() { c.online } else { named(c) })
        .filter(|c| from.regions.is_empty() || c.region.is_some_and(|r| from.regions.iter().any(|f| f == r)))
        .filter(|c| from.tags.iter().all(|(key, value)| c.tags.get(key) == Some(value)))
        .collect();
    if fitting.is_empty() {
        let message = if candidates.iter().any(|c| c.online) {
            "no agent that is online matches `from`; widen it, or see `imn agent list`"
        } else {
            "no agent is online; start one with `imn agent`"
        };
        return Err(Fault::new(NoVantage, message).at("from"));
    }
    if fitting.iter().any(|c| c.slots > 0) {
        fitting.retain(|c| c.slots > 0 || (named(c) && wait_for_module));
    } else if !wait_for_module {
        let message = format!(
            "no agent that matches has a ready module of type {kind}; start one, or set wait_for_module"
        );
        return Err(Fault::no_module(message).at("type"));
    }
    fitting.sort_by(|a, b| {
        (b.slots > 0).cmp(&(a.slots > 0)).then(a.load.total_cmp(&b.load)).then(a.id.cmp(b.id))
    });
    let limit = from.limit.map_or(usize::MAX, |limit| limit as usize);
    let mut chosen: Vec<&AgentId> = fitting.into_iter().take(limit).map(|c| c.id).collect();
    chosen.sort();
    Ok(chosen)
}

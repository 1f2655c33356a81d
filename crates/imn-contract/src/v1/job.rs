//! Jobs: submission, tasks, attempts, results and live progress.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::one;
use crate::{
    error::Fault,
    id::{AgentId, InstanceId, JobId, ModuleType},
};

/// Which vantage points a job runs from. Absent as a whole: any one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// These agents, by id or name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Agents in any of these regions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// Agents that carry all of these tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// At most this many of the agents that match, at least 1; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A request to measure something once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Submit {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The client's own identifier; the same id with the same body is the same job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Module type or alias.
    #[serde(rename = "type")]
    pub kind: String,
    /// What to measure: an address, a name or a URL, as the type wants it.
    pub target: String,
    /// Parameters of the type.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
    /// Vantage points; absent: any one agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Selector>,
    /// Time until the job is `timed_out`, in milliseconds, 1 to 3,600,000.
    #[serde(default = "default_deadline_ms")]
    pub deadline_ms: u64,
    /// Accept the job although no chosen agent has a module of the type yet.
    #[serde(default)]
    pub wait_for_module: bool,
    /// How often a task may be tried, 1 to 10.
    #[serde(default = "default_max_attempts")]
    pub max_attempts: u32,
}

const fn default_deadline_ms() -> u64 {
    10_000
}

const fn default_max_attempts() -> u32 {
    3
}

/// The answer to [`Submit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SubmitReply {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// 202 when the job is accepted, else the code of `error`.
    pub status: u16,
    /// The job, when accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Where its results will be published, one message per agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_subject: Option<String>,
    /// The agents that it runs on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentId>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// Body of `mmn.jobs.get.{job}` and `mmn.jobs.cancel.{job}`; an empty payload stands for the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobRequest {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
}

/// States of a job and of its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Received, not yet decided upon.
    Submitted,
    /// Refused after it was accepted, for example because its module rejected the parameters.
    Rejected,
    /// In the durable queue.
    Queued,
    /// Taken from the queue by an agent.
    Dispatched,
    /// Accepted by an instance.
    Running,
    /// Between two attempts.
    RetryWait,
    /// Done, with an outcome.
    Succeeded,
    /// Done, with an error.
    Failed,
    /// The deadline passed.
    TimedOut,
    /// Cancelled on request.
    Cancelled,
    /// Given up after the last attempt.
    Dead,
}

impl JobState {
    /// Whether nothing can follow.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Rejected | Self::Succeeded | Self::Failed | Self::TimedOut | Self::Cancelled | Self::Dead
        )
    }
}

/// The part of a job that one agent does, as it is queued and as it is handed to an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The job.
    pub job_id: JobId,
    /// Module type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// What to measure.
    pub target: String,
    /// Parameters of the type.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// The agent whose task it is.
    pub agent: AgentId,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Shows that the server handed the task out; goes back in [`Attempt`].
    pub attempt_token: String,
    /// Time left, in milliseconds, counted from receipt on the receiver's monotonic clock.
    pub ttl_ms: u64,
    /// How often the task may be tried.
    #[serde(default = "default_max_attempts")]
    pub max_attempts: u32,
    /// Admitted by the agent itself: report on the `direct` subject, not on `attempt`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
}

/// The answer to a [`Task`], within 500 ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskReply {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// Whether the instance will do it.
    pub accepted: bool,
    /// The instance that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The attempt that it accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// How an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptStatus {
    /// The agent says: an instance has accepted it.
    Running,
    /// The module says: done, with an outcome.
    Succeeded,
    /// The module says: done, with an error.
    Failed,
    /// The agent says: the instance ended while it worked on it; another attempt follows if any is left.
    Crashed,
    /// The agent says: it cannot be done here, and trying again will not help.
    Rejected,
    /// The agent or module says: stopped on request.
    Cancelled,
}

/// What a module, or the agent for it, reports of one attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The job.
    pub job_id: JobId,
    /// The agent.
    pub agent: AgentId,
    /// The instance.
    pub instance: InstanceId,
    /// Module type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// What was measured.
    pub target: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// The token of the task.
    pub attempt_token: String,
    /// How it stands.
    pub status: AttemptStatus,
    /// When the work began, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The measurement, when it succeeded.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub outcome: Value,
    /// The reason, when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// Terminal status of a task, as published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResultStatus {
    /// Done, with an outcome.
    Succeeded,
    /// Done, with an error.
    Failed,
    /// The deadline passed.
    TimedOut,
    /// Cancelled on request.
    Cancelled,
    /// Given up after the last attempt.
    Dead,
    /// Refused by the agent or module.
    Rejected,
}

impl From<ResultStatus> for JobState {
    fn from(status: ResultStatus) -> Self {
        match status {
            ResultStatus::Succeeded => Self::Succeeded,
            ResultStatus::Failed => Self::Failed,
            ResultStatus::TimedOut => Self::TimedOut,
            ResultStatus::Cancelled => Self::Cancelled,
            ResultStatus::Dead => Self::Dead,
            ResultStatus::Rejected => Self::Rejected,
        }
    }
}

/// The one terminal result of a task, published by the server after it is committed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobResult {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The job.
    pub job_id: JobId,
    /// The agent.
    pub agent: AgentId,
    /// The instance that did it, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Module type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// What was measured.
    pub target: String,
    /// Number of the attempt that decided, 0 when none began.
    pub attempt: u32,
    /// The verdict.
    pub status: ResultStatus,
    /// When the work began, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The measurement.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub outcome: Value,
    /// The reason, when there is no measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// One task within a [`JobView`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskView {
    /// The agent.
    pub agent: AgentId,
    /// Its state.
    pub state: JobState,
    /// Attempts begun so far.
    pub attempts: u32,
    /// Its result, once terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
}

/// The authoritative state of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// 200, or the code of `error`.
    pub status: u16,
    /// The job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Module type.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ModuleType>,
    /// What it measures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// When it was accepted, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Its tasks, by agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskView>,
    /// Why the request was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// What a [`Progress`] message tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProgressKind {
    /// A packet was answered or given up.
    Packet,
    /// A hop was found.
    Hop,
    /// Free text.
    Text,
}

/// A live, lossy sign of what a job is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The job.
    pub job_id: JobId,
    /// The agent.
    pub agent: AgentId,
    /// Counts from 1 within the attempt, so that a gap can be seen.
    pub seq: u64,
    /// What this tells.
    pub kind: ProgressKind,
    /// Its details, such as `n`, `rtt_ms` and `from` of a packet, or `text`.
    #[serde(flatten)]
    pub detail: Map<String, Value>,
}

/// A line of a module's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The job that it belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// The instance.
    pub instance: InstanceId,
    /// error, warn, info, debug or trace.
    pub level: String,
    /// The text.
    pub message: String,
    /// When, RFC 3339 UTC.
    pub time: String,
}

//! What is stored, in its stored form.

use imn_contract::{
    AgentId, InstanceId, JobId, ModuleType, TargetId,
    latest::{Batch, JobResult, JobState, Round, TimestampSource},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::column::{self, Columns, loss_pct};

/// One page of a list, in the list's own order.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Key after which the next page begins; absent at the end.
    pub next: Option<String>,
}

/// One round, as it is stored and queried. Times in µs since the Unix epoch; `rtt_*`, `ipdv` and `error` in µs with
/// fractions, as nanoseconds were measured.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the columns are those of the contract's Round")]
pub struct RoundRow {
    pub time_us: i64,
    pub due_us: i64,
    pub agent: AgentId,
    pub target: TargetId,
    pub address: String,
    pub kind: ModuleType,
    pub sent: u32,
    pub received: u32,
    pub unknown: u32,
    pub duplicates: u32,
    pub late: u32,
    pub reordered: u32,
    pub success: bool,
    pub error: Option<String>,
    pub rtt_min_us: Option<f64>,
    pub rtt_avg_us: Option<f64>,
    pub rtt_max_us: Option<f64>,
    pub rtt_stddev_us: Option<f64>,
    pub ipdv_us: Option<f64>,
    pub loss_pct: Option<f64>,
    pub late_us: u32,
    pub tmax_us: u64,
    pub ts_source: TimestampSource,
    pub error_us: f64,
    /// Each packet in order of sending; `None` for one not received. Empty when the round has one packet.
    pub rtts_us: Vec<Option<f64>>,
    /// The columns of its type.
    pub columns: Columns,
    /// What of the outcome no column holds, as JSON text: all of it for a type without columns of its own.
    pub outcome: Option<String>,
}

impl RoundRow {
    /// A round as a query will give it once it is committed; `None` for one without a target, which no sealed batch
    /// holds.
    pub fn of(agent: &AgentId, kind: &ModuleType, round: &Round) -> Option<Self> {
        let columns = column::columns(kind.as_str());
        let split = column::split(columns, round);
        let mut typed = Columns::default();
        for (column, value) in columns.iter().zip(&split.values) {
            typed.push(column.name, value);
        }
        Some(Self {
            time_us: round.time_us,
            due_us: round.due_us,
            agent: agent.clone(),
            target: round.target.clone()?,
            address: round.address.to_string(),
            kind: kind.clone(),
            sent: round.sent,
            received: round.received,
            unknown: round.unknown,
            duplicates: round.duplicates,
            late: round.late,
            reordered: round.reordered,
            success: round.success,
            error: round.error.clone(),
            rtt_min_us: micros(round.rtt_min_ns),
            rtt_avg_us: micros(round.rtt_avg_ns),
            rtt_max_us: micros(round.rtt_max_ns),
            rtt_stddev_us: micros(round.rtt_stddev_ns),
            ipdv_us: micros(round.ipdv_ns),
            loss_pct: loss_pct(round),
            late_us: round.late_us,
            tmax_us: round.tmax_us,
            ts_source: round.ts_source,
            error_us: round.error_ns as f64 / 1e3,
            rtts_us: round.rtts_ns.iter().map(|ns| micros(*ns)).collect(),
            columns: typed,
            outcome: split.rest,
        })
    }
}

/// Nanoseconds as microseconds.
pub(crate) fn micros(ns: Option<u64>) -> Option<f64> {
    ns.map(|ns| ns as f64 / 1e3)
}

/// Rounds that were due and could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns are those of the contract's Gap")]
pub struct GapRow {
    pub agent: AgentId,
    pub target: TargetId,
    pub kind: ModuleType,
    pub first_due_us: i64,
    pub last_due_us: i64,
    pub rounds: u64,
    pub reason: String,
}

/// A batch to commit: rows and the contiguous range of (agent, epoch, seq) that they cover, together.
#[derive(Clone, Debug)]
pub struct IngestBatch {
    /// The batch, opened.
    pub batch: Batch,
    /// Its sealed bytes, as they came; a backend may keep them in its log as they are.
    pub sealed: bytes::Bytes,
}

/// A job as submitted.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// Identifier.
    pub id: JobId,
    /// Module type.
    pub kind: ModuleType,
    /// What to measure.
    pub target: String,
    /// Parameters.
    pub params: Map<String, Value>,
    /// Hash of the body: the same id with another hash is a conflict.
    pub body_hash: String,
    /// When it was accepted.
    pub created_us: i64,
    /// When it times out.
    pub deadline_us: i64,
    /// How often a task may be tried.
    pub max_attempts: u32,
    /// Where it stands in the trace of whoever submitted it: a header `traceparent`.
    pub traceparent: Option<String>,
    /// Its tasks: agent and attempt token.
    pub tasks: Vec<(AgentId, String)>,
}

/// A job and its tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Identifier.
    pub id: JobId,
    /// Module type.
    pub kind: ModuleType,
    /// What to measure.
    pub target: String,
    /// Parameters.
    pub params: Map<String, Value>,
    /// Hash of the body.
    pub body_hash: String,
    /// When it was accepted.
    pub created_us: i64,
    /// When it times out.
    pub deadline_us: i64,
    /// How often a task may be tried.
    pub max_attempts: u32,
    /// Where it stands in the trace of whoever submitted it: a header `traceparent`.
    pub traceparent: Option<String>,
    /// Its tasks, by agent.
    pub tasks: Vec<TaskRow>,
}

/// The part of a job that one agent does.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRow {
    /// The job.
    pub job: JobId,
    /// The agent.
    pub agent: AgentId,
    /// Its state.
    pub state: JobState,
    /// Attempts begun so far.
    pub attempts: u32,
    /// The instance of the last attempt.
    pub instance: Option<InstanceId>,
    /// The secret that reports must carry.
    pub token: String,
    /// Whether the queue message is known to be in the stream.
    pub queued: bool,
    /// The terminal result.
    pub result: Option<JobResult>,
    /// Whether the result is known to be published.
    pub published: bool,
    /// When it was last changed.
    pub updated_us: i64,
}

/// A change of a task's state, applied by compare-and-set: nothing follows a terminal state.
#[derive(Clone, Debug)]
pub struct TaskTransition {
    /// The job.
    pub job: JobId,
    /// The agent.
    pub agent: AgentId,
    /// The state to reach.
    pub to: JobState,
    /// Attempts begun so far; the stored number never decreases.
    pub attempts: u32,
    /// The instance.
    pub instance: Option<InstanceId>,
    /// The result, if `to` is terminal.
    pub result: Option<JobResult>,
    /// When.
    pub now_us: i64,
}

/// Which agent measures which target, by which type, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssignmentRow {
    /// The agent.
    pub agent: AgentId,
    /// The target.
    pub target: TargetId,
    /// Module type.
    pub kind: ModuleType,
    /// Since when rounds are owed, in microseconds since the Unix epoch.
    pub since_us: i64,
}

/// A transition of a target's monitoring state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The target.
    pub target: TargetId,
    /// When.
    pub time_us: i64,
    /// The state left.
    pub from: imn_domain::MonitoringState,
    /// The state reached.
    pub to: imn_domain::MonitoringState,
    /// Why, in words.
    pub reason: String,
}

/// An API key: its secret is stored as a hash only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// The public part, `imn_<id>_<secret>`.
    pub id: String,
    /// SHA-256 of the secret, in hexadecimal: it is 256 random bits, so a slow hash would only cost time.
    pub secret_hash: String,
    /// Name for people.
    pub name: String,
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// When it was made.
    pub created_us: i64,
    /// When it ends; absent: never.
    pub expires_us: Option<i64>,
}

/// A token by which one agent may come in, once. Its secret is stored as a hash only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentToken {
    /// The public part.
    pub id: String,
    /// SHA-256 of the secret, in hexadecimal.
    pub secret_hash: String,
    /// The only agent that it is for; absent: any.
    pub agent: Option<AgentId>,
    /// When it was made.
    pub created_us: i64,
    /// Who made it.
    pub created_by: String,
    /// When it ends.
    pub expires_us: i64,
    /// When it was used.
    pub used_us: Option<i64>,
    /// The agent that it was used by.
    pub used_by: Option<AgentId>,
}

/// A key that the network's authority has vouched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The public key.
    pub public_key: String,
    /// The agent that it is of.
    pub agent: AgentId,
    /// The module instance that it is of; absent: the agent itself.
    pub instance: Option<InstanceId>,
    /// When it was last vouched for.
    pub issued_us: i64,
    /// When that ends; absent: never.
    pub expires_us: Option<i64>,
    /// When it was revoked.
    pub revoked_us: Option<i64>,
}

/// Who changed what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub time_us: i64,
    /// Who: a key or a user.
    pub actor: String,
    /// What was done, for example `target.create`.
    pub action: String,
    /// To what.
    pub subject: String,
    /// Details, as JSON text.
    pub detail: String,
}

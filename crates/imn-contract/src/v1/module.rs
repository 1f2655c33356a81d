//! Modules: announcement, health, configuration and control.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::one;
use crate::{
    error::Fault,
    id::{AgentId, InstanceId, JobId, ModuleType},
};

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnnounceEvent {
    /// Started and connected.
    Hello,
    /// Its subscriptions are known to the NATS server: it takes jobs.
    Ready,
    /// It takes no more jobs and finishes those that it has.
    Draining,
    /// It is gone, in order.
    Bye,
}

/// An instance introduces itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Announce {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// What happened.
    pub event: AnnounceEvent,
    /// The instance.
    pub instance: InstanceId,
    /// Its agent.
    pub agent: AgentId,
    /// Its module type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// Version of the module.
    pub version: String,
    /// Schemas of tasks that it accepts, such as `job/1`.
    pub accepts: Vec<String>,
    /// Jobs that it does at once.
    pub slots: u32,
    /// JSON Schema of `params`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params_schema: Value,
    /// Its process, on its agent's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModuleState {
    /// Its process runs, `ready` has not come yet.
    Starting,
    /// It takes jobs.
    Ready,
    /// All its slots are taken.
    Saturated,
    /// It finishes what it has.
    Draining,
    /// No health for 15 s.
    Degraded,
    /// No health for 30 s.
    Lost,
    /// Its process has ended; it will be started again.
    Backoff,
    /// It crashed too often, or is of a version that was turned down; see its reason.
    Quarantined,
    /// Disabled by an operator.
    Disabled,
}

impl ModuleState {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Starting,
        Self::Ready,
        Self::Saturated,
        Self::Draining,
        Self::Degraded,
        Self::Lost,
        Self::Backoff,
        Self::Quarantined,
        Self::Disabled,
    ];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Saturated => "saturated",
            Self::Draining => "draining",
            Self::Degraded => "degraded",
            Self::Lost => "lost",
            Self::Backoff => "backoff",
            Self::Quarantined => "quarantined",
            Self::Disabled => "disabled",
        }
    }
}

/// Health of an instance: every 5 s and when a threshold is crossed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The instance.
    pub instance: InstanceId,
    /// Its agent.
    pub agent: AgentId,
    /// Its module type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// Version of the module.
    pub version: String,
    /// `ready`, `saturated` or `draining`.
    pub state: ModuleState,
    /// Jobs in work.
    pub inflight: u32,
    /// Jobs accepted and waiting.
    pub queued: u32,
    /// Jobs that it can do at once.
    pub slots: u32,
    /// Age of the oldest job, in milliseconds.
    pub oldest_ms: u64,
    /// Smoothed service time, in milliseconds.
    pub ewma_ms: f64,
    /// Jobs done since start.
    pub done: u64,
    /// Of them, failed.
    pub errors: u64,
    /// Circuits open.
    pub circuits_open: u32,
    /// Rounds that fell due since start.
    pub rounds_due: u64,
    /// Of them, completed and spooled.
    pub rounds_done: u64,
    /// Of them, not begun, for want of time or room: they are recorded gaps.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rounds_skipped: u64,
    /// 99th percentile of sent − due over the last period, in microseconds.
    pub late_p99_us: u64,
    /// Counts health messages of this process.
    pub seq: u64,
    /// Random per process: a new one tells of a restart.
    pub epoch: u64,
    /// When, RFC 3339 UTC.
    pub time: String,
    /// Sealed batches and bytes in its spool, and the age of the oldest.
    #[serde(default)]
    pub spool: super::SpoolState,
}

/// What an agent writes, as one JSON object, to the standard input of a module that it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleConfig {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The agent.
    pub agent: AgentId,
    /// The module type to be.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// The slot to fill.
    pub instance: InstanceId,
    /// NATS server or servers, comma separated.
    pub nats_url: String,
    /// Text of a credentials file; absent on a NATS without authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creds: Option<String>,
    /// Certificates, in PEM, of the authority that signed NATS's own; absent: the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats_ca: Option<String>,
    /// Prefix of private inboxes.
    pub inbox_prefix: String,
    /// Configuration of the module.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Jobs to do at once; absent: the module's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Path of the file of standing assignments, if it has standing work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignments: Option<String>,
    /// Directory of the spool, if it has standing work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<String>,
    /// Number of ingest partitions.
    #[serde(default = "one")]
    pub partitions: u32,
}

/// What an instance is told to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ModuleOp {
    /// Finish and exit.
    Drain,
    /// Change the log level.
    LogLevel {
        /// A filter such as `info` or `imn_module=debug`.
        level: String,
    },
    /// Change the number of jobs done at once.
    Slots {
        /// The new number, at least 1.
        slots: u32,
    },
    /// Replace the configuration.
    Config {
        /// Counts configurations; an older one is refused.
        revision: u64,
        /// The new configuration.
        config: Map<String, Value>,
    },
    /// Connect with this JWT from now on; it is of the same key. An instance that cannot is started anew.
    Renew {
        /// The JWT.
        jwt: String,
    },
    /// Stop a job.
    Cancel {
        /// The job.
        job_id: JobId,
    },
    /// Answer whether a job is in work.
    Has {
        /// The job.
        job_id: JobId,
    },
}

/// Control of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleControl {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// What to do.
    #[serde(flatten)]
    pub op: ModuleOp,
}

/// The answer to a control request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ControlReply {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// Whether it was done; for `has`, whether the job is in work.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// Where a process writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error, where logs go.
    Stderr,
}

/// One line that the process of an instance has written, as its agent found it; live and lossy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleLog {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The agent.
    pub agent: AgentId,
    /// The instance.
    pub instance: InstanceId,
    /// Its module type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// Where the line was written.
    pub stream: OutputStream,
    /// error, warn, info, debug or trace, where the line says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// The line, or what of it is the message.
    pub message: String,
    /// When, by the line itself, else when it was found; RFC 3339 UTC.
    pub time: String,
    /// Counts the lines of the instance that this agent has told, from 1: a gap is what was lost on the way.
    pub seq: u64,
    /// Lines that were not told before this one, because there were too many.
    #[serde(default)]
    pub dropped: u64,
}

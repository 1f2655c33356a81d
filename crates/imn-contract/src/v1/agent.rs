//! Agents: heartbeat, control, and the simple interface `agent.{id}.in`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ModuleState, one};
use crate::{
    error::Fault,
    id::{AgentId, InstanceId, JobId, ModuleType},
};

/// How an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// At work.
    Active,
    /// At work, with something wrong: a module is down, the spool is full, the clock is off.
    Degraded,
    /// Going down in order.
    Draining,
    /// Silent for 60 s (the server's judgement; never in a heartbeat).
    Offline,
}

/// One module instance within a [`Heartbeat`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleSummary {
    /// The instance.
    pub instance: InstanceId,
    /// Its module type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// Version of the module.
    pub version: String,
    /// How it is.
    pub state: ModuleState,
    /// Jobs in work.
    pub inflight: u32,
    /// Jobs that it can do at once.
    pub slots: u32,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Times its process was started again since the agent began.
    #[serde(default)]
    pub restarts: u32,
    /// Whether it takes standing assignments.
    #[serde(default)]
    pub standing: bool,
    /// Why it is not ready, or not all that it should be, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What waits in a spool, or in all spools of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpoolState {
    /// Bytes on disk, about.
    pub bytes: u64,
    /// Rounds that the server has not committed yet.
    pub rows: u64,
    /// Age of the oldest of them, in seconds.
    pub oldest_s: u64,
    /// What keeps rounds from being kept, or from leaving, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The assignments that an agent has in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AssignmentMark {
    /// Generation.
    pub generation: u64,
    /// Hash over the shard hashes.
    pub hash: String,
}

/// What an agent knows of its host's clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClockState {
    /// Estimated offset from true time, in microseconds, by adjtimex; absent when not synchronized.
    pub offset_us: Option<f64>,
    /// Whether the kernel calls its clock synchronized.
    pub synced: bool,
}

/// An agent's sign of life: every 2 s, on `mmn.agents.hb.{vp}` and `heartbeat.{id}` alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The agent.
    pub agent: AgentId,
    /// When, RFC 3339 UTC.
    pub time: String,
    /// How it is.
    pub status: AgentStatus,
    /// Version of its program.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Its module instances.
    pub modules: Vec<ModuleSummary>,
    /// Targets under standing measurement here.
    pub targets: u64,
    /// Rounds completed per second, over the last ten seconds.
    pub rounds_per_s: f64,
    /// What waits in its spools.
    pub spool: SpoolState,
    /// The assignments in force.
    pub assignment: AssignmentMark,
    /// Its clock.
    pub clock: ClockState,
    /// CPU of agent and modules, in percent of one core.
    pub cpu_pct: f64,
    /// Resident memory of agent and modules, in MB.
    pub rss_mb: f64,
    /// Human-readable name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is, coarsely, for example `eu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where it is, finely, for example `London`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Whose network or cloud it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Free tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// What is wrong with modules that it should run, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Replacements of module types by other versions, under way or the last of each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rolls: Vec<Roll>,
}

/// Where the replacement of a module type by another version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RollState {
    /// One instance of the new version is started beside the others, and does not take jobs yet.
    Starting,
    /// It is given a job of its own.
    Testing,
    /// Jobs are shared between the versions, in waves.
    Shifting,
    /// The instances of the old version are replaced, one after the other.
    Replacing,
    /// Only the new version runs.
    Done,
    /// The old version goes on; `reason` says why.
    RolledBack,
    /// The old version goes on: what was to replace it is not wanted any more.
    Abandoned,
}

/// The replacement of a module type by another version, at one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Roll {
    /// The module type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// Where it is.
    pub state: RollState,
    /// The wave, from 1; 0 before the first.
    pub wave: u32,
    /// How many waves there are.
    pub waves: u32,
    /// How much of the jobs goes to the new version, in percent.
    pub share_pct: u32,
    /// The version that is replaced.
    pub from: String,
    /// The version that replaces it.
    pub to: String,
    /// When it began, RFC 3339 UTC.
    pub started: String,
    /// Why it was rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What an agent is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum AgentOp {
    /// A task has reached a terminal state: settle its queue entry, and stop it if it still runs.
    TaskDone {
        /// The job.
        job_id: JobId,
    },
    /// New assignments are to be read.
    Assignments {
        /// Their generation.
        generation: u64,
    },
    /// The modules that are published for this agent are to be read.
    Registry {
        /// Revision of their list.
        revision: u64,
    },
    /// Start a module's instances.
    Enable {
        /// Its type.
        #[serde(rename = "type")]
        kind: ModuleType,
    },
    /// Drain a module's instances and keep them down.
    Disable {
        /// Its type.
        #[serde(rename = "type")]
        kind: ModuleType,
    },
    /// Replace a module's instances by the version that is there now, in waves; also one that was turned down before.
    Roll {
        /// Its type.
        #[serde(rename = "type")]
        kind: ModuleType,
    },
    /// Change how a module's instances run; remembered over restarts.
    Tune {
        /// Its type.
        #[serde(rename = "type")]
        kind: ModuleType,
        /// What is to change.
        #[serde(flatten)]
        tuning: Tuning,
    },
    /// Answer with a heartbeat at once.
    Report,
}

/// What an operator sets for a module type at an agent; what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tuning {
    /// Processes, 1 to 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
    /// Jobs that each does at once, 1 to 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// A filter such as `info` or `imn_module=debug`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Its configuration, as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,
}

/// Control of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentControl {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// What to do.
    #[serde(flatten)]
    pub op: AgentOp,
}

/// An agent has made a key for one of its module instances, and asks for a JWT that says what it may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vouch {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The module type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// The instance, `{agent}-{type}-{slot}`.
    pub instance: InstanceId,
    /// Its public key, an nkey of a user.
    pub public_key: String,
}

/// An agent asks for a fresh JWT for the key that it is connected with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Renewal {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// Its public key, an nkey of a user.
    pub public_key: String,
}

/// The answer to [`Vouch`] and [`Renewal`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VouchReply {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The JWT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<String>,
    /// For an agent: a JWT of the same key with which it takes jobs from their queues and may answer nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_jwt: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// A request on `agent.{id}.in`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SimpleRequest {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// What to measure.
    pub target: String,
    /// Packets, 1 to 1,000; absent: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Port, where the module wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Module type or alias; absent: `ping`. Also read from `type`.
    #[serde(default, alias = "type", skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The client's mark; a repetition within 10 minutes is answered from the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Further parameters of the module.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
}

/// An answer on `agent.{id}.out`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SimpleReply {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// Protocol measured, `icmp` or `tcp`; else the module's type.
    pub protocol: String,
    /// Address measured.
    pub address: String,
    /// Whether any packet was answered.
    pub is_alive: bool,
    /// Port, where there is one.
    pub port: Option<u16>,
    /// When, in seconds since the Unix epoch.
    pub timestamp: f64,
    /// Least round-trip time, in milliseconds.
    pub rtt_min: Option<f64>,
    /// Mean round-trip time over received packets, in milliseconds.
    pub rtt_avg: Option<f64>,
    /// Greatest round-trip time, in milliseconds.
    pub rtt_max: Option<f64>,
    /// Packets sent.
    pub packets_sent: u32,
    /// Packets received.
    pub packets_received: u32,
    /// Packets lost, in percent of those sent and not unknown.
    pub packet_loss: Option<f64>,
    /// Mean absolute ipdv, in milliseconds.
    pub jitter: Option<f64>,
    /// The client's mark, or one made for it.
    pub request_id: String,
    /// The whole outcome of modules other than icmp and tcp.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub outcome: Value,
}

/// A refusal on `agent.{id}.error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SimpleError {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The client's mark, when it could be read.
    pub request_id: Option<String>,
    /// The number of the error.
    pub code: u16,
    /// Its name.
    pub name: String,
    /// What is wrong and what to do about it.
    pub message: String,
    /// The field that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

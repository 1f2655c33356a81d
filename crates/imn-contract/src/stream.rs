//! Names of the JetStream streams and their consumers. The server creates and owns them.

use crate::id::{AgentId, ModuleType};

/// What modules report of jobs.
pub const ATTEMPTS: &str = "MMN_ATTEMPTS";
/// Published results.
pub const RESULTS: &str = "MMN_RESULTS";
/// Sealed batches of rounds.
pub const INGEST: &str = "MMN_INGEST";
/// Announcements and job state transitions.
pub const EVENTS: &str = "MMN_EVENTS";
/// Dead jobs.
pub const DLQ: &str = "MMN_DLQ";
/// Bucket of assignment shards; its stream is `KV_assignments`.
pub const ASSIGNMENTS_BUCKET: &str = "assignments";
/// The stream behind [`ASSIGNMENTS_BUCKET`].
pub const ASSIGNMENTS: &str = "KV_assignments";

/// The durable queue of one module type.
pub fn jobs(module: &ModuleType) -> String {
    format!("{JOBS_PREFIX}{module}")
}

/// What the names of all [`jobs`] streams begin with; the type follows.
pub const JOBS_PREFIX: &str = "MMN_JOBS_";

/// The durable consumer of one agent in [`jobs`].
pub fn jobs_consumer(agent: &AgentId) -> String {
    agent.to_string()
}

/// The durable consumer of the server in [`ATTEMPTS`].
pub const ATTEMPTS_CONSUMER: &str = "server";

/// The durable consumer of one partition in [`INGEST`].
pub fn ingest_consumer(partition: u32) -> String {
    format!("p{partition}")
}

/// The subject of a key in a bucket: `$KV.{bucket}.{key}`.
pub fn kv_subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// The key of one shard of an agent's assignments.
pub fn shard_key(agent: &AgentId, shard: u32) -> String {
    format!("{agent}.{shard}")
}

/// The key that says which shards make up an agent's assignments; written last.
pub fn meta_key(agent: &AgentId) -> String {
    format!("{agent}.meta")
}

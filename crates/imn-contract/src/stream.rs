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

/// Bucket of what is published in the registry of modules; its stream is `KV_registry`.
pub const REGISTRY_BUCKET: &str = "registry";
/// The stream behind [`REGISTRY_BUCKET`].
pub const REGISTRY: &str = "KV_registry";
/// The key in [`REGISTRY_BUCKET`] that lists all published modules.
pub const REGISTRY_INDEX: &str = "index";
/// Object store bucket of the executables of published modules; its stream is `OBJ_modules`.
pub const ARTIFACTS_BUCKET: &str = "modules";
/// The stream behind [`ARTIFACTS_BUCKET`].
pub const ARTIFACTS: &str = "OBJ_modules";
/// All chunks in [`ARTIFACTS`].
pub const ARTIFACT_CHUNKS: &str = "$O.modules.C.>";
/// All descriptions in [`ARTIFACTS`].
pub const ARTIFACT_INFOS: &str = "$O.modules.M.>";

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

/// The key in [`REGISTRY_BUCKET`] that lists the modules published for one agent.
pub fn registry_key(agent: &AgentId) -> String {
    format!("agent.{agent}")
}

/// The subject of all chunks of an object in [`ARTIFACTS`].
pub fn artifact_chunks(object: &str) -> String {
    format!("$O.{ARTIFACTS_BUCKET}.C.{object}")
}

/// The subject that describes an object in [`ARTIFACTS`], by the base64url of its name.
pub fn artifact_info(encoded_name: &str) -> String {
    format!("$O.{ARTIFACTS_BUCKET}.M.{encoded_name}")
}

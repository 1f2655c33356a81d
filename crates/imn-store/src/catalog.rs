//! The catalog's seam.

use async_trait::async_trait;
use imn_contract::{AgentId, JobId, TargetId};
use imn_domain::{Agent, Target, Tier};

use crate::model::{
    ApiKey, AssignmentRow, AuditEntry, Credential, EnrollmentToken, Job, NewJob, Page, StateChange, TaskRow,
    TaskTransition,
};

/// Why a catalog operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// What was asked for is not there.
    #[error("{what} {key:?} not found")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its key.
        key: String,
    },
    /// Something with this key is there already.
    #[error("{what} {key:?} exists already")]
    Exists {
        /// Kind of thing.
        what: &'static str,
        /// Its key.
        key: String,
    },
    /// The revision is not the current one.
    #[error("{what} {key:?} has changed: its revision is {current}, not {given}")]
    Stale {
        /// Kind of thing.
        what: &'static str,
        /// Its key.
        key: String,
        /// The revision in the catalog.
        current: u64,
        /// The revision given.
        given: u64,
    },
    /// Something still refers to it, or it refers to something that is not there.
    #[error("{what} {key:?}: {message}")]
    Reference {
        /// Kind of thing.
        what: &'static str,
        /// Its key.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// The device of the database is full; nothing was written.
    #[error(
        "catalog {operation}: the disk is full: no space left for the database; free some or move the state directory"
    )]
    NoSpace {
        /// The operation.
        operation: &'static str,
    },
    /// The backend failed.
    #[error("catalog {operation}: {message}")]
    Backend {
        /// The operation.
        operation: &'static str,
        /// What the backend says.
        message: String,
    },
}

/// Targets, tiers, agents, assignments, jobs, keys and the audit log. Every method is one transaction.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// Adds targets, all or none. `Exists` names an address already there; `Reference` a missing tier.
    async fn create_targets(&self, targets: &[Target]) -> Result<(), CatalogError>;
    /// A target by id or by address.
    async fn target(&self, id_or_address: &str) -> Result<Option<Target>, CatalogError>;
    /// Targets in order of id, after `after`.
    async fn targets(&self, after: Option<&str>, limit: usize) -> Result<Page<Target>, CatalogError>;
    /// Number of targets.
    async fn target_count(&self) -> Result<u64, CatalogError>;
    /// Replaces a target whose stored revision is `target.revision - 1`; `Stale` otherwise.
    async fn update_target(&self, target: &Target) -> Result<(), CatalogError>;
    /// Removes a target; with `revision`, only if that is the current one.
    async fn delete_target(&self, id: &TargetId, revision: Option<u64>) -> Result<(), CatalogError>;
    /// Writes monitoring states and their transitions together; does not count as a user's change.
    async fn set_states(&self, changes: &[StateChange]) -> Result<(), CatalogError>;
    /// Transitions of a target, newest first.
    async fn state_history(&self, target: &TargetId, limit: usize) -> Result<Vec<StateChange>, CatalogError>;

    /// Adds a tier.
    async fn create_tier(&self, tier: &Tier) -> Result<(), CatalogError>;
    /// A tier by name.
    async fn tier(&self, name: &str) -> Result<Option<Tier>, CatalogError>;
    /// All tiers, by name.
    async fn tiers(&self) -> Result<Vec<Tier>, CatalogError>;
    /// Replaces a tier whose stored revision is `tier.revision - 1`.
    async fn update_tier(&self, tier: &Tier) -> Result<(), CatalogError>;
    /// Removes a tier that no target uses; `Reference` otherwise.
    async fn delete_tier(&self, name: &str, revision: Option<u64>) -> Result<(), CatalogError>;

    /// Adds or replaces an agent; `first_seen_us`, `max_targets` and `public_ip` of a known one stay.
    async fn upsert_agents(&self, agents: &[Agent]) -> Result<(), CatalogError>;
    /// All agents, by id.
    async fn agents(&self) -> Result<Vec<Agent>, CatalogError>;
    /// Removes an agent and its assignments.
    async fn delete_agent(&self, id: &AgentId) -> Result<(), CatalogError>;

    /// All assignments, by (agent, target, type).
    async fn assignments(&self) -> Result<Vec<AssignmentRow>, CatalogError>;
    /// Adds and removes assignments, and sets the generation of each agent named, together. Those of a target that is gone,
    /// which may be deleted while it is decided upon, are left out.
    async fn change_assignments(
        &self,
        add: &[AssignmentRow],
        remove: &[AssignmentRow],
        generations: &[(AgentId, u64)],
    ) -> Result<(), CatalogError>;
    /// The assignment generation of every agent that has one.
    async fn generations(&self) -> Result<Vec<(AgentId, u64)>, CatalogError>;

    /// Adds a job and its tasks in state `queued`. When the id is there already: `Ok(false)` if the body hash is
    /// the same, `Exists` if not.
    async fn create_job(&self, job: &NewJob) -> Result<bool, CatalogError>;
    /// A job with its tasks.
    async fn job(&self, id: &JobId) -> Result<Option<Job>, CatalogError>;
    /// Jobs, newest first (ids descending), after `after`.
    async fn jobs(&self, after: Option<&str>, limit: usize) -> Result<Page<Job>, CatalogError>;
    /// Applies transitions by compare-and-set, in one transaction; for each, whether it took effect. A terminal task
    /// never changes again.
    async fn transition(&self, transitions: &[TaskTransition]) -> Result<Vec<bool>, CatalogError>;
    /// Notes that queue messages are in their stream.
    async fn mark_queued(&self, tasks: &[(JobId, AgentId)]) -> Result<(), CatalogError>;
    /// Notes that results are published.
    async fn mark_published(&self, tasks: &[(JobId, AgentId)]) -> Result<(), CatalogError>;
    /// Tasks that are not terminal and not known to be in their stream.
    async fn tasks_unqueued(&self, limit: usize) -> Result<Vec<TaskRow>, CatalogError>;
    /// Terminal tasks whose result is not known to be published.
    async fn tasks_unpublished(&self, limit: usize) -> Result<Vec<TaskRow>, CatalogError>;
    /// Tasks that are not terminal although their job's deadline has passed.
    async fn tasks_overdue(&self, now_us: i64, limit: usize) -> Result<Vec<TaskRow>, CatalogError>;
    /// Removes terminal jobs older than `before_us`; how many.
    async fn prune_jobs(&self, before_us: i64) -> Result<u64, CatalogError>;

    /// Adds an API key.
    async fn create_api_key(&self, key: &ApiKey) -> Result<(), CatalogError>;
    /// An API key by the public part.
    async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, CatalogError>;
    /// All API keys, by id.
    async fn api_keys(&self) -> Result<Vec<ApiKey>, CatalogError>;
    /// Removes an API key.
    async fn delete_api_key(&self, id: &str) -> Result<(), CatalogError>;

    /// Adds an enrollment token.
    async fn create_enrollment_token(&self, token: &EnrollmentToken) -> Result<(), CatalogError>;
    /// An enrollment token by the public part.
    async fn enrollment_token(&self, id: &str) -> Result<Option<EnrollmentToken>, CatalogError>;
    /// All enrollment tokens, newest first.
    async fn enrollment_tokens(&self) -> Result<Vec<EnrollmentToken>, CatalogError>;
    /// Removes an enrollment token.
    async fn delete_enrollment_token(&self, id: &str) -> Result<(), CatalogError>;
    /// Spends a token on an agent's key, and notes the key, together. `Ok(false)` when the token is spent or gone.
    async fn enroll(&self, token: &str, credential: &Credential) -> Result<bool, CatalogError>;
    /// Notes that keys were vouched for. When a key was revoked stays as it is.
    async fn note_credentials(&self, credentials: &[Credential]) -> Result<(), CatalogError>;
    /// A key that was vouched for.
    async fn credential(&self, public_key: &str) -> Result<Option<Credential>, CatalogError>;
    /// The keys of an agent and its modules, of all without one, by (agent, instance, age).
    async fn credentials(&self, agent: Option<&AgentId>) -> Result<Vec<Credential>, CatalogError>;
    /// Revokes every key of an agent and its modules that is not revoked yet; all that are by now.
    async fn revoke_credentials(&self, agent: &AgentId, now_us: i64)
    -> Result<Vec<Credential>, CatalogError>;

    /// Remembers the answer to a request with an `Idempotency-Key`, for a day at least. `Ok(Some)` is what was
    /// remembered before under (key, actor): request hash and answer.
    async fn idempotent(
        &self,
        key: &str,
        request_hash: &str,
        answer: Option<&str>,
        now_us: i64,
    ) -> Result<Option<(String, String)>, CatalogError>;

    /// Appends to the audit log.
    async fn audit(&self, entry: &AuditEntry) -> Result<(), CatalogError>;
    /// The audit log, newest first.
    async fn audit_log(&self, limit: usize) -> Result<Vec<AuditEntry>, CatalogError>;

    /// A setting, such as the server's own identity.
    async fn setting(&self, name: &str) -> Result<Option<String>, CatalogError>;
    /// Writes a setting.
    async fn set_setting(&self, name: &str, value: &str) -> Result<(), CatalogError>;
}

//! The catalog on SQLite and on PostgreSQL, by one SQL text.

mod agent;
mod credential;
mod job;
mod key;
mod target;
mod tier;

use std::path::Path;

use async_trait::async_trait;
use imn_contract::{AgentId, JobId, TargetId};
use imn_domain::{Agent, Target, Tier};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    catalog::{Catalog, CatalogError},
    model::{
        ApiKey, AssignmentRow, AuditEntry, Credential, EnrollmentToken, Job, NewJob, Page, StateChange,
        TaskRow, TaskTransition,
    },
    sql::{Database, Row},
};
use job::Queue;

/// The catalog in a relational database.
///
/// Job submissions, transitions and marks that wait at the same time are committed together, in one transaction and
/// with one fsync. A caller that is dropped while it waits may have its write done or not, as with any database.
#[derive(Debug)]
pub struct SqlCatalog {
    database: Database,
    queue: Queue,
}

impl SqlCatalog {
    /// Opens the SQLite database at `path`, makes it if it is missing, and brings its schema up to date.
    ///
    /// # Errors
    /// [`CatalogError::Backend`] when it cannot be opened or its schema is newer than this program.
    pub async fn sqlite(path: &Path) -> Result<Self, CatalogError> {
        Ok(Self { database: Database::sqlite(path).await?, queue: Queue::default() })
    }

    /// Connects to the PostgreSQL database at `url` (`postgres://…`) and brings its schema up to date.
    ///
    /// # Errors
    /// As [`Self::sqlite`].
    pub async fn postgres(url: &str) -> Result<Self, CatalogError> {
        Ok(Self { database: Database::postgres(url).await?, queue: Queue::default() })
    }

    /// Waits until every connection is closed. SQLite's write-ahead log is then merged into the file.
    pub async fn close(&self) {
        self.database.close().await;
    }

    /// The database, for the manifest of the embedded results.
    pub(crate) const fn database(&self) -> &Database {
        &self.database
    }
}

#[async_trait]
impl Catalog for SqlCatalog {
    async fn create_targets(&self, targets: &[Target]) -> Result<(), CatalogError> {
        target::create(&self.database, targets).await
    }
    async fn target(&self, id_or_address: &str) -> Result<Option<Target>, CatalogError> {
        target::get(&self.database, id_or_address).await
    }
    async fn targets(&self, after: Option<&str>, limit: usize) -> Result<Page<Target>, CatalogError> {
        target::list(&self.database, after, limit).await
    }
    async fn target_count(&self) -> Result<u64, CatalogError> {
        target::count(&self.database).await
    }
    async fn update_target(&self, target: &Target) -> Result<(), CatalogError> {
        target::update(&self.database, target).await
    }
    async fn delete_target(&self, id: &TargetId, revision: Option<u64>) -> Result<(), CatalogError> {
        target::delete(&self.database, id, revision).await
    }
    async fn set_states(&self, changes: &[StateChange]) -> Result<(), CatalogError> {
        target::set_states(&self.database, changes).await
    }
    async fn state_history(&self, target: &TargetId, limit: usize) -> Result<Vec<StateChange>, CatalogError> {
        target::state_history(&self.database, target, limit).await
    }

    async fn create_tier(&self, tier: &Tier) -> Result<(), CatalogError> {
        tier::create(&self.database, tier).await
    }
    async fn tier(&self, name: &str) -> Result<Option<Tier>, CatalogError> {
        tier::get(&self.database, name).await
    }
    async fn tiers(&self) -> Result<Vec<Tier>, CatalogError> {
        tier::list(&self.database).await
    }
    async fn update_tier(&self, tier: &Tier) -> Result<(), CatalogError> {
        tier::update(&self.database, tier).await
    }
    async fn delete_tier(&self, name: &str, revision: Option<u64>) -> Result<(), CatalogError> {
        tier::delete(&self.database, name, revision).await
    }

    async fn upsert_agents(&self, agents: &[Agent]) -> Result<(), CatalogError> {
        agent::upsert(&self.database, agents).await
    }
    async fn agents(&self) -> Result<Vec<Agent>, CatalogError> {
        agent::list(&self.database).await
    }
    async fn delete_agent(&self, id: &AgentId) -> Result<(), CatalogError> {
        agent::delete(&self.database, id).await
    }

    async fn assignments(&self) -> Result<Vec<AssignmentRow>, CatalogError> {
        agent::assignments(&self.database).await
    }
    async fn change_assignments(
        &self,
        add: &[AssignmentRow],
        remove: &[AssignmentRow],
        generations: &[(AgentId, u64)],
    ) -> Result<(), CatalogError> {
        agent::change_assignments(&self.database, add, remove, generations).await
    }
    async fn generations(&self) -> Result<Vec<(AgentId, u64)>, CatalogError> {
        agent::generations(&self.database).await
    }

    async fn create_job(&self, job: &NewJob) -> Result<bool, CatalogError> {
        self.queue.create(&self.database, job).await
    }
    async fn job(&self, id: &JobId) -> Result<Option<Job>, CatalogError> {
        job::get(&self.database, id).await
    }
    async fn jobs(&self, after: Option<&str>, limit: usize) -> Result<Page<Job>, CatalogError> {
        job::list(&self.database, after, limit).await
    }
    async fn transition(&self, transitions: &[TaskTransition]) -> Result<Vec<bool>, CatalogError> {
        self.queue.transition(&self.database, transitions).await
    }
    async fn mark_queued(&self, tasks: &[(JobId, AgentId)]) -> Result<(), CatalogError> {
        self.queue.mark_queued(&self.database, tasks).await
    }
    async fn mark_published(&self, tasks: &[(JobId, AgentId)]) -> Result<(), CatalogError> {
        self.queue.mark_published(&self.database, tasks).await
    }
    async fn tasks_unqueued(&self, limit: usize) -> Result<Vec<TaskRow>, CatalogError> {
        job::unqueued(&self.database, limit).await
    }
    async fn tasks_unpublished(&self, limit: usize) -> Result<Vec<TaskRow>, CatalogError> {
        job::unpublished(&self.database, limit).await
    }
    async fn tasks_overdue(&self, now_us: i64, limit: usize) -> Result<Vec<TaskRow>, CatalogError> {
        job::overdue(&self.database, now_us, limit).await
    }
    async fn prune_jobs(&self, before_us: i64) -> Result<u64, CatalogError> {
        job::prune(&self.database, before_us).await
    }

    async fn create_api_key(&self, key: &ApiKey) -> Result<(), CatalogError> {
        key::create(&self.database, key).await
    }
    async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, CatalogError> {
        key::get(&self.database, id).await
    }
    async fn api_keys(&self) -> Result<Vec<ApiKey>, CatalogError> {
        key::list(&self.database).await
    }
    async fn delete_api_key(&self, id: &str) -> Result<(), CatalogError> {
        key::delete(&self.database, id).await
    }

    async fn create_enrollment_token(&self, token: &EnrollmentToken) -> Result<(), CatalogError> {
        credential::create_token(&self.database, token).await
    }
    async fn enrollment_token(&self, id: &str) -> Result<Option<EnrollmentToken>, CatalogError> {
        credential::token(&self.database, id).await
    }
    async fn enrollment_tokens(&self) -> Result<Vec<EnrollmentToken>, CatalogError> {
        credential::tokens(&self.database).await
    }
    async fn delete_enrollment_token(&self, id: &str) -> Result<(), CatalogError> {
        credential::delete_token(&self.database, id).await
    }
    async fn enroll(&self, token: &str, credential: &Credential) -> Result<bool, CatalogError> {
        credential::enroll(&self.database, token, credential).await
    }
    async fn note_credentials(&self, credentials: &[Credential]) -> Result<(), CatalogError> {
        credential::note(&self.database, credentials).await
    }
    async fn credential(&self, public_key: &str) -> Result<Option<Credential>, CatalogError> {
        credential::get(&self.database, public_key).await
    }
    async fn credentials(&self, agent: Option<&AgentId>) -> Result<Vec<Credential>, CatalogError> {
        credential::list(&self.database, agent).await
    }
    async fn revoke_credentials(
        &self,
        agent: &AgentId,
        now_us: i64,
    ) -> Result<Vec<Credential>, CatalogError> {
        credential::revoke(&self.database, agent, now_us).await
    }

    async fn idempotent(
        &self,
        key: &str,
        request_hash: &str,
        answer: Option<&str>,
        now_us: i64,
    ) -> Result<Option<(String, String)>, CatalogError> {
        key::idempotent(&self.database, key, request_hash, answer, now_us).await
    }

    async fn audit(&self, entry: &AuditEntry) -> Result<(), CatalogError> {
        key::audit(&self.database, entry).await
    }
    async fn audit_log(&self, limit: usize) -> Result<Vec<AuditEntry>, CatalogError> {
        key::audit_log(&self.database, limit).await
    }

    async fn setting(&self, name: &str) -> Result<Option<String>, CatalogError> {
        key::setting(&self.database, name).await
    }
    async fn set_setting(&self, name: &str, value: &str) -> Result<(), CatalogError> {
        key::set_setting(&self.database, name, value).await
    }
}

/// A stored row that cannot be read as what it should be.
fn corrupt(operation: &'static str, error: impl std::fmt::Display) -> CatalogError {
    CatalogError::Backend { operation, message: format!("a stored row cannot be read: {error}") }
}

fn to_json(value: &impl Serialize) -> Result<String, CatalogError> {
    serde_json::to_string(value).map_err(|error| corrupt("encode", error))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, CatalogError> {
    serde_json::from_str(text).map_err(|error| corrupt("decode", error))
}

/// The name of a unit variant, as serde writes it.
fn to_word(value: &impl Serialize) -> Result<String, CatalogError> {
    Ok(to_json(value)?.trim_matches('"').to_owned())
}

fn from_word<T: DeserializeOwned>(word: String) -> Result<T, CatalogError> {
    serde_json::from_value(serde_json::Value::String(word)).map_err(|error| corrupt("decode", error))
}

/// Reads a row, column by column.
struct Columns<'a> {
    row: &'a Row,
    next: usize,
}

impl<'a> Columns<'a> {
    const fn of(row: &'a Row) -> Self {
        Self { row, next: 0 }
    }

    const fn column(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    fn text(&mut self) -> Result<String, CatalogError> {
        let column = self.column();
        self.row.text(column).map_err(|error| corrupt("decode", error))
    }

    fn optional_text(&mut self) -> Result<Option<String>, CatalogError> {
        let column = self.column();
        self.row.optional_text(column).map_err(|error| corrupt("decode", error))
    }

    fn int(&mut self) -> Result<i64, CatalogError> {
        let column = self.column();
        self.row.int(column).map_err(|error| corrupt("decode", error))
    }

    fn optional_int(&mut self) -> Result<Option<i64>, CatalogError> {
        let column = self.column();
        self.row.optional_int(column).map_err(|error| corrupt("decode", error))
    }

    fn flag(&mut self) -> Result<bool, CatalogError> {
        Ok(self.int()? != 0)
    }

    fn id<T: std::str::FromStr<Err = imn_contract::IdError>>(&mut self) -> Result<T, CatalogError> {
        self.text()?.parse().map_err(|error| corrupt("decode", error))
    }

    fn json<T: DeserializeOwned>(&mut self) -> Result<T, CatalogError> {
        from_json(&self.text()?)
    }

    fn optional_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CatalogError> {
        self.optional_text()?.as_deref().map(from_json).transpose()
    }

    fn word<T: DeserializeOwned>(&mut self) -> Result<T, CatalogError> {
        from_word(self.text()?)
    }
}

/// Cuts a list of up to `limit + 1` items to a page of `limit`.
fn page<T>(mut items: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(key) } else { None };
    Page { items, next }
}

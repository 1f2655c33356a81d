//! The results' seam.

use std::{ops::ControlFlow, path::PathBuf};

use async_trait::async_trait;
use imn_contract::{AgentId, ModuleType, TargetId};

use crate::model::{GapRow, IngestBatch, RoundRow};

/// Why a results operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The disk is full, or will be: nothing was committed.
    #[error(
        "results {operation}: the disk is full: no space left on {path}; free some or move the state directory"
    )]
    NoSpace {
        /// The operation.
        operation: &'static str,
        /// Where.
        path: String,
    },
    /// Another process has the results open.
    #[error("results in {path} are in use by another process: stop it first, or ask it")]
    InUse {
        /// Where.
        path: String,
    },
    /// The backend failed; what was to be committed may be committed or not, and is to be sent again.
    #[error("results {operation}: {message}")]
    Backend {
        /// The operation.
        operation: &'static str,
        /// What the backend says.
        message: String,
    },
}

/// What became of one batch of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is durable; the watermark of its (agent, epoch) is now this.
    Now(u64),
    /// It had been committed before; the watermark is this.
    Before(u64),
    /// It leaves a hole after the watermark, which is this; it was not committed.
    Hole(u64),
}

/// Order of a scan by due time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

/// Which rounds to read.
#[derive(Clone, Debug, Default)]
pub struct RoundQuery {
    /// Only of this target.
    pub target: Option<TargetId>,
    /// Only by this agent.
    pub agent: Option<AgentId>,
    /// Only of this type.
    pub kind: Option<ModuleType>,
    /// Due at or after this time, in microseconds since the Unix epoch.
    pub from_us: Option<i64>,
    /// Due before this time.
    pub to_us: Option<i64>,
    /// Without what only rounds of one type have: the columns of the type and `outcome` are left empty.
    pub brief: bool,
    /// At most so many.
    pub limit: Option<usize>,
    /// Order by due time, then agent, then type.
    pub order: Order,
}

/// Which gaps to read.
#[derive(Clone, Debug, Default)]
pub struct GapQuery {
    /// Only of this target.
    pub target: Option<TargetId>,
    /// Only by this agent.
    pub agent: Option<AgentId>,
    /// Whose last due is at or after this time.
    pub from_us: Option<i64>,
    /// Whose first due is before this time.
    pub to_us: Option<i64>,
    /// At most so many, oldest first.
    pub limit: Option<usize>,
}

/// A live Parquet file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// Where it is.
    pub path: PathBuf,
    /// Module type of its rounds, or `gap`.
    pub table: String,
    /// Least due time within.
    pub min_due_us: i64,
    /// Greatest due time within.
    pub max_due_us: i64,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What was measured. `(agent, target, type, due)` is unique to readers; committed means fsynced.
#[async_trait]
pub trait Results: Send + Sync {
    /// Commits batches together with their ranges; one verdict per batch, in order. When it returns `Ok`, every
    /// batch that is `Now` or `Before` is on disk.
    async fn commit(&self, batches: Vec<IngestBatch>) -> Result<Vec<Committed>, ResultsError>;
    /// The watermark of (agent, epoch); 0 when nothing of it was committed.
    async fn watermark(&self, agent: &AgentId, epoch: u64) -> Result<u64, ResultsError>;
    /// Rounds that match.
    async fn rounds(&self, query: &RoundQuery) -> Result<Vec<RoundRow>, ResultsError>;
    /// Gives the rounds that match to `visit`, ordered by type, target, due time and agent, until it breaks; memory
    /// stays bounded however many there are. `order` is not looked at.
    async fn scan(
        &self,
        query: &RoundQuery,
        visit: &mut (dyn FnMut(RoundRow) -> ControlFlow<()> + Send),
    ) -> Result<(), ResultsError>;
    /// Gaps that match.
    async fn gaps(&self, query: &GapQuery) -> Result<Vec<GapRow>, ResultsError>;
    /// Moves what is due from the log to Parquet, merges small files, drops what retention has ended. Idempotent;
    /// called about every ten seconds.
    async fn maintain(&self, now_us: i64) -> Result<(), ResultsError>;
    /// Moves everything committed to Parquet now.
    async fn compact(&self) -> Result<(), ResultsError>;
    /// The live files that hold rounds due in `[from_us, to_us)`; what is not yet in a file is not listed.
    async fn files(&self, from_us: i64, to_us: i64) -> Result<Vec<SegmentFile>, ResultsError>;
}

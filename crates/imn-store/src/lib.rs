//! Catalog and results: two seams and their backends.
//!
//! The catalog holds what people and the server decide: targets, tiers, agents, assignments, jobs, keys. Results hold
//! what was measured. Each seam is a trait with one conformance suite (`tests/catalog_conformance.rs`,
//! `tests/results_conformance.rs`) that every backend passes.
//!
//! | seam | backend | where |
//! |---|---|---|
//! | [`Catalog`] | [`SqlCatalog`] | SQLite or PostgreSQL, by one SQL text |
//! | [`Results`] | [`EmbeddedResults`] | a directory: commit log, memory, sorted Parquet under a manifest in the catalog |
//!
//! The columns of the built-in types are declared in `column`, once for every backend.
//!
//! Deliberately absent: tasks (the server's reconcilers call [`Results::maintain`]; what blocks runs on tokio's
//! blocking threads and ends by itself), clocks (times are arguments), NATS, HTTP, and aggregation of rounds.

mod catalog;
mod column;
mod embedded;
mod model;
mod results;
mod sql;
mod sql_catalog;

pub use catalog::{Catalog, CatalogError};
pub use column::{Column, ColumnType, Columns, columns, typed};
pub use embedded::{EmbeddedConfig, EmbeddedResults};
pub use model::{
    ApiKey, AssignmentRow, AuditEntry, Credential, EnrollmentToken, GapRow, IngestBatch, Job, NewJob, Page,
    RoundRow, StateChange, TaskRow, TaskTransition,
};
pub use results::{Committed, GapQuery, Order, Results, ResultsError, RoundQuery, SegmentFile};
pub use sql_catalog::SqlCatalog;

//! Catalog and results: two seams and their backends.
//!
//! The catalog holds what people and the server decide: targets, tiers, agents, assignments, jobs, keys. Results hold
//! what was measured. Each seam is a trait with one conformance suite that every backend passes. A store owns no
//! task: the server's reconcilers call its maintenance.

mod catalog;
mod embedded;
mod model;
mod results;
mod sql;
mod sql_catalog;

pub use catalog::{Catalog, CatalogError};
pub use embedded::{EmbeddedConfig, EmbeddedResults};
pub use model::{
    ApiKey, AssignmentRow, AuditEntry, GapRow, IngestBatch, Job, NewJob, Page, RoundRow, StateChange,
    TaskRow, TaskTransition,
};
pub use results::{Committed, GapQuery, Order, Results, ResultsError, RoundQuery, SegmentFile};
pub use sql_catalog::SqlCatalog;

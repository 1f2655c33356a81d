//! Pure decisions: targets, tiers, assignment, consensus, job states, filters.
//!
//! Deliberately absent: tokio, I/O and the clock. Whatever depends on time takes `now` as an argument, in
//! microseconds since the Unix epoch, so that every decision is tested from golden files.

mod agent;
mod consensus;
mod duration;
mod field;
mod filter;
mod history;
mod job;
mod monitor;
mod seed;
mod target;
mod tier;

pub use agent::{Agent, Liveness};
pub use consensus::{Consensus, Vote, consensus};
pub use duration::{format_duration, parse_duration};
pub use field::FieldError;
pub use filter::{FieldValue, Fields, Filter, FilterError, OrderBy, Schema};
pub use history::{Bucket, History, Sample};
pub use job::{Candidate, Verdict, check_submit, job_state, may_follow, select, verdict};
pub use monitor::{Finding, Monitor, Transition};
pub use seed::seeded_tiers;
pub use target::{MonitoringState, NewTarget, Target, TargetKind, canonical_address, check_tags};
pub use tier::{AgentSelection, AlertSeverity, Diversity, ExpectedOutcome, Probe, Strategy, Tier};

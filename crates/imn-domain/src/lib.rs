//! Pure decisions: targets, tiers, assignment, consensus, job states, filters.
//!
//! Deliberately absent: tokio, I/O and the clock. Whatever depends on time takes `now` as an argument, in
//! microseconds since the Unix epoch, so that every decision is tested from golden files.

mod address;
mod agent;
mod assign;
pub mod bgp;
mod consensus;
mod csv;
mod filter;
mod job;
mod monitor;
mod scrape;
mod seed;
mod target;
mod tier;

pub use address::{AddressError, canonical, classify};
pub use agent::{Agent, Liveness};
pub use assign::{Choice, Reason, Room, Selector, Unmet, Vantage, explain};
pub use consensus::{Consensus, Vote, consensus};
pub use csv::CsvRecords;
pub use filter::{FieldValue, Fields, Filter, FilterError, LiteralError, Sort};
pub use job::{Candidate, Verdict, check_submit, job_state, may_follow, select, verdict};
pub use monitor::{Finding, Monitor, Transition};
pub use scrape::{Scrape, ScrapeModule, ScrapeModules, ScrapeRequest};
pub use seed::seeded_tiers;
pub use target::{MonitoringState, Target, TargetKind};
pub use tier::{AgentSelection, AlertSeverity, Diversity, ExpectedOutcome, Probe, Strategy, Tier};

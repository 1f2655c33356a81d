//! The control plane: registry, assignment, ingest, jobs, live views and the HTTP API.
//!
//! One server holds the catalog and the results, both behind their seams, and meets agents and modules over NATS
//! alone. Its work is done by reconcilers that may be stopped at any point and begin again from what is stored:
//! streams, assignments, ingest, jobs, the registry of modules.
//!
//! Deliberately absent: the measurement engines, files of the agents, and decisions, which are `imn-domain`'s.

mod api;
mod artifact;
mod assign;
mod bgp;
mod clock;
mod config;
mod context;
mod error;
mod ingest;
mod jobs;
mod keys;
mod live;
mod logs;
mod metrics;
mod params;
mod readiness;
mod registry;
mod server;
mod status;
mod streams;

pub use api::{AdmitError, Minted, Role, admit, fresh_token, is_token, mint, openapi};
pub use config::{Config, KnownKey, StreamBytes};
pub use error::Error;
pub use server::{Running, Server};

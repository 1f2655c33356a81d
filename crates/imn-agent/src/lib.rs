//! The process at a vantage point: supervises modules, routes jobs, syncs assignments.
//!
//! An [`Agent`] starts module processes and re-adopts those that outlived the agent before it, hands each its standing
//! work as a file, takes jobs from the durable queue only as far as its instances have free slots, tells how it is
//! every two seconds, and serves `agent.{id}.in` and a listener of its own without any server. What the registry has
//! published for it is fetched, verified and run like what lies in its directory.
//!
//! Deliberately absent: measuring. The agent never links a module or an engine, they meet in `imn-contract` over
//! NATS; it opens a spool only when the instance that filled it is gone. It decides no verdict of a queued job
//! either: that is the server's, by compare-and-set.

mod agent;
mod assignment;
mod config;
pub mod conformance;
mod error;
mod heartbeat;
mod http;
mod job;
mod listen;
mod metrics;
mod output;
mod registry;
mod renew;
mod roster;
mod scrape;
mod simple;
mod supervise;

pub use agent::Agent;
pub use config::{BuiltIn, Config, Environment, Hang, Identity, ModuleCredentials, Restart, Rollout};
pub use error::{Error, Result};
pub use renew::Renewal;
pub use scrape::Scraping;

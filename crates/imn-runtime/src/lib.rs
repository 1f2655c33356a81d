//! What every process of the network needs: NATS, tasks, drain, spool, configuration, telemetry.
//!
//! Deliberately absent: what any one process is for. There is no agent, server or module in here, no domain rule
//! and no message that is not in the contract.

pub mod clock;
pub mod config;
pub mod credential;
pub mod file;
pub mod http;
pub mod nats;
pub mod nats_server;
pub mod process;
pub mod spool;
pub mod task;
pub mod telemetry;
pub mod tls;

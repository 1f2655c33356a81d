//! The server's core against a real nats-server, a real catalog and real results; agents and modules are played by
//! plain NATS clients.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

#[path = "core/assign.rs"]
mod assign;
#[path = "core/bench.rs"]
mod bench;
#[path = "core/ingest.rs"]
mod ingest;
#[path = "core/jobs.rs"]
mod jobs;
#[path = "core/load.rs"]
mod load;

//! Outcome of `heartbeat`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Outcome of `heartbeat`: health of the vantage point's host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostOutcome {
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory in all, in bytes.
    pub memory_total: u64,
    /// Memory available, in bytes.
    pub memory_available: u64,
    /// Seconds since the host booted.
    pub uptime_s: f64,
    /// Clock offset by adjtimex, in microseconds; absent when not synchronized.
    pub clock_offset_us: Option<f64>,
    /// Whether the kernel calls its clock synchronized.
    pub clock_synced: bool,
}

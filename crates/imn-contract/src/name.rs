//! Names and hashes on which every process must agree.

use xxhash_rust::xxh3::xxh3_64;

use crate::id::{ModuleType, TargetId};

/// The canonical name of a module type: aliases such as `ping` or `tcping` become `icmp` and `tcp`; any other name
/// stands for itself.
pub fn canonical_type(name: &str) -> &str {
    match name {
        "ping" | "latency-ping" | "icmp_ping" => "icmp",
        "tcping" | "tcp_connect" => "tcp",
        "mtr" | "traceroute" => "trace",
        "dns-lookup" => "dns",
        "http-probe" => "http",
        other => other,
    }
}

/// The offset of a target's rounds within the interval, in microseconds, so that rounds spread evenly.
///
/// A round of (target, type) is due at every `t` since the Unix epoch with `t mod interval = phase`. Both the
/// module, which makes the rounds, and the server, which expects them, use this function; it must never change.
pub fn phase_us(target: &TargetId, module: &ModuleType, interval_us: u64) -> u64 {
    let mut key = Vec::with_capacity(target.as_str().len() + module.as_str().len() + 1);
    key.extend_from_slice(target.as_str().as_bytes());
    key.push(b'/');
    key.extend_from_slice(module.as_str().as_bytes());
    xxh3_64(&key).checked_rem(interval_us).unwrap_or(0)
}

/// The ingest partition of a target among `partitions` of them.
pub fn partition(target: &TargetId, partitions: u32) -> u32 {
    (xxh3_64(target.as_str().as_bytes()) % u64::from(partitions.max(1))) as u32
}

/// The assignment shard of a target among `shards` of them.
pub fn shard(target: &TargetId, shards: u32) -> u32 {
    partition(target, shards)
}

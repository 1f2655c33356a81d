use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Head, Typed};
use crate::v1::TimestampSource;

/// Outcome of `bgp`: the updates of a prefix from one source over a time, passively observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BgpOutcome {
    /// The prefix as it was named.
    pub target: String,
    /// Where the updates come from: `mrt:FILE`, `ris-live:URL` or `bmp:ADDRESS:PORT`.
    pub source: String,
    /// Which prefixes are meant: `exact`, `more_specific` (the prefix and those within it), `covering` or `any`.
    #[serde(rename = "match")]
    pub how: String,
    /// When the first update was received by its collector, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// When the last one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Announcements; entries of tables are not counted here.
    pub announcements: u64,
    /// Withdrawals.
    pub withdrawals: u64,
    /// Entries of tables.
    #[serde(default)]
    pub snapshots: u64,
    /// Different prefixes in the updates.
    pub prefixes: u64,
    /// Different peers in the updates.
    pub peers: u64,
    /// The origins announced, the most frequent first, at most 32.
    pub origins: Vec<BgpOrigin>,
    /// The paths announced, the most frequent first, at most 32.
    pub paths: Vec<BgpPath>,
    /// The updates, in the order in which they were received.
    pub updates: Vec<BgpUpdate>,
    /// Updates that are counted above and not listed, because there were more than are carried.
    #[serde(default)]
    pub updates_omitted: u64,
    /// Sessions that came or went: a peer's routes are gone with its session, which is no withdrawal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<BgpSession>,
    /// What could not be read, by code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<String, u64>,
    /// Records of a file, or messages with updates of a live source, that were read.
    pub records: u64,
    /// How long the source was not connected, in milliseconds: what happened then is not known.
    pub down_ms: u64,
    /// Where the timestamps come from: the collector's user space, always.
    pub timestamp_source: TimestampSource,
    /// Resolution of the collector's timestamps, in microseconds; the error of its clock is not known.
    pub error_us: f64,
    /// How long the source was followed, in milliseconds; 0 for a file, which is read to its end.
    pub tmax_ms: u64,
    /// Why nothing, or not all, was read.
    #[serde(default)]
    pub error: Option<String>,
}

/// One prefix announced or withdrawn by one peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BgpUpdate {
    /// When the collector received it; of an entry of a table, when the table was written. RFC 3339 UTC.
    pub timestamp: String,
    /// The prefix.
    pub prefix: String,
    /// `A` for an announcement, `W` for a withdrawal.
    #[serde(rename = "type")]
    pub kind: String,
    /// The peer's AS number.
    pub peer_asn: u32,
    /// The peer's address.
    pub peer_address: String,
    /// The AS that originates the route; null for a withdrawal, and where the path does not name exactly one.
    pub origin_asn: Option<u32>,
    /// The ASes of the set that ends the path, where it is one of several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origin_set: Vec<u32>,
    /// The path, nearest AS first: sets in braces, confederations in brackets; null for a withdrawal.
    pub as_path: Option<String>,
    /// The next hop.
    pub next_hop: Option<String>,
    /// Communities: `64500:1`, large `64500:1:2`, extended `rt:64500:1`, well-known by name.
    pub communities: Vec<String>,
    /// Who collected it: the file, the route collector or the monitored router.
    pub collector: String,
    /// Path identifier (RFC 7911), where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// Whether it is an entry of a table, not a message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub snapshot: bool,
}

/// An origin, and how often it was announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BgpOrigin {
    /// The AS.
    pub asn: u32,
    /// Announcements and entries of tables.
    pub count: u64,
}

/// A path, and how often it was announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BgpPath {
    /// The path.
    pub as_path: String,
    /// Announcements and entries of tables.
    pub count: u64,
}

/// A session that came or went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BgpSession {
    /// When, RFC 3339 UTC.
    pub timestamp: String,
    /// The collector.
    pub collector: String,
    /// The peer's address; absent for the connection to the collector itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<String>,
    /// Whether it is up.
    pub up: bool,
    /// Why it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Typed for BgpOutcome {
    fn unmeasured(target: &str, tmax_ms: u64, error: String) -> Self {
        Self { target: target.to_owned(), tmax_ms, error: Some(error), ..Self::default() }
    }

    /// The one thing sent is the question put to the source; it is answered when the source was there all the time.
    fn head(&self) -> Head<'_> {
        let success = self.error.is_none();
        Head {
            target: &self.target,
            address: Some(&self.target),
            time: self.time.as_deref(),
            success,
            sent: 1,
            received: success.into(),
            unknown: (!success).into(),
            duplicates: 0,
            latencies_ms: &[],
            timestamp_source: self.timestamp_source,
            error_us: self.error_us,
            tmax_ms: self.tmax_ms,
            error: self.error.as_deref(),
        }
    }
}

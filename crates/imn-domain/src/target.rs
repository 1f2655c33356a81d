//! Targets of continuous measurement.

use std::collections::BTreeMap;

use imn_contract::TargetId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::tier::ExpectedOutcome;

/// What a target's address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// An IPv4 or IPv6 address.
    Ip,
    /// A DNS name.
    Host,
    /// An http or https URL.
    Url,
    /// A routing prefix.
    Prefix,
    /// A DNS resolver's address.
    Resolver,
}

/// How a target is doing, by the consensus of its agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitoringState {
    /// Never answered yet.
    #[default]
    Unknown,
    /// Reachable.
    Active,
    /// Loss or anomalies in most recent rounds.
    Degraded,
    /// Answered before, unreachable now.
    Down,
    /// Down for a day; needs review.
    Excluded,
    /// Never had a baseline, silent; does not alert.
    Unresponsive,
    /// Verified, probed hourly, not alerting.
    Standby,
    /// Switched off by a user.
    Inactive,
}

/// An address, name, URL, resolver or prefix under continuous measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Identifier.
    pub id: TargetId,
    /// What the address is.
    pub kind: TargetKind,
    /// The address in canonical text; unique among targets.
    pub address: String,
    /// Name for people.
    pub display_name: Option<String>,
    /// Name of its tier.
    pub tier: String,
    /// Free tags.
    pub tags: BTreeMap<String, String>,
    /// Parameters that override those of the tier's probes.
    pub params: Map<String, Value>,
    /// What is expected of it; absent: what its tier expects.
    pub expected_outcome: Option<ExpectedOutcome>,
    /// How it is doing.
    pub monitoring_state: MonitoringState,
    /// Why, in words.
    pub state_reason: Option<String>,
    /// Since when, in microseconds since the Unix epoch.
    pub state_since_us: i64,
    /// When it was made.
    pub created_us: i64,
    /// When it was last changed by a user.
    pub updated_us: i64,
    /// Counts changes by users, from 1; its ETag.
    pub revision: u64,
}

//! Targets of continuous measurement.

use std::collections::BTreeMap;

use imn_contract::TargetId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    filter::{FieldValue, Fields, LiteralError},
    tier::ExpectedOutcome,
};

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

impl TargetKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Ip, Self::Host, Self::Url, Self::Prefix, Self::Resolver];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Host => "host",
            Self::Url => "url",
            Self::Prefix => "prefix",
            Self::Resolver => "resolver",
        }
    }
}

impl MonitoringState {
    /// All states.
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Active,
        Self::Degraded,
        Self::Down,
        Self::Excluded,
        Self::Unresponsive,
        Self::Standby,
        Self::Inactive,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Excluded => "excluded",
            Self::Unresponsive => "unresponsive",
            Self::Standby => "standby",
            Self::Inactive => "inactive",
        }
    }
}

impl Fields for Target {
    fn literal(path: &[String], text: &str) -> Result<FieldValue, LiteralError> {
        let one_of = |names: Vec<&str>| {
            if names.contains(&text) {
                Ok(())
            } else {
                Err(LiteralError::Value(format!("{text:?} is none of {}", names.join(", "))))
            }
        };
        match names(path).as_slice() {
            ["kind"] => one_of(TargetKind::ALL.map(TargetKind::as_str).to_vec())?,
            ["monitoring_state"] => one_of(MonitoringState::ALL.map(MonitoringState::as_str).to_vec())?,
            ["id" | "address" | "display_name" | "tier" | "state_reason"] | ["tags", _] => {}
            _ => return Err(LiteralError::UnknownField),
        }
        Ok(FieldValue::Text(text.to_owned()))
    }

    fn value(&self, path: &[String]) -> Option<FieldValue> {
        let text = match names(path).as_slice() {
            ["id"] => self.id.as_str(),
            ["kind"] => self.kind.as_str(),
            ["address"] => &self.address,
            ["display_name"] => self.display_name.as_deref()?,
            ["tier"] => &self.tier,
            ["tags", tag] => self.tags.get(*tag)?,
            ["monitoring_state"] => self.monitoring_state.as_str(),
            ["state_reason"] => self.state_reason.as_deref()?,
            ["state_since"] => return Some(FieldValue::Number(self.state_since_us as f64)),
            ["created"] => return Some(FieldValue::Number(self.created_us as f64)),
            ["updated"] => return Some(FieldValue::Number(self.updated_us as f64)),
            _ => return None,
        };
        Some(FieldValue::Text(text.to_owned()))
    }

    fn is_sortable(path: &[String]) -> bool {
        const SORTABLE: [&str; 9] = [
            "id",
            "kind",
            "address",
            "display_name",
            "tier",
            "monitoring_state",
            "state_since",
            "created",
            "updated",
        ];
        match names(path).as_slice() {
            [field] => SORTABLE.contains(field),
            ["tags", _] => true,
            _ => false,
        }
    }
}

fn names(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
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

//! Agents as the control plane knows them.

use std::collections::BTreeMap;

use imn_contract::{AgentId, latest::Heartbeat};
use serde::{Deserialize, Serialize};

/// Silence after which an agent counts as degraded, in microseconds.
const DEGRADED_AFTER_US: i64 = 30_000_000;
/// Silence after which an agent counts as offline, in microseconds.
const OFFLINE_AFTER_US: i64 = 60_000_000;

/// How an agent is doing, by its heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// At work.
    Active,
    /// Silent for 30 s, or saying so itself.
    Degraded,
    /// Silent for 60 s.
    Offline,
}

/// A vantage point's agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Identifier.
    pub id: AgentId,
    /// Name for people.
    pub name: Option<String>,
    /// Coarse place.
    pub region: Option<String>,
    /// Fine place.
    pub location: Option<String>,
    /// Network or cloud.
    pub provider: Option<String>,
    /// Free tags.
    pub tags: BTreeMap<String, String>,
    /// Address as seen from outside.
    pub public_ip: Option<String>,
    /// Most targets that it may be given; absent: no limit.
    pub max_targets: Option<u64>,
    /// When it was first heard of, in microseconds since the Unix epoch.
    pub first_seen_us: i64,
    /// When it was last heard of, by the server's clock.
    pub last_heartbeat_us: i64,
    /// Its last heartbeat.
    pub heartbeat: Option<Heartbeat>,
}

impl Agent {
    /// How it is doing at `now_us`.
    pub fn liveness(&self, now_us: i64) -> Liveness {
        self.liveness_since(i64::MIN, now_us)
    }

    /// The same for somebody who could not hear it before `listening_us`.
    pub fn liveness_since(&self, listening_us: i64, now_us: i64) -> Liveness {
        use imn_contract::latest::AgentStatus;
        let silent = now_us.saturating_sub(self.last_heartbeat_us.max(listening_us));
        let says_degraded = self.heartbeat.as_ref().is_some_and(|h| h.status != AgentStatus::Active);
        match silent {
            s if s >= OFFLINE_AFTER_US => Liveness::Offline,
            s if s >= DEGRADED_AFTER_US || says_degraded => Liveness::Degraded,
            _ => Liveness::Active,
        }
    }
}

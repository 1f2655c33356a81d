//! Tiers: the policy of a set of targets.

use std::collections::BTreeMap;

use imn_contract::{ModuleType, canonical_type};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::target::TargetKind::{self, Host, Ip, Prefix, Resolver, Url};

/// The built-in types and the kinds of targets that each measures.
const BUILT_IN: [(&str, &[TargetKind]); 10] = [
    ("icmp", &[Ip, Host]),
    ("tcp", &[Ip, Host]),
    ("http", &[Ip, Host, Url]),
    // A URL is a resolver that speaks DNS over HTTPS.
    ("dns", &[Ip, Host, Resolver, Url]),
    ("trace", &[Ip, Host]),
    ("stamp", &[Ip, Host]),
    ("bgp", &[Prefix]),
    ("echo", &TargetKind::ALL),
    ("faulty", &TargetKind::ALL),
    ("heartbeat", &TargetKind::ALL),
];

/// One measurement that a tier makes of each of its targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Module type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// Parameters of the type.
    #[serde(default)]
    pub params: Map<String, Value>,
}

impl Probe {
    /// The kinds of targets that it can measure; `None` when its type is not built in, so that only its module knows.
    pub fn measures(&self) -> Option<&'static [TargetKind]> {
        BUILT_IN.iter().find(|(name, _)| *name == self.kind.as_str()).map(|(_, kinds)| *kinds)
    }

    /// Whether it may measure targets of this kind.
    pub fn may_measure(&self, kind: TargetKind) -> bool {
        self.measures().is_none_or(|kinds| kinds.contains(&kind))
    }

    /// The built-in types that measure targets of this kind, without those that measure nothing of it.
    pub fn types_for(kind: TargetKind) -> impl Iterator<Item = &'static str> {
        let of_kind = BUILT_IN.iter().filter(move |(_, kinds)| kinds.contains(&kind));
        of_kind.filter(|(_, kinds)| kinds.len() < TargetKind::ALL.len()).map(|(name, _)| *name)
    }
}

impl Tier {
    /// The parameters by which a probe of this tier measures a target: the probe's, and over them the target's own. An
    /// object under the name of a probe's type holds parameters of that probe alone, as in `{"tcp": {"port": 443}}`.
    pub fn params(&self, probe: &Probe, own: &Map<String, Value>) -> Map<String, Value> {
        let mut params = probe.params.clone();
        let of_type =
            |name: &str| self.probes.iter().any(|probe| probe.kind.as_str() == canonical_type(name));
        for (name, value) in own {
            match value {
                Value::Object(of_one) if of_type(name) => {
                    if canonical_type(name) == probe.kind.as_str() {
                        params.extend(of_one.clone());
                    }
                }
                value => drop(params.insert(name.clone(), value.clone())),
            }
        }
        if self.probe_retries > 0 && probe.kind.as_str() == "icmp" {
            params.entry("retries").or_insert(self.probe_retries.into());
        }
        params
    }
}

/// How agents are chosen for a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Every agent that fits.
    #[default]
    All,
    /// `count` of those that fit, spread evenly over all targets.
    Distributed,
}

/// Least spread of the chosen agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diversity {
    /// Different regions at least.
    #[serde(default)]
    pub min_regions: u32,
    /// Different providers at least.
    #[serde(default)]
    pub min_providers: u32,
}

/// Which agents measure a tier's targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSelection {
    /// All of them, or some.
    #[serde(default)]
    pub strategy: Strategy,
    /// How many, for `distributed`; fewer if fewer fit.
    #[serde(default)]
    pub count: Option<u32>,
    /// Only agents in these regions; empty: all.
    #[serde(default)]
    pub regions: Vec<String>,
    /// No agents in these regions.
    #[serde(default)]
    pub exclude_regions: Vec<String>,
    /// Only agents of these providers; empty: all.
    #[serde(default)]
    pub providers: Vec<String>,
    /// Only agents that carry all of these tags.
    #[serde(default)]
    pub require_tags: BTreeMap<String, String>,
    /// No agents that carry any of these tags.
    #[serde(default)]
    pub exclude_tags: BTreeMap<String, String>,
    /// Least spread.
    #[serde(default)]
    pub diversity: Diversity,
}

/// How bad it is when the expectation fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertSeverity {
    /// Worth knowing.
    Info,
    /// Worth a look.
    #[default]
    Warning,
    /// Worth waking somebody.
    Critical,
}

/// What is expected of a target: an expected failure raises its alarm on success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedOutcome {
    /// Whether the measurement should succeed.
    pub should_succeed: bool,
    /// How bad it is otherwise.
    #[serde(default)]
    pub alert_severity: AlertSeverity,
    /// What the alert says.
    #[serde(default)]
    pub alert_message: Option<String>,
}

/// The policy of a set of targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tier {
    /// Identifier, unique.
    pub name: String,
    /// Name for people.
    pub display_name: Option<String>,
    /// Measurements made of each target, at least one.
    pub probes: Vec<Probe>,
    /// Time between rounds, in milliseconds.
    pub probe_interval_ms: u64,
    /// Tmax of each packet, in milliseconds.
    pub probe_timeout_ms: u64,
    /// Confirmations with a fresh identifier before a target counts as lost.
    pub probe_retries: u32,
    /// Packets per round.
    pub count: u32,
    /// Which agents measure.
    pub agent_selection: AgentSelection,
    /// What is expected of targets that say nothing themselves.
    pub default_expected_outcome: Option<ExpectedOutcome>,
    /// When it was made, in microseconds since the Unix epoch.
    pub created_us: i64,
    /// When it was last changed.
    pub updated_us: i64,
    /// Counts changes, from 1; its ETag.
    pub revision: u64,
}

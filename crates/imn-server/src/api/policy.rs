//! What tiers and targets say alike in the API: expectations and the choice of agents.

use std::collections::BTreeMap;

use imn_domain as domain;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::FieldError;

/// How agents are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Strategy {
    /// Every agent that fits.
    #[default]
    All,
    /// `count` of those that fit, spread evenly over all targets.
    Distributed,
}

/// How bad it is when the expectation fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a look.
    #[default]
    Warning,
    /// Worth waking somebody.
    Critical,
}

/// Least spread of the chosen agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Diversity {
    /// Different regions at least.
    pub(crate) min_regions: u32,
    /// Different providers at least.
    pub(crate) min_providers: u32,
}

/// Which agents measure a tier's targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AgentSelection {
    /// All of them, or some.
    pub(crate) strategy: Strategy,
    /// How many, for `distributed`; fewer if fewer fit.
    #[schema(minimum = 1)]
    pub(crate) count: Option<u32>,
    /// Only agents in these regions; empty: all.
    pub(crate) regions: Vec<String>,
    /// No agents in these regions.
    pub(crate) exclude_regions: Vec<String>,
    /// Only agents of these providers; empty: all.
    pub(crate) providers: Vec<String>,
    /// Only agents that carry all of these tags.
    pub(crate) require_tags: BTreeMap<String, String>,
    /// No agents that carry any of these tags.
    pub(crate) exclude_tags: BTreeMap<String, String>,
    /// Least spread.
    pub(crate) diversity: Diversity,
}

/// What is expected of a target: an expected failure raises its alarm on success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedOutcome {
    /// Whether the measurement should succeed.
    pub(crate) should_succeed: bool,
    /// How bad it is otherwise.
    #[serde(default)]
    pub(crate) alert_severity: Severity,
    /// What the alert says.
    #[serde(default)]
    pub(crate) alert_message: Option<String>,
}

impl AgentSelection {
    /// The domain's form; what is wrong goes to `errors`.
    pub(crate) fn into_domain(self, at: &str, errors: &mut Vec<FieldError>) -> domain::AgentSelection {
        let field = |name: &str| format!("{at}.{name}");
        match (self.strategy, self.count) {
            (_, Some(0)) => errors.push(FieldError::new(field("count"), "must be at least 1")),
            (Strategy::Distributed, None) => {
                errors.push(FieldError::new(field("count"), "strategy \"distributed\" needs a count"));
            }
            (Strategy::All, Some(_)) => {
                errors.push(FieldError::new(field("count"), "strategy \"all\" takes no count"));
            }
            _ => {}
        }
        if let Some(region) = self.regions.iter().find(|region| self.exclude_regions.contains(region)) {
            let message = format!("{region:?} is both required and excluded: no agent would fit");
            errors.push(FieldError::new(field("exclude_regions"), message));
        }
        domain::AgentSelection {
            strategy: match self.strategy {
                Strategy::All => domain::Strategy::All,
                Strategy::Distributed => domain::Strategy::Distributed,
            },
            count: self.count,
            regions: self.regions,
            exclude_regions: self.exclude_regions,
            providers: self.providers,
            require_tags: self.require_tags,
            exclude_tags: self.exclude_tags,
            diversity: domain::Diversity {
                min_regions: self.diversity.min_regions,
                min_providers: self.diversity.min_providers,
            },
        }
    }
}

impl From<domain::AgentSelection> for AgentSelection {
    fn from(selection: domain::AgentSelection) -> Self {
        Self {
            strategy: match selection.strategy {
                domain::Strategy::All => Strategy::All,
                domain::Strategy::Distributed => Strategy::Distributed,
            },
            count: selection.count,
            regions: selection.regions,
            exclude_regions: selection.exclude_regions,
            providers: selection.providers,
            require_tags: selection.require_tags,
            exclude_tags: selection.exclude_tags,
            diversity: Diversity {
                min_regions: selection.diversity.min_regions,
                min_providers: selection.diversity.min_providers,
            },
        }
    }
}

impl From<ExpectedOutcome> for domain::ExpectedOutcome {
    fn from(expected: ExpectedOutcome) -> Self {
        Self {
            should_succeed: expected.should_succeed,
            alert_severity: match expected.alert_severity {
                Severity::Info => domain::AlertSeverity::Info,
                Severity::Warning => domain::AlertSeverity::Warning,
                Severity::Critical => domain::AlertSeverity::Critical,
            },
            alert_message: expected.alert_message,
        }
    }
}

impl From<domain::ExpectedOutcome> for ExpectedOutcome {
    fn from(expected: domain::ExpectedOutcome) -> Self {
        Self {
            should_succeed: expected.should_succeed,
            alert_severity: match expected.alert_severity {
                domain::AlertSeverity::Info => Severity::Info,
                domain::AlertSeverity::Warning => Severity::Warning,
                domain::AlertSeverity::Critical => Severity::Critical,
            },
            alert_message: expected.alert_message,
        }
    }
}

//! Why nobody measures a target, or fewer than its tier demands.

use imn_contract::{AgentId, ModuleType, latest::ModuleState};
use imn_domain::{Liveness, MonitoringState, Reason, Target, Unmet};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, text};
use crate::{assign::Standing, registry::Instance, status::PairStatus};

/// Agents named at most.
const MOST_AGENTS: usize = 100;

/// A demand of its tier that is not met for a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Unmeasured {
    /// Module type; null where it concerns every one.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// What is missing, in words.
    pub(crate) reason: String,
    /// Agents that it is about, and why each does not measure; the first 100.
    pub(crate) agents: Vec<Hindered>,
}

/// An agent that does not measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Hindered {
    /// The agent.
    pub(crate) agent: String,
    /// Why, in words.
    pub(crate) why: String,
}

/// What keeps a target, of which these are the latest rounds, from being measured as its tier demands.
pub(crate) fn unmeasured(api: &Api, target: &Target, rounds: &[PairStatus], now_us: i64) -> Vec<Unmeasured> {
    let whole = |reason: String| vec![Unmeasured { kind: None, reason, agents: Vec::new() }];
    if target.monitoring_state == MonitoringState::Inactive {
        return whole("switched off by a user; monitoring_state `active` switches it on".to_owned());
    }
    let Some(standings) = api.context.assign.explain(&target.id) else {
        return whole("it was added or switched on just now, and is not assigned yet".to_owned());
    };
    if standings.is_empty() {
        let kind = target.kind.as_str();
        return whole(format!("no probe of the tier {:?} measures targets of kind {kind}", target.tier));
    }
    let mut found = Vec::new();
    for Standing { kind, reasons, unmet } in standings {
        let entry = |reason: String, agents: Vec<Hindered>| Unmeasured {
            kind: Some(kind.to_string()),
            reason,
            agents: agents.into_iter().take(MOST_AGENTS).collect(),
        };
        let others = || reasons.iter().filter(|reason| !reason.chosen).map(Hindered::from).collect();
        for demand in unmet {
            found.push(match demand {
                Unmet::NoAgent if reasons.is_empty() => {
                    entry("no agent is known: start one with `imn agent`".to_owned(), Vec::new())
                }
                Unmet::NoAgent | Unmet::Full => entry(demand.to_string(), others()),
                Unmet::Regions { .. } | Unmet::Providers { .. } => entry(demand.to_string(), Vec::new()),
            });
        }
        let of = |agent: &AgentId| rounds.iter().find(|round| round.agent == *agent && round.kind == kind);
        let chosen: Vec<&AgentId> = reasons.iter().filter(|r| r.chosen).map(|r| &r.agent).collect();
        let measured = chosen.iter().any(|agent| of(agent).is_some_and(|round| round.fresh));
        if !chosen.is_empty() && !measured {
            let hindered = |agent: &&AgentId| Hindered {
                agent: agent.to_string(),
                why: hindrance(api, agent, &kind, of(agent), now_us),
            };
            let agents = chosen.iter().map(hindered).collect();
            found.push(entry(
                "none of the agents that are to measure it has told of a round lately".to_owned(),
                agents,
            ));
        }
    }
    found
}

/// Why an agent that is to measure does not, as far as it is known.
fn hindrance(
    api: &Api,
    agent: &AgentId,
    kind: &ModuleType,
    last: Option<&PairStatus>,
    now_us: i64,
) -> String {
    let registry = &api.context.registry;
    let Some(view) = registry.agent(agent, now_us) else { return "it is not known any more".to_owned() };
    if view.liveness == Liveness::Offline {
        return format!("offline; last heard of at {}", text::time(view.agent.last_heartbeat_us));
    }
    let instances: Vec<Instance> =
        registry.instances_of(agent, now_us).into_iter().filter(|i| i.kind == *kind).collect();
    let works = |i: &&Instance| matches!(i.state, ModuleState::Ready | ModuleState::Saturated);
    match (instances.iter().find(works), instances.first(), last) {
        (None, None, _) => format!("it runs no module of type {kind}"),
        (None, Some(idle), _) => {
            let reason = idle.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
            format!("{} is {}{reason}", idle.instance, idle.state.name())
        }
        (Some(_), _, Some(last)) => format!("its last round was due at {}", text::time(last.due_us)),
        (Some(_), _, None) => "its first round has not come yet".to_owned(),
    }
}

impl From<&Reason> for Hindered {
    fn from(reason: &Reason) -> Self {
        Self { agent: reason.agent.to_string(), why: reason.why.clone() }
    }
}

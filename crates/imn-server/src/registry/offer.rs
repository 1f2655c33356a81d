//! What the agents offer for jobs of one type, looked at in place: nothing is copied for a submission.

use std::collections::HashMap;

use imn_contract::{AgentId, ModuleType, latest::ModuleState};
use imn_domain::{Agent, Liveness};
use serde_json::Value;

use super::{Instance, Registry, state_at};

/// What the instances of one agent that take jobs offer together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Offer {
    pub(crate) slots: u32,
    pub(crate) inflight: u32,
    /// Mean service time, in milliseconds.
    pub(crate) service_ms: f64,
}

/// An agent that may be chosen for a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vantage<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) online: bool,
    pub(crate) offer: Offer,
}

impl Registry {
    /// Looks at all agents, by id, and what each offers for a type.
    pub(crate) fn offering<T>(
        &self,
        kind: &ModuleType,
        now_us: i64,
        look: impl FnOnce(&[Vantage<'_>]) -> T,
    ) -> T {
        let state = self.read();
        let mut offers: HashMap<&AgentId, Offer> = HashMap::new();
        for instance in state.instances.values().filter(|i| i.kind == *kind && takes_jobs(i, now_us)) {
            let offer = offers.entry(&instance.agent).or_default();
            offer.slots += instance.slots;
            offer.inflight += instance.inflight;
            offer.service_ms = offer.service_ms.max(instance.health.as_ref().map_or(0.0, |h| h.ewma_ms));
        }
        let vantages: Vec<Vantage<'_>> = state
            .agents
            .values()
            .map(|entry| Vantage {
                agent: &entry.agent,
                online: super::liveness(entry, state.listening_since_us, now_us) != Liveness::Offline,
                offer: offers.get(&entry.agent.id).copied().unwrap_or_default(),
            })
            .collect();
        look(&vantages)
    }

    /// Looks at what modules of a type say of their parameters: the latest word of any instance, null without one.
    pub(crate) fn with_params_schema<T>(&self, kind: &ModuleType, look: impl FnOnce(&Value) -> T) -> T {
        look(self.read().schemas.get(kind).unwrap_or(&Value::Null))
    }
}

fn takes_jobs(instance: &Instance, now_us: i64) -> bool {
    matches!(state_at(instance, now_us), ModuleState::Ready | ModuleState::Saturated | ModuleState::Degraded)
}

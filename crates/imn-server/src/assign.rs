//! Assignments: who measures what, decided by the domain, kept in the catalog, published to agents.

mod plan;
mod publish;
mod shards;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imn_contract::TargetId;
use imn_domain::Unmet;
use tokio::sync::Notify;

use plan::Plan;

pub(crate) use plan::Standing;
pub(crate) use publish::{Parts, Publisher};

/// Tells the publisher of assignments that something changed; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assigner {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Mutex<Asked>,
    notify: Notify,
    shortfalls: Mutex<Vec<Shortfall>>,
    /// The publisher's, for others to ask.
    plan: Mutex<Plan>,
}

/// What is to be looked at anew.
#[derive(Debug, Default)]
struct Asked {
    all: bool,
    agents: bool,
    /// What agents can read is to be compared with what it should be.
    verify: bool,
    targets: HashSet<TargetId>,
}

/// A demand of a tier that is not met for some of its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shortfall {
    /// The tier.
    pub(crate) tier: String,
    /// The demand.
    pub(crate) unmet: Unmet,
    /// Targets for which it is not met.
    pub(crate) targets: u64,
}

impl Assigner {
    /// Everything may have changed: tiers were changed, or many targets imported.
    pub(crate) fn poke(&self) {
        self.ask(|asked| asked.all = true);
    }

    /// These targets were made, changed or deleted; cheap also when there are many others.
    pub(crate) fn targets_changed(&self, targets: impl IntoIterator<Item = TargetId>) {
        self.ask(|asked| asked.targets.extend(targets));
    }

    /// An agent came, went or changed.
    pub(crate) fn agents_changed(&self) {
        self.ask(|asked| asked.agents = true);
    }

    /// NATS was away, and may have lost what was published.
    pub(crate) fn verify(&self) {
        self.ask(|asked| asked.verify = true);
    }

    /// The demands of a tier that are not met.
    pub(crate) fn shortfalls(&self, tier: &str) -> Vec<Shortfall> {
        lock(&self.shared.shortfalls).iter().filter(|shortfall| shortfall.tier == tier).cloned().collect()
    }

    /// How every agent stands to a target, by type; `None` when the target is not to be measured, or not yet.
    pub(crate) fn explain(&self, target: &TargetId) -> Option<Vec<Standing>> {
        self.plan().explain(target)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        lock(&self.shared.plan)
    }

    fn ask(&self, change: impl FnOnce(&mut Asked)) {
        change(&mut lock(&self.shared.asked));
        self.shared.notify.notify_one();
    }

    fn take(&self) -> Asked {
        std::mem::take(&mut lock(&self.shared.asked))
    }

    fn report(&self, shortfalls: Vec<Shortfall>) {
        let mut known = lock(&self.shared.shortfalls);
        for new in shortfalls
            .iter()
            .filter(|new| !known.iter().any(|k| (&k.tier, k.unmet) == (&new.tier, new.unmet)))
        {
            tracing::warn!(tier = new.tier, targets = new.targets, unmet = %new.unmet, "demand of a tier not met");
        }
        *known = shortfalls;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

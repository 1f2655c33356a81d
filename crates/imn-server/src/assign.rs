//! Assignments: who measures what, decided by the domain, kept in the catalog, published to agents.

use std::sync::{Arc, Mutex, PoisonError};

use imn_contract::TargetId;
use tokio::sync::Notify;

/// Tells the publisher of assignments that something changed; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assigner {
    asked: Arc<Mutex<Asked>>,
    notify: Arc<Notify>,
}

/// What is to be looked at anew.
#[derive(Debug, Default)]
struct Asked {
    all: bool,
    agents: bool,
    targets: Vec<TargetId>,
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

    fn ask(&self, change: impl FnOnce(&mut Asked)) {
        change(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }
}

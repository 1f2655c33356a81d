//! What the HTTP API works with: the server's parts, shared.

use std::{sync::Arc, time::Duration};

use imn_runtime::{nats::Client, task::Stop};
use imn_store::{Catalog, Results};

use crate::{
    artifact::Artifacts, assign::Assigner, bgp::Routing, clock::now_us, config::Config, jobs::Desk,
    keys::Keys, live::Hub, logs::Logs, metrics::Metrics, readiness::Readiness, registry::Registry,
    status::Board,
};

/// The server's parts; cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    /// How the server is run.
    pub(crate) config: Arc<Config>,
    /// The connection to NATS.
    pub(crate) client: Client,
    /// Targets, tiers, agents, jobs, keys.
    pub(crate) catalog: Arc<dyn Catalog>,
    /// What was measured.
    pub(crate) results: Arc<dyn Results>,
    /// Jobs: `submit`, `get`, `cancel`.
    pub(crate) jobs: Desk,
    /// Keys of agents and modules.
    pub(crate) keys: Keys,
    /// How every target is doing now.
    pub(crate) board: Board,
    /// Committed rounds, results and transitions as they happen.
    pub(crate) live: Hub,
    /// The latest lines that modules have written.
    pub(crate) logs: Logs,
    /// What updates of BGP mean for prefixes.
    pub(crate) routing: Routing,
    /// Agents and module instances.
    pub(crate) registry: Registry,
    /// Modules that are published for agents to run.
    pub(crate) artifacts: Artifacts,
    /// To be poked when targets, tiers or agents were changed.
    pub(crate) assign: Assigner,
    /// Whether each part works.
    pub(crate) readiness: Readiness,
    /// Figures for `/metrics`.
    pub(crate) metrics: Metrics,
    /// Asked when the server is to end: long answers such as event streams must end then.
    pub(crate) stop: Stop,
}

impl Context {
    /// The page of figures.
    pub(crate) fn page(&self) -> String {
        self.metrics.page(&self.registry.instances(now_us()), &self.jobs.depths())
    }

    /// How long an agent or module is waited for when it is told something.
    pub(crate) const CONTROL_TIMEOUT: Duration = Duration::from_secs(2);
}

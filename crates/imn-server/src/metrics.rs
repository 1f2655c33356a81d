//! Figures of the server for `/metrics`.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU64},
};

use imn_contract::{AgentId, ModuleType};
use imn_runtime::telemetry;
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::registry::Instance;

type Labels = Vec<(String, String)>;

/// Everything that is counted; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Rounds committed.
    pub(crate) rounds: Counter<u64, AtomicU64>,
    /// Gap records committed.
    pub(crate) gaps: Counter<u64, AtomicU64>,
    /// Batches, by what became of them: `committed`, `duplicate`, `hole`, `garbage`.
    pub(crate) batches: Family<Labels, Counter>,
    /// Commits that failed and were tried again.
    pub(crate) commit_failures: Counter,
    /// Time of a group commit.
    pub(crate) commit_seconds: Histogram,
    /// Age of the oldest round of the last commit when it was committed, in seconds.
    pub(crate) ingest_lag_seconds: Gauge<f64, AtomicU64>,
    /// Tasks of jobs that reached a state.
    pub(crate) tasks: Family<Labels, Counter>,
    /// Submissions refused, by code.
    pub(crate) refused: Family<Labels, Counter>,
    /// Tasks that are not terminal.
    pub(crate) open_tasks: Gauge<i64, AtomicI64>,
    /// Time from acceptance of a task to its terminal state.
    pub(crate) task_seconds: Histogram,
    /// Messages that could not be read, by kind.
    pub(crate) garbage: Family<Labels, Counter>,
    /// Agents, by liveness.
    pub(crate) agents: Family<Labels, Gauge>,
    /// Module instances, by state.
    pub(crate) modules: Family<Labels, Gauge>,
    /// Standing assignments.
    pub(crate) assignments: Gauge<i64, AtomicI64>,
    /// Assignment shards written.
    pub(crate) shards_written: Counter,
    /// Targets, by monitoring state.
    pub(crate) targets: Family<Labels, Gauge>,
}

/// How a page of OpenMetrics ends.
const END: &str = "# EOF\n";

/// One label.
pub(crate) fn label(name: &str, value: impl Into<String>) -> Labels {
    vec![(name.to_owned(), value.into())]
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("imn_server");
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let metrics = Self {
            rounds: Counter::default(),
            gaps: Counter::default(),
            batches: Family::default(),
            commit_failures: Counter::default(),
            commit_seconds: seconds(),
            ingest_lag_seconds: Gauge::default(),
            tasks: Family::default(),
            refused: Family::default(),
            open_tasks: Gauge::default(),
            task_seconds: seconds(),
            garbage: Family::default(),
            agents: Family::default(),
            modules: Family::default(),
            assignments: Gauge::default(),
            shards_written: Counter::default(),
            targets: Family::default(),
            registry: Arc::default(),
        };
        let m = metrics.clone();
        registry.register("ingest_rounds", "Rounds committed", m.rounds);
        registry.register("ingest_gaps", "Gap records committed", m.gaps);
        registry.register("ingest_batches", "Batches by what became of them", m.batches);
        registry.register(
            "ingest_commit_failures",
            "Commits that failed and were tried again",
            m.commit_failures,
        );
        registry.register("ingest_commit_seconds", "Time of a group commit", m.commit_seconds);
        registry.register(
            "ingest_lag_seconds",
            "Age of the oldest round in the last commit",
            m.ingest_lag_seconds,
        );
        registry.register("job_tasks", "Tasks that reached a state", m.tasks);
        registry.register("job_refusals", "Submissions refused, by code", m.refused);
        registry.register("job_open_tasks", "Tasks that are not terminal", m.open_tasks);
        registry.register("job_task_seconds", "Time from acceptance to a terminal state", m.task_seconds);
        registry.register("garbage_messages", "Messages that could not be read", m.garbage);
        registry.register("agents", "Agents by liveness", m.agents);
        registry.register("modules", "Module instances by state", m.modules);
        registry.register("assignments", "Standing assignments", m.assignments);
        registry.register("assignment_shards_written", "Assignment shards written", m.shards_written);
        registry.register("targets", "Targets by monitoring state", m.targets);
        Self { registry: Arc::new(Mutex::new(registry)), ..metrics }
    }

    /// The page, in the text format of OpenMetrics: what is counted here, and what is known of module instances and
    /// their queues.
    pub(crate) fn page(&self, instances: &[Instance], depths: &[(AgentId, ModuleType, u32)]) -> String {
        let mut page = String::new();
        {
            let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
            // Writing to a string does not fail.
            let _ = encode(&mut page, &registry);
        }
        // Two registries make one page, which has one end.
        page.truncate(page.strip_suffix(END).map_or(page.len(), str::len));
        let _ = encode(&mut page, &modules(instances, depths));
        page
    }
}

/// The figures of each module instance, as it and its agent have told them.
fn modules(instances: &[Instance], depths: &[(AgentId, ModuleType, u32)]) -> Registry {
    let mut registry = Registry::with_prefix("imn_server");
    let gauges = Family::<Labels, Gauge>::default;
    let counters = Family::<Labels, Counter>::default;
    let (state, inflight, slots, queued) = (gauges(), gauges(), gauges(), gauges());
    let (circuits, restarts, depth) = (gauges(), gauges(), gauges());
    let (jobs, errors) = (counters(), counters());
    let (due, done) = (counters(), counters());
    let service = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    for one in instances {
        let labels: Labels =
            [("agent", one.agent.as_str()), ("type", one.kind.as_str()), ("instance", one.instance.as_str())]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        inflight.get_or_create(&labels).set(one.inflight.into());
        slots.get_or_create(&labels).set(one.slots.into());
        restarts.get_or_create(&labels).set(one.restarts.into());
        if let Some(health) = &one.health {
            queued.get_or_create(&labels).set(health.queued.into());
            circuits.get_or_create(&labels).set(health.circuits_open.into());
            service.get_or_create(&labels).set(health.ewma_ms / 1e3);
            jobs.get_or_create(&labels).inc_by(health.done);
            errors.get_or_create(&labels).inc_by(health.errors);
            due.get_or_create(&labels).inc_by(health.rounds_due);
            done.get_or_create(&labels).inc_by(health.rounds_done);
        }
        let name = serde_json::to_value(one.state).unwrap_or_default();
        let mut labels = labels;
        labels.push(("state".to_owned(), name.as_str().unwrap_or_default().to_owned()));
        state.get_or_create(&labels).set(1);
    }
    for (agent, kind, tasks) in depths {
        let labels = [("agent", agent.as_str()), ("type", kind.as_str())];
        depth
            .get_or_create(&labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
            .set((*tasks).into());
    }
    registry.register("module_state", "1 for the state that an instance is in", state);
    registry.register("module_inflight", "Jobs that an instance has in work", inflight);
    registry.register("module_slots", "Jobs that an instance does at once", slots);
    registry.register("module_queued", "Jobs that an instance has accepted and not begun", queued);
    registry.register("module_service_seconds", "Smoothed time that an instance takes for a job", service);
    registry.register("module_jobs", "Jobs that an instance has done since its start", jobs);
    registry.register("module_errors", "Of them, failed", errors);
    registry.register("module_circuits_open", "Targets that an instance leaves alone after faults", circuits);
    registry.register("module_restarts", "Times that an instance was started again", restarts);
    registry.register("module_rounds_due", "Rounds that fell due since an instance's start", due);
    registry.register("module_rounds", "Of them, completed and spooled", done);
    registry.register("queue_tasks", "Tasks of jobs that an agent has not settled yet, by type", depth);
    registry.register_collector(Box::new(telemetry::Exports));
    registry
}

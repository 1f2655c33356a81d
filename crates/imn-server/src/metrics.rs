//! Figures of the server for `/metrics`.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU64},
};

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

    /// The page, in the text format of OpenMetrics.
    pub(crate) fn page(&self) -> String {
        let mut page = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string does not fail.
        let _ = encode(&mut page, &registry);
        page
    }
}

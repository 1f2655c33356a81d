//! Counts, and the page `/metrics`.

use imn_contract::{
    ModuleType,
    latest::{AgentStatus, Heartbeat},
};
use imn_runtime::telemetry;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

type Labels = Vec<(String, String)>;
type ByType = Family<Labels, Counter>;

/// What the agent counts since its start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    received: ByType,
    finished: ByType,
    returned: ByType,
    crashed: ByType,
    simple: Counter,
    refused: Counter,
    registry_refused: Counter,
}

impl Counters {
    /// A job came from the queue.
    pub(crate) fn jobs_received(&self, kind: &ModuleType) {
        self.received.get_or_create(&of(kind)).inc();
    }

    /// A job of the queue was settled.
    pub(crate) fn jobs_finished(&self, kind: &ModuleType) {
        self.finished.get_or_create(&of(kind)).inc();
    }

    /// A job went back into the queue.
    pub(crate) fn jobs_returned(&self, kind: &ModuleType) {
        self.returned.get_or_create(&of(kind)).inc();
    }

    /// An instance died over a job.
    pub(crate) fn jobs_crashed(&self, kind: &ModuleType) {
        self.crashed.get_or_create(&of(kind)).inc();
    }

    /// A simple request came.
    pub(crate) fn simple_received(&self) {
        self.simple.inc();
    }

    /// A simple request was answered on `.error`.
    pub(crate) fn simple_refused(&self) {
        self.refused.inc();
    }

    /// Something of the registry was not taken.
    pub(crate) fn registry_refused(&self) {
        self.registry_refused.inc();
    }

    /// The page, as Prometheus reads it: the counts, and what the heartbeat tells.
    pub(crate) fn page(&self, beat: &Heartbeat, connected: bool, jobs_in_hand: usize) -> String {
        let mut registry = Registry::with_prefix("imn_agent");
        registry.register("jobs_received", "Jobs taken from the queue", self.received.clone());
        registry.register("jobs_finished", "Jobs of the queue that were settled", self.finished.clone());
        registry.register("jobs_returned", "Jobs put back into the queue", self.returned.clone());
        registry.register(
            "jobs_crashed",
            "Attempts that ended with their module's process",
            self.crashed.clone(),
        );
        registry.register("simple_requests", "Requests on agent.{id}.in and POST /jobs", self.simple.clone());
        registry.register("simple_errors", "Requests answered on agent.{id}.error", self.refused.clone());
        registry.register(
            "registry_refused",
            "Lists and modules of the registry that were not taken, each time they were looked at",
            self.registry_refused.clone(),
        );
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        };
        gauge("up_seconds", "Time since the agent's start", beat.uptime_s as f64);
        gauge("degraded", "1 when something is wrong", f64::from(beat.status == AgentStatus::Degraded));
        gauge("nats_connected", "1 when the connection to NATS is up", f64::from(connected));
        gauge("jobs_in_hand", "Jobs of the queue in work", jobs_in_hand as f64);
        gauge("targets", "Targets under standing measurement", beat.targets as f64);
        gauge("assignment_generation", "Generation of the assignments", beat.assignment.generation as f64);
        gauge("rounds_per_second", "Rounds completed per second", beat.rounds_per_s);
        gauge("spool_rows", "Rounds not committed yet", beat.spool.rows as f64);
        gauge("spool_bytes", "Bytes in spools", beat.spool.bytes as f64);
        gauge("spool_oldest_seconds", "Age of the oldest round not committed", beat.spool.oldest_s as f64);
        gauge("cpu_percent", "CPU of agent and modules, of one core", beat.cpu_pct);
        gauge("resident_bytes", "Memory of agent and modules", beat.rss_mb * 1e6);
        let family = Family::<Labels, Gauge>::default;
        let (states, inflight, slots, restarts) = (family(), family(), family(), family());
        for module in &beat.modules {
            let state = serde_json::to_value(module.state).unwrap_or_default();
            let mut labels = of(&module.kind);
            labels.push(("instance".to_owned(), module.instance.to_string()));
            inflight.get_or_create(&labels).set(i64::from(module.inflight));
            slots.get_or_create(&labels).set(i64::from(module.slots));
            restarts.get_or_create(&labels).set(i64::from(module.restarts));
            labels.push(("state".to_owned(), state.as_str().unwrap_or_default().to_owned()));
            states.get_or_create(&labels).set(1);
        }
        registry.register("module_state", "1 for the state that an instance is in", states);
        registry.register("module_inflight", "Jobs that an instance has in work", inflight);
        registry.register("module_slots", "Jobs that an instance does at once", slots);
        registry.register("module_restarts", "Times that an instance was started again", restarts);
        registry.register_collector(Box::new(telemetry::Exports));
        let mut page = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut page, &registry);
        page
    }
}

fn of(kind: &ModuleType) -> Labels {
    vec![("type".to_owned(), kind.to_string())]
}

//! Figures of a module process, for a collector.

use std::sync::Arc;

use imn_runtime::telemetry::{self, Figure, Metrics, Value};

use crate::{desk::Snapshot, perform::Shared, standing::Stats};

/// Has the figures exported where any are.
pub(crate) fn export(shared: &Arc<Shared>, stats: Option<Arc<Stats>>) {
    let metrics = Metrics::bare();
    metrics.watch_nats(&shared.client);
    let shared = Arc::clone(shared);
    metrics.watch(move || figures(&shared.desk.snapshot(), stats.as_deref()));
    telemetry::export_page(move || metrics.encode());
}

fn figures(desk: &Snapshot, stats: Option<&Stats>) -> Vec<Figure> {
    let level = |name, help, value| Figure { name, help, value: Value::Level(value) };
    let count = |name, help, value| Figure { name, help, value: Value::Count(value) };
    let mut figures = vec![
        level("module_inflight", "Jobs in work", f64::from(desk.inflight)),
        level("module_slots", "Jobs done at once", f64::from(desk.slots)),
        level("module_service_seconds", "Smoothed time that a job takes", desk.ewma_ms / 1e3),
        count("module_jobs", "Jobs done", desk.done),
        count("module_errors", "Of them, failed", desk.errors),
        level("module_circuits_open", "Targets left alone after faults", f64::from(desk.circuits_open)),
    ];
    if let Some(rounds) = stats.map(Stats::read) {
        figures.push(count("module_rounds_due", "Rounds that fell due", rounds.due));
        figures.push(count("module_rounds", "Of them, completed and spooled", rounds.done));
    }
    figures
}

//! The registry of a process's metrics and their text for Prometheus.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{nats, process};

/// The metrics of one process; cheap to clone. Names get the prefix `imn_`; those of the process itself have the
/// names that Prometheus's own libraries use.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The media type of [`Metrics::encode`].
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// A registry with the metrics of this process: processor time, memory, threads, files, start.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process { started_s: now_s() }));
        Self { registry: Arc::new(Mutex::new(registry)) }
    }

    /// A registry with nothing in it.
    pub fn bare() -> Self {
        Self { registry: Arc::default() }
    }

    /// Registers metrics, under the prefix `imn_`.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(self.lock().sub_registry_with_prefix("imn"))
    }

    /// Registers what a NATS connection counts, as `imn_nats_*`.
    pub fn watch_nats(&self, client: &nats::Client) {
        let connection = Connection { client: client.clone() };
        self.lock().register_collector(Box::new(connection));
    }

    /// Registers figures that are read whenever the metrics are, under the prefix `imn_`.
    pub fn watch(&self, read: impl Fn() -> Vec<Figure> + Send + Sync + 'static) {
        self.lock().register_collector(Box::new(Watched { read: Box::new(read) }));
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &self.lock()) {
            tracing::error!(%error, "metrics not encoded");
        }
        out
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A figure of the moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name, without the prefix.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// How it stands.
    pub value: Value,
}

/// How a figure stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// It only grows.
    Count(u64),
    /// It goes up and down.
    Level(f64),
}

struct Watched {
    read: Box<dyn Fn() -> Vec<Figure> + Send + Sync>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        for Figure { name, help, value } in (self.read)() {
            let name = format!("imn_{name}");
            match value {
                Value::Count(value) => counter(&mut encoder, &name, help, value)?,
                Value::Level(value) => gauge(&mut encoder, &name, help, value)?,
            }
        }
        Ok(())
    }
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> std::fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> std::fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

#[derive(Debug)]
struct Process {
    started_s: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let encoder = &mut encoder;
        let usage = process::usage(std::process::id()).unwrap_or_default();
        let cpu = encoder.encode_descriptor(
            "process_cpu_seconds",
            "Processor time in user and kernel mode",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(usage.cpu_seconds).encode(cpu)?;
        gauge(encoder, "process_resident_memory_bytes", "Resident memory", usage.rss_bytes as f64)?;
        gauge(encoder, "process_threads", "Threads", usage.threads as f64)?;
        let files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        gauge(encoder, "process_open_fds", "Open file descriptors", files as f64)?;
        gauge(encoder, "process_start_time_seconds", "Start, in seconds since the Unix epoch", self.started_s)
    }
}

#[derive(Debug)]
struct Connection {
    client: nats::Client,
}

impl Collector for Connection {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        use std::sync::atomic::Ordering::Relaxed;
        let encoder = &mut encoder;
        let counts = self.client.events().counts();
        let statistics = self.client.inner().statistics();
        let up = f64::from(u8::from(self.client.is_connected()));
        gauge(encoder, "imn_nats_connected", "Whether the connection is up", up)?;
        counter(encoder, "imn_nats_connects", "Times that the connection came up", counts.connects)?;
        counter(encoder, "imn_nats_disconnects", "Times that it went down", counts.disconnects)?;
        counter(encoder, "imn_nats_dropped", "Messages dropped at a full subscription", counts.dropped)?;
        counter(encoder, "imn_nats_violations", "Operations that the server refused", counts.violations)?;
        counter(encoder, "imn_nats_errors", "Other errors of the connection", counts.errors)?;
        let (sent, received) = (&statistics.out_messages, &statistics.in_messages);
        counter(encoder, "imn_nats_sent_messages", "Messages sent", sent.load(Relaxed))?;
        counter(encoder, "imn_nats_received_messages", "Messages received", received.load(Relaxed))?;
        let (sent, received) = (&statistics.out_bytes, &statistics.in_bytes);
        counter(encoder, "imn_nats_sent_bytes", "Bytes sent", sent.load(Relaxed))?;
        counter(encoder, "imn_nats_received_bytes", "Bytes received", received.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn the_text_holds_the_process_and_what_is_registered() {
        let metrics = Metrics::new();
        let jobs: Counter = Counter::default();
        metrics.register(|registry| registry.register("jobs", "Jobs done", jobs.clone()));
        jobs.inc_by(3);
        metrics.watch(|| {
            let figure = |name, value| Figure { name, help: "Help", value };
            vec![figure("depth", Value::Level(1.5)), figure("done", Value::Count(7))]
        });
        let text = metrics.encode();
        assert!(text.contains("imn_jobs_total 3\n"), "{text}");
        assert!(text.contains("imn_depth 1.5\n") && text.contains("imn_done_total 7\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let memory =
            text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap();
        assert!(memory.parse::<f64>().unwrap() > 100_000.0, "{text}");
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
    }
}

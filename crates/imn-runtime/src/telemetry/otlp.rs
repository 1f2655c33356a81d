//! Export over OTLP: bounded queues, a thread of its own with a runtime of its own, and nobody who waits for either.
//!
//! What does not fit into a queue is dropped and counted, what a collector does not take is tried again for a while and
//! then counted as well; both are said once.

mod config;
mod log;
mod metric;
mod send;

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc as std_mpsc,
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{InstrumentationScope, KeyValue, trace::TracerProvider};
use opentelemetry_proto::{
    tonic::{
        collector::{
            logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
            trace::v1::ExportTraceServiceRequest,
        },
        logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
        resource::v1::Resource as WireResource,
    },
    transform::{
        common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};
use tokio::sync::mpsc;

use super::{Error, Metrics, Redactor};
use crate::task::{Shutdown, Stop, Tasks};
use send::{Content, Sender};

pub use config::{Config, ConfigError, handed_on};
pub(super) use log::Logs;

/// Spans or lines that may wait; the specification's own default.
const QUEUE: usize = 2_048;
/// Of them, those that are sent at once.
const BATCH: usize = 512;
/// How long the first one waits for others.
const GATHER: Duration = Duration::from_millis(500);
/// Attempts at one batch, and the pause after the first, which doubles.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of the process may be held up by what waits still.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);
/// How the program is named as the maker of what is exported.
const SCOPE: &str = "imn";

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Logs,
    Metrics,
}

impl Signal {
    const ALL: [Self; 3] = [Self::Traces, Self::Logs, Self::Metrics];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "logs",
            Self::Metrics => "metrics",
        }
    }
}

/// What became of each signal.
#[derive(Debug, Default)]
struct Counts {
    sent: [AtomicU64; 3],
    dropped: [AtomicU64; 3],
}

static COUNTS: OnceLock<Arc<Counts>> = OnceLock::new();

type Page = Box<dyn Fn() -> String + Send>;

/// The pages of metrics that are exported, where any are.
static PAGES: Mutex<Option<Vec<Page>>> = Mutex::new(None);

/// Has a page of metrics, in the text form of OpenMetrics, exported as long as the process lives. Where no metrics are
/// exported it is never asked for.
pub fn export_page(page: impl Fn() -> String + Send + 'static) {
    if let Some(pages) = PAGES.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        pages.push(Box::new(page));
    }
}

/// Counts of what was exported and what was not, for a registry of metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exports;

impl Collector for Exports {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let Some(counts) = COUNTS.get() else { return Ok(()) };
        let told = [
            (
                "telemetry_exported",
                "Spans, log lines and requests with metrics taken by a collector",
                &counts.sent,
            ),
            (
                "telemetry_dropped",
                "Spans, log lines and requests with metrics that no collector got",
                &counts.dropped,
            ),
        ];
        for (name, help, values) in told {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for signal in Signal::ALL {
                let labels = [("signal", signal.name())];
                let counter = ConstCounter::new(values[signal as usize].load(Relaxed));
                counter.encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Takes what is to be exported, and never waits.
#[derive(Debug)]
pub(super) struct Inlet<T> {
    sender: mpsc::Sender<T>,
    counts: Arc<Counts>,
    signal: Signal,
}

impl<T> Inlet<T> {
    pub(super) fn offer(&self, item: T) {
        if self.sender.try_send(item).is_err() {
            self.counts.dropped[self.signal as usize].fetch_add(1, Relaxed);
        }
    }
}

/// The exporting thread; dropping this sends what waits, within half a second.
#[derive(Debug)]
pub(super) struct Exporter {
    shutdown: Shutdown,
    ended: std_mpsc::Receiver<()>,
}

/// What the log's subscriber hands to the exporter.
pub(super) struct Inlets {
    pub(super) tracer: Option<SdkTracer>,
    pub(super) logs: Option<Logs>,
}

/// Who exports.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) service: String,
    pub(super) instance: String,
}

impl Exporter {
    /// Starts the thread. Where the collector is, or whether, is of no concern here.
    pub(super) fn start(config: Config, who: &Who) -> Result<(Self, Inlets), Error> {
        let resource = resource(who);
        let counts = Arc::clone(COUNTS.get_or_init(Arc::default));
        let (shutdown, (ending, ended)) = (Shutdown::new(), std_mpsc::channel());
        let (ready, began) = std_mpsc::channel();
        let (spans, spans_out) = mpsc::channel::<SpanData>(QUEUE);
        let (lines, lines_out) = mpsc::channel::<LogRecord>(QUEUE);
        let inlets = Inlets {
            tracer: config.traces.is_some().then(|| {
                let inlet = Inlet { sender: spans, counts: Arc::clone(&counts), signal: Signal::Traces };
                tracer(inlet, resource.clone())
            }),
            logs: config.logs.is_some().then(|| {
                Logs::new(Inlet { sender: lines, counts: Arc::clone(&counts), signal: Signal::Logs })
            }),
        };
        if config.metrics.is_some() {
            // Every process tells of itself.
            let own = Metrics::new();
            own.register(|registry| registry.register_collector(Box::new(Exports)));
            let page: Page = Box::new(move || own.encode());
            *PAGES.lock().unwrap_or_else(PoisonError::into_inner) = Some(vec![page]);
        }
        let stop = shutdown.stop();
        let failed = |error: &dyn std::fmt::Display| Error::Export { message: error.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let work = move || {
            runtime.block_on(async {
                let mut tasks = Tasks::new();
                let started = Work { resource, counts, stop }.start(config, spans_out, lines_out, &mut tasks);
                let began = started.is_ok();
                // Whoever started this has gone on only if it has heard of it.
                let _ = ready.send(started);
                while began && tasks.next().await.is_some() {}
            });
            let _ = ending.send(());
        };
        std::thread::Builder::new()
            .name("imn-otlp".to_owned())
            .spawn(work)
            .map_err(|error| failed(&error))?;
        began.recv().map_err(|error| failed(&error))?.map_err(Error::Endpoint)?;
        Ok((Self { shutdown, ended }, inlets))
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.shutdown.request();
        // Past this what waits is lost, as it is when nobody takes it.
        let _ = self.ended.recv_timeout(FLUSH_WITHIN);
    }
}

/// What is exported, of whom: the standard's own variables go before ours.
fn resource(who: &Who) -> Resource {
    let named = std::env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|text| text.contains("service.name="));
    let known = |key: &str| std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|text| text.contains(key));
    let mut own = vec![
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ];
    if !known("service.instance.id=") {
        own.push(KeyValue::new("service.instance.id", who.instance.clone()));
    }
    let builder = Resource::builder().with_attributes(own);
    if named { builder.build() } else { builder.with_service_name(who.service.clone()).build() }
}

fn tracer(inlet: Inlet<SpanData>, resource: Resource) -> SdkTracer {
    let provider =
        SdkTracerProvider::builder().with_resource(resource).with_span_processor(Spans { inlet }).build();
    provider.tracer_with_scope(
        InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION")).build(),
    )
}

#[derive(Debug)]
struct Spans {
    inlet: Inlet<SpanData>,
}

impl SpanProcessor for Spans {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.inlet.offer(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What runs in the exporting thread.
#[derive(Clone)]
struct Work {
    resource: Resource,
    counts: Arc<Counts>,
    stop: Stop,
}

impl Work {
    fn start(
        self,
        config: Config,
        spans: mpsc::Receiver<SpanData>,
        lines: mpsc::Receiver<LogRecord>,
        tasks: &mut Tasks,
    ) -> Result<(), ConfigError> {
        let redactor = Redactor::in_force();
        let attributes = ResourceAttributesWithSchema::from(&self.resource);
        let wire = WireResource { attributes: attributes.attributes.0.clone(), ..WireResource::default() };
        if let Some(endpoint) = config.traces {
            let outlet = self.outlet(Signal::Traces, Sender::new(endpoint)?);
            let pack = move |batch: Vec<SpanData>| {
                let mut resource_spans = group_spans_by_resource_and_scope(batch, &attributes);
                for span in
                    resource_spans.iter_mut().flat_map(|r| &mut r.scope_spans).flat_map(|s| &mut s.spans)
                {
                    log::clean_span(redactor, span);
                }
                Content::Traces(ExportTraceServiceRequest { resource_spans })
            };
            tasks.spawn("export of traces", outlet.run(spans, pack));
        }
        if let Some(endpoint) = config.logs {
            let outlet = self.outlet(Signal::Logs, Sender::new(endpoint)?);
            let resource = wire.clone();
            let pack = move |mut log_records: Vec<LogRecord>| {
                for record in &mut log_records {
                    log::clean_record(redactor, record);
                }
                let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
                let logs =
                    ResourceLogs { resource: Some(resource.clone()), scope_logs, ..ResourceLogs::default() };
                Content::Logs(ExportLogsServiceRequest { resource_logs: vec![logs] })
            };
            tasks.spawn("export of logs", outlet.run(lines, pack));
        }
        if let Some(endpoint) = config.metrics {
            let outlet = self.outlet(Signal::Metrics, Sender::new(endpoint)?);
            tasks.spawn("export of metrics", outlet.run_metrics(wire, config.interval));
        }
        Ok(())
    }

    fn outlet(&self, signal: Signal, sender: Sender) -> Outlet {
        let Self { counts, stop, .. } = self.clone();
        Outlet { signal, sender, counts, stop, told: 0, failing: false }
    }
}

/// The sending end of one signal.
struct Outlet {
    signal: Signal,
    sender: Sender,
    counts: Arc<Counts>,
    stop: Stop,
    /// Drops that have been told of.
    told: u64,
    failing: bool,
}

impl Outlet {
    async fn run<T>(mut self, mut items: mpsc::Receiver<T>, pack: impl Fn(Vec<T>) -> Content) {
        loop {
            let mut batch = Vec::new();
            let more = tokio::select! {
                biased;
                more = items.recv_many(&mut batch, BATCH) => more > 0,
                () = self.stop.requested() => false,
            };
            if !more {
                return;
            }
            let company = async {
                while batch.len() < BATCH {
                    let room = BATCH - batch.len();
                    if items.recv_many(&mut batch, room).await == 0 {
                        return;
                    }
                }
            };
            // Once the end is asked for nobody waits for company.
            let _ = tokio::time::timeout(GATHER, self.stop.until(company)).await;
            let count = batch.len() as u64;
            self.deliver(pack(batch), count).await;
        }
    }

    async fn run_metrics(mut self, resource: WireResource, interval: Duration) {
        let started = now_ns();
        loop {
            let go_on = self.stop.sleep(interval).await;
            let pages: Vec<String> = {
                let pages = PAGES.lock().unwrap_or_else(PoisonError::into_inner);
                pages.iter().flatten().map(|page| page()).collect()
            };
            let metrics = metric::resource_metrics(&pages, &resource, started, now_ns());
            let content = Content::Metrics(ExportMetricsServiceRequest { resource_metrics: vec![metrics] });
            self.deliver(content, 1).await;
            if !go_on {
                return;
            }
        }
    }

    /// Sends, again and again where that may help; meanwhile the queue fills, and then drops.
    async fn deliver(&mut self, content: Content, count: u64) {
        let mut pause = PAUSE;
        for attempt in 1.. {
            match self.sender.send(&content).await {
                Ok(()) => {
                    self.counts.sent[self.signal as usize].fetch_add(count, Relaxed);
                    self.tell(None);
                    return;
                }
                Err(failure) => {
                    let again = failure.passing && attempt < ATTEMPTS && !self.stop.is_requested();
                    self.tell(Some(&failure.message));
                    if !again {
                        break;
                    }
                    self.stop.sleep(pause).await;
                    pause *= 2;
                }
            }
        }
        self.counts.dropped[self.signal as usize].fetch_add(count, Relaxed);
    }

    /// Says once that nothing gets through, once that it does again, and once each time that something was dropped
    /// meanwhile.
    fn tell(&mut self, failure: Option<&str>) {
        let signal = self.signal.name();
        if let Some(error) = failure {
            if !std::mem::replace(&mut self.failing, true) {
                tracing::warn!(signal, error, "telemetry is not taken by the collector; it is tried again");
            }
            return;
        }
        let dropped = self.counts.dropped[self.signal as usize].load(Relaxed);
        let lost = dropped - std::mem::replace(&mut self.told, dropped);
        if std::mem::replace(&mut self.failing, false) || lost > 0 {
            tracing::warn!(signal, lost, "telemetry is taken by the collector again");
        }
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_nobody_waits() {
        let (sender, mut items) = mpsc::channel(2);
        let counts = Arc::new(Counts::default());
        let inlet = Inlet { sender, counts: Arc::clone(&counts), signal: Signal::Logs };
        (0..5).for_each(|item| inlet.offer(item));
        assert_eq!(counts.dropped[Signal::Logs as usize].load(Relaxed), 3);
        assert_eq!((items.try_recv(), items.try_recv()), (Ok(0), Ok(1)));
        drop(items);
        inlet.offer(5);
        assert_eq!(counts.dropped.each_ref().map(|count| count.load(Relaxed)), [0, 4, 0]);
    }
}

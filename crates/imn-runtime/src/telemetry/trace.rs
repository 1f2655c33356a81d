//! Traces: where a step of the work stands in the whole, told from process to process by the header `traceparent`.
//!
//! A process that exports no traces makes no spans; it hands on what it was given.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use async_nats::HeaderMap;
use imn_contract::{Fault, header};
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of spans that are exported; they are no part of log lines.
pub(super) const TARGET: &str = "imn_trace";

static EXPORTED: AtomicBool = AtomicBool::new(false);

tokio::task_local! {
    static AROUND: Option<TraceParent>;
}

/// Says that this process exports its spans.
pub(super) fn exported() {
    EXPORTED.store(true, Relaxed);
}

/// The trace and span that are at work here.
pub(super) fn ids() -> Option<(TraceId, SpanId)> {
    if !EXPORTED.load(Relaxed) {
        return None;
    }
    let context = Context::map_current(|context| context.span().span_context().clone());
    context.is_valid().then(|| (context.trace_id(), context.span_id()))
}

/// The header `traceparent` of W3C Trace Context: a trace, a span of it, and whether it is sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(Arc<str>);

impl TraceParent {
    /// Reads the header's text; `None` when it is not valid, which the specification has ignored.
    pub fn parse(text: &str) -> Option<Self> {
        read(text).map(|_| Self(text.into()))
    }

    /// That of a NATS message.
    pub fn of(headers: Option<&HeaderMap>) -> Option<Self> {
        Self::parse(headers?.get(header::TRACEPARENT)?.as_str())
    }

    /// That of the work in whose midst this is called: see [`Step::run`].
    pub fn current() -> Option<Self> {
        AROUND.try_with(Clone::clone).ok().flatten()
    }

    /// The header's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn write(context: &SpanContext) -> Option<Self> {
        let text =
            format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8());
        context.is_valid().then(|| Self(text.into()))
    }

    fn context(&self) -> Option<SpanContext> {
        read(&self.0)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn read(text: &str) -> Option<SpanContext> {
    let lower_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [version.len(), trace.len(), span.len(), flags.len()];
    if lengths != [2, 32, 16, 2] || ![version, trace, span, flags].into_iter().all(lower_hex) {
        return None;
    }
    // Later versions may say more; that of this one is complete.
    if version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(flags) & TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

/// Which side of a message a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Sends, and waits for the answer.
    Client,
    /// Takes, and answers.
    Server,
    /// Sends to a stream.
    Producer,
    /// Takes from a stream.
    Consumer,
}

impl Side {
    const fn kind(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }

    const fn operation(self) -> &'static str {
        match self {
            Self::Client | Self::Producer => "send",
            Self::Server | Self::Consumer => "process",
        }
    }
}

/// What a step on a job does: a span by the conventions of OpenTelemetry for messaging.
#[derive(Clone, Copy, Debug)]
pub struct Messaging<'a> {
    /// The step, such as `submit` or `run`.
    pub step: &'static str,
    /// Which side of the message it is.
    pub side: Side,
    /// The subject, without what differs from message to message.
    pub destination: &'a str,
    /// The job, as soon as it has a name.
    pub job: Option<&'a str>,
    /// The module type.
    pub kind: Option<&'a str>,
    /// The agent.
    pub agent: Option<&'a str>,
    /// The module instance.
    pub instance: Option<&'a str>,
    /// The number of the attempt.
    pub attempt: Option<u32>,
}

impl<'a> Messaging<'a> {
    /// A step of which no more is known yet.
    pub const fn new(step: &'static str, side: Side, destination: &'a str) -> Self {
        Self { step, side, destination, job: None, kind: None, agent: None, instance: None, attempt: None }
    }
}

/// One step of the work: its span, where traces are exported, else what it was given to hand on.
#[derive(Clone, Debug)]
pub struct Step {
    span: Span,
    parent: Option<TraceParent>,
}

impl Step {
    /// Begins a step on a message. Without a parent it is the root of a trace.
    pub fn messaging(what: Messaging<'_>, parent: Option<TraceParent>) -> Self {
        let span = tracing::info_span!(
            target: TARGET,
            parent: None,
            "messaging",
            otel.name = format_args!("{} {}", what.side.operation(), what.destination),
            otel.kind = what.side.kind(),
            messaging.system = "nats",
            messaging.operation.name = what.side.operation(),
            messaging.operation.type = what.side.operation(),
            messaging.destination.name = what.destination,
            messaging.message.conversation_id = what.job,
            imn.step = what.step,
            imn.job.id = what.job,
            "imn.type" = what.kind,
            imn.agent.id = what.agent,
            imn.instance = what.instance,
            imn.attempt = what.attempt,
        );
        Self::under(span, parent)
    }

    /// Begins a step on an HTTP request; `route` is its path without what differs from request to request.
    pub fn http(side: Side, method: &str, route: &str, parent: Option<TraceParent>) -> Self {
        let span = tracing::info_span!(
            target: TARGET,
            parent: None,
            "http",
            otel.name = format_args!("{method} {route}"),
            otel.kind = side.kind(),
            http.request.method = method,
            http.route = route,
        );
        Self::under(span, parent)
    }

    fn under(span: Span, parent: Option<TraceParent>) -> Self {
        if let Some(context) = parent.as_ref().filter(|_| !span.is_disabled()).and_then(TraceParent::context)
        {
            // It fails for a span that nobody exports.
            let _ = span.set_parent(Context::new().with_remote_span_context(context));
        }
        Self { span, parent }
    }

    /// What those who go on from here get: this step, or its parent where it is not exported.
    pub fn traceparent(&self) -> Option<TraceParent> {
        if self.span.is_disabled() {
            return self.parent.clone();
        }
        let own = TraceParent::write(self.span.context().span().span_context());
        own.or_else(|| self.parent.clone())
    }

    /// Does work as this step: what it publishes carries its `traceparent`, what it logs names its trace.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        AROUND.scope(self.traceparent(), work).instrument(self.span.clone()).await
    }

    /// Adds to what is told of it.
    pub fn set(&self, name: &'static str, value: impl Into<opentelemetry::Value>) {
        self.span.set_attribute(name, value);
    }

    /// Links it to another step that is not its parent.
    pub fn follows(&self, other: Option<&TraceParent>) {
        if let Some(context) = other.filter(|_| !self.span.is_disabled()).and_then(TraceParent::context) {
            self.span.add_link(context);
        }
    }

    /// It did not succeed. Of the fault its name is told; its words may hold what is measured.
    pub fn failed(&self, fault: &Fault) {
        self.failed_as(&fault.name);
    }

    /// It did not succeed, and this is why, in a word.
    pub fn failed_as(&self, name: &str) {
        if !self.span.is_disabled() {
            self.span.set_attribute("error.type", name.to_owned());
            self.span.set_status(Status::error(name.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_what_is_valid_is_handed_on() {
        assert_eq!(TraceParent::parse(PARENT).unwrap().as_str(), PARENT);
        // A later version may say more.
        assert!(TraceParent::parse(&PARENT.replacen("00", "01", 1).replace("-01", "-01-more")).is_some());
        for wrong in [
            "",
            "00",
            &PARENT.to_uppercase(),
            &PARENT.replacen("00", "ff", 1),
            &format!("{PARENT}-more"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
        ] {
            assert!(TraceParent::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn without_an_exporter_the_parent_is_handed_on() {
        let parent = TraceParent::parse(PARENT);
        let step = Step::messaging(Messaging::new("run", Side::Consumer, "mmn.jobs.do"), parent.clone());
        assert_eq!(step.traceparent(), parent);
        assert_eq!(step.run(async { TraceParent::current() }).await, parent);
        assert_eq!(TraceParent::current(), None);
        let root = Step::messaging(Messaging::new("run", Side::Consumer, "mmn.jobs.do"), None);
        assert_eq!(root.traceparent(), None);
    }

    proptest! {
        #[test]
        fn any_text_is_a_traceparent_or_none(text in "[0-9a-f-]{0,60}|.{0,60}") {
            if let Some(parent) = TraceParent::parse(&text) {
                prop_assert_eq!(parent.as_str(), text);
            }
        }
    }
}

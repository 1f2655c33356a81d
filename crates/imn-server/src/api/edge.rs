//! What surrounds every request: its id, deadline, log line, problem body and security headers.

use std::{any::Any, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use imn_runtime::telemetry::{Side, Step, TraceParent};
use tokio::time::Instant;
use tracing::Instrument;

use super::{
    Api,
    problem::{self, Problem},
};
use crate::readiness::Part;

/// How long a handler may take to begin its answer; a stream may then go on for ever.
const DEADLINE: Duration = Duration::from_mins(2);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID: usize = 64;

const SECURITY: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Where a request stands in a trace.
#[derive(Clone, Debug)]
pub(crate) struct Trace(pub(crate) Option<TraceParent>);

/// The step that a request for the API is; others, such as for figures, come too often to be worth one.
fn step(request: &Request) -> Option<Step> {
    let route = request.extensions().get::<MatchedPath>()?.as_str();
    route
        .starts_with("/api/")
        .then(|| Step::http(Side::Server, request.method().as_str(), route, given(request)))
}

fn given(request: &Request) -> Option<TraceParent> {
    TraceParent::parse(request.headers().get(imn_contract::header::TRACEPARENT)?.to_str().ok()?)
}

/// The outermost layer.
pub(crate) async fn edge(mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id, %method, path);
    let began = Instant::now();
    let step = step(&request);
    let trace = Trace(step.as_ref().map_or_else(|| given(&request), Step::traceparent));
    request.extensions_mut().insert(trace);
    let answering = tokio::time::timeout(DEADLINE, next.run(request).instrument(span));
    let answered = match &step {
        Some(step) => step.run(answering).await,
        None => answering.await,
    };
    let response = answered.unwrap_or_else(|_| {
        let detail = format!("no answer within {} s", DEADLINE.as_secs());
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail).into_response()
    });
    let mut response = problem::render(response, &id, &path);
    if let Some(step) = step {
        let status = response.status();
        step.set("http.response.status_code", i64::from(status.as_u16()));
        // The client's own mistakes are no failure of the server.
        if status.is_server_error() {
            step.failed_as(status.as_str());
        }
    }
    let elapsed_us = began.elapsed().as_micros() as u64;
    tracing::debug!(id, %method, path, status = response.status().as_u16(), elapsed_us, "request");
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    for (name, value) in SECURITY {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// A write that found no space tells that the catalog is not ready; whoever keeps the registry finds out by writing when
/// it is again.
pub(crate) async fn notice_full_disk(State(api): State<Api>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.status() == StatusCode::INSUFFICIENT_STORAGE {
        api.context.readiness.fails(Part::Catalog, "no space left on its disk");
    }
    response
}

/// The client's own id when it is fit for a log, else a fresh one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            (1..=MAX_REQUEST_ID).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        })
        .map_or_else(|| ulid::Ulid::generate().to_string(), str::to_owned)
}

/// The answer to a request whose handler panicked.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands the payload over")]
pub(crate) fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text");
    tracing::error!(panic = text, "handler panicked");
    Problem::internal("the handler panicked; the server's log has the reason").into_response()
}

//! The agent's own listener: `/metrics`, `/healthz`, `/probe`, and control for those who have its key.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use imn_contract::{
    DecodeError, Encoding, ErrorCode, Fault, ModuleType, canonical_type, decode,
    latest::{SimpleError, SimpleRequest},
};
use imn_runtime::{http as runtime, nats::Client, task::Stop, telemetry};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    Error, Result,
    heartbeat::Heart,
    job::Jobs,
    metrics::Counters,
    scrape::{Question, Scraper},
    simple::Simple,
    supervise::Supervisor,
};

/// What the listener shows and does.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) api_key: Option<String>,
    pub(crate) client: Client,
    pub(crate) counters: Arc<Counters>,
    pub(crate) heart: Arc<Heart>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) scraper: Option<Scraper>,
    pub(crate) simple: Arc<Simple>,
    pub(crate) supervisor: Arc<Supervisor>,
}

impl Desk {
    /// Whether NATS is there for everything that it is needed for.
    fn is_connected(&self) -> bool {
        self.client.events().is_connected() && self.jobs.is_connected()
    }
}

/// Takes the address.
///
/// # Errors
/// [`Error::PortInUse`] and [`Error::Listen`], which name the flag.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortInUse { address },
        _ => Error::Listen { address, source },
    })
}

/// Serves until the end.
///
/// # Errors
/// When connections cannot be accepted any more.
pub(crate) async fn serve(listener: TcpListener, desk: Arc<Desk>, stop: Stop) -> io::Result<()> {
    let control = Router::new()
        .route("/modules", get(modules))
        .route("/modules/{type}/enable", post(enable))
        .route("/modules/{type}/disable", post(disable))
        .route("/modules/{type}/roll", post(roll))
        .route("/jobs", post(job))
        .layer(middleware::from_fn_with_state(Arc::clone(&desk), authorized));
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/probe", get(probe))
        .merge(control)
        .fallback(|| async { problem(&Fault::new(ErrorCode::NoVantage, "there is nothing at this path")) })
        .with_state(desk);
    runtime::serve(listener, router, stop, runtime::Limits::default()).await
}

async fn metrics(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    let page = desk.counters.page(&desk.heart.beat(), desk.is_connected(), desk.jobs.followed());
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (kind, page) = telemetry::negotiated(accept, page);
    ([(header::CONTENT_TYPE, kind)], page).into_response()
}

async fn healthz(State(desk): State<Arc<Desk>>) -> Response {
    let body = json!({ "status": desk.heart.beat().status, "nats": desk.is_connected() });
    axum::Json(body).into_response()
}

async fn probe(
    State(desk): State<Arc<Desk>>,
    Query(question): Query<Question>,
    headers: HeaderMap,
) -> Response {
    let Some(scraper) = &desk.scraper else {
        return problem(&Fault::new(ErrorCode::NoVantage, "this agent answers no /probe"));
    };
    scraper.answer(&desk.jobs, &question, &headers).await.unwrap_or_else(|fault| problem(&fault))
}

async fn modules(State(desk): State<Arc<Desk>>) -> Response {
    let beat = desk.heart.beat();
    let problems = desk.heart.problems();
    let body = json!({ "items": beat.modules, "rolls": beat.rolls, "problems": problems });
    axum::Json(body).into_response()
}

async fn enable(State(desk): State<Arc<Desk>>, Path(name): Path<String>) -> Response {
    switch(&desk, &name, false)
}

async fn disable(State(desk): State<Arc<Desk>>, Path(name): Path<String>) -> Response {
    switch(&desk, &name, true)
}

async fn roll(State(desk): State<Arc<Desk>>, Path(name): Path<String>) -> Response {
    let asked = named(&name).and_then(|kind| desk.supervisor.roll(&kind).map(|()| kind));
    asked.map_or_else(|fault| problem(&fault), |kind| axum::Json(json!({ "type": kind })).into_response())
}

fn named(name: &str) -> std::result::Result<ModuleType, Fault> {
    ModuleType::new(canonical_type(name)).map_err(|error| Fault::invalid("type", error.to_string()))
}

fn switch(desk: &Desk, name: &str, disabled: bool) -> Response {
    match named(name).and_then(|kind| desk.supervisor.set_disabled(&kind, disabled).map(|()| kind)) {
        Ok(kind) => axum::Json(json!({ "type": kind, "disabled": disabled })).into_response(),
        Err(fault) => problem(&fault),
    }
}

async fn job(State(desk): State<Arc<Desk>>, headers: HeaderMap, body: Bytes) -> Response {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let request: SimpleRequest = match decode(&body, Encoding::from_content_type(media)) {
        Ok(request) => request,
        Err(error) => {
            let too_long = matches!(error, DecodeError::TooLong { .. });
            let fault = Fault::from(error);
            return problem(&if too_long { Fault { code: 413, ..fault } } else { fault });
        }
    };
    match desk.simple.serve(request).await {
        Ok(reply) => axum::Json(reply).into_response(),
        Err(SimpleError { code, name, message, field, .. }) => {
            problem(&Fault { code, name, message, field, retryable: false, retry_after_ms: None })
        }
    }
}

async fn authorized(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let refused = match (&desk.api_key, given) {
        (None, _) => "this agent was started without an API key, so its control is closed",
        (Some(_), None) => "send the agent's API key as `Authorization: Bearer KEY`",
        (Some(key), Some(given)) if same(key.as_bytes(), given.trim().as_bytes()) => {
            return next.run(request).await;
        }
        (Some(_), Some(_)) => "this is not the agent's API key",
    };
    let fault =
        Fault { code: 401, name: "unauthenticated".to_owned(), ..Fault::new(ErrorCode::Denied, refused) };
    let mut response = problem(&fault);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

/// Compares in a time that does not depend on where the two differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

/// A fault as RFC 9457 has it.
fn problem(fault: &Fault) -> Response {
    let status = StatusCode::from_u16(fault.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut body = json!({
        "type": format!("urn:imn:error:{}", fault.name),
        "title": fault.name.replace('_', " "),
        "status": fault.code,
        "detail": fault.message,
        "code": fault.code,
        "name": fault.name,
    });
    if let Some(field) = &fault.field {
        body["field"] = json!(field);
    }
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

//! What stands outside `/api/v1`: health, figures, the OpenAPI document.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use imn_contract::latest::ModuleState;
use imn_runtime::telemetry;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Api;
use crate::{clock::now_us, registry::Instance};

/// The server's process answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Healthy {
    /// `ok`.
    pub(crate) status: &'static str,
    /// Version of the program.
    pub(crate) version: &'static str,
}

/// Whether the server can do its work.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ready {
    /// Whether every part works.
    pub(crate) ready: bool,
    /// The parts.
    pub(crate) parts: Vec<PartView>,
    /// Module instances that ended too often and are left alone for a while; the server works without them.
    /// `GET /api/v1/modules?filter=state=quarantined` says why.
    pub(crate) quarantined: Vec<Quarantined>,
}

/// A module instance that is left alone.
#[derive(Serialize, ToSchema)]
pub(crate) struct Quarantined {
    /// Its name.
    pub(crate) instance: String,
    /// Its agent.
    pub(crate) agent: String,
    /// Its module type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// What the server depends on, or does itself.
#[derive(Serialize, ToSchema)]
pub(crate) struct PartView {
    /// Its name, such as `nats`.
    pub(crate) name: &'static str,
    /// Whether it works.
    pub(crate) ready: bool,
    /// Why not.
    #[schema(required)]
    pub(crate) reason: Option<String>,
}

/// The OpenAPI document, rendered once.
#[derive(Clone)]
pub(crate) struct Document(pub(crate) Arc<str>);

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(document))
}

/// Whether the process answers
#[utoipa::path(get, path = "/healthz", tag = "server", operation_id = "healthz",
    responses((status = 200, description = "It does", body = Healthy)))]
async fn healthz() -> Json<Healthy> {
    Json(Healthy { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Whether the server can do its work
#[utoipa::path(get, path = "/readyz", tag = "server", operation_id = "readyz",
    responses((status = 200, description = "It can", body = Ready),
              (status = 503, description = "It cannot, and why", body = Ready)))]
async fn readyz(State(api): State<Api>) -> Response {
    let parts: Vec<PartView> = api
        .context
        .readiness
        .parts()
        .into_iter()
        .map(|(part, state)| PartView { name: part.name(), ready: state.is_ok(), reason: state.err() })
        .collect();
    let ready = parts.iter().all(|part| part.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let instances = api.context.registry.instances(now_us()).into_iter();
    let quarantined = instances.filter(|instance| instance.state == ModuleState::Quarantined);
    let quarantined = quarantined.map(Quarantined::from).collect();
    // The body says more than a problem could: it is left as it is.
    let body = Json(Ready { ready, parts, quarantined });
    (status, axum::Extension(super::problem::Verbatim), body).into_response()
}

impl From<Instance> for Quarantined {
    fn from(instance: Instance) -> Self {
        Self {
            instance: instance.instance.to_string(),
            agent: instance.agent.to_string(),
            kind: instance.kind.to_string(),
        }
    }
}

/// Figures in the OpenMetrics text format, or in Prometheus' own where it is not asked for
#[utoipa::path(get, path = "/metrics", tag = "server", operation_id = "metrics",
    responses((status = 200, description = "The figures", body = String, content_type = "application/openmetrics-text")))]
async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (kind, page) = telemetry::negotiated(accept, api.context.page());
    ([(header::CONTENT_TYPE, kind)], page).into_response()
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "server", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
async fn document(State(api): State<Api>) -> Response {
    let text = Bytes::copy_from_slice(api.document.0.as_bytes());
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

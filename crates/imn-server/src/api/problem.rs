//! RFC 9457 problem details: the one form of every error of the API.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use imn_contract::Fault;
use imn_store::{CatalogError, ResultsError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::jobs::NO_SPACE;

/// The media type of a problem.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct FieldError {
    /// Path of the field, such as `probes[0].type`; a query parameter or header by its name; empty for the whole.
    pub(crate) field: String,
    /// What is wrong with it and what is expected.
    pub(crate) message: String,
    /// The character at fault, counted from 1, where the field's text has a syntax of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<usize>,
}

/// Problem details (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// The kind of problem, `urn:imn:problem:{kind}`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The kind in words.
    pub(crate) title: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// What is wrong this time, and what to do about it.
    pub(crate) detail: String,
    /// The path asked for.
    pub(crate) instance: String,
    /// Identifies the request in the server's log; also in the header `X-Request-Id`.
    pub(crate) request_id: String,
    /// The fields that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<FieldError>,
}

/// A problem on its way out: [`render`] gives it request id and path.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Marks an error response whose body stands for itself.
#[derive(Clone, Copy)]
pub(crate) struct Verbatim;

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), position: None }
    }
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), errors: Vec::new(), headers: Vec::new() }
    }

    /// One field is wrong.
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldError::new(field, message)])
    }

    /// Several fields are wrong; there is at least one.
    pub(crate) fn fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.field.is_empty() => one.message.clone(),
            [one] => format!("{}: {}", one.field, one.message),
            many => format!("{} fields are wrong", many.len()),
        };
        Self { errors, ..Self::new(StatusCode::BAD_REQUEST, "invalid", detail) }
    }

    pub(crate) fn not_found(what: &str, key: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("{what} {key:?} not found"))
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
            .header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Names the field that is at fault.
    #[must_use]
    pub(crate) fn with(mut self, error: FieldError) -> Self {
        self.errors.push(error);
        self
    }

    /// The field errors, as the answer to an import lists them.
    pub(crate) fn into_errors(self) -> Vec<FieldError> {
        if self.errors.is_empty() { vec![FieldError::new("", self.detail)] } else { self.errors }
    }

    /// The problem that a status alone tells.
    fn of_status(status: StatusCode) -> Self {
        let (kind, detail) = match status {
            StatusCode::NOT_FOUND => {
                ("not-found", "no such path; GET /openapi.json describes those that there are")
            }
            StatusCode::METHOD_NOT_ALLOWED => (
                "method-not-allowed",
                "the path does not take this method; the header Allow lists those it takes",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => ("too-large", "the body is too large"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported-media-type", "send application/json"),
            status if status.is_server_error() => ("internal", "the server failed; its log has the reason"),
            _ => ("invalid", "the request is malformed"),
        };
        Self::new(status, kind, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        for (name, value) in &self.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives an error response its body: from the [`Problem`] that it carries, else from its status alone.
pub(crate) fn render(response: Response, request_id: &str, instance: &str) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || response.extensions().get::<Verbatim>().is_some() {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let problem = parts.extensions.remove::<Problem>().unwrap_or_else(|| Problem::of_status(status));
    let body = ProblemBody {
        kind: format!("urn:imn:problem:{}", problem.kind),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail: problem.detail,
        instance: instance.to_owned(),
        request_id: request_id.to_owned(),
        errors: problem.errors,
    };
    if status.is_server_error() {
        tracing::warn!(
            request_id,
            instance,
            status = status.as_u16(),
            detail = body.detail,
            "request failed"
        );
    }
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(serde_json::to_vec(&body).unwrap_or_default()))
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        let detail = error.to_string();
        match error {
            CatalogError::NotFound { what, key } => Self::not_found(what, &key),
            CatalogError::Exists { .. } | CatalogError::Reference { .. } => Self::conflict(detail),
            CatalogError::Stale { .. } => Self::new(StatusCode::PRECONDITION_FAILED, "stale", detail),
            CatalogError::NoSpace { .. } => Self::new(StatusCode::INSUFFICIENT_STORAGE, "no-space", detail),
            CatalogError::Backend { .. } => Self::internal(detail),
        }
    }
}

impl From<ResultsError> for Problem {
    fn from(error: ResultsError) -> Self {
        let detail = error.to_string();
        match error {
            ResultsError::NoSpace { .. } => Self::new(StatusCode::INSUFFICIENT_STORAGE, "no-space", detail),
            ResultsError::InUse { .. } | ResultsError::Backend { .. } => Self::internal(detail),
        }
    }
}

impl From<Fault> for Problem {
    /// A refusal of the contract; its codes are HTTP's where HTTP has one.
    fn from(fault: Fault) -> Self {
        let (status, kind) = match fault.code {
            400 | 422 => (StatusCode::BAD_REQUEST, "invalid"),
            403 => (StatusCode::FORBIDDEN, "forbidden"),
            404 if fault.name == "no_module" => (StatusCode::NOT_FOUND, "no-module"),
            404 if fault.name == "no_job" => (StatusCode::NOT_FOUND, "not-found"),
            404 => (StatusCode::NOT_FOUND, "no-vantage"),
            409 => (StatusCode::CONFLICT, "conflict"),
            423 | 425 => (StatusCode::CONFLICT, "not-now"),
            429 => (StatusCode::TOO_MANY_REQUESTS, "saturated"),
            503 if fault.name == NO_SPACE => (StatusCode::INSUFFICIENT_STORAGE, "no-space"),
            503 => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            504 => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        let detail = match &fault.field {
            // Which field it is, where the words do not say so themselves.
            Some(field) if kind == "invalid" && !fault.message.contains(field.as_str()) => {
                format!("{field}: {}", fault.message)
            }
            _ => fault.message.clone(),
        };
        let mut problem = Self::new(status, kind, detail);
        if let Some(field) = fault.field {
            problem.errors.push(FieldError::new(field, fault.message));
        }
        if let Some(ms) = fault.retry_after_ms {
            problem = problem.header(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
        }
        problem
    }
}

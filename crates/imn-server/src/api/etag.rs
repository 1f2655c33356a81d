//! ETags of mutable resources and the condition that a change must carry.

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::problem::Problem;

/// The ETag of a revision.
pub(crate) fn etag(revision: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{revision}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Requires that `If-Match` names the current revision: absent 428, stale 412.
pub(crate) fn require_match(headers: &HeaderMap, current: u64) -> Result<(), Problem> {
    let mut values = headers.get_all(header::IF_MATCH).iter().peekable();
    if values.peek().is_none() {
        return Err(Problem::new(
            StatusCode::PRECONDITION_REQUIRED,
            "precondition-required",
            "send If-Match with the ETag that GET gave, or If-Match: * to overwrite whatever is there",
        ));
    }
    let wanted = format!("\"{current}\"");
    let matches = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag == wanted);
    if matches {
        return Ok(());
    }
    let detail = format!("the resource has changed: its ETag is {wanted}; GET it again");
    Err(Problem::new(StatusCode::PRECONDITION_FAILED, "stale", detail).header(header::ETAG, etag(current)))
}

/// Whether `If-None-Match` names the current revision.
fn not_modified(headers: &HeaderMap, current: u64) -> bool {
    let wanted = format!("\"{current}\"");
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|tag| tag.trim().trim_start_matches("W/") == wanted)
}

/// A representation with its ETag, or 304 when the client has it.
pub(crate) fn respond(headers: &HeaderMap, revision: u64, body: impl Serialize) -> Response {
    let tag = [(header::ETAG, etag(revision))];
    if not_modified(headers, revision) {
        return (StatusCode::NOT_MODIFIED, tag).into_response();
    }
    (tag, Json(body)).into_response()
}

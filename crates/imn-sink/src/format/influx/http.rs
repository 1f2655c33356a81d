//! `http` under the names of Telegraf's `http_response` input.

use imn_contract::latest::HttpOutcome;

use super::{Line, Row, unix};

/// Telegraf's `result_code`, and its `result` in words.
fn result(outcome: &HttpOutcome) -> (u32, &'static str) {
    match outcome.error_code.as_deref() {
        None if outcome.success => (0, "success"),
        Some("body" | "header") => (1, "response_string_mismatch"),
        Some("body_too_large" | "truncated") => (2, "body_read_error"),
        Some("timeout") => (4, "timeout"),
        Some("resolve_failed" | "no_address") => (5, "dns_error"),
        Some("status") => (6, "response_status_code_mismatch"),
        _ => (3, "connection_failed"),
    }
}

pub(super) fn line(row: &Row, outcome: &HttpOutcome) -> Line {
    let (code, words) = result(outcome);
    let phases = &outcome.phases_ms;
    let status = outcome.status.map(|status| status.to_string()).unwrap_or_default();
    let mut line = Line::new("http_response")
        .tag("server", &outcome.target)
        .tag("agent", row.agent.as_deref().unwrap_or_default())
        .tag("ip", outcome.address.as_deref().unwrap_or_default())
        .tag("method", &outcome.method)
        .tag("result", words)
        .tag("status_code", &status)
        .flag("success", outcome.success)
        .int("result_code", code)
        .words("result_type", words)
        .float("response_time", outcome.response_ms.avg.map(|ms| ms / 1e3))
        .float("resolve_ms", phases.resolve)
        .float("connect_ms", phases.connect)
        .float("tls_ms", phases.tls)
        .float("processing_ms", phases.processing)
        .float("transfer_ms", phases.transfer)
        .int("redirects", outcome.redirects);
    if let Some(status) = outcome.status {
        line = line.int("http_response_code", status);
    }
    if let Some(bytes) = outcome.body_bytes {
        line = line.int("content_length", bytes);
    }
    if let Some(at) = outcome.certificate_expires.as_deref().and_then(unix) {
        line = line.float("certificate_expires", Some(at));
    }
    line.words("error", outcome.error.as_deref().unwrap_or_default())
}

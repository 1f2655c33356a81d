//! Columns of `http`.

use std::io;

use imn_contract::latest::HttpOutcome;

use super::number;

pub(super) const COLUMNS: [&str; 35] = [
    "target",
    "address",
    "time",
    "success",
    "sent",
    "received",
    "unknown",
    "met",
    "method",
    "url",
    "status",
    "version",
    "response_ms",
    "resolve_ms",
    "connect_ms",
    "tls_ms",
    "processing_ms",
    "transfer_ms",
    "connect_rtt_ms",
    "head_bytes",
    "body_bytes",
    "redirects",
    "tls_version",
    "tls_cipher",
    "tls_problem",
    "certificate_expires",
    "certificate_subject",
    "certificate_issuer",
    "times_ms",
    "timestamp_source",
    "error_us",
    "tmax_ms",
    "error_phase",
    "error_code",
    "error",
];

pub(super) fn fields(outcome: &HttpOutcome) -> io::Result<[String; COLUMNS.len()]> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let count = |count: Option<u64>| count.map(|count| count.to_string()).unwrap_or_default();
    let each = |value: &Option<f64>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
    let source = serde_json::to_value(outcome.timestamp_source)?;
    let phases = &outcome.phases_ms;
    let tls = outcome.tls.clone().unwrap_or_default();
    let own = tls.chain.first().cloned().unwrap_or_default();
    Ok([
        outcome.target.clone(),
        text(&outcome.address),
        text(&outcome.time),
        outcome.success.to_string(),
        outcome.sent.to_string(),
        outcome.received.to_string(),
        outcome.unknown.to_string(),
        outcome.met.to_string(),
        outcome.method.clone(),
        outcome.hops.last().map(|hop| hop.url.clone()).unwrap_or_default(),
        count(outcome.status.map(u64::from)),
        text(&outcome.version),
        number(outcome.response_ms.avg),
        number(phases.resolve),
        number(phases.connect),
        number(phases.tls),
        number(phases.processing),
        number(phases.transfer),
        number(outcome.connect_rtt_ms),
        count(outcome.head_bytes),
        count(outcome.body_bytes),
        outcome.redirects.to_string(),
        tls.version,
        tls.cipher,
        tls.problem.unwrap_or_default(),
        text(&outcome.certificate_expires),
        own.subject,
        own.issuer,
        outcome.times_ms.iter().map(each).collect::<Vec<_>>().join(" "),
        source.as_str().unwrap_or_default().to_owned(),
        outcome.error_us.to_string(),
        outcome.tmax_ms.to_string(),
        text(&outcome.error_phase),
        text(&outcome.error_code),
        text(&outcome.error),
    ])
}

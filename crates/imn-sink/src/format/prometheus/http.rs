//! `http`, and what it shares with every type that speaks TLS.

use imn_contract::latest::{HttpOutcome, TlsOutcome};

use super::{Samples, seconds, unix};

pub(super) fn add(samples: &mut Samples<'_>, outcome: &HttpOutcome) {
    let phases = &outcome.phases_ms;
    let help = "How long name resolution took";
    samples.plain("probe_dns_lookup_time_seconds", help, Some(phases.resolve.unwrap_or(0.0) / 1e3));
    for (phase, value) in [
        ("resolve", phases.resolve),
        ("connect", phases.connect),
        ("tls", phases.tls),
        ("processing", phases.processing),
        ("transfer", phases.transfer),
    ] {
        let help = "Duration of the request by phase, redirects included";
        let value = seconds(value).unwrap_or(0.0);
        samples.of("probe_http_duration_seconds", help, &[("phase", phase)], Some(value));
    }
    let help = "Status of the answer, 0 without one";
    samples.plain("probe_http_status_code", help, Some(f64::from(outcome.status.unwrap_or(0))));
    let version = outcome.version.as_deref().and_then(|version| version.parse().ok());
    samples.plain("probe_http_version", "Version of HTTP of the answer", Some(version.unwrap_or(0.0)));
    let is_tls = f64::from(u8::from(outcome.tls.is_some()));
    samples.plain("probe_http_ssl", "Whether TLS was used for the last request", Some(is_tls));
    samples.plain("probe_http_redirects", "Redirects followed", Some(f64::from(outcome.redirects)));
    // blackbox_exporter says -1 where the answer does not.
    let stated = outcome.content_length.map_or(-1.0, |length| length as f64);
    samples.plain("probe_http_content_length", "Size of the body as the answer states it", Some(stated));
    let read = outcome.body_bytes.unwrap_or(0) as f64;
    samples.plain("probe_http_uncompressed_body_length", "Size of the body as it was read", Some(read));
    let by_pattern = matches!(outcome.error_code.as_deref(), Some("body" | "header"));
    samples.plain(
        "probe_failed_due_to_regex",
        "Whether the answer is not as expected",
        Some(f64::from(u8::from(by_pattern))),
    );
    let expires = outcome.certificate_expires.as_deref().and_then(unix);
    samples.plain("probe_ssl_earliest_cert_expiry", EARLIEST, expires);
    if let Some(handshake) = &outcome.tls {
        tls(samples, handshake);
    }
    for (fate, count) in [
        ("sent", outcome.sent),
        ("received", outcome.received),
        ("unknown", outcome.unknown),
        ("met", outcome.met),
    ] {
        let help = "Requests by what became of them";
        samples.of("imn_http_requests", help, &[("fate", fate)], Some(f64::from(count)));
    }
    for (stat, value) in [
        ("min", outcome.response_ms.min),
        ("avg", outcome.response_ms.avg),
        ("max", outcome.response_ms.max),
        ("p50", outcome.response_ms.p50),
        ("p95", outcome.response_ms.p95),
    ] {
        let help = "Time of a whole request: percentiles count one without an answer as infinite";
        samples.of("imn_http_response_seconds", help, &[("stat", stat)], seconds(value));
    }
    if let Some(code) = &outcome.error_code {
        let labels = [("code", code.as_str()), ("phase", outcome.error_phase.as_deref().unwrap_or_default())];
        samples.of("imn_http_error_info", "Why the measurement is no success", &labels, Some(1.0));
    }
    let tmax = Some(outcome.tmax_ms as f64 / 1e3);
    samples.plain("imn_http_tmax_seconds", "How long a whole request was waited for", tmax);
}

pub(super) const EARLIEST: &str =
    "When the first certificate that was shown expires, in seconds since the Unix epoch";

/// What was agreed, and whom the certificate is of.
pub(super) fn tls(samples: &mut Samples<'_>, tls: &TlsOutcome) {
    let version = [("version", tls.version.as_str())];
    samples.of("probe_tls_version_info", "Version of TLS agreed on", &version, Some(1.0));
    let cipher = [("cipher", tls.cipher.as_str())];
    samples.of("probe_tls_cipher_info", "Cipher suite agreed on", &cipher, Some(1.0));
    if let Some(own) = tls.chain.first() {
        let names = own.names.join(",");
        let labels = [
            ("fingerprint_sha256", own.sha256.as_str()),
            ("subject", own.subject.as_str()),
            ("issuer", own.issuer.as_str()),
            ("subjectalternative", names.as_str()),
        ];
        samples.of("probe_ssl_last_chain_info", "The server's certificate", &labels, Some(1.0));
    }
    let verified = f64::from(u8::from(tls.verified));
    samples.plain("imn_tls_verified", "Whether the certificate is to be believed", Some(verified));
}

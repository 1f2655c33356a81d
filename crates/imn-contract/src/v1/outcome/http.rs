//! Outcome of `http`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Head, RttSummary, TlsOutcome, Typed};
use crate::v1::TimestampSource;

/// Outcome of `http`: one or more requests of a URL. Where several were made, what is told of a single one is of the
/// first that failed, or else of the last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpOutcome {
    /// The target as it was named.
    pub target: String,
    /// The address measured; absent when the name did not resolve. Of the last request, where redirects were followed.
    pub address: Option<String>,
    /// Whether every request met the expectations.
    pub success: bool,
    /// Type-P: method of the request.
    pub method: String,
    /// Type-P: port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Type-P: differentiated services code point.
    #[serde(default)]
    pub dscp: u8,
    /// Requests made; one whose name did not resolve was none.
    pub sent: u32,
    /// Requests answered within Tmax, whatever the answer.
    pub received: u32,
    /// Requests of which nothing can be said, because this host itself failed.
    pub unknown: u32,
    /// Requests that met the expectations.
    pub met: u32,
    /// Time of a whole request, from the name to the last byte, over those whose answer was complete.
    pub response_ms: RttSummary,
    /// The same of each request in order, in milliseconds; null for one whose answer was not complete.
    pub times_ms: Vec<Option<f64>>,
    /// The phases of the request, redirects included.
    pub phases_ms: HttpPhases,
    /// From SYN to SYN-ACK as the kernel took it, in milliseconds; null if the SYN had to be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_rtt_ms: Option<f64>,
    /// Status of the answer.
    pub status: Option<u16>,
    /// Version of HTTP: `1.0`, `1.1` or `2`.
    pub version: Option<String>,
    /// Size of the answer's head in bytes; in HTTP/2 as it would be in HTTP/1.1.
    pub head_bytes: Option<u64>,
    /// Size of the answer's body in bytes, so much of it as came.
    pub body_bytes: Option<u64>,
    /// Size of the body as the answer states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_length: Option<u64>,
    /// Redirects followed.
    pub redirects: u32,
    /// Each request on the way, the last one included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hops: Vec<HttpHop>,
    /// The TLS handshake of the last request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsOutcome>,
    /// When the first certificate that was shown on the way expires, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<String>,
    /// Each expectation that was not met, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmet: Vec<String>,
    /// Where the timestamps come from.
    pub timestamp_source: TimestampSource,
    /// Bound of the systematic error of each phase, in microseconds: what this host adds.
    pub error_us: f64,
    /// How long a whole request was waited for, in milliseconds.
    pub tmax_ms: u64,
    /// When the first request was begun, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The phase that failed: `resolve`, `connect`, `tls`, `processing` or `transfer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_phase: Option<String>,
    /// Why it is no success, as a word for programs: `resolve_failed`, `no_address`, `refused`, `unreachable`,
    /// `timeout`, `reset`, `closed`, `truncated`, `protocol`, `version`, `head_too_large`, `body_too_large`,
    /// `too_many_redirects`, `bad_redirect`, `status`, `header`, `body`, `not_tls`, `tls_…`, `not_sent`, `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Why it is no success.
    #[serde(default)]
    pub error: Option<String>,
}

/// How long each phase took, in milliseconds; null for one that was not needed or did not come to its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpPhases {
    /// From the name to addresses.
    pub resolve: Option<f64>,
    /// From the SYN to the connection.
    pub connect: Option<f64>,
    /// The TLS handshake.
    pub tls: Option<f64>,
    /// From the connection, secured, to the first byte of the answer.
    pub processing: Option<f64>,
    /// From there to the last byte.
    pub transfer: Option<f64>,
}

/// One request on the way along redirects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpHop {
    /// What was asked for.
    pub url: String,
    /// Every address of the host, in the resolver's order.
    pub addresses: Vec<String>,
    /// The address chosen, the first of the family asked for.
    pub address: Option<String>,
    /// The address measured from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Status of the answer.
    pub status: Option<u16>,
    /// The phases.
    pub phases_ms: HttpPhases,
}

impl Typed for HttpOutcome {
    fn unmeasured(target: &str, tmax_ms: u64, error: String) -> Self {
        Self { target: target.to_owned(), tmax_ms, error: Some(error), ..Self::default() }
    }

    fn head(&self) -> Head<'_> {
        Head {
            target: &self.target,
            address: self.address.as_deref(),
            time: self.time.as_deref(),
            success: self.success,
            sent: self.sent,
            received: self.received,
            unknown: self.unknown,
            duplicates: 0,
            latencies_ms: &self.times_ms,
            timestamp_source: self.timestamp_source,
            error_us: self.error_us,
            tmax_ms: self.tmax_ms,
            error: self.error.as_deref(),
        }
    }
}

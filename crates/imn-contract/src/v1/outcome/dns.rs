//! Outcome of `dns`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Head, Typed};
use crate::v1::TimestampSource;

/// Outcome of `dns`: what a resolver answers to a question, and how long each part of it took (active, RFC 7799). Of
/// several queries, counts and latencies are over all, and everything else is of the first that met its expectation, or
/// of the last if none did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DnsOutcome {
    /// The target as it was named: the name looked up, or the resolver where the parameters name what to look up.
    pub target: String,
    /// The resolver as it was named; the system's own if the parameters name none.
    #[serde(default)]
    pub resolver: String,
    /// The resolver's address; absent when its name did not resolve.
    pub address: Option<String>,
    /// Type-P: port.
    #[serde(default)]
    pub port: u16,
    /// Type-P: `udp`, `tcp`, `dot` or `doh`.
    #[serde(default)]
    pub transport: String,
    /// Type-P: differentiated services code point.
    #[serde(default)]
    pub dscp: u8,
    /// Type-P: size of the query, in bytes.
    #[serde(default)]
    pub query_size: u32,
    /// This host's address, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The name asked for.
    #[serde(default)]
    pub query: String,
    /// Type asked for, such as `AAAA`.
    #[serde(default)]
    pub record_type: String,
    /// Class asked for, such as `IN`.
    #[serde(default)]
    pub class: String,
    /// When the first packet was sent, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Queries sent.
    #[serde(default)]
    pub sent: u32,
    /// Queries answered within Tmax, whatever the answer says; one that is malformed is lost.
    #[serde(default)]
    pub received: u32,
    /// Queries of which nothing can be said, because this host lost something itself.
    #[serde(default)]
    pub unknown: u32,
    /// lost / (sent − unknown), in percent; null when nothing is known.
    #[serde(default)]
    pub loss_pct: Option<f64>,
    /// Whether an answer met the expectation: that of the parameters, or else NOERROR.
    #[serde(default)]
    pub success: bool,
    /// From the question sent to the answer's last byte, in milliseconds; connection and handshake come before.
    #[serde(default)]
    pub latency_ms: Option<f64>,
    /// The latency of each query in order of sending, in milliseconds; null for one not answered.
    #[serde(default)]
    pub latencies_ms: Vec<Option<f64>>,
    /// Parts of the time.
    #[serde(default)]
    pub phases_ms: DnsPhases,
    /// Response code, such as `NXDOMAIN`.
    #[serde(default)]
    pub rcode: Option<String>,
    /// Identifier of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// Flags of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<DnsFlags>,
    /// Entries of the answer by section, as its header counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<DnsCounts>,
    /// Records of the answer section, in their order.
    #[serde(default)]
    pub answers: Vec<DnsRecord>,
    /// Records of the answer section that are left out of `answers`, since they are too long together.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub answers_omitted: u32,
    /// Size of the answer, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_size: Option<u32>,
    /// Bytes behind the answer's last record.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trailing_bytes: u32,
    /// EDNS of the answer; absent without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edns: Option<DnsEdns>,
    /// The answer over UDP was truncated, and the question was asked again over TCP.
    #[serde(default)]
    pub retried_over_tcp: bool,
    /// Messages that came and were not the answer, over all queries.
    #[serde(default)]
    pub wrong: DnsWrong,
    /// The TLS session; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<DnsTls>,
    /// Status of the HTTP response; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// The answer as it came, in base64; absent if it is longer than 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abuf: Option<String>,
    /// Where the timestamps of the latency come from.
    #[serde(default)]
    pub timestamp_source: TimestampSource,
    /// Bound of the systematic error of the latency, in microseconds.
    #[serde(default)]
    pub error_us: f64,
    /// How long a query may take with all its phases, in milliseconds.
    #[serde(default)]
    pub tmax_ms: u64,
    /// What the error is, for programs: `timeout`, `wrong_answer`, `refused`, `unreachable`, `not_sent`, `unknown`,
    /// `closed`, `malformed`, `truncated`, `http`, one of TLS such as `tls_expired`, `resolve`, or what was not as
    /// expected: `rcode`, `answer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Why nothing was measured, or the expectation is not met.
    #[serde(default)]
    pub error: Option<String>,
}

/// Parts of the time that a query took, in milliseconds; absent for one that it does not have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DnsPhases {
    /// Address of the resolver's own name, by the system's resolver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolve: Option<f64>,
    /// SYN to SYN-ACK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<f64>,
    /// TLS handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<f64>,
    /// Question and answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<f64>,
    /// After a truncated answer: connection, question and answer over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<f64>,
}

/// Flags of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(clippy::struct_excessive_bools, reason = "they are the bits of the header")]
pub struct DnsFlags {
    /// Authoritative answer.
    pub aa: bool,
    /// Truncated.
    pub tc: bool,
    /// Recursion desired.
    pub rd: bool,
    /// Recursion available.
    pub ra: bool,
    /// Authentic data.
    pub ad: bool,
    /// Checking disabled.
    pub cd: bool,
}

/// Entries of an answer by section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsCounts {
    /// Questions.
    pub question: u16,
    /// Records of the answer section.
    pub answer: u16,
    /// Records of the authority section.
    pub authority: u16,
    /// Records of the additional section, that of EDNS included.
    pub additional: u16,
}

/// A resource record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsRecord {
    /// Owner.
    pub name: String,
    /// Type, such as `A`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Class, such as `IN`.
    pub class: String,
    /// Time to live, in seconds.
    pub ttl: u32,
    /// Data as zone files write it.
    pub data: String,
}

/// EDNS of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsEdns {
    /// Version.
    pub version: u8,
    /// Size of UDP messages that the server takes.
    pub udp_size: u16,
    /// DNSSEC records are wanted.
    pub dnssec_ok: bool,
    /// Name of the server's instance (RFC 5001): its text, or hexadecimal if it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nsid: Option<String>,
    /// Extended errors (RFC 8914): number and text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extended_errors: Vec<String>,
}

/// Messages that were ignored, by the first thing that was wrong with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsWrong {
    /// From an address or port that was not asked.
    pub source: u32,
    /// No answer at all.
    pub form: u32,
    /// With another identifier.
    pub id: u32,
    /// To another question.
    pub question: u32,
}

/// A TLS session with a resolver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsTls {
    /// Version, such as `TLS 1.3`.
    pub version: String,
    /// Cipher suite by its IANA name.
    pub cipher: String,
    /// Name that the certificate had to be for.
    pub server_name: String,
    /// When the first certificate of the chain to do so expires, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Why the certificate is not to be believed; absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distrust: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl DnsWrong {
    /// All of them.
    pub fn total(&self) -> u32 {
        [self.form, self.id, self.question].into_iter().fold(self.source, u32::saturating_add)
    }
}

impl Typed for DnsOutcome {
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
            latencies_ms: &self.latencies_ms,
            timestamp_source: self.timestamp_source,
            error_us: self.error_us,
            tmax_ms: self.tmax_ms,
            error: self.error.as_deref(),
        }
    }
}

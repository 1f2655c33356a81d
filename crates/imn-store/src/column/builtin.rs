//! What the built-in types have: a field's name is that of the outcome's field. What the columns of all rounds say is
//! not said again.

mod bgp;
mod dns;
mod http;
mod stamp;
mod trace;

use super::{
    Column,
    ColumnType::{self, Bool, F64, List, Struct, Text, Time, U32, U64},
};

/// Columns by type.
pub(super) const TYPES: &[(&str, &[Column])] = &[
    ("bgp", bgp::COLUMNS),
    ("dns", dns::COLUMNS),
    ("heartbeat", HEARTBEAT),
    ("http", http::COLUMNS),
    ("stamp", stamp::COLUMNS),
    ("tcp", TCP),
    ("trace", trace::COLUMNS),
];

const fn column(name: &'static str, kind: ColumnType, about: &'static str) -> Column {
    Column { name, kind, about }
}

const HEARTBEAT: &[Column] = &[
    column("load", List(&F64), "Load averages over 1, 5 and 15 minutes"),
    column("memory_total", U64, "Memory in all, in bytes"),
    column("memory_available", U64, "Memory available, in bytes"),
    column("uptime_s", F64, "Seconds since the host booted"),
    column("clock_offset_us", F64, "Clock offset by adjtimex, in microseconds; null when not synchronized"),
    column("clock_synced", Bool, "Whether the kernel calls its clock synchronized"),
];

/// Only rounds with a TLS handshake have an outcome.
const TCP: &[Column] = &[
    column("target_name", Text, "The target as it was named"),
    column("protocol", Text, "Type-P: protocol"),
    column("port", U32, "Type-P: port"),
    column("size", U32, "Type-P: payload size, in bytes"),
    column("dscp", U32, "Type-P: differentiated services code point"),
    column("rtt_ms", Struct(RTT), "Connect times, in milliseconds"),
    column(
        "ipdv_ms",
        F64,
        "Mean absolute difference of consecutive connect times (RFC 3393), in milliseconds",
    ),
    column("pdv_ms", F64, "Mean of connect time minus least connect time (RFC 5481), in milliseconds"),
    column("jitter_ms", F64, "The mean absolute ipdv under its common name, in milliseconds"),
    column("ttl", U32, "TTL or hop limit of the last answer, as it arrived"),
    column("resolve_ms", F64, "How long resolving the target's name took, in milliseconds"),
    column("tls", Struct(TLS), "The TLS handshake: of the first connection that failed, or of the last"),
];

/// Summary of delays, in milliseconds; a percentile that falls on a loss is null.
const RTT: &[Column] = &[
    column("min", F64, "Least"),
    column("avg", F64, "Mean over received"),
    column("max", F64, "Greatest"),
    column("stddev", F64, "Sample standard deviation"),
    column("p50", F64, "Median"),
    column("p95", F64, "95th percentile"),
];

/// A TLS handshake.
const TLS: &[Column] = &[
    column(
        "handshake_ms",
        F64,
        "How long it took, in milliseconds, without our own checks of the certificate",
    ),
    column("version", Text, "Version, such as `TLS 1.3`"),
    column("cipher", Text, "Cipher suite by its IANA name"),
    column("group", Text, "Key exchange group, such as `X25519`"),
    column("alpn", Text, "Application protocol agreed on (ALPN)"),
    column("server_name", Text, "Name that the certificate had to be for"),
    column(
        "verified",
        Bool,
        "Whether the certificate is to be believed: by its chain, its dates and its names",
    ),
    column("problem", Text, "Why it is not, as a word for programs, such as `tls_expired`"),
    column("problem_text", Text, "Why it is not, in words"),
    column("expires", Time, "When the first certificate of the chain to do so expires, RFC 3339 UTC"),
    column(
        "chain",
        List(&Struct(CERTIFICATE)),
        "The chain as the server showed it, its own certificate first",
    ),
];

const CERTIFICATE: &[Column] = &[
    column("subject", Text, "Distinguished name of the subject"),
    column("issuer", Text, "Distinguished name of the issuer"),
    column("serial", Text, "Serial number in hexadecimal"),
    column("names", List(&Text), "Subject alternative names, at most 32"),
    column("name_count", U32, "How many subject alternative names there are"),
    column("not_before", Time, "Valid from, RFC 3339 UTC"),
    column("not_after", Time, "Valid until, RFC 3339 UTC"),
    column("key", Text, "Kind and size of the public key"),
    column("signature", Text, "Algorithm of the signature"),
    column("sha256", Text, "SHA-256 of the certificate in hexadecimal"),
    column("pem", Text, "The certificate in PEM, where it was asked for"),
];

//! Columns of `http`.

use super::{RTT, TLS, column};
use crate::column::{
    Column,
    ColumnType::{F64, List, Struct, Text, Time, U32, U64},
};

pub(super) const COLUMNS: &[Column] = &[
    column("target_name", Text, "The target as it was named"),
    column("method", Text, "Type-P: method of the request"),
    column("port", U32, "Type-P: port"),
    column("dscp", U32, "Type-P: differentiated services code point"),
    column("met", U32, "Requests that met the expectations"),
    column(
        "response_ms",
        Struct(RTT),
        "Time of a whole request, from the name to the last byte, over those whose answer was complete",
    ),
    column("phases_ms", Struct(PHASES), "The phases of the request, redirects included"),
    column(
        "connect_rtt_ms",
        F64,
        "From SYN to SYN-ACK as the kernel took it, in milliseconds; null if the SYN had to be repeated",
    ),
    column("status", U32, "Status of the answer"),
    column("version", Text, "Version of HTTP: `1.0`, `1.1` or `2`"),
    column("head_bytes", U64, "Size of the answer's head in bytes; in HTTP/2 as it would be in HTTP/1.1"),
    column("body_bytes", U64, "Size of the answer's body in bytes, so much of it as came"),
    column("content_length", U64, "Size of the body as the answer states it"),
    column("redirects", U32, "Redirects followed"),
    column("hops", List(&Struct(HOP)), "Each request on the way, the last one included"),
    column("tls", Struct(TLS), "The TLS handshake of the last request"),
    column(
        "certificate_expires",
        Time,
        "When the first certificate that was shown on the way expires, RFC 3339 UTC",
    ),
    column("unmet", List(&Text), "Each expectation that was not met, in words"),
    column(
        "error_phase",
        Text,
        "The phase that failed: `resolve`, `connect`, `tls`, `processing` or `transfer`",
    ),
    column("error_code", Text, "Why it is no success, as a word for programs, such as `timeout`"),
];

const PHASES: &[Column] = &[
    column("resolve", F64, "From the name to addresses"),
    column("connect", F64, "From the SYN to the connection"),
    column("tls", F64, "The TLS handshake"),
    column("processing", F64, "From the connection, secured, to the first byte of the answer"),
    column("transfer", F64, "From there to the last byte"),
];

const HOP: &[Column] = &[
    column("url", Text, "What was asked for"),
    column("addresses", List(&Text), "Every address of the host, in the resolver's order"),
    column("address", Text, "The address chosen, the first of the family asked for"),
    column("source", Text, "The address measured from"),
    column("status", U32, "Status of the answer"),
    column("phases_ms", Struct(PHASES), "The phases"),
];

//! What the built-in types have. A field's name is that of the outcome's field.

use super::{
    Column,
    ColumnType::{Bool, F64, List, Struct, Text, U32, U64},
};

/// Columns by type.
pub(super) const TYPES: &[(&str, &[Column])] = &[("dns", DNS), ("heartbeat", HEARTBEAT)];

const fn column(name: &'static str, kind: super::ColumnType, about: &'static str) -> Column {
    Column { name, kind, about }
}

const DNS: &[Column] = &[
    column("resolver", Text, "The resolver as it was named"),
    column("transport", Text, "udp, tcp, dot or doh"),
    column("port", U32, "Port of the resolver"),
    column("source", Text, "This host's address, where it is known"),
    column("query", Text, "The name asked for"),
    column("record_type", Text, "Type asked for, such as AAAA"),
    column("class", Text, "Class asked for, such as IN"),
    column("query_size", U32, "Size of the query, in bytes"),
    column("latency_ms", F64, "From the question sent to the answer's last byte"),
    column("phases_ms", Struct(DNS_PHASES), "Parts of the time, in milliseconds"),
    column("rcode", Text, "Response code, such as NXDOMAIN"),
    column("flags", Struct(DNS_FLAGS), "Flags of the answer"),
    column("counts", Struct(DNS_COUNTS), "Entries of the answer by section"),
    column("answers", List(&Struct(DNS_RECORD)), "Records of the answer section"),
    column("answer_size", U32, "Size of the answer, in bytes"),
    column("edns", Struct(DNS_EDNS), "EDNS of the answer"),
    column("retried_over_tcp", Bool, "Whether a truncated answer was asked for again over TCP"),
    column("wrong", Struct(DNS_WRONG), "Messages that came and were not the answer"),
    column("tls", Struct(DNS_TLS), "The TLS session"),
    column("http_status", U32, "Status of the HTTP response"),
    column("abuf", Text, "The answer as it came, in base64"),
    column("error_code", Text, "What the error is, for programs"),
];

const DNS_PHASES: &[Column] = &[
    column("resolve", F64, "Address of the resolver's own name"),
    column("connect", F64, "SYN to SYN-ACK"),
    column("tls", F64, "TLS handshake"),
    column("query", F64, "Question and answer"),
    column("retry", F64, "The question asked again over TCP"),
];

const DNS_FLAGS: &[Column] = &[
    column("aa", Bool, "Authoritative answer"),
    column("tc", Bool, "Truncated"),
    column("rd", Bool, "Recursion desired"),
    column("ra", Bool, "Recursion available"),
    column("ad", Bool, "Authentic data"),
    column("cd", Bool, "Checking disabled"),
];

const DNS_COUNTS: &[Column] = &[
    column("question", U32, "Questions"),
    column("answer", U32, "Records of the answer section"),
    column("authority", U32, "Records of the authority section"),
    column("additional", U32, "Records of the additional section"),
];

const DNS_RECORD: &[Column] = &[
    column("name", Text, "Owner"),
    column("type", Text, "Type, such as A"),
    column("class", Text, "Class, such as IN"),
    column("ttl", U32, "Time to live, in seconds"),
    column("data", Text, "Data as zone files write it"),
];

const DNS_EDNS: &[Column] = &[
    column("version", U32, "Version"),
    column("udp_size", U32, "Size of UDP messages that the server takes"),
    column("dnssec_ok", Bool, "DNSSEC records are wanted"),
    column("nsid", Text, "Name of the server's instance"),
    column("extended_errors", List(&Text), "Extended errors: number and text"),
];

const DNS_WRONG: &[Column] = &[
    column("source", U32, "From an address or port that was not asked"),
    column("form", U32, "No answer at all"),
    column("id", U32, "With another identifier"),
    column("question", U32, "To another question"),
];

const DNS_TLS: &[Column] = &[
    column("version", Text, "Version, such as TLS 1.3"),
    column("cipher", Text, "Cipher suite"),
    column("server_name", Text, "Name that the certificate had to be for"),
    column("expires", Text, "When the first certificate of the chain expires"),
    column("distrust", Text, "Why the certificate is not to be believed"),
];

const HEARTBEAT: &[Column] = &[
    column("load", List(&F64), "Load averages over 1, 5 and 15 minutes"),
    column("memory_total", U64, "Memory in all, in bytes"),
    column("memory_available", U64, "Memory available, in bytes"),
    column("uptime_s", F64, "Seconds since the host booted"),
    column("clock_offset_us", F64, "Clock offset by adjtimex, in microseconds; null when not synchronized"),
    column("clock_synced", Bool, "Whether the kernel calls its clock synchronized"),
];

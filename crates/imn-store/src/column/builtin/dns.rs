//! Columns of `dns`.

use super::column;
use crate::column::{
    Column,
    ColumnType::{Bool, F64, List, Struct, Text, Time, U32},
};

pub(super) const COLUMNS: &[Column] = &[
    column(
        "target_name",
        Text,
        "The target as it was named: the name looked up, or the resolver where the parameters name what to look up",
    ),
    column("resolver", Text, "The resolver as it was named; the system's own if the parameters name none"),
    column("port", U32, "Type-P: port"),
    column("transport", Text, "Type-P: `udp`, `tcp`, `dot` or `doh`"),
    column("dscp", U32, "Type-P: differentiated services code point"),
    column("query_size", U32, "Type-P: size of the query, in bytes"),
    column("source", Text, "This host's address, where it is known"),
    column("query", Text, "The name asked for"),
    column("record_type", Text, "Type asked for, such as `AAAA`"),
    column("class", Text, "Class asked for, such as `IN`"),
    column(
        "latency_ms",
        F64,
        "From the question sent to the answer's last byte, in milliseconds; connection and handshake come before",
    ),
    column("phases_ms", Struct(PHASES), "Parts of the time"),
    column("rcode", Text, "Response code, such as `NXDOMAIN`"),
    column("id", U32, "Identifier of the answer"),
    column("flags", Struct(FLAGS), "Flags of the answer"),
    column("counts", Struct(COUNTS), "Entries of the answer by section, as its header counts them"),
    column("answers", List(&Struct(RECORD)), "Records of the answer section, in their order"),
    column(
        "answers_omitted",
        U32,
        "Records of the answer section that are left out of `answers`, since they are too long together",
    ),
    column("answer_size", U32, "Size of the answer, in bytes"),
    column("trailing_bytes", U32, "Bytes behind the answer's last record"),
    column("edns", Struct(EDNS), "EDNS of the answer; absent without it"),
    column(
        "retried_over_tcp",
        Bool,
        "The answer over UDP was truncated, and the question was asked again over TCP",
    ),
    column("wrong", Struct(WRONG), "Messages that came and were not the answer, over all queries"),
    column("tls", Struct(TLS), "The TLS session; absent where there was none"),
    column("http_status", U32, "Status of the HTTP response; absent where there was none"),
    column("abuf", Text, "The answer as it came, in base64; absent if it is longer than 16 KiB"),
    column("error_code", Text, "What the error is, for programs, such as `timeout`"),
];

const PHASES: &[Column] = &[
    column("resolve", F64, "Address of the resolver's own name, by the system's resolver"),
    column("connect", F64, "SYN to SYN-ACK"),
    column("tls", F64, "TLS handshake"),
    column("query", F64, "Question and answer"),
    column("retry", F64, "After a truncated answer: connection, question and answer over TCP"),
];

const FLAGS: &[Column] = &[
    column("aa", Bool, "Authoritative answer"),
    column("tc", Bool, "Truncated"),
    column("rd", Bool, "Recursion desired"),
    column("ra", Bool, "Recursion available"),
    column("ad", Bool, "Authentic data"),
    column("cd", Bool, "Checking disabled"),
];

const COUNTS: &[Column] = &[
    column("question", U32, "Questions"),
    column("answer", U32, "Records of the answer section"),
    column("authority", U32, "Records of the authority section"),
    column("additional", U32, "Records of the additional section, that of EDNS included"),
];

const RECORD: &[Column] = &[
    column("name", Text, "Owner"),
    column("type", Text, "Type, such as `A`"),
    column("class", Text, "Class, such as `IN`"),
    column("ttl", U32, "Time to live, in seconds"),
    column("data", Text, "Data as zone files write it"),
];

const EDNS: &[Column] = &[
    column("version", U32, "Version"),
    column("udp_size", U32, "Size of UDP messages that the server takes"),
    column("dnssec_ok", Bool, "DNSSEC records are wanted"),
    column("nsid", Text, "Name of the server's instance (RFC 5001): its text, or hexadecimal if it is none"),
    column("extended_errors", List(&Text), "Extended errors (RFC 8914): number and text"),
];

const WRONG: &[Column] = &[
    column("source", U32, "From an address or port that was not asked"),
    column("form", U32, "No answer at all"),
    column("id", U32, "With another identifier"),
    column("question", U32, "To another question"),
];

const TLS: &[Column] = &[
    column("version", Text, "Version, such as `TLS 1.3`"),
    column("cipher", Text, "Cipher suite by its IANA name"),
    column("server_name", Text, "Name that the certificate had to be for"),
    column("expires", Time, "When the first certificate of the chain to do so expires, RFC 3339 UTC"),
    column("distrust", Text, "Why the certificate is not to be believed; absent if it is"),
];

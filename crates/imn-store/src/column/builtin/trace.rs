//! Columns of `trace`.

use super::{RTT, column};
use crate::column::{
    Column,
    ColumnType::{Bool, F64, List, Struct, Text, U32},
};

pub(super) const COLUMNS: &[Column] = &[
    column("target_name", Text, "The target as it was named"),
    column("source", Text, "The address traced from"),
    column("protocol", Text, "Type-P: protocol, `icmp`, `icmpv6`, `udp` or `tcp`"),
    column("port", U32, "Type-P: destination port, where there is one"),
    column("size", U32, "Type-P: payload size, in bytes; TCP probes have none"),
    column("dscp", U32, "Type-P: differentiated services code point"),
    column("max_hops", U32, "Last TTL or hop limit that would have been tried"),
    column("cycles", U32, "Cycles; when parallel paths were looked for, flows"),
    column("reached", Bool, "Whether the target answered"),
    column(
        "distance",
        U32,
        "TTL or hop limit at which the path ends: at the target, or at whoever says that it cannot be reached",
    ),
    column("rtt_ms", Struct(RTT), "Round-trip times of the target"),
    column(
        "ipdv_ms",
        F64,
        "Mean absolute difference of consecutive round-trip times of the target (RFC 3393), in milliseconds; undefined across a loss",
    ),
    column("pdv_ms", F64, "Mean of delay minus least delay of the target (RFC 5481), in milliseconds"),
    column("jitter_ms", F64, "The mean absolute ipdv of the target under its common name, in milliseconds"),
    column("hops", List(&Struct(HOP)), "Every hop, without gap"),
    column(
        "paths",
        List(&Struct(PATH)),
        "The paths found, the most used first: one, unless parallel paths were looked for",
    ),
    column(
        "paths_complete",
        Bool,
        "Whether parallel paths were looked for, and if so, whether the stopping rule was satisfied at every branch",
    ),
    column("wrong_source", U32, "Genuine answers from an address that was not asked"),
    column("forged", U32, "Answers that name a probe of this trace but cannot be genuine; they were ignored"),
    column("beyond", U32, "Probes that turned out to go beyond the path's end; no hop counts them"),
    column(
        "elapsed_ms",
        F64,
        "From the first probe to the last answer or the last probe given up, in milliseconds",
    ),
];

const MPLS_LABEL: &[Column] = &[
    column("label", U32, "Label, 20 bits"),
    column("exp", U32, "Traffic class, formerly experimental bits"),
    column("s", U32, "1 at the bottom of the stack"),
    column("ttl", U32, "Time to live"),
];

const ICMP_OBJECT: &[Column] = &[
    column("class", U32, "Class number; 1 is MPLS"),
    column("type", U32, "Class type"),
    column(
        "mpls",
        List(&Struct(MPLS_LABEL)),
        "The MPLS label stack (RFC 4950), outermost first, if it is one",
    ),
];

const ICMP_EXTENSION: &[Column] = &[
    column("rfc4884", Bool, "The message says itself where the extension begins, as RFC 4884 asks"),
    column("objects", List(&Struct(ICMP_OBJECT)), "Its objects"),
];

const RESPONDER: &[Column] = &[
    column("address", Text, "Its address"),
    column("received", U32, "Its answers within Tmax"),
    column("avg_ms", F64, "Mean round-trip time of these, in milliseconds"),
    column(
        "answer",
        Text,
        "How it answered last: `time_exceeded`, `echo_reply`, `syn_ack`, `reset` or `unreachable`",
    ),
    column("icmp_type", U32, "ICMP or ICMPv6 type, if it is `unreachable`"),
    column("icmp_code", U32, "ICMP or ICMPv6 code, if it is `unreachable`"),
    column("sign", Text, "Traceroute's sign for it, such as `!H`"),
    column("reply_ttl", U32, "TTL or hop limit at which its answer arrived"),
    column(
        "quoted_ttl",
        U32,
        "TTL or hop limit at which the probe had arrived there; 1 unless somebody hides hops",
    ),
    column("reply_size", U32, "Bytes of its answer behind the IP header"),
    column("extension", Struct(ICMP_EXTENSION), "ICMP extension (RFC 4884) of its last error that had one"),
];

const HOP: &[Column] = &[
    column("hop", U32, "TTL or hop limit"),
    column("address", Text, "Who answered most; null if nobody did"),
    column("host", Text, "Its name, where one was asked for"),
    column("asn", U32, "Number of the autonomous system that originates its address, where it was asked for"),
    column("sent", U32, "Probes sent"),
    column("received", U32, "Probes answered within Tmax"),
    column("unknown", U32, "Probes of which nothing can be said"),
    column("loss_pct", F64, "lost / (sent − unknown), in percent"),
    column("loss_kind", Text, "What the loss means; null when too few probes tell"),
    column("last_ms", F64, "Last round-trip time, in milliseconds"),
    column("avg_ms", F64, "Mean round-trip time of received probes, in milliseconds"),
    column("best_ms", F64, "Least round-trip time, in milliseconds"),
    column("worst_ms", F64, "Greatest round-trip time, in milliseconds"),
    column("stddev_ms", F64, "Sample standard deviation, in milliseconds"),
    column("jitter_ms", F64, "Mean absolute ipdv (RFC 3393), in milliseconds"),
    column(
        "rtts_ms",
        List(&F64),
        "Round-trip time of each probe in order of sending, in milliseconds; null for one not answered",
    ),
    column("timestamp_source", Text, "Where the timestamps come from"),
    column("responders", List(&Struct(RESPONDER)), "Who answered, in order of appearance"),
    column("answered_by", List(&U32), "Where several answered: for each probe, the index of who did"),
];

const PATH: &[Column] = &[
    column(
        "id",
        Text,
        "Names the sequence of addresses, the same from every vantage point and at all times: 16 hexadecimal digits",
    ),
    column("addresses", List(&Text), "Address at each hop; null where none answered"),
    column("flows", U32, "Number of flows that took it"),
];

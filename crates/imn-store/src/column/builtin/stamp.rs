//! Columns of `stamp`.

use super::{RTT, column};
use crate::column::{
    Column,
    ColumnType::{Bool, F64, List, Struct, Text, U32},
};

pub(super) const COLUMNS: &[Column] = &[
    column("target_name", Text, "The target as it was named"),
    column("port", U32, "Type-P: UDP port of the reflector"),
    column("mode", Text, "`unauthenticated` or `authenticated`"),
    column("size", U32, "Type-P: UDP payload, in bytes"),
    column("dscp", U32, "Type-P: differentiated services code point"),
    column("ssid", U32, "Session identifier sent (RFC 8972); absent when nothing was sent"),
    column(
        "ssid_returned",
        Bool,
        "Whether the reflector returned the session identifier; absent without an answer",
    ),
    column("rtt_ms", Struct(RTT), "Round-trip times, less the time at the reflector"),
    column(
        "ipdv_ms",
        F64,
        "Mean absolute difference of consecutive round-trip times (RFC 3393), in milliseconds; undefined across a loss",
    ),
    column("pdv_ms", F64, "Mean of round trip minus least round trip (RFC 5481), in milliseconds"),
    column("jitter_ms", F64, "The mean absolute ipdv under its common name, in milliseconds"),
    column("wrong_source", U32, "Genuine answers from an address or port that was not asked"),
    column(
        "corrupted",
        U32,
        "Packets from the reflector that are no answer: too short, or with another HMAC than the key gives",
    ),
    column("foreign", U32, "Packets that answer nothing that was sent"),
    column("residence_ms", F64, "Mean time at the reflector by its own clock, in milliseconds"),
    column("forward", Struct(DIRECTION), "From here to the reflector"),
    column("backward", Struct(DIRECTION), "From the reflector to here"),
    column(
        "unattributed",
        U32,
        "Packets lost in one of the two directions, and nothing tells in which; null where directions cannot be told at all, because the reflector does not count",
    ),
    column("clock", Struct(CLOCKS), "The clocks that the one-way delays are differences of"),
];

const DIRECTION: &[Column] = &[
    column(
        "delay_ms",
        Struct(RTT),
        "One-way delays of answered packets; all null where a timestamp is missing or a clock was stepped",
    ),
    column(
        "ipdv_ms",
        F64,
        "Mean absolute difference of consecutive one-way delays (RFC 3393), in milliseconds; undefined across a loss",
    ),
    column("pdv_ms", F64, "Mean of one-way delay minus least one-way delay (RFC 5481), in milliseconds"),
    column(
        "sent",
        U32,
        "Packets sent into this direction of which it is known whether they arrived; null where it cannot be told",
    ),
    column("lost", U32, "Of them, those that did not arrive (RFC 7680)"),
    column("loss_pct", F64, "lost / sent, in percent"),
    column("duplicates", U32, "Further copies that arrived"),
    column("reordered", U32, "Packets that arrived out of order (RFC 4737)"),
    column("ttl", U32, "Least TTL or hop limit on arrival; both ends of this implementation send with 255"),
    column(
        "delays_ms",
        List(&F64),
        "Each packet's one-way delay in order of sending, in milliseconds; null where there is none",
    ),
];

const CLOCK: &[Column] = &[
    column("synced", Bool, "Whether it is synchronized to UTC"),
    column("error_us", F64, "Bound of its error, in microseconds; null when unknown"),
];

const CLOCKS: &[Column] = &[
    column(
        "synced",
        Bool,
        "Whether both are synchronized to UTC; if not, one-way delays say nothing but how they vary",
    ),
    column(
        "error_us",
        F64,
        "Bound of the error of a one-way delay, in microseconds: those of both clocks and of taking the stamps; null unless both are synchronized",
    ),
    column("local", Struct(CLOCK), "This host's, as its kernel has it"),
    column(
        "remote",
        Struct(CLOCK),
        "The reflector's, as its error estimates tell it; null without an answer",
    ),
];

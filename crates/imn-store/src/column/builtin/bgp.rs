//! Columns of `bgp`. What could not be read, `faults`, stays in `outcome`: its names are not fixed.

use super::column;
use crate::column::{
    Column,
    ColumnType::{Bool, List, Struct, Text, Time, U32, U64},
};

pub(super) const COLUMNS: &[Column] = &[
    column("target_name", Text, "The prefix as it was named"),
    column("source", Text, "Where the updates come from: `mrt:FILE`, `ris-live:URL` or `bmp:ADDRESS:PORT`"),
    column(
        "match",
        Text,
        "Which prefixes are meant: `exact`, `more_specific` (the prefix and those within it), `covering` or `any`",
    ),
    column("last", Time, "When the last one was"),
    column("announcements", U64, "Announcements; entries of tables are not counted here"),
    column("withdrawals", U64, "Withdrawals"),
    column("snapshots", U64, "Entries of tables"),
    column("prefixes", U64, "Different prefixes in the updates"),
    column("peers", U64, "Different peers in the updates"),
    column("origins", List(&Struct(ORIGIN)), "The origins announced, the most frequent first, at most 32"),
    column("paths", List(&Struct(PATH)), "The paths announced, the most frequent first, at most 32"),
    column("updates", List(&Struct(UPDATE)), "The updates, in the order in which they were received"),
    column(
        "updates_omitted",
        U64,
        "Updates that are counted above and not listed, because there were more than are carried",
    ),
    column(
        "sessions",
        List(&Struct(SESSION)),
        "Sessions that came or went: a peer's routes are gone with its session, which is no withdrawal",
    ),
    column("records", U64, "Records of a file, or messages with updates of a live source, that were read"),
    column(
        "down_ms",
        U64,
        "How long the source was not connected, in milliseconds: what happened then is not known",
    ),
];

const ORIGIN: &[Column] =
    &[column("asn", U32, "The AS"), column("count", U64, "Announcements and entries of tables")];

const PATH: &[Column] =
    &[column("as_path", Text, "The path"), column("count", U64, "Announcements and entries of tables")];

const UPDATE: &[Column] = &[
    column(
        "timestamp",
        Time,
        "When the collector received it; of an entry of a table, when the table was written",
    ),
    column("prefix", Text, "The prefix"),
    column("type", Text, "`A` for an announcement, `W` for a withdrawal"),
    column("peer_asn", U32, "The peer's AS number"),
    column("peer_address", Text, "The peer's address"),
    column(
        "origin_asn",
        U32,
        "The AS that originates the route; null for a withdrawal, and where the path does not name exactly one",
    ),
    column("origin_set", List(&U32), "The ASes of the set that ends the path, where it is one of several"),
    column(
        "as_path",
        Text,
        "The path, nearest AS first: sets in braces, confederations in brackets; null for a withdrawal",
    ),
    column("next_hop", Text, "The next hop"),
    column(
        "communities",
        List(&Text),
        "Communities: `64500:1`, large `64500:1:2`, extended `rt:64500:1`, well-known by name",
    ),
    column("collector", Text, "Who collected it: the file, the route collector or the monitored router"),
    column("path_id", U32, "Path identifier (RFC 7911), where there is one"),
    column("snapshot", Bool, "Whether it is an entry of a table, not a message"),
];

const SESSION: &[Column] = &[
    column("timestamp", Time, "When, RFC 3339 UTC"),
    column("collector", Text, "The collector"),
    column("peer_address", Text, "The peer's address; absent for the connection to the collector itself"),
    column("up", Bool, "Whether it is up"),
    column("reason", Text, "Why it is down"),
];

//! What the built-in types have. A field's name is that of the outcome's field.

use super::{
    Column,
    ColumnType::{Bool, F64, List, U64},
};

/// Columns by type.
pub(super) const TYPES: &[(&str, &[Column])] = &[("heartbeat", HEARTBEAT)];

const fn column(name: &'static str, kind: super::ColumnType, about: &'static str) -> Column {
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

//! Where measurements go: output formats and records.
//!
//! [`format`] writes what was measured as text, the way the field's tools read it, and lists of management the way
//! scripts read them. It streams: a row leaves as soon as it is there, where the format allows it.
//!
//! [`record`] writes what standalone probes publish.
//!
//! Deliberately absent: files, sockets and terminals (a writer is handed in), figures that `imn-metric` does not
//! define, and the conversion from an engine's outcome, which is `imn-module`'s.

pub mod format;
pub mod record;

//! `imn trace` and `imn mtr`.

use std::{io::IsTerminal, time::Duration};

use anyhow::Result;
use imn_sink::format::Format;
use serde_json::json;

use super::{
    How,
    how::{Ask, span},
    run,
};
use crate::{
    cli::{TraceArgs, Transport},
    exit::Code,
};

/// Cycles of `imn mtr`.
const MTR: u16 = 10;
/// Time for what a trace does beyond its cycles: looking ahead of silent hops, resolving a name.
const SLACK: Duration = Duration::from_secs(10);
/// Time for looking for parallel paths.
const PATHS: Duration = Duration::from_mins(1);

/// `imn trace`: one cycle, and the path.
pub(crate) fn trace(args: TraceArgs) -> Result<Code> {
    measure(args, 1)
}

/// `imn mtr`: ten cycles, and on a terminal a table that follows them.
pub(crate) fn mtr(mut args: TraceArgs) -> Result<Code> {
    let table = args.measure.output.unwrap_or_default() == Format::Table;
    args.measure.live |= table
        && args.measure.from.is_none()
        && std::io::stdout().is_terminal()
        && args.measure.file.is_none();
    measure(args, MTR)
}

fn measure(args: TraceArgs, cycles: u16) -> Result<Code> {
    let cycles = if args.multipath { 1 } else { args.count.unwrap_or(cycles) };
    let lasts = args.interval * u32::from(cycles - 1) + args.timeout;
    let extra = if args.multipath { PATHS } else { SLACK };
    let mut ask = Ask::new("trace", lasts + extra)?;
    ask.tmax = args.timeout;
    ask.rate = args.rate;
    let mut set = |name: &str, value| ask.params.insert(name.to_owned(), value);
    set("count", json!(cycles));
    set("interval", json!(span(args.interval)));
    set("timeout", json!(span(args.timeout)));
    set("grace", json!(span(args.grace)));
    set("size", json!(args.size));
    set("first_hop", json!(args.first_hop));
    set("max_hops", json!(args.max_hops));
    set("flow", json!(args.flow));
    set("multipath", json!(args.multipath));
    set("names", json!(args.names));
    set("asn", json!(args.asn));
    for (name, value) in [("asn_zone", args.asn_zone), ("resolver", args.resolver)] {
        if let Some(value) = value {
            set(name, json!(value));
        }
    }
    if let Some(protocol) = args.protocol {
        let name = match protocol {
            Transport::Icmp => "icmp",
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        set("protocol", json!(name));
    }
    if let Some(port) = args.port {
        set("port", json!(port));
    }
    match (args.measure.ipv4, args.measure.ipv6) {
        (true, _) => set("family", json!(4)),
        (_, true) => set("family", json!(6)),
        _ => None,
    };
    run(How::Ask(ask), args.measure)
}

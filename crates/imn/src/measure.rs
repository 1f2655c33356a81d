//! Measuring: from this process or from agents, the same rows either way.
//!
//! `imn ping` and `imn tcp` measure many targets by one engine. What every other type measures is an [`Ask`]: a module
//! type and its parameters, done for one target at a time by the module's own job.

mod dns;
mod each;
mod how;
mod local;
mod partial;
mod remote;
mod report;
mod stamp;
pub(crate) mod trace;
mod view;
mod web;

use std::{
    io::{IsTerminal, Read},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use imn_contract::Fault;
use imn_module::{Family, Pace, PingSpec, Protocol, local::Run};
use imn_sink::format::Format;

use crate::{
    cli::{AnyArgs, DnsArgs, MeasureArgs, PacketArgs, PingArgs, TcpArgs},
    client::Client,
    exit::{Code, Exit},
    manage,
};
use how::{Ask, Batch, How};
use report::Report;
pub(crate) use report::source;

pub(crate) use web::http;

pub(crate) use stamp::stamp;

/// Packets of a live measurement to which no count is given: until Ctrl-C.
const ENDLESS: u16 = u16::MAX;

/// What is to be measured, and how it is told.
struct Work {
    /// Those of the command line, then those of the file.
    targets: Vec<String>,
    /// Lines of the file at which its targets stand, from 1.
    lines: Vec<usize>,
    how: How,
    args: MeasureArgs,
}

pub(crate) fn ping(args: PingArgs) -> Result<Code> {
    let spec = PingSpec { protocol: Protocol::Icmp { size: args.size, ttl: None }, ..PingSpec::icmp() };
    packets(&spec, &args.packets, args.measure)
}

pub(crate) fn tcp(args: TcpArgs) -> Result<Code> {
    if args.tls {
        return web::tls(args);
    }
    let given = [
        (args.secured.server_name.is_some(), "--server-name"),
        (args.secured.insecure, "--insecure"),
        (args.secured.ca_file.is_some(), "--ca-file"),
    ];
    if let Some((_, flag)) = given.iter().find(|(given, _)| *given) {
        return Err(Exit::usage(format!("{flag}: is for --tls")).into());
    }
    packets(&PingSpec::tcp(args.port.unwrap_or(80)), &args.packets, args.measure)
}

pub(crate) fn dns(args: DnsArgs) -> Result<Code> {
    run(How::Ask(dns::ask(&args)?), args.measure)
}

/// `imn measure`.
pub(crate) fn any(args: AnyArgs) -> Result<Code> {
    let mut ask = Ask::new(&args.kind, args.deadline)?;
    ask.params = manage::params(&args.params)?;
    ask.tmax = args.deadline;
    // What is said is the whole time.
    ask.way = Duration::ZERO;
    ask.rate = args.rate;
    ask.flag = "--param ";
    run(How::Ask(ask), args.measure)
}

fn packets(base: &PingSpec, packets: &PacketArgs, args: MeasureArgs) -> Result<Code> {
    let count = if args.live { ENDLESS } else { base.count };
    let spec = PingSpec {
        count: packets.count.unwrap_or(count),
        interval: packets.interval,
        timeout: packets.timeout,
        family: match (args.ipv4, args.ipv6) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            _ => Family::Any,
        },
        ..*base
    };
    spec.check().map_err(|fault| usage(&fault, "--"))?;
    let mut pace = Pace::default();
    pace.rate = packets.rate.or(pace.rate);
    pace.prefix_rate = packets.prefix_rate.or(pace.prefix_rate);
    run(How::Batch(Batch { spec, pace, rate: packets.rate }), args)
}

/// Measures the targets in this way.
fn run(how: How, args: MeasureArgs) -> Result<Code> {
    let mut targets = args.targets.clone();
    let mut lines = Vec::new();
    for (line, target) in args.file.as_deref().map(read_targets).transpose()?.into_iter().flatten() {
        lines.push(line);
        targets.push(target);
    }
    if targets.is_empty() {
        return Err(Exit::usage("no targets: name some, or give a --file that has some").into());
    }
    let kind = how.kind()?;
    if let Some(format) = args.output.filter(|format| !format.admits(&kind)) {
        let fit: Vec<&str> =
            Format::ALL.into_iter().filter(|format| format.admits(&kind)).map(Format::name).collect();
        let text = format!("--output {format}: has no form for the type {kind}; use {}", fit.join(", "));
        return Err(Exit::usage(text).into());
    }
    let work = Work { targets, lines, how, args };
    if let How::Batch(_) = work.how {
        for (number, target) in work.targets.iter().enumerate() {
            Run::check(target).map_err(|fault| work.refused(number, &fault))?;
        }
    }
    let client = work.args.from.is_some().then(|| Client::find(&work.args.connect)).transpose()?;
    let report = Report::new(&work, kind);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match (client, work.args.from.clone(), &work.how) {
            (Some(client), Some(from), _) => remote::run(&work, &client, &from, report).await,
            (_, _, How::Batch(batch)) => local::run(&work, batch, report).await,
            (_, _, How::Ask(ask)) => each::run(&work, ask, report).await,
        }
    })
}

impl Work {
    /// Why a target cannot be measured, and where it stands.
    fn refused(&self, number: usize, fault: &Fault) -> Exit {
        let at = number.checked_sub(self.args.targets.len()).and_then(|at| self.lines.get(at));
        match (&self.args.file, at, fault.field.as_deref()) {
            (Some(path), Some(line), Some("target")) => {
                Exit::usage(format!("--file {}: line {line}: {}", path.display(), fault.message))
            }
            _ => failed(fault, self.how.flag()),
        }
    }

    /// Whether the summary stands in place of the rows.
    fn only_summary(&self) -> bool {
        self.args.summary && self.args.file.is_some()
    }

    /// The form of the output; a summary alone is an object wherever it is not for people.
    fn format(&self) -> Format {
        self.args.output.unwrap_or_else(|| {
            if self.only_summary() && !std::io::stdout().is_terminal() { Format::Json } else { Format::Table }
        })
    }
}

/// Targets of a file, one per line, with the numbers of the lines.
fn read_targets(path: &Path) -> Result<Vec<(usize, String)>> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("read targets from standard input")?;
        text
    } else {
        std::fs::read_to_string(path)
            .map_err(|error| Exit::usage(format!("--file {}: {error}", path.display())))?
    };
    // Editors of other systems put a mark before the first line.
    let text = text.trim_start_matches('\u{feff}');
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let numbered = lines.enumerate().filter(|(_, line)| !line.is_empty());
    Ok(numbered.map(|(at, line)| (at + 1, line.to_owned())).collect())
}

/// A fault of the parameters, naming the flag in place of the field.
fn usage(fault: &Fault, flag: &str) -> Exit {
    let flag = match fault.field.as_deref() {
        Some("target") => "TARGET: ".to_owned(),
        Some(field) => match field.strip_prefix("params.") {
            // What these flags are given is read before it becomes a parameter.
            Some("ca") if flag == "--" => "--ca-file: ".to_owned(),
            Some(name) if flag == "--" && name.starts_with("headers.") => "--header: ".to_owned(),
            Some(name) => format!("{flag}{}: ", name.replace('_', "-")),
            None => String::new(),
        },
        None => String::new(),
    };
    Exit::usage(format!("{flag}{}", fault.message))
}

/// Why nothing at all could be measured.
fn failed(fault: &Fault, flag: &str) -> Exit {
    match fault.code {
        400 => usage(fault, flag),
        404 => Exit::usage(fault.message.clone()),
        _ => Exit::new(Code::Error, fault.message.clone()),
    }
}

//! `imn ping` and `imn tcp`: from this process or from agents, the same rows either way.

mod local;
mod partial;
mod remote;
mod report;
mod view;

use std::{
    io::{IsTerminal, Read},
    path::Path,
};

use anyhow::{Context, Result};
use imn_contract::Fault;
use imn_module::{Family, Pace, PingSpec, Protocol};
use imn_sink::format::Format;

use crate::{
    cli::{MeasureArgs, PingArgs, TcpArgs},
    client::Client,
    exit::{Code, Exit},
};
use report::Report;

/// Packets of a live measurement to which no count is given: until Ctrl-C.
const ENDLESS: u16 = u16::MAX;

/// What is to be measured, and how it is told.
struct Work {
    targets: Vec<String>,
    spec: PingSpec,
    pace: Pace,
    args: MeasureArgs,
}

pub(crate) fn ping(args: PingArgs) -> Result<Code> {
    let spec = PingSpec { protocol: Protocol::Icmp { size: args.size, ttl: None }, ..PingSpec::icmp() };
    main(&spec, args.measure)
}

pub(crate) fn tcp(args: TcpArgs) -> Result<Code> {
    main(&PingSpec::tcp(args.port), args.measure)
}

fn main(base: &PingSpec, args: MeasureArgs) -> Result<Code> {
    let count = if args.live { ENDLESS } else { base.count };
    let spec = PingSpec {
        count: args.count.unwrap_or(count),
        interval: args.interval,
        timeout: args.timeout,
        family: match (args.ipv4, args.ipv6) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            _ => Family::Any,
        },
        ..*base
    };
    spec.check().map_err(|fault| usage(&fault))?;
    let mut pace = Pace::default();
    pace.rate = args.rate.or(pace.rate);
    pace.prefix_rate = args.prefix_rate.or(pace.prefix_rate);
    let mut targets = args.targets.clone();
    if let Some(path) = &args.file {
        targets.extend(read_targets(path)?);
    }
    if targets.is_empty() {
        return Err(Exit::usage("no targets: name some, or give a --file that has some").into());
    }
    let work = Work { targets, spec, pace, args };
    let client = work.args.from.is_some().then(|| Client::find(&work.args.connect)).transpose()?;
    let report = Report::new(&work);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match (client, work.args.from.clone()) {
            (Some(client), Some(from)) => remote::run(work, &client, &from, report).await,
            _ => local::run(work, report).await,
        }
    })
}

impl Work {
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

/// Targets of a file, one per line.
fn read_targets(path: &Path) -> Result<Vec<String>> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("read targets from standard input")?;
        text
    } else {
        std::fs::read_to_string(path)
            .map_err(|error| Exit::usage(format!("--file {}: {error}", path.display())))?
    };
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// A fault of the parameters, naming the flag in place of the field.
fn usage(fault: &Fault) -> Exit {
    let flag = match fault.field.as_deref() {
        Some("params.count") => "--count: ",
        Some("params.interval") => "--interval: ",
        Some("params.timeout") => "--timeout: ",
        Some("params.size") => "--size: ",
        Some("params.port") => "--port: ",
        Some("target") => "TARGET: ",
        _ => "",
    };
    Exit::usage(format!("{flag}{}", fault.message))
}

//! Comparisons with peers: ours and theirs take turns on one machine, at one server or one laboratory; printed are
//! medians of an odd number of turns, and their ratio. `cargo xtask bench WHAT` installs the peers and runs this.

#![allow(clippy::print_stdout, reason = "the tables are what this program is for")]

mod ceiling;
mod dns;
mod http;
mod icmp;
mod jobs;
mod rtt;
mod sys;
mod trace;
mod turn;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

#[derive(Debug, Parser)]
#[command(name = "imn-bench")]
struct Cli {
    what: What,
    /// The program under test.
    #[arg(long)]
    program: PathBuf,
}

/// What can be compared.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// CPU time per echo request, and rate, of `imn ping`, of fping and of a bare loop over a socket, over loopback.
    Icmp,
    /// Round-trip times that `imn ping`, ping and fping tell, beside what an emulated path of 10 ms applied.
    Rtt,
    /// Time of a trace and of ten cycles of our engine and of mtr, over six emulated routers.
    Trace,
    /// CPU time and latency per query of our engine and of dig, over loopback.
    Dns,
    /// CPU time and latency per request of our engine, of curl and of blackbox_exporter, over loopback.
    Http,
    /// Latency, rate and CPU time of echo jobs through a whole network, of a request and reply, and of a durable queue.
    Jobs,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.what {
        What::Icmp => icmp::compare(&cli.program),
        What::Rtt => rtt::compare(&cli.program),
        What::Trace => trace::compare(),
        What::Dns => dns::compare(),
        What::Http => http::compare(),
        What::Jobs => jobs::compare(&cli.program),
    }
}

//! Comparisons with peers on this machine; what is compared, and how, is in `benches/`.

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    install,
    run::{build, cargo, run},
    test,
};

/// What can be compared.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum What {
    /// CPU time per echo request, and rate, beside fping and a bare socket.
    Icmp,
    /// Trueness of round-trip times over an emulated path, beside ping and fping; needs root.
    Rtt,
    /// 100,000 standing targets of one module for a minute: what it takes, and whether it keeps up; needs root.
    Standing,
    /// Time of a trace and of ten cycles, beside mtr; needs root.
    Trace,
    /// CPU time and latency per query, beside dig.
    Dns,
    /// CPU time and latency per request, beside curl and blackbox_exporter.
    Http,
    /// Latency, rate and CPU time of jobs through a whole network, beside NATS alone.
    Jobs,
}

pub(crate) fn bench(what: What) -> Result<()> {
    install::for_benches()?;
    if matches!(what, What::Standing) {
        // It has no peer to take turns with: it is a system scenario, in full.
        return test::in_full("hundred_thousand");
    }
    let program = build()?;
    let what = what.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let bench = ["run", "--release", "--quiet", "--package", "imn-bench", "--", &what, "--program"];
    run(cargo().args(bench).arg(program))
}

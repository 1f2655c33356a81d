//! Standalone probes.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::measure::{duration, patience};

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    #[command(subcommand)]
    pub(crate) verb: ProbeVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProbeVerb {
    /// Reachability and delay by ICMP echo.
    Icmp(IcmpProbe),
    /// What name servers answer, and how fast.
    Dns(DnsProbe),
    /// What web servers answer, and how long each part of it takes.
    Http(HttpProbe),
    /// The path to a target: delay and loss at every hop.
    Mtr(MtrProbe),
    /// What BGP says of prefixes: announcements and withdrawals, as they come.
    Bgp(BgpProbe),
    /// Say once, or again and again with --interval, what this probe is and what it can measure.
    Registry(RegistryProbe),
}

#[derive(Debug, Args)]
pub(crate) struct IcmpProbe {
    /// Address or name to measure; repeatable.
    #[arg(long = "target", required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Packets to each target in each run.
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) count: u16,
    /// How long each answer is waited for.
    #[arg(short, long, default_value = "1s", value_parser = patience)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DnsProbe {
    /// Name to look up; repeatable.
    #[arg(long = "target", required = true, value_name = "NAME")]
    pub(crate) targets: Vec<String>,
    /// Name server to ask: an address, with or without a port, or a URL such as tls://9.9.9.9; repeatable [default:
    /// this host's own].
    #[arg(long = "resolver", value_name = "SERVER")]
    pub(crate) resolvers: Vec<String>,
    /// Type of the records to ask for.
    #[arg(long = "type", alias = "record-type", value_name = "TYPE", default_value = "A")]
    pub(crate) record: String,
    /// How to ask.
    #[arg(long, value_name = "HOW", value_parser = ["udp", "tcp", "dot", "doh"])]
    pub(crate) transport: Option<String>,
    /// How long an answer is waited for.
    #[arg(short, long, default_value = "2s", value_parser = patience)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Args)]
pub(crate) struct HttpProbe {
    /// URL to ask for; repeatable.
    #[arg(long = "url", alias = "target", required = true, value_name = "URL")]
    pub(crate) urls: Vec<String>,
    /// Method of the request.
    #[arg(short = 'X', long, default_value = "GET")]
    pub(crate) method: String,
    /// How long a request may take, from the name to the last byte.
    #[arg(short, long, default_value = "10s", value_parser = patience)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MtrProbe {
    /// Address or name to trace; repeatable.
    #[arg(long = "target", required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Cycles in each run, a second apart or closer where the interval is too short for that.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) count: u16,
    /// What to send.
    #[arg(long, value_name = "PROTOCOL", default_value = "icmp", value_parser = ["icmp", "udp", "tcp"])]
    pub(crate) protocol: String,
    /// Last TTL or hop limit to try.
    #[arg(long, value_name = "HOPS", default_value_t = 30, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) max_hops: u8,
    /// How long each answer is waited for.
    #[arg(short, long, default_value = "1s", value_parser = patience)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["ris_live", "bmp_listen"])))]
pub(crate) struct BgpProbe {
    /// Prefix to watch, with those within it; repeatable.
    #[arg(long = "prefix", required = true, value_name = "PREFIX")]
    pub(crate) prefixes: Vec<String>,
    /// Listen to RIPE RIS Live, or to another service that speaks its protocol.
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    pub(crate) ris_live: Option<String>,
    /// Listen here for routers that speak BMP.
    #[arg(long, value_name = "ADDR:PORT", value_parser = super::socket)]
    pub(crate) bmp_listen: Option<std::net::SocketAddr>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RegistryProbe {
    /// Time between two messages; once if absent.
    #[arg(long, value_name = "SPAN", value_parser = duration)]
    pub(crate) interval: Option<Duration>,
    #[command(flatten)]
    pub(crate) who: WhoArgs,
    #[command(flatten)]
    pub(crate) out: OutArgs,
}

/// How a probe runs.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Time between two runs, such as `60s`.
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// Measure once, print PASSED or FAILED, and exit with 0 or 1.
    #[arg(long)]
    pub(crate) health_check: bool,
    /// Time between two health messages.
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = duration)]
    pub(crate) health_interval: Duration,
    #[command(flatten)]
    pub(crate) who: WhoArgs,
    #[command(flatten)]
    pub(crate) out: OutArgs,
}

/// Whose records they are.
#[derive(Debug, Args)]
pub(crate) struct WhoArgs {
    /// Identifier of this probe.
    #[arg(long, env = "IMN_PROBE_ID", value_name = "ID")]
    pub(crate) probe_id: String,
    /// Where it is, such as `London, UK`.
    #[arg(long, env = "IMN_PROBE_LOCATION", value_name = "TEXT")]
    pub(crate) location: String,
}

/// Where records go.
#[derive(Debug, Args)]
pub(crate) struct OutArgs {
    /// Where records go [default: stdout].
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) output: Option<Output>,
    /// The file of --output file; records are added to it, one per line.
    #[arg(long, value_name = "FILE", default_value = "network_metrics.json")]
    pub(crate) output_file: PathBuf,
    /// The NATS of --output nats: a server or servers, comma separated.
    #[arg(long, env = "IMN_NATS_URL", value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    pub(crate) nats_url: String,
    /// Credentials file for it.
    #[arg(long, env = "IMN_NATS_CREDS", value_name = "FILE")]
    pub(crate) nats_creds: Option<PathBuf>,
    /// What stands before the topic in the subject of a record: PREFIX.icmp.metrics and so on.
    #[arg(long, value_name = "PREFIX", default_value = "mmn.probe")]
    pub(crate) subject_prefix: String,
    /// Kafka brokers, comma separated; this build has no Kafka yet.
    #[arg(long, value_name = "LIST")]
    pub(crate) kafka_brokers: Option<String>,
    /// Where the log goes [default: the journal when systemd has connected it, else stderr].
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) log: Option<LogPlace>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One JSON object per line on standard output.
    Stdout,
    /// One JSON object per line at the end of a file.
    File,
    /// A NATS message for each.
    Nats,
    /// A Kafka message for each.
    Kafka,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogPlace {
    Journal,
    Syslog,
    Stderr,
}

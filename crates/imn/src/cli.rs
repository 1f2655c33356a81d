//! The command line, as types.

mod bgp;
mod manage;
mod measure;
mod probe;
mod registry;
mod role_or;
mod serve;
mod stamp;
mod web;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use imn_contract::{AgentId, IdError};

use crate::exit::Exit;

pub(crate) use bgp::{BgpVerb, WatchArgs};
pub(crate) use manage::{
    AgentVerb, CheckArgs, Common, ConfigVerb, ConnectArgs, DocsVerb, JobVerb, ModuleVerb, ResultsVerb,
    Selection, TargetFields, TargetVerb, TierFields, TierVerb, TokenVerb, Watched,
};
pub(crate) use measure::{
    AnyArgs, DnsArgs, MeasureArgs, PacketArgs, PingArgs, TcpArgs, TraceArgs, Transport,
};
pub(crate) use probe::{
    BgpProbe, DnsProbe, HttpProbe, IcmpProbe, LogPlace, MtrProbe, OutArgs, Output, ProbeArgs, ProbeVerb,
    RegistryProbe, RunArgs, WhoArgs,
};
pub(crate) use registry::PublishArgs;
pub(crate) use role_or::RoleOr;
pub(crate) use serve::{EnrollArgs, ServeArgs};
pub(crate) use stamp::{Numbering, StampReflectArgs, StampSendArgs, StampVerb, Timestamps};
pub(crate) use web::{HttpArgs, TlsArgs};

/// Internet Measurement Network: measures reachability, delay, loss and paths from many vantage points.
#[derive(Debug, Parser)]
#[command(name = "imn", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this host: a private nats-server, the server, an agent and its modules.
    Up(UpArgs),
    /// Run the control plane.
    Server(ServerArgs),
    /// Run the agent of a vantage point; or list, show, revoke and remove agents.
    Agent(RoleOr<AgentArgs, AgentVerb>),
    /// Run one module process, its configuration on standard input; or list, tune, publish and check modules.
    Module(RoleOr<ModuleArgs, ModuleVerb>),
    /// Measure reachability and delay by ICMP echo.
    Ping(PingArgs),
    /// Measure reachability and delay by TCP connect, with --tls also the handshake and the certificate.
    Tcp(TcpArgs),
    /// Ask a resolver for a name, over UDP, TCP, TLS or HTTPS.
    Dns(DnsArgs),
    /// Measure URLs: phases of the request, status, size, certificate.
    Http(HttpArgs),
    /// Measure each direction between two ends by STAMP: sender and reflector.
    #[command(subcommand)]
    Stamp(StampVerb),
    /// Updates of BGP.
    #[command(subcommand)]
    Bgp(BgpVerb),
    /// Find the path to a target: every hop at once, by ICMP, UDP or TCP.
    Trace(TraceArgs),
    /// Measure every hop of the path to a target, cycle by cycle.
    Mtr(TraceArgs),
    /// Measure with any module type.
    Measure(AnyArgs),
    /// Run one probe on its own, without a server.
    Probe(ProbeArgs),
    /// Targets of continuous measurement.
    #[command(subcommand)]
    Target(TargetVerb),
    /// Tiers: how sets of targets are measured.
    #[command(subcommand)]
    Tier(TierVerb),
    /// Jobs: measurements on demand.
    #[command(subcommand)]
    Job(JobVerb),
    /// Enrollment tokens: by each, an agent of another host comes in.
    #[command(subcommand)]
    Token(TokenVerb),
    /// Stored results.
    #[command(subcommand)]
    Results(ResultsVerb),
    /// Configuration.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print the generated documents.
    #[command(subcommand)]
    Docs(DocsVerb),
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether it may begin a trace, by a job.
    pub(crate) fn submits_jobs(&self) -> bool {
        matches!(
            self,
            Self::Ping(_)
                | Self::Tcp(_)
                | Self::Dns(_)
                | Self::Http(_)
                | Self::Stamp(StampVerb::Send(_))
                | Self::Trace(_)
                | Self::Mtr(_)
                | Self::Measure(_)
                | Self::Job(_)
        )
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StateDir {
    /// Directory for everything that is kept [default: the XDG data directory, /var/lib/imn for root].
    #[arg(long, env = "IMN_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) state: StateDir,
    /// Where the HTTP API listens; other than on loopback only with TLS.
    #[arg(long, env = "IMN_LISTEN", value_name = "ADDR:PORT", value_parser = socket, default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
    /// Where agents of other hosts reach the private nats-server, by TLS with a certificate of the local authority.
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "nats_url")]
    pub(crate) nats_listen: Option<SocketAddr>,
    /// Use this NATS instead of a private nats-server.
    #[arg(long, env = "IMN_NATS_URL", value_name = "URL")]
    pub(crate) nats_url: Option<String>,
    /// Keep the catalog and the manifest of results in this PostgreSQL instead of SQLite; results stay in files.
    #[arg(long, env = "IMN_DATABASE_URL", value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Identifier of the embedded agent.
    #[arg(long, env = "IMN_AGENT_ID", value_name = "ID", default_value = "local")]
    pub(crate) agent_id: AgentId,
}

#[derive(Debug, Args)]
pub(crate) struct NatsArgs {
    /// NATS server or servers, comma separated.
    #[arg(long, env = "IMN_NATS_URL", value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    pub(crate) nats_url: String,
    /// Credentials file; none for a NATS without authentication.
    #[arg(long, env = "IMN_NATS_CREDS", value_name = "FILE")]
    pub(crate) nats_creds: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) state: StateDir,
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// Where the HTTP API listens; other than on loopback only with TLS.
    #[arg(long, env = "IMN_LISTEN", value_name = "ADDR:PORT", value_parser = socket, default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
    /// Where agents of other hosts reach NATS; the host 0.0.0.0 stands for that by which they reach this server;
    /// repeatable [default: --nats-url].
    #[arg(long, value_name = "URL")]
    pub(crate) nats_public_url: Vec<String>,
    /// File with the certificates, in PEM, that agents of other hosts are to believe NATS by [default: the local
    /// authority's, with --tls].
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_ca: Option<PathBuf>,
    /// File with the keys that somebody else has vouched for, so that they can be revoked.
    #[arg(long, hide = true, value_name = "FILE")]
    pub(crate) vouched: Option<PathBuf>,
    /// Keep the catalog and the manifest of results in this PostgreSQL instead of SQLite; results stay in files.
    #[arg(long, env = "IMN_DATABASE_URL", value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// File with an admin API key that is to be valid; the way in on a new catalog.
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Directory of the network's keys: with it the server lets agents in, vouches for the keys of their modules, and
    /// revokes both.
    #[arg(long, value_name = "DIR")]
    pub(crate) keys_dir: Option<PathBuf>,
    /// Most that may wait in NATS on its way to the store, in MiB; what is more waits in the spools [default: 1024].
    #[arg(long, env = "IMN_INGEST_MB", value_name = "MB", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ingest_mb: Option<u32>,
    /// Agent that measures for `/probe` unless a request names one [default: local if there is such, else any].
    #[arg(long, env = "IMN_PROBE_AGENT", value_name = "ID")]
    pub(crate) probe_agent: Option<AgentId>,
    /// Address to measure from the start when the catalog is new; repeatable.
    #[arg(long, value_name = "ADDR")]
    pub(crate) seed_target: Vec<String>,
    /// Started by this process: end when it ends.
    #[arg(long, hide = true, value_name = "PID")]
    pub(crate) supervised_by: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Identifier of the vantage point: letters, digits, `_` and `-` [default: made of the name].
    #[arg(long, env = "IMN_AGENT_ID", value_name = "ID", required_unless_present = "name")]
    pub(crate) id: Option<AgentId>,
    /// Name for people.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Coarse place, such as `eu`.
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Fine place, such as `London`.
    #[arg(long)]
    pub(crate) location: Option<String>,
    /// Whose network or cloud it is in.
    #[arg(long)]
    pub(crate) provider: Option<String>,
    /// Free tag; repeatable.
    #[arg(long = "tag", value_name = "K=V", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) enroll: EnrollArgs,
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    #[command(flatten)]
    pub(crate) state: StateDir,
    /// Directory of module executables [default: modules.d in the state directory].
    #[arg(long, value_name = "DIR")]
    pub(crate) modules_dir: Option<PathBuf>,
    /// Directory with a credentials file {instance}.creds for each module instance; for one that has none the server is
    /// asked.
    #[arg(long, value_name = "DIR")]
    pub(crate) module_creds_dir: Option<PathBuf>,
    /// Public key of the registry of modules to follow: what is published there for this agent is fetched and run. `none`
    /// follows none [default: that of the network that it enrolled in].
    #[arg(long, env = "IMN_REGISTRY_KEY", value_name = "KEY", value_parser = registry_key)]
    pub(crate) registry_key: Option<Followed>,
    /// Where the agent's own listener is: metrics, and with the API key control.
    #[arg(long, env = "IMN_AGENT_LISTEN", value_name = "ADDR:PORT", value_parser = socket, default_value = "0.0.0.0:9101")]
    pub(crate) listen: SocketAddr,
    /// File with the key for control on the agent's listener.
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Started by this process: end when it ends.
    #[arg(long, hide = true, value_name = "PID")]
    pub(crate) supervised_by: Option<u32>,
}

impl AgentArgs {
    /// The identifier, or one made of the name: `London 1` is `london-1`.
    pub(crate) fn id(&self) -> Result<AgentId, IdError> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let name = self.name.as_deref().unwrap_or_default().to_lowercase();
        let words =
            name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        AgentId::new(words.collect::<Vec<_>>().join("-"))
    }

    /// Its tags.
    pub(crate) fn tags(&self) -> Result<BTreeMap<String, String>, Exit> {
        once("--tag", &self.tags)
    }
}

#[derive(Debug, Args)]
pub(crate) struct ModuleArgs {
    /// Module type: icmp, tcp, dns, http, trace, stamp, bgp, echo, faulty or heartbeat.
    #[arg(value_name = "TYPE")]
    pub(crate) kind: String,
}

/// Has options take negative numbers for their values, so that one that is out of range is told with the option's name.
pub(crate) fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let take = |arg: clap::Arg| {
        let has_value = !arg.is_positional() && arg.get_action().takes_values();
        if has_value { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_args(take).mut_subcommands(with_negative_numbers)
}

/// Pairs of which each key may be given once: of two values one would be lost.
pub(crate) fn once(flag: &str, pairs: &[(String, String)]) -> Result<BTreeMap<String, String>, Exit> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        if map.insert(key.clone(), value.clone()).is_some() {
            return Err(Exit::usage(format!("{flag} {key}=… is given twice: give each key once")));
        }
    }
    Ok(map)
}

/// Where something listens.
fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write ADDR:PORT, such as 127.0.0.1:8080 or [::1]:8080".to_owned())
}

/// Whose modules an agent fetches and runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Followed {
    /// What this key has signed.
    Registry(String),
    /// Nobody's.
    None,
}

fn registry_key(text: &str) -> Result<Followed, String> {
    match text {
        "none" => Ok(Followed::None),
        key if imn_runtime::credential::is_signer(key) => Ok(Followed::Registry(key.to_owned())),
        _ => {
            Err("use the public key that the server logs at its start, M and 55 letters and digits, or none"
                .to_owned())
        }
    }
}

fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as key=value".to_owned()),
    }
}

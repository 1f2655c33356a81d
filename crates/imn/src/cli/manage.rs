//! Management over the HTTP API.

mod target;

use std::{path::PathBuf, time::Duration};

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use imn_contract::AgentId;
use imn_sink::format::list::Format;

use super::{StateDir, measure::duration, registry::PublishArgs, tag};
pub(crate) use target::{TargetFields, TargetVerb};

/// How to reach the server.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConnectArgs {
    /// The server's HTTP address [default: that of connect.json in the state directory].
    #[arg(long, env = "IMN_URL", value_name = "URL", help_heading = "Server")]
    pub(crate) url: Option<String>,
    /// API key [default: that of connect.json, for the server that is named there].
    #[arg(long, env = "IMN_TOKEN", value_name = "KEY", hide_env_values = true, help_heading = "Server")]
    pub(crate) token: Option<String>,
    /// Believe this certificate authority of the server, a file in PEM [default: that of connect.json, else this
    /// host's].
    #[arg(long, env = "IMN_CA_FILE", value_name = "FILE", help_heading = "Server")]
    pub(crate) server_ca: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) state: StateDir,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Form of the output.
    #[arg(short, long, value_name = "FORMAT", default_value_t, value_parser = format())]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Watched {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Show it again every two seconds, until Ctrl-C.
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// Which of a list.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Only those that match, such as `tier=low AND tags.pop="jfk"` of targets.
    #[arg(long)]
    pub(crate) filter: Option<String>,
    /// Order, such as `address` or `created desc`.
    #[arg(long, value_name = "FIELD")]
    pub(crate) order_by: Option<String>,
    /// At most so many [default: all].
    #[arg(long, value_name = "N", value_parser = some)]
    pub(crate) limit: Option<usize>,
}

/// A number of at least one.
fn some(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "write a number of at least 1".to_owned())
}

fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name)).try_map(|name| name.parse::<Format>())
}

#[derive(Debug, Subcommand)]
pub(crate) enum TierVerb {
    /// List the tiers.
    List {
        #[command(flatten)]
        which: Selection,
        #[command(flatten)]
        watched: Watched,
    },
    /// Show a tier.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Add a tier.
    Add {
        /// Its name.
        name: String,
        #[command(flatten)]
        fields: TierFields,
        #[command(flatten)]
        common: Common,
    },
    /// Change a tier; what is not named stays.
    Set {
        /// Its name.
        name: String,
        #[command(flatten)]
        fields: TierFields,
        #[command(flatten)]
        common: Common,
    },
    /// Remove tiers that no target uses.
    Remove {
        /// Their names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TierFields {
    /// Name for people.
    #[arg(long, value_name = "NAME")]
    pub(crate) display_name: Option<String>,
    /// Time between rounds, such as `30s`.
    #[arg(long)]
    pub(crate) interval: Option<String>,
    /// How long each answer is waited for, such as `2s`.
    #[arg(long)]
    pub(crate) timeout: Option<String>,
    /// Packets per round.
    #[arg(long)]
    pub(crate) count: Option<u32>,
    /// Confirmations before a target counts as lost.
    #[arg(long)]
    pub(crate) retries: Option<u32>,
    /// Module type that measures; repeatable.
    #[arg(long = "probe", value_name = "TYPE")]
    pub(crate) probes: Vec<String>,
    /// Agents to measure each target from: `all` or a number.
    #[arg(long, value_name = "all|N")]
    pub(crate) agents: Option<String>,
    /// Only agents of this region; repeatable.
    #[arg(long = "region", value_name = "REGION")]
    pub(crate) regions: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentVerb {
    /// List the agents.
    List {
        /// Only those doing so.
        #[arg(long, value_parser = ["active", "degraded", "offline", "revoked"])]
        status: Option<String>,
        /// Only those in this region.
        #[arg(long)]
        region: Option<String>,
        #[command(flatten)]
        which: Selection,
        #[command(flatten)]
        watched: Watched,
    },
    /// Show an agent.
    Show {
        /// Its id.
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Revoke the keys of an agent and its modules: their connections end at once, and NATS lets them in no more.
    Revoke {
        /// Its id.
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Remove agents and their assignments; one that lives is back with its next heartbeat.
    Remove {
        /// Their ids.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// List the enrollment tokens, newest first.
    List {
        #[command(flatten)]
        watched: Watched,
    },
    /// Make an enrollment token; its secret is shown this once.
    Create {
        /// The only agent that it is for [default: any that does not exist yet].
        #[arg(long, value_name = "ID")]
        agent: Option<AgentId>,
        /// How long it is good for [default: 15m].
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        ttl: Option<Duration>,
        #[command(flatten)]
        common: Common,
    },
    /// Remove enrollment tokens.
    Remove {
        /// Their ids.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModuleVerb {
    /// List the module instances of all agents.
    List {
        /// Only those of this agent.
        #[arg(long)]
        agent: Option<String>,
        /// Only those of this type.
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        #[command(flatten)]
        which: Selection,
        #[command(flatten)]
        watched: Watched,
    },
    /// Start a type's instances.
    Enable {
        /// The type.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Only on this agent.
        #[arg(long)]
        agent: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Replace a type's instances by the version that is there now, in waves; one that was turned down is tried again.
    Roll {
        /// The type.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Only on this agent.
        #[arg(long)]
        agent: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Run so many instances of a type on each agent.
    Scale {
        /// The type.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Processes, 1 to 64.
        instances: u32,
        /// Only on this agent.
        #[arg(long)]
        agent: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Change how a type's instances run; what is not named stays.
    Set {
        /// The type.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Jobs that each does at once.
        #[arg(long)]
        slots: Option<u32>,
        /// What each logs, such as `debug` or `imn_module=debug`.
        #[arg(long, value_name = "FILTER")]
        log_level: Option<String>,
        /// The configuration of the type, a JSON object.
        #[arg(long, value_name = "JSON")]
        config: Option<String>,
        /// Only on this agent.
        #[arg(long)]
        agent: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Show what a type's processes have written to their standard output and error.
    Logs {
        /// The type, or one instance.
        #[arg(value_name = "TYPE|INSTANCE")]
        of: String,
        /// Go on with what they write, until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
        /// Lines of before at most.
        #[arg(long, short = 'n', default_value_t = 100)]
        lines: usize,
        #[command(flatten)]
        common: Common,
    },
    /// Try whether a program keeps the contract of a module, on a private NATS.
    Check(CheckArgs),
    /// Publish an executable as a module: the agents that are to run it fetch and verify it.
    Publish(PublishArgs),
    /// Take a type out of the registry: agents drain it.
    Unpublish {
        /// The type.
        #[arg(value_name = "TYPE")]
        kind: String,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// List the published modules.
    Registry {
        #[command(flatten)]
        watched: Watched,
    },
    /// Drain a type's instances and keep them down.
    Disable {
        /// The type.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Only on this agent.
        #[arg(long)]
        agent: Option<String>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The executable.
    pub(crate) program: PathBuf,
    /// Its arguments, after `--`.
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
    /// The type that it is to be [default: the file's stem].
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// What it is asked to measure.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) target: String,
    /// Parameter of a job that succeeds, its value as JSON or text; repeatable.
    #[arg(long = "param", value_name = "K=V", value_parser = tag)]
    pub(crate) params: Vec<(String, String)>,
    /// Parameter that makes a job take a second or more; repeatable. Without one, what needs such a job is left out.
    #[arg(long = "slow-param", value_name = "K=V", value_parser = tag)]
    pub(crate) slow: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobVerb {
    /// List the jobs, newest first.
    List {
        /// Jobs at most.
        #[arg(long, value_name = "N", default_value = "100", value_parser = some)]
        limit: usize,
        #[command(flatten)]
        watched: Watched,
    },
    /// Show a job with its results.
    Show {
        /// Its id.
        id: String,
        #[command(flatten)]
        watched: Watched,
    },
    /// Measure something once.
    Submit {
        /// Module type, such as icmp, tcp or echo.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// What to measure.
        target: String,
        /// Parameter of the type, its value as JSON or text; repeatable.
        #[arg(long = "param", value_name = "K=V", value_parser = tag)]
        params: Vec<(String, String)>,
        /// Agents: a region, an id or name, a tag `k=v`, an earlier job's id, `any` (one) or `all`.
        #[arg(long, value_name = "SELECTOR", default_value = "any")]
        from: String,
        /// Time until it is given up, such as `10s`.
        #[arg(long, default_value = "10s", value_parser = duration)]
        deadline: Duration,
        /// Its id: the same id with the same body is the same job.
        #[arg(long, value_name = "ID")]
        job_id: Option<String>,
        /// Return at once, not when it has ended.
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Cancel jobs.
    Cancel {
        /// Their ids.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ResultsVerb {
    /// List the live Parquet files that hold rounds of a time; also while no server runs.
    Files {
        /// Begin, RFC 3339.
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// End, RFC 3339.
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// List the columns of the built-in types, beyond those that all rounds share.
    Columns {
        /// Only those of this type.
        #[arg(value_name = "TYPE")]
        kind: Option<String>,
        /// Form of the output.
        #[arg(short, long, value_name = "FORMAT", default_value_t, value_parser = format())]
        output: Format,
    },
    /// Move everything committed into Parquet files now; also while no server runs.
    Compact {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Show what is in force and where it comes from.
    Show {
        /// Configuration file [default: IMN_CONFIG, else imn.toml here or in /etc/imn].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Form of the output.
        #[arg(short, long, value_name = "FORMAT", default_value_t, value_parser = format())]
        output: Format,
    },
    /// Check the configuration file and the environment.
    Check {
        /// Configuration file [default: IMN_CONFIG, else imn.toml here or in /etc/imn].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DocsVerb {
    /// Print the OpenAPI document of the HTTP API.
    Openapi,
    /// Print the JSON Schemas of all messages, as one object by file name.
    Schemas,
    /// Print the AsyncAPI document of the contract over NATS.
    Asyncapi,
}

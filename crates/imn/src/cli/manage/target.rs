//! `imn target`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Common, ConnectArgs, Selection, Watched, some};
use crate::cli::tag;

#[derive(Debug, Subcommand)]
pub(crate) enum TargetVerb {
    /// List targets.
    List {
        #[command(flatten)]
        which: Selection,
        #[command(flatten)]
        watched: Watched,
    },
    /// Show a target.
    Show {
        /// Its id or address.
        target: String,
        #[command(flatten)]
        common: Common,
    },
    /// Add a target: an address, a name, a URL or a prefix.
    Add {
        /// Its address.
        address: String,
        #[command(flatten)]
        fields: TargetFields,
        #[command(flatten)]
        common: Common,
    },
    /// Change a target; what is not named stays.
    Set {
        /// Its id or address.
        target: String,
        #[command(flatten)]
        fields: TargetFields,
        /// Remove a tag; repeatable.
        #[arg(long, value_name = "K")]
        untag: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Remove targets.
    Remove {
        /// Their ids or addresses.
        #[arg(required = true, value_name = "TARGET")]
        targets: Vec<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Show how a target is doing now, by agent.
    Status {
        /// Its id or address.
        target: String,
        #[command(flatten)]
        watched: Watched,
    },
    /// Show a target's rounds, aggregated over steps of time.
    History {
        /// Its id or address.
        target: String,
        /// Begin, RFC 3339 [default: an hour before the end].
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// End, RFC 3339 [default: now].
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        /// Length of a step, such as `1m` [default: by the range].
        #[arg(long)]
        step: Option<String>,
        /// Only by this agent.
        #[arg(long)]
        agent: Option<String>,
        /// Only of this type.
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        #[command(flatten)]
        watched: Watched,
    },
    /// Show a target's rounds, newest first, with the columns of their types.
    Results {
        /// Its address, or its id, also once it was removed.
        target: String,
        /// Begin, RFC 3339.
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// End, RFC 3339.
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        /// Only by this agent.
        #[arg(long)]
        agent: Option<String>,
        /// Only of this type.
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// Rounds at most.
        #[arg(long, value_name = "N", default_value = "100", value_parser = some)]
        limit: usize,
        #[command(flatten)]
        common: Common,
    },
    /// Show a target's gaps: rounds that were due and could not be made, oldest first.
    Gaps {
        /// Its address, or its id, also once it was removed.
        target: String,
        /// Gaps that end at or after this time, RFC 3339.
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Gaps that begin before this time, RFC 3339.
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        /// Only by this agent.
        #[arg(long)]
        agent: Option<String>,
        /// Gaps at most, 1 to 1000.
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        #[command(flatten)]
        watched: Watched,
    },
    /// Follow a target's rounds and changes of state as they are committed, until Ctrl-C; without a target all of them
    /// and results of jobs.
    Live {
        /// Its id or address.
        target: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Write all targets to standard output, in a form that `import` takes back; the last line says how many they are.
    Export {
        /// Only those that match, such as `tier=low AND tags.pop="jfk"`.
        #[arg(long)]
        filter: Option<String>,
        /// Form of the output.
        #[arg(short, long, value_name = "FORMAT", default_value = "ndjson", value_parser = ["ndjson", "csv"])]
        output: String,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Add or change targets from a file of NDJSON or CSV; `-` is standard input.
    Import {
        /// The file.
        file: PathBuf,
        /// It is CSV [default: by the file's name, else by its first character].
        #[arg(long)]
        csv: bool,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
        /// Change nothing when any line is wrong.
        #[arg(long)]
        atomic: bool,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TargetFields {
    /// Name of its tier [default: standard for a new target].
    #[arg(long)]
    pub(crate) tier: Option<String>,
    /// Name for people.
    #[arg(long, value_name = "NAME")]
    pub(crate) display_name: Option<String>,
    /// What the address is: ip, host, url, prefix or resolver [default: what it looks like].
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Tag; repeatable.
    #[arg(long = "tag", value_name = "K=V", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,
    /// Parameter over those of the tier's probes, its value as JSON or text; repeatable.
    #[arg(long = "param", value_name = "K=V", value_parser = tag)]
    pub(crate) params: Vec<(String, String)>,
    /// Switch measurement off, or on again.
    #[arg(long, value_name = "STATE", value_parser = ["active", "inactive"])]
    pub(crate) state: Option<String>,
}

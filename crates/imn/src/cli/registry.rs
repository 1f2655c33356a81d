//! Publishing modules.

use std::path::PathBuf;

use clap::Args;

use super::Common;

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The executable.
    pub(crate) file: PathBuf,
    /// The type that it is to be [default: the file's stem].
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// Its version.
    #[arg(long)]
    pub(crate) version: String,
    /// Processes on each agent, 1 to 64 [default: 1].
    #[arg(long)]
    pub(crate) instances: Option<u32>,
    /// Jobs that each does at once [default: the module's own].
    #[arg(long)]
    pub(crate) slots: Option<u32>,
    /// It takes standing assignments.
    #[arg(long)]
    pub(crate) standing: bool,
    /// Argument of the program; repeatable.
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
    /// Its configuration, a JSON object.
    #[arg(long, value_name = "JSON")]
    pub(crate) config: Option<String>,
    /// What each process may use, such as `{"memory_mb": 256}`.
    #[arg(long, value_name = "JSON")]
    pub(crate) limits: Option<String>,
    /// Agents that are to run it: a region, an id or name, a tag `k=v`, or `all`.
    #[arg(long, value_name = "SELECTOR", default_value = "all")]
    pub(crate) agents: String,
    #[command(flatten)]
    pub(crate) common: Common,
}

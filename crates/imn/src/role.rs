//! The long-running roles: each puts its crate together with what it needs and runs it until it is told to stop.

pub(crate) mod agent;
pub(crate) mod module;
pub(crate) mod probe;
pub(crate) mod server;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use imn_runtime::{config, credential::Credentials, nats, process, telemetry};

use crate::{
    cli::{NatsArgs, StateDir},
    exit::{Code, Exit},
};

/// Starts logging to standard error, as `IMN_LOG` and `IMN_LOG_FORMAT` say.
pub(crate) fn logging() -> Result<telemetry::LogFilter> {
    logging_at(telemetry::Place::Stderr)
}

/// Starts logging; `IMN_LOG_FORMAT` is that of lines on standard error.
fn logging_at(place: telemetry::Place) -> Result<telemetry::LogFilter> {
    let format = match std::env::var("IMN_LOG_FORMAT").as_deref() {
        Ok("json") => telemetry::Format::Json,
        Ok("" | "text") | Err(_) => telemetry::Format::Text,
        Ok(other) => return Err(Exit::usage(format!("IMN_LOG_FORMAT={other}: use text or json")).into()),
    };
    telemetry::init_at(place, None, format).context("start logging")
}

/// The state directory: the flag or `IMN_STATE_DIR`, else the XDG data directory, `/var/lib/imn` for root.
pub(crate) fn state_dir(args: &StateDir) -> Result<PathBuf> {
    Ok(config::state_dir(args.state_dir.as_deref())?)
}

/// The connection that the flags describe.
fn connection(args: &NatsArgs, name: &str) -> Result<nats::Config> {
    let mut config = nats::Config::new(args.nats_url.clone(), name);
    if let Some(path) = &args.nats_creds {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Exit::usage(format!("--nats-creds {}: {error}", path.display())))?;
        Credentials::parse(&text)?.inbox_prefix().clone_into(&mut config.inbox_prefix);
        config.credentials = Some(text);
    }
    Ok(config)
}

/// A secret in a file of its own, without the line's end.
fn secret(flag: &str, path: Option<&Path>) -> Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Exit::usage(format!("{flag} {}: {error}", path.display())))?;
    Ok(Some(text.trim().to_owned()))
}

/// Ends this process in order when the one that started it is gone.
fn follow_parent(parent: Option<u32>) -> Result<()> {
    match parent {
        Some(pid) => process::die_with_parent(Some(pid)).context("follow the supervisor"),
        None => Ok(()),
    }
}

/// What a role that drained in order, or did not, exits with.
fn ended(leftover: &[String]) -> Code {
    if leftover.is_empty() { Code::Ok } else { Code::Error }
}

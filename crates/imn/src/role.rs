//! The long-running roles: each puts its crate together with what it needs and runs it until it is told to stop.

pub(crate) mod agent;
pub(crate) mod module;
pub(crate) mod probe;
pub(crate) mod server;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use imn_agent::Environment;
use imn_runtime::{
    config,
    credential::Credentials,
    nats, process,
    telemetry::{self, Telemetry},
};

use crate::{
    cli::{NatsArgs, StateDir},
    exit::{Code, Exit},
    settings,
};

/// Starts the log on standard error and what the settings say of its export. To be kept until the process ends.
pub(crate) fn telemetry(service: &str, instance: &str) -> Result<Telemetry> {
    telemetry_at(telemetry::Place::Stderr, service, instance)
}

/// Starts the log at a place, and what the settings say of its export.
fn telemetry_at(place: telemetry::Place, service: &str, instance: &str) -> Result<Telemetry> {
    start(telemetry::Config { place, ..configured(service, instance)? })
}

/// Has a command that is no role tell its part of a trace, where traces are exported; it logs nothing.
pub(crate) fn telemetry_of_command() -> Result<Option<Telemetry>> {
    let config = configured("imn", "command")?;
    let quiet = |config| start(telemetry::Config { filter: Some("off".to_owned()), ..config });
    config.otlp.is_some().then(|| quiet(config)).transpose()
}

fn configured(service: &str, instance: &str) -> Result<telemetry::Config> {
    let file = settings::telemetry()?;
    let variable = |name: &str| std::env::var(name).ok().or_else(|| file.get(name).cloned());
    Ok(telemetry::Config::read(service, instance, variable)
        .map_err(|error| Exit::usage(error.to_string()))?)
}

fn start(config: telemetry::Config) -> Result<Telemetry> {
    telemetry::start(config).map_err(|error| match error {
        telemetry::Error::Endpoint(error) => Exit::usage(error.to_string()).into(),
        error => anyhow::Error::new(error).context("start logging"),
    })
}

/// What is handed on to processes that get no other environment, such as modules.
fn environment() -> Result<Environment> {
    let mut variables = telemetry::handed_on();
    for (name, value) in settings::telemetry()? {
        let name = OsString::from(name);
        if variables.iter().all(|(known, _)| *known != name) {
            variables.push((name, value.into()));
        }
    }
    Ok(Environment(variables))
}

/// The runtime of a part that shares the processors with others.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(process::processors()).enable_all().build()
}

/// The state directory: the flag or `IMN_STATE_DIR`, else the XDG data directory, `/var/lib/imn` for root.
pub(crate) fn state_dir(args: &StateDir) -> Result<PathBuf> {
    Ok(config::state_dir(args.state_dir.as_deref())?)
}

/// Refuses what names no PostgreSQL. It is not repeated: it may hold a password.
pub(crate) fn check_database(url: Option<&str>) -> Result<(), Exit> {
    let is_postgres =
        |url: &str| ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    if url.is_none_or(is_postgres) {
        return Ok(());
    }
    Err(Exit::usage("--database-url: use postgres://USER:PASSWORD@HOST/DATABASE"))
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

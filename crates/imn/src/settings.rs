//! `imn.toml`: settings that stand below flags and environment, and `imn config`.
//!
//! A setting is a flag that `IMN_*` sets as well. What the file says becomes the default of that flag, wherever it
//! occurs, so that a value means the same from all three.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use anyhow::Result;
use clap::Command;
use imn_domain::ScrapeModules;
use imn_runtime::config::{self, Key, Origin, Settings};
use imn_sink::format::list::{self, Column, Format};
use serde_json::{Value, json};

use crate::{
    cli::ConfigVerb,
    client,
    exit::{Code, Exit},
};

const fn key(name: &'static str, default: Option<&'static str>, help: &'static str) -> Key {
    Key { name, default, help, secret: false }
}

/// Every setting; its variable is the one that a flag has.
const KEYS: &[Key] = &[
    key("state_dir", None, "directory for everything that is kept"),
    key("listen", Some("127.0.0.1:8080"), "where the HTTP API listens"),
    key("nats_url", None, "NATS server or servers; imn up starts its own if absent"),
    key("nats_creds", None, "credentials file for NATS"),
    key("database_url", None, "PostgreSQL for the catalog, in place of SQLite"),
    key("ingest_mb", None, "most that may wait in NATS on its way to the store, in MiB"),
    key("agent_id", None, "identifier of the vantage point"),
    key("agent_listen", Some("0.0.0.0:9101"), "where the agent's own listener is"),
    key("registry_key", None, "public key of the registry that an agent follows"),
    key("probe_agent", None, "agent that measures for the server's /probe"),
    key("probe_id", None, "identifier of a standalone probe"),
    key("probe_location", None, "where a standalone probe is"),
    key(
        "control_plane",
        None,
        "the server that an agent comes to by a token, and renews its credentials with",
    ),
    Key { name: "enrollment_token", default: None, help: "token by which an agent comes in", secret: true },
    key("ca_file", None, "certificate authority to believe, a file in PEM"),
    key("ca_fingerprint", None, "fingerprint of the certificate authority that an agent believes"),
    key("url", None, "the server that the command line talks to"),
    Key { name: "token", default: None, help: "API key for it", secret: true },
];

/// A section of the file that no flag sets: the definitions of `/probe`.
const PROBE_MODULES: Key = key("probe_modules", None, "what /probe?module=NAME measures, by name");

/// What long-running processes tell of themselves, and where; not for each command to choose.
const TELEMETRY: &[Key] = &[
    key(
        "otlp_endpoint",
        None,
        "collector that traces, logs and metrics go to, such as http://127.0.0.1:4317",
    ),
    key("otlp_protocol", None, "how they go there: grpc or http/protobuf; by its port if absent"),
    key("redact_pii", None, "whether addresses and names of hosts are hidden in logs and traces"),
];

/// All that the file may hold.
static ALL: LazyLock<Vec<Key>> = LazyLock::new(|| [KEYS, &[PROBE_MODULES], TELEMETRY].concat());

/// The settings of telemetry that stand in the configuration file, as the variables that would set them.
pub(crate) fn telemetry() -> Result<BTreeMap<String, String>> {
    let settings = read(config::file(None).as_deref())?;
    let mut variables = BTreeMap::new();
    for key in TELEMETRY {
        if let Some(value) = telemetry_value(&settings, key).map_err(|error| wrong(&error))? {
            variables.insert(key.variable(), value);
        }
    }
    Ok(variables)
}

fn telemetry_value(settings: &Settings, key: &Key) -> Result<Option<String>, config::Error> {
    match key.name {
        name @ "redact_pii" => Ok(settings.optional::<bool>(name)?.map(|hidden| hidden.to_string())),
        name => settings.optional(name),
    }
}

/// What `/probe` measures, by the configuration file.
pub(crate) fn scrape_modules() -> Result<ScrapeModules> {
    of_scrapes(&read(config::file(None).as_deref())?)
}

fn of_scrapes(settings: &Settings) -> Result<ScrapeModules> {
    let modules = settings.optional(PROBE_MODULES.name).map_err(|error| wrong(&error))?;
    let text = |error| Exit::usage(format!("probe_modules.{error}"));
    Ok(ScrapeModules::with(modules.unwrap_or_default()).map_err(text)?)
}

/// The command line with what the configuration file says as its defaults.
pub(crate) fn command(command: Command) -> Result<Command> {
    let Some(path) = config::file(None) else { return Ok(command) };
    let settings = read(Some(&path))?;
    let mut values = BTreeMap::new();
    for key in KEYS {
        if matches!(settings.origin(key.name), Some(Origin::File(_)))
            && let Some(value) = settings.optional::<String>(key.name).map_err(|error| wrong(&error))?
        {
            values.insert(key.variable(), value);
        }
    }
    Ok(lay(command, &values))
}

fn lay(command: Command, values: &BTreeMap<String, String>) -> Command {
    command
        .mut_args(|arg| match arg.get_env().and_then(OsStr::to_str).and_then(|name| values.get(name)) {
            // Defaults of the command line live as long as the process.
            Some(value) => arg.required(false).default_value(&*value.clone().leak()),
            None => arg,
        })
        .mut_subcommands(|command| lay(command, values))
}

pub(crate) fn main(verb: ConfigVerb) -> Result<Code> {
    match verb {
        ConfigVerb::Show { config, output } => show(config.as_deref(), output),
        ConfigVerb::Check { config } => check(config.as_deref()),
    }
}

fn show(file: Option<&Path>, format: Format) -> Result<Code> {
    const COLUMNS: &[Column] = &[
        Column::new("SETTING", "name"),
        Column::new("VALUE", "value"),
        Column::new("FROM", "origin"),
        Column::wide("MEANS", "help"),
        Column::wide("VARIABLE", "variable"),
    ];
    let settings = in_force(file)?;
    let given: Option<PathBuf> = settings.optional("state_dir").map_err(|error| wrong(&error))?;
    let state = config::state_dir(given.as_deref())?;
    let connect = state.join("connect.json");
    let url = settings.optional::<String>("url").map_err(|error| wrong(&error))?;
    // As the command line does: the URL of this host's server, and its key for that server only.
    let known = client::known_url(&connect)
        .filter(|known| url.as_deref().is_none_or(|url| url.trim_end_matches('/') == known));
    let rows: Vec<Value> = settings
        .show()
        .into_iter()
        .map(|shown| {
            let variable = KEYS.iter().chain(TELEMETRY).find(|key| key.name == shown.name).map(Key::variable);
            let origin = shown.origin.to_string();
            let (value, origin) = match (shown.name, shown.value, &known) {
                ("state_dir", None, _) => (Some(state.display().to_string()), origin),
                ("url", None, Some(known)) => (Some(known.clone()), connect.display().to_string()),
                ("token", None, Some(_)) => (Some("***".to_owned()), connect.display().to_string()),
                (_, value, _) => (value, origin),
            };
            json!({
                "name": shown.name,
                "value": value,
                "origin": origin,
                "help": shown.help,
                "variable": variable,
            })
        })
        .collect();
    list::write(&mut std::io::stdout().lock(), format, COLUMNS, &rows)?;
    Ok(Code::Ok)
}

fn check(file: Option<&Path>) -> Result<Code> {
    let settings = in_force(file)?;
    let mut mistakes = Vec::new();
    for key in KEYS {
        let found = match key.name {
            name @ ("listen" | "agent_listen") => settings.optional::<std::net::SocketAddr>(name).err(),
            name @ ("agent_id" | "probe_agent") => settings.optional::<imn_contract::AgentId>(name).err(),
            name => settings.optional::<String>(name).err(),
        };
        mistakes.extend(found.map(|error| error.to_string()));
    }
    mistakes.extend(
        TELEMETRY
            .iter()
            .filter_map(|key| telemetry_value(&settings, key).err())
            .map(|error| error.to_string()),
    );
    mistakes.extend(of_scrapes(&settings).err().map(|error| error.to_string()));
    if !mistakes.is_empty() {
        return Err(Exit::usage(mistakes.join("\n       ")).into());
    }
    match config::file(file) {
        Some(path) => println!("ok: {} and the environment", path.display()),
        None => println!("ok: the environment; there is no configuration file"),
    }
    Ok(Code::Ok)
}

/// File and environment; flags belong to a command that is not run here.
fn in_force(file: Option<&Path>) -> Result<Settings> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(read(config::file(file).as_deref())?.with_variables(variables))
}

fn read(file: Option<&Path>) -> Result<Settings> {
    let settings = Settings::new(&ALL);
    match file {
        Some(path) => Ok(settings.with_file(path).map_err(|error| wrong(&error))?),
        None => Ok(settings),
    }
}

fn wrong(error: &config::Error) -> Exit {
    Exit::usage(error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::cli::{Cli, Command as Verb};

    #[test]
    fn every_setting_is_the_variable_of_a_flag() {
        fn variables(command: &Command, found: &mut Vec<String>) {
            found
                .extend(command.get_arguments().filter_map(|arg| arg.get_env()?.to_str().map(str::to_owned)));
            command.get_subcommands().for_each(|command| variables(command, found));
        }
        let mut flags = Vec::new();
        variables(&Cli::command(), &mut flags);
        for key in KEYS {
            assert!(flags.contains(&key.variable()), "{}", key.name);
        }
        for flag in flags {
            assert!(KEYS.iter().any(|key| key.variable() == flag), "{flag}");
        }
    }

    #[test]
    fn a_file_stands_below_flags() {
        let values = [("IMN_LISTEN", "127.0.0.1:81"), ("IMN_AGENT_ID", "lon1")];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let parse = |line: &str| {
            let matches = lay(Cli::command(), &values).try_get_matches_from(line.split(' ')).unwrap();
            Cli::from_arg_matches(&matches).unwrap().command
        };
        assert!(
            matches!(parse("imn up"), Verb::Up(args) if args.listen.port() == 81 && args.agent_id.as_str() == "lon1")
        );
        assert!(matches!(parse("imn up --listen 127.0.0.1:82"), Verb::Up(args) if args.listen.port() == 82));
    }
}

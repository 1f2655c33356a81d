//! The server's directory: configuration, ports once chosen, the process last started, its log.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio::process::Child;

use super::{Config, Error, find, process_error};
use crate::{credential::Authority, file, process::Identity};

/// Below the range of ephemeral ports: while the server is down, no outgoing connection can take its port.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
/// NATS's own default, and the contract's longest message.
const MAX_PAYLOAD: usize = imn_contract::MAX_MESSAGE_BYTES;
/// What the streams may set aside together, in bytes. It is a sum on paper: without it nats-server takes three quarters
/// of what is free when it starts, and on a fuller disk does not give its own streams back.
const MAX_STORE: u64 = 64 * 1024 * 1024 * 1024;
/// Before a start, a log longer than this becomes `nats-server.log.1`.
const MAX_LOG: u64 = 16 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) monitor: u16,
}

impl Ports {
    pub(super) fn url(self) -> String {
        format!("nats://127.0.0.1:{}", self.client)
    }

    fn choose() -> Result<Self, Error> {
        let client = free_port(None)?;
        Ok(Self { client, monitor: free_port(Some(client))? })
    }
}

pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) binary: PathBuf,
    pub(super) ports: Ports,
    /// Whether the configuration differs from what a running server was started with.
    pub(super) changed: bool,
    /// Where in the log the last start begins.
    log_from: AtomicU64,
}

impl Place {
    pub(super) fn prepare(config: &Config, authority: &Authority) -> Result<Self, Error> {
        let binary = find(config.binary.as_deref())?;
        file::create_private_dir(&config.directory)?;
        let directory =
            config.directory.canonicalize().map_err(file::Error::io("resolve", &config.directory))?;
        for sub in ["store", "jwt"] {
            file::create_private_dir(&directory.join(sub))?;
        }
        let path = directory.join("ports.json");
        // A file that is no choice of ports is as good as none; the ports are not secret, only steady.
        let chosen = file::read_optional(&path)?.and_then(|text| serde_json::from_str(&text).ok());
        let ports = if let Some(ports) = chosen {
            ports
        } else {
            let ports = Ports::choose()?;
            file::write_atomic(&path, serde_json::json!(ports).to_string().as_bytes())?;
            ports
        };
        let text = render(&directory, ports, authority);
        let path = directory.join("nats.conf");
        let changed = file::read_optional(&path)?.as_deref() != Some(&text);
        if changed {
            file::write_atomic(&path, text.as_bytes())?;
        }
        Ok(Self { directory, binary, ports, changed, log_from: AtomicU64::new(0) })
    }

    pub(super) fn config(&self) -> PathBuf {
        self.directory.join("nats.conf")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("nats-server.log")
    }

    /// A start begins: what the log holds by now is of an earlier one.
    pub(super) fn mark_log(&self) {
        let len = std::fs::metadata(self.log()).map_or(0, |meta| meta.len());
        self.log_from.store(len, Ordering::Relaxed);
    }

    /// The last lines that the server has written since its start, for an error message.
    pub(super) fn tail(&self) -> String {
        let bytes = std::fs::read(self.log()).unwrap_or_default();
        let from = (self.log_from.load(Ordering::Relaxed) as usize).max(bytes.len().saturating_sub(2048));
        let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default());
        let lines: Vec<&str> = text.lines().collect();
        match lines[lines.len().saturating_sub(8)..].join("\n") {
            tail if tail.is_empty() => "(it has written nothing)".to_owned(),
            tail => tail,
        }
    }

    pub(super) fn ports_are_free(&self) -> Result<(), Error> {
        for port in [self.ports.client, self.ports.monitor] {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Err(Error::PortTaken { port, path: self.directory.join("ports.json") });
                }
                Err(error) => return Err(Error::NoPort(error)),
            }
        }
        let log = self.log();
        if std::fs::metadata(&log).is_ok_and(|meta| meta.len() > MAX_LOG) {
            std::fs::rename(&log, log.with_extension("log.1")).map_err(file::Error::io("rotate", &log))?;
        }
        Ok(())
    }

    /// The process last started here.
    pub(super) fn recorded(&self) -> Result<Option<Identity>, Error> {
        let text = file::read_optional(&self.directory.join("process.json"))?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    pub(super) fn record(&self, identity: &Identity) -> Result<(), Error> {
        let text = serde_json::json!(identity).to_string();
        Ok(file::write_atomic(&self.directory.join("process.json"), text.as_bytes())?)
    }

    pub(super) async fn ended(&self, mut child: Child) -> Error {
        match child.wait().await.map_err(process_error("wait for")) {
            Ok(status) => Error::Ended { status: status.to_string(), tail: self.tail(), log: self.log() },
            Err(error) => error,
        }
    }
}

fn free_port(except: Option<u16>) -> Result<u16, Error> {
    let span = PORTS.end - PORTS.start;
    let first = rand::random::<u16>() % span;
    (0..span)
        .map(|step| PORTS.start + (first + step) % span)
        .filter(|port| Some(*port) != except)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| Error::NoPort(io::ErrorKind::AddrInUse.into()))
}

fn render(directory: &Path, ports: Ports, authority: &Authority) -> String {
    let (system, system_jwt) = authority.system_account();
    let (account, account_jwt) = authority.account();
    // JSON strings are strings of this format too, whatever the path holds.
    let quoted = |path: PathBuf| serde_json::json!(path.display().to_string()).to_string();
    format!(
        "# Written by imn at each start; changes are lost.\n\
         server_name: \"imn-{id}\"\n\
         listen: \"127.0.0.1:{client}\"\n\
         http: \"127.0.0.1:{monitor}\"\n\
         max_payload: {MAX_PAYLOAD}\n\
         jetstream {{\n  store_dir: {store}\n  max_file_store: {MAX_STORE}\n}}\n\
         operator: \"{operator}\"\n\
         system_account: \"{system}\"\n\
         resolver {{\n  type: full\n  dir: {jwt}\n  allow_delete: false\n  interval: \"2m\"\n}}\n\
         resolver_preload {{\n  {system}: \"{system_jwt}\"\n  {account}: \"{account_jwt}\"\n}}\n",
        id = &account[1..9],
        client = ports.client,
        monitor = ports.monitor,
        store = quoted(directory.join("store")),
        operator = authority.operator_jwt(),
        jwt = quoted(directory.join("jwt")),
    )
}

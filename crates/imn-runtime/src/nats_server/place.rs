//! The server's directory: configuration, ports once chosen, the process last started, its log.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio::process::Child;

use super::{Config, Error, Public, find, process_error};
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
    pub(super) fn url(self, host: IpAddr) -> String {
        format!("nats://{}", SocketAddr::new(host, self.client))
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
    /// Where clients of this host reach it.
    pub(super) host: IpAddr,
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
        let chosen = file::read_optional(&path)?.and_then(|text| serde_json::from_str::<Ports>(&text).ok());
        let mut ports = match chosen {
            Some(ports) => ports,
            None => Ports::choose()?,
        };
        let public = config.public.as_ref();
        if let Some(port) = public.map(|public| public.listen.port()).filter(|port| *port != 0) {
            ports.client = port;
        }
        if chosen != Some(ports) {
            file::write_atomic(&path, serde_json::json!(ports).to_string().as_bytes())?;
        }
        let own = public.map(|public| public.listen.ip()).filter(|address| !address.is_unspecified());
        let host = own.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let text = render(&directory, ports, authority, public);
        let path = directory.join("nats.conf");
        let changed = file::read_optional(&path)?.as_deref() != Some(&text);
        if changed {
            file::write_atomic(&path, text.as_bytes())?;
        }
        Ok(Self { directory, binary, ports, host, changed, log_from: AtomicU64::new(0) })
    }

    /// Where clients of this host connect.
    pub(super) fn url(&self) -> String {
        self.ports.url(self.host)
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
        for (host, port) in [(self.host, self.ports.client), (Ipv4Addr::LOCALHOST.into(), self.ports.monitor)]
        {
            match TcpListener::bind((host, port)) {
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

fn render(directory: &Path, ports: Ports, authority: &Authority, public: Option<&Public>) -> String {
    let (system, system_jwt) = authority.system_account();
    let (account, account_jwt) = authority.account();
    // JSON strings are strings of this format too, whatever the path holds.
    let quoted = |path: PathBuf| serde_json::json!(path.display().to_string()).to_string();
    let listen = public.map_or(Ipv4Addr::LOCALHOST.into(), |public| public.listen.ip());
    // This host's clients connect as ever; those of other hosts ask for TLS 1.3 themselves, since the server can neither
    // ask for it nor for TLS from some alone.
    let tls = public.map_or_else(String::new, |Public { chain, key, .. }| {
        let (chain, key) = (quoted(chain.clone()), quoted(key.clone()));
        format!("allow_non_tls: true\ntls {{\n  cert_file: {chain}\n  key_file: {key}\n  timeout: 5\n}}\n")
    });
    format!(
        "# Written by imn at each start; changes are lost.\n\
         server_name: \"imn-{id}\"\n\
         listen: \"{listen}\"\n\
         http: \"127.0.0.1:{monitor}\"\n\
         max_payload: {MAX_PAYLOAD}\n\
         jetstream {{\n  store_dir: {store}\n  max_file_store: {MAX_STORE}\n}}\n\
         operator: \"{operator}\"\n\
         system_account: \"{system}\"\n\
         resolver {{\n  type: full\n  dir: {jwt}\n  allow_delete: false\n  interval: \"2m\"\n}}\n\
         resolver_preload {{\n  {system}: \"{system_jwt}\"\n  {account}: \"{account_jwt}\"\n}}\n{tls}",
        id = &account[1..9],
        listen = SocketAddr::new(listen, ports.client),
        monitor = ports.monitor,
        store = quoted(directory.join("store")),
        operator = authority.operator_jwt(),
        jwt = quoted(directory.join("jwt")),
    )
}

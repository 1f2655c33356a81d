//! A real nats-server with JetStream on a private port.

use crate::session::Session;
use crate::{Error, Process, Program, Result, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

const PACKAGE: &str = "nats-server";
const START: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(10);
/// Below the range of ephemeral ports: while the server is down, no outgoing connection can take its port, and no
/// client that reconnects can connect to itself.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Debian's nats-server with JetStream on a private port, its store in a directory of its own.
///
/// Dropping it kills the server and removes the store; so does the end of the test process.
#[derive(Debug)]
pub struct NatsServer {
    process: Process,
    directory: PathBuf,
    address: SocketAddr,
    namespace: Option<Arc<OwnedFd>>,
}

impl NatsServer {
    /// A server without authentication on 127.0.0.1.
    ///
    /// # Errors
    /// [`Error::MissingProgram`] without nats-server; otherwise why it did not start, with what it said.
    pub fn start() -> Result<Self> {
        Self::with_config("")
    }

    /// A server on 127.0.0.1 with the given configuration (authentication, limits, accounts, TLS …). Address, port,
    /// JetStream and its directory are given on the command line, which has the last word.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub fn with_config(text: &str) -> Result<Self> {
        Self::launch(text, Ipv4Addr::LOCALHOST.into(), None)
    }

    pub(crate) fn launch(text: &str, listen: IpAddr, namespace: Option<Arc<OwnedFd>>) -> Result<Self> {
        let directory = Session::current()?.directory("nats")?;
        let config = directory.join("nats.conf");
        fs::write(&config, text).map_err(Error::file("write", &config))?;
        let mut attempts = 0;
        loop {
            let address = SocketAddr::new(listen, free_port()?);
            match spawn(&directory, address, namespace.as_ref()) {
                Ok(process) => return Ok(Self { process, directory, address, namespace }),
                // Somebody else took the port between our look and the server's.
                Err(Error::Ended { output, .. })
                    if attempts < 5 && output.contains("address already in use") =>
                {
                    attempts += 1;
                }
                Err(error) => {
                    let _ = fs::remove_dir_all(&directory);
                    return Err(error);
                }
            }
        }
    }

    /// `nats://address:port`; stays the same over restarts.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process id; a restart changes it.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The directory of the JetStream store.
    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// What the server logged since its last start.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Sends a signal to the server, such as SIGSTOP and SIGCONT, or SIGHUP to reload its configuration.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Stops it in an orderly way, keeping port and store for [`NatsServer::restart`].
    ///
    /// # Errors
    /// [`Error::Timeout`] when it does not end within ten seconds.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate();
        self.process.wait_deadline(STOP).map(drop)
    }

    /// Starts it again on the same port and store; a server that still runs is stopped first.
    ///
    /// # Errors
    /// As [`NatsServer::start`] and [`NatsServer::stop`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.process = spawn(&self.directory, self.address, self.namespace.as_ref())?;
        Ok(())
    }

    /// Replaces the configuration file, for the next restart or a reload by SIGHUP.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be written.
    pub fn set_config(&self, text: &str) -> Result<()> {
        let config = self.directory.join("nats.conf");
        fs::write(&config, text).map_err(Error::file("write", config))
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.process.kill9();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn spawn(directory: &Path, address: SocketAddr, namespace: Option<&Arc<OwnedFd>>) -> Result<Process> {
    let ready = directory.join("ready");
    let _ = fs::remove_dir_all(&ready);
    fs::create_dir(&ready).map_err(Error::file("create", &ready))?;
    let mut process = Program::new("nats-server")
        .package(PACKAGE)
        .namespace(namespace.cloned())
        .args(["-a", &address.ip().to_string(), "-p", &address.port().to_string()])
        .arg("-c")
        .arg(directory.join("nats.conf"))
        .args(["--jetstream", "--store_dir"])
        .arg(directory.join("store"))
        .arg("--ports_file_dir")
        .arg(&ready)
        .spawn()?;
    // The server writes the ports file when it accepts connections.
    let _file = process.wait_for("to accept connections", START, |_| fs::read_dir(&ready).ok()?.next())?;
    if namespace.is_none() {
        greeted(address)?;
    }
    Ok(process)
}

/// Waits for the greeting of the server with JetStream in it.
fn greeted(address: SocketAddr) -> Result<()> {
    wait_until(format!("nats-server at {address} to greet with JetStream"), START, || {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        (line.starts_with("INFO ") && line.contains("\"jetstream\":true")).then_some(())
    })
}

/// A port of [`PORTS`] that is free at this moment, on every address. A process never gets the same one twice: a server
/// that is down for a while finds its port again.
pub(crate) fn free_port() -> Result<u16> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    // Test processes that start together look at different places.
    let offset = (std::process::id().wrapping_mul(2_654_435_761) >> 8) % u32::from(span);
    (0..span)
        .map(|_| PORTS.start + (offset as u16 + GIVEN.fetch_add(1, Ordering::Relaxed)) % span)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| Error::system("find a free port")(std::io::ErrorKind::AddrInUse.into()))
}

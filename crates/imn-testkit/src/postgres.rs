//! A real PostgreSQL on a private port.

use crate::nats::free_port;
use crate::session::Session;
use crate::{Error, Process, Program, Result, wait_until};
use nix::sys::signal::Signal;
use nix::unistd::User;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const PACKAGE: &str = "postgresql-15";
const BINARIES: &str = "/usr/lib/postgresql/15/bin";
const INITDB: Duration = Duration::from_mins(1);
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(10);

/// PostgreSQL 15 with a fresh data directory, reachable on 127.0.0.1 and a Unix socket, fsync on, no password asked.
///
/// Under root the server runs as the user `postgres`, because it refuses to run as root. Dropping stops it and removes
/// its data; so does the end of the test process.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    directory: PathBuf,
    port: u16,
    user: Option<(u32, u32)>,
    databases: AtomicU32,
}

impl Postgres {
    /// Creates the data directory and starts a server on it (one to two seconds).
    ///
    /// # Errors
    /// [`Error::MissingProgram`] when PostgreSQL 15 is not installed; otherwise why it did not start.
    pub fn start() -> Result<Self> {
        let user = unprivileged()?;
        let directory = Session::current()?.directory("postgres")?;
        if let Some((uid, gid)) = user {
            chown(&directory, Some(uid), Some(gid))
                .map_err(Error::file("change the owner of", &directory))?;
        }
        program("initdb", user)
            .current_dir(&directory)
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(directory.join("data"))
            .run_ok(INITDB)?;
        let mut attempts = 0;
        loop {
            let port = free_port()?;
            match spawn(&directory, port, user) {
                Ok(process) => {
                    return Ok(Self { process, directory, port, user, databases: AtomicU32::new(0) });
                }
                // Somebody else took the port between our look and the server's.
                Err(Error::Ended { output, .. })
                    if attempts < 5 && output.contains("Address already in use") =>
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

    /// The URL of the database `postgres` over TCP.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Creates an empty database of its own for one test and gives its URL.
    ///
    /// # Errors
    /// [`Error::Ended`] with what the server said.
    pub fn fresh_database(&self) -> Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.query("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(self.url_of(&name))
    }

    /// Runs one statement through `psql`, a client that is not ours, and gives its rows: fields separated by `|`.
    ///
    /// # Errors
    /// [`Error::Ended`] with what the server said.
    pub fn query(&self, database: &str, statement: &str) -> Result<String> {
        program("psql", self.user)
            .current_dir(&self.directory)
            .args(["--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"])
            .args(["--dbname", &self.url_of(database), "--command", statement])
            .run_ok(START)
    }

    /// The directory of its Unix socket.
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// The TCP port on 127.0.0.1; stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills the postmaster (SIGKILL); the other processes of the server end by themselves when they see it.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again on the same port and data; a server that still runs is stopped first.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGINT);
        self.process.wait_deadline(STOP)?;
        // After a kill, the last of the old processes may hold the data directory for a moment more.
        self.process = wait_until("the processes of the old postmaster to end", STOP, || {
            match spawn(&self.directory, self.port, self.user) {
                Err(Error::Ended { output, .. }) if output.contains("shared memory block") => None,
                outcome => Some(outcome),
            }
        })??;
        Ok(())
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Immediate shutdown: unlike SIGKILL it takes the other processes and the shared memory of the server along.
        self.process.signal(Signal::SIGQUIT);
        let _ = self.process.wait_deadline(STOP);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn spawn(directory: &Path, port: u16, user: Option<(u32, u32)>) -> Result<Process> {
    let mut process = program("postgres", user)
        .current_dir(directory)
        .on_parent_death(Signal::SIGQUIT)
        .arg("-D")
        .arg(directory.join("data"))
        .args(["-p", &port.to_string(), "-k"])
        .arg(directory)
        .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=on", "-c", "max_connections=200"])
        // Under /dev/shm the segments of a killed server would stay.
        .args(["-c", "dynamic_shared_memory_type=mmap"])
        .spawn()?;
    process.wait_for("to accept connections", START, |process| {
        process.stderr().contains("database system is ready to accept connections").then_some(())
    })?;
    Ok(process)
}

fn program(name: &str, user: Option<(u32, u32)>) -> Program {
    Program::new(format!("{BINARIES}/{name}")).package(PACKAGE).user(user)
}

/// The user to run as when this process is root.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres").map_err(Error::errno("look up the user postgres"))?;
    user.map(|user| Some((user.uid.as_raw(), user.gid.as_raw())))
        .ok_or(Error::MissingProgram { program: "user postgres".into(), package: PACKAGE })
}

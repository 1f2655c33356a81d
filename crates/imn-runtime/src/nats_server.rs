//! The private nats-server of `imn up`: found, configured, started, watched, taken over again, stopped.

mod place;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    sync::watch,
    time::Instant,
};

use crate::{
    credential::{self, Authority, Role},
    file, nats,
    process::{Identity, Signal, processors},
    task::{Shutdown, Stop, Tasks},
};
use place::{Place, Ports};

const READY_WITHIN: Duration = Duration::from_secs(20);
const STOP_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// A server that ran for this long is started again without delay.
const STEADY: Duration = Duration::from_secs(30);
/// How often JetStream is asked whether it lives, and after how many silences in a row it does not.
const WATCH: Duration = Duration::from_secs(3);
const LAST_MISS: u32 = 4;
/// By how much, in percent of what it needs, nats-server lets its memory grow before it looks for what it needs no more. By
/// its own measure, 100, that is a tenth of its work.
const GARBAGE_PERCENT: &str = "200";
/// Without so much space the server is not started: it would take a write and never answer again.
const LEAST_SPACE: u64 = 16 * 1024 * 1024;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program is not installed.
    #[error(
        "nats-server was not found ({looked}): install it (apt-get install nats-server), name it in IMN_NATS_BIN, \
         or use a running server with --nats-url"
    )]
    Missing {
        /// Where it was looked for.
        looked: String,
    },
    /// Somebody else has its port.
    #[error(
        "port {port} on 127.0.0.1, which {} keeps for the private nats-server, is taken by another program: stop \
         that program, or remove the file so that other ports are chosen",
        path.display()
    )]
    PortTaken {
        /// The port.
        port: u16,
        /// The file that holds the choice.
        path: PathBuf,
    },
    /// No port could be had at all.
    #[error("find a free port on 127.0.0.1: {0}")]
    NoPort(io::Error),
    /// A file of its directory.
    #[error(transparent)]
    File(#[from] file::Error),
    /// The credentials by which readiness is seen.
    #[error(transparent)]
    Credential(#[from] credential::Error),
    /// The program could not be started.
    #[error(
        "start {}: {source}; name a nats-server in IMN_NATS_BIN, or use a running one with --nats-url",
        program.display()
    )]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process could not be watched or stopped.
    #[error("{operation} nats-server: {source}")]
    Process {
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It ended while it started.
    #[error("nats-server ended with {status} while it started; the end of its log {}:\n{tail}", log.display())]
    Ended {
        /// Its exit status in words.
        status: String,
        /// The log file.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// It runs, but is not ready in time.
    #[error(
        "nats-server is not ready after {} s ({step}); the end of its log {}:\n{tail}",
        READY_WITHIN.as_secs(), log.display()
    )]
    NotReady {
        /// What was missing.
        step: String,
        /// The log file.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
}

fn process_error(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Process { operation, source }
}

/// Where the server lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its directory: configuration, ports, store, log. The store is never deleted.
    pub directory: PathBuf,
    /// The program; none: `IMN_NATS_BIN`, then `PATH` and the system directories.
    pub binary: Option<PathBuf>,
    /// Where clients of other hosts connect, by TLS; none: this host's clients only.
    pub public: Option<Public>,
}

/// How a server is reached from elsewhere.
#[derive(Clone, Debug)]
pub struct Public {
    /// Its address; port 0 chooses one, which is kept.
    pub listen: SocketAddr,
    /// File of its certificate and those above it.
    pub chain: PathBuf,
    /// File of its key.
    pub key: PathBuf,
}

/// What the server is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The process; `None` between an exit and the next start.
    pub pid: Option<u32>,
    /// How often it had to be started again.
    pub restarts: u64,
    /// Why it does not run, when it does not.
    pub trouble: Option<String>,
}

/// A running server under watch. Dropping this leaves the process alone, to be taken over by the next start.
#[derive(Debug)]
pub struct NatsServer {
    ports: Ports,
    host: IpAddr,
    status: watch::Receiver<Status>,
    // Before the signal, whose loss would ask the task to stop the server: a drop aborts the task first.
    tasks: Tasks,
    shutdown: Shutdown,
    deadline: Arc<OnceLock<Duration>>,
}

impl NatsServer {
    /// Starts the server, or takes over the one that an earlier process left running, and waits until it answers
    /// an authenticated connection. From then on an exit is followed by a new start on the same ports and store.
    ///
    /// # Errors
    /// [`Error`]: each says what to do about it.
    pub async fn start(config: &Config, authority: &Authority) -> Result<Self, Error> {
        let place = Place::prepare(config, authority)?;
        let (ports, host) = (place.ports, place.host);
        let readiness = Readiness {
            url: place.url(),
            credentials: authority.issue(&Role::Server, Some(Duration::from_hours(1)))?.text(),
        };
        let deadline = Arc::new(OnceLock::new());
        let runner = Runner { place, deadline: Arc::clone(&deadline) };
        let running = match runner.adopt(&readiness).await? {
            Some(running) => running,
            None => runner.launch(Some(&readiness)).await?,
        };
        let (sender, status) =
            watch::channel(Status { pid: Some(running.identity.pid), restarts: 0, trouble: None });
        let shutdown = Shutdown::new();
        let stop = shutdown.stop();
        let mut tasks = Tasks::new();
        tasks.spawn("nats-server", async move { runner.supervise(running, sender, stop).await });
        Ok(Self { ports, host, status, tasks, shutdown, deadline })
    }

    /// Where this host's clients connect: `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.ports.url(self.host)
    }

    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.ports.client
    }

    /// Has the server read its certificate again.
    pub fn reload(&self) {
        let process = self.pid().and_then(Identity::of);
        if let Some(Err(error)) = process.map(|process| process.signal(Signal::SIGHUP)) {
            tracing::warn!(%error, "nats-server not told of its new certificate");
        }
    }

    /// Its monitoring page: `http://127.0.0.1:PORT`.
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.monitor)
    }

    /// What it is at; changes when it ends and when it is started again.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The process, if it runs at this moment.
    pub fn pid(&self) -> Option<u32> {
        self.status.borrow().pid
    }

    /// Stops the server: SIGTERM, and past `deadline` SIGKILL. Its clients should have drained.
    pub async fn stop(self, deadline: Duration) {
        // It is set once, here.
        let _ = self.deadline.set(deadline);
        self.shutdown.request();
        // The task keeps the deadline by itself; the rest is for a kernel that is slow to end a process.
        self.tasks.drain(deadline + Duration::from_secs(5)).await;
    }
}

struct Readiness {
    url: String,
    credentials: String,
}

struct Running {
    identity: Identity,
    /// Ours to reap; an adopted one is reaped by init.
    child: Option<Child>,
    since: Instant,
}

impl Running {
    /// How it ended, in words.
    async fn ended(&mut self) -> Result<String, Error> {
        if let Some(child) = &mut self.child {
            let status = child.wait().await.map_err(process_error("wait for"))?;
            Ok(status.to_string())
        } else {
            self.identity.exited().await.map_err(process_error("watch"))?;
            Ok("an unknown status".to_owned())
        }
    }
}

struct Runner {
    place: Place,
    /// How long an orderly stop may take, set when it is asked for.
    deadline: Arc<OnceLock<Duration>>,
}

impl Runner {
    /// The server of an earlier process, if it lives, is as configured and answers.
    async fn adopt(&self, readiness: &Readiness) -> Result<Option<Running>, Error> {
        let Some(identity) = self.place.recorded()? else { return Ok(None) };
        if !identity.is_alive() {
            return Ok(None);
        }
        let mut running = Running { identity, child: None, since: Instant::now() };
        if !self.place.changed {
            match self.ready(&mut running, readiness).await {
                Ok(()) => {
                    tracing::info!(pid = running.identity.pid, "running nats-server taken over");
                    return Ok(Some(running));
                }
                Err(error) => tracing::warn!(%error, "running nats-server is of no use, it is started again"),
            }
        }
        running.identity.terminate(STOP_WITHIN).await.map_err(process_error("stop"))?;
        Ok(None)
    }

    /// Starts a process; with `readiness`, waits until it is ready, else takes it down again.
    async fn launch(&self, readiness: Option<&Readiness>) -> Result<Running, Error> {
        self.place.ports_are_free()?;
        file::require_free(&self.place.directory, LEAST_SPACE)?;
        let log = self.place.log();
        let output =
            |append: bool| std::fs::OpenOptions::new().create(true).append(append).mode(0o600).open(&log);
        let stdout = output(true).map_err(file::Error::io("open", &log))?;
        let stderr = stdout.try_clone().map_err(file::Error::io("open", &log))?;
        self.place.mark_log();
        let mut command = Command::new(&self.place.binary);
        command
            .arg("-c")
            .arg(self.place.config())
            .current_dir(&self.place.directory)
            .env_clear()
            .env("GOMAXPROCS", processors().to_string())
            .env("GOGC", GARBAGE_PERCENT)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            // Neither Ctrl-C in a terminal nor the end of this process ends it: clients flush first, and a new
            // `up` takes it over.
            .process_group(0)
            .kill_on_drop(false);
        let child =
            command.spawn().map_err(|source| Error::Start { program: self.place.binary.clone(), source })?;
        let identity = child.id().and_then(Identity::of);
        let Some(identity) = identity else {
            return Err(self.place.ended(child).await);
        };
        self.place.record(&identity)?;
        let mut running = Running { identity, child: Some(child), since: Instant::now() };
        if let Some(readiness) = readiness
            && let Err(error) = self.ready(&mut running, readiness).await
        {
            running.identity.terminate(STOP_WITHIN).await.map_err(process_error("stop"))?;
            if let Some(child) = &mut running.child {
                let _ = child.wait().await;
            }
            return Err(error);
        }
        tracing::info!(pid = running.identity.pid, url = self.place.url(), "nats-server started");
        Ok(running)
    }

    /// Waits for the monitoring page to call it healthy, then for an authenticated round trip.
    async fn ready(&self, running: &mut Running, readiness: &Readiness) -> Result<(), Error> {
        let log = self.place.log();
        let deadline = Instant::now() + READY_WITHIN;
        let mut step = "it does not accept connections".to_owned();
        let answers = async {
            let monitor = self.place.ports.monitor;
            loop {
                match healthy(monitor).await {
                    Ok(()) => break,
                    Err(error) => step = format!("its /healthz: {error}"),
                }
                tokio::time::sleep(POLL).await;
            }
            let mut config = nats::Config::new(&readiness.url, "imn-ready");
            config.credentials = Some(readiness.credentials.clone());
            config.inbox_prefix = Role::Server.inbox_prefix();
            loop {
                let tried = match nats::Client::connect(&config).await {
                    Ok(client) => client.round_trip(Duration::from_secs(2)).await,
                    Err(error) => Err(error),
                };
                match tried {
                    Ok(()) => return,
                    Err(error) => step = format!("an authenticated connection: {error}"),
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::select! {
            biased;
            status = running.ended() => {
                Err(Error::Ended { status: status?, tail: self.place.tail(), log })
            }
            done = tokio::time::timeout_at(deadline, answers) => match done {
                Ok(()) => Ok(()),
                Err(_) => Err(Error::NotReady { step, tail: self.place.tail(), log }),
            },
        }
    }

    async fn supervise(
        &self,
        mut running: Running,
        status: watch::Sender<Status>,
        stop: Stop,
    ) -> Result<(), Error> {
        let mut delay = FIRST_RETRY;
        loop {
            let watched = running.identity.clone();
            let exit = tokio::select! {
                biased;
                () = stop.requested() => {
                    running.identity.signal(Signal::SIGTERM).map_err(process_error("stop"))?;
                    let deadline = self.deadline.get().copied().unwrap_or(STOP_WITHIN);
                    if tokio::time::timeout(deadline, running.ended()).await.is_err() {
                        tracing::warn!(pid = running.identity.pid, "nats-server killed at the deadline");
                        running.identity.signal(Signal::SIGKILL).map_err(process_error("kill"))?;
                        running.ended().await?;
                    }
                    status.send_modify(|status| status.pid = None);
                    return Ok(());
                }
                exit = running.ended() => exit?,
                () = wedged(self.place.ports.monitor, &watched) => {
                    tracing::error!(pid = watched.pid, "jetstream answers no more; nats-server is killed");
                    // It no longer ends in order, and its store is whole as far as it was acknowledged.
                    watched.signal(Signal::SIGKILL).map_err(process_error("kill"))?;
                    running.ended().await?
                }
            };
            tracing::error!(
                pid = running.identity.pid,
                status = exit,
                "nats-server ended, it is started again"
            );
            status.send_modify(|status| {
                status.pid = None;
                status.trouble = Some(format!("it ended with {exit}"));
            });
            if running.since.elapsed() >= STEADY {
                delay = FIRST_RETRY;
            }
            running = loop {
                if !stop.sleep(delay).await {
                    return Ok(());
                }
                delay = (delay * 2).min(LAST_RETRY);
                // Clients come back by themselves; nobody waits for readiness here.
                match self.launch(None).await {
                    Ok(running) => break running,
                    Err(error) => {
                        tracing::error!(%error, "nats-server not started");
                        status.send_modify(|status| status.trouble = Some(error.to_string()));
                    }
                }
            };
            status.send_modify(|status| {
                status.pid = Some(running.identity.pid);
                status.restarts += 1;
                status.trouble = None;
            });
        }
    }
}

/// Resolves when JetStream has not answered for a while. After a write for which there was no space, nats-server 2.9
/// waits for itself: it calls itself healthy, but answers nothing about its streams and does not end on SIGTERM.
async fn wedged(monitor: u16, process: &Identity) {
    let mut misses = 0;
    while misses < LAST_MISS {
        tokio::time::sleep(WATCH).await;
        match ask(monitor, "/jsz?streams=1").await {
            Ok(()) => misses = 0,
            // Somebody has stopped it, who will let it go on.
            Err(_) if process.is_stopped() => misses = 0,
            Err(error) => {
                misses += 1;
                tracing::warn!(pid = process.pid, %error, misses, "jetstream does not answer");
            }
        }
    }
}

/// Asks `/healthz`, which is 200 when JetStream has recovered its streams.
async fn healthy(port: u16) -> io::Result<()> {
    ask(port, "/healthz").await
}

/// Asks for a page of the monitor; anything but 200 is an error.
async fn ask(port: u16, page: &str) -> io::Result<()> {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {page} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let line = answer.lines().next().unwrap_or_default();
        if line.split(' ').nth(1) == Some("200") {
            return Ok(());
        }
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        Err(io::Error::other(format!("{line} {body}")))
    };
    tokio::time::timeout(Duration::from_secs(2), ask)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 2 s")))
}

/// Finds the program.
fn find(configured: Option<&Path>) -> Result<PathBuf, Error> {
    let named =
        configured.map(Path::to_owned).or_else(|| std::env::var_os("IMN_NATS_BIN").map(PathBuf::from));
    if let Some(path) = named {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Error::Missing { looked: path.display().to_string() })
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian puts it where only root's PATH looks.
    let system = ["/usr/local/sbin", "/usr/sbin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join("nats-server"))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Error::Missing { looked: "PATH and /usr/sbin".to_owned() })
}

//! `imn up`: everything on this host, as separate processes under one supervisor.
//!
//! The private nats-server, the server and the agent are children of this process; the agent has the modules as
//! children of its own. An orderly end goes the other way round: the agent drains its modules and their spools into
//! the server, the server commits and ends, nats-server stops last.

mod child;
mod connect;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use imn_contract::{AgentId, InstanceId};
use imn_runtime::{
    credential::{Authority, Credentials, Role},
    file,
    file::StateLock,
    nats_server::{self, NatsServer},
    task::Signals,
};
use tokio::time::Instant;

use crate::{
    cli::UpArgs,
    exit::{Code, Exit},
    role,
};
use child::{Child, Spec};
use connect::Connect;

/// How long the parts may take to become ready.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// How long the modules may take to be ready before `ready` is said without them.
const MODULES_WITHIN: Duration = Duration::from_secs(10);
/// How long the agent may take to drain, then the server, then nats-server; together below 15 s.
const AGENT_DRAIN: Duration = Duration::from_secs(8);
const SERVER_DRAIN: Duration = Duration::from_secs(4);
const NATS_STOP: Duration = Duration::from_secs(2);

pub(crate) fn main(args: UpArgs) -> Result<Code> {
    let _telemetry = role::telemetry("imn-up", "up")?;
    // The children die with the thread that starts them, so this one, the main thread, does.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(args))
}

/// What the parts need to know of each other.
struct Site {
    state: PathBuf,
    agent: AgentId,
    listen: SocketAddr,
    nats_url: String,
    authority: Option<Authority>,
    database_url: Option<String>,
    connect: Connect,
}

async fn run(args: UpArgs) -> Result<Code> {
    let mut signals = Signals::listen()?;
    let state = role::state_dir(&args.state)?;
    let _lock = StateLock::acquire(&state)?;
    let listen = free_to_listen(args.listen)?;
    let (nats, authority, nats_url) = if let Some(url) = args.nats_url {
        (None, None, url)
    } else {
        let authority = Authority::open(&state.join("keys"))?;
        let config = nats_server::Config { directory: state.join("nats"), binary: None };
        let server = NatsServer::start(&config, &authority).await?;
        let url = server.url();
        (Some(server), Some(authority), url)
    };
    let started = async {
        let connect = Connect::prepare(&state, listen, &nats_url, authority.as_ref())?;
        let site = Site {
            state,
            agent: args.agent_id,
            listen,
            nats_url,
            authority,
            database_url: args.database_url,
            connect,
        };
        site.run_parts(&mut signals).await
    }
    .await;
    if let Some(nats) = nats {
        nats.stop(NATS_STOP).await;
    }
    started
}

impl Site {
    async fn run_parts(&self, signals: &mut Signals) -> Result<Code> {
        let mut server = Child::start(self.server()?)?;
        let ready = async {
            self.connect.wait_ready(READY_WITHIN).await?;
            vacated(&self.agent_state(), AGENT_DRAIN).await;
            let mut agent = Child::start(self.agent()?)?;
            let troubles = tokio::select! {
                troubles = self.connect.wait_modules(&self.agent, MODULES_WITHIN) => troubles?,
                () = agent.supervise() => Vec::new(),
            };
            anyhow::Ok((agent, troubles))
        };
        let agent = tokio::select! {
            agent = ready => agent.map(Some),
            signal = signals.next() => { tracing::info!(signal, "stopping before being ready"); Ok(None) }
            failed = server.exited_early() => Err(failed),
        };
        let (mut agent, troubles) = match agent {
            Ok(Some(started)) => started,
            Ok(None) => {
                server.stop(SERVER_DRAIN).await;
                return Ok(Code::Ok);
            }
            Err(error) => {
                server.stop(SERVER_DRAIN).await;
                return Err(error);
            }
        };
        self.announce(&troubles);
        tokio::select! {
            signal = signals.next() => tracing::info!(signal, "draining"),
            () = server.supervise() => {}
            () = agent.supervise() => {}
        }
        let agent_ended = agent.stop(AGENT_DRAIN).await;
        let server_ended = server.stop(SERVER_DRAIN).await;
        if !(agent_ended && server_ended) {
            bail!("a part did not drain in time and was killed; what it had not finished is in its spool");
        }
        println!("stopped");
        Ok(Code::Ok)
    }

    fn announce(&self, troubles: &[String]) {
        println!("ready {}", self.connect.http_url());
        println!("  data       {}", self.state.display());
        println!("  nats       {}", self.nats_url);
        println!("  api key    in {}", self.connect.path().display());
        if troubles.is_empty() {
            println!("  agent      {} is online, all modules ready", self.agent);
        }
        for trouble in troubles {
            println!("  agent      {}: {trouble}", self.agent);
        }
    }

    fn server(&self) -> Result<Spec> {
        let mut spec = Spec::role("server")?;
        spec.flag("--listen", self.listen.to_string());
        spec.flag("--state-dir", self.state.join("server").display().to_string());
        spec.flag("--api-key-file", self.connect.key_path().display().to_string());
        spec.flag("--probe-agent", self.agent.to_string());
        spec.flag("--seed-target", "127.0.0.1");
        spec.flag("--seed-target", "::1");
        if self.authority.is_some() {
            spec.flag("--keys-dir", self.state.join("keys").display().to_string());
        }
        if let Some(url) = &self.database_url {
            spec.secret("IMN_DATABASE_URL", url.clone());
        }
        self.nats_flags(&mut spec, &Role::Server, &self.state.join("keys/server.creds"))?;
        Ok(spec)
    }

    fn agent_state(&self) -> PathBuf {
        self.state.join("agents").join(self.agent.as_str())
    }

    fn agent(&self) -> Result<Spec> {
        let state = self.agent_state();
        let creds = state.join("creds");
        let mut spec = Spec::role("agent")?;
        spec.flag("--id", self.agent.to_string());
        spec.flag("--state-dir", state.display().to_string());
        spec.flag("--listen", "127.0.0.1:0");
        spec.flag("--api-key-file", self.connect.key_path().display().to_string());
        if let Some(authority) = &self.authority {
            file::create_private_dir(&creds)?;
            for built_in in imn_agent::BuiltIn::all() {
                for slot in 0..built_in.instances {
                    let instance = InstanceId::slot(&self.agent, &built_in.kind, slot)?;
                    let path = creds.join(format!("{instance}.creds"));
                    let role =
                        Role::Module { agent: self.agent.clone(), kind: built_in.kind.clone(), instance };
                    issue(authority, &role, &path)?;
                }
            }
            spec.flag("--module-creds-dir", creds.display().to_string());
        }
        let role = Role::Agent { agent: self.agent.clone() };
        self.nats_flags(
            &mut spec,
            &role,
            &self.state.join("keys").join(format!("agent-{}.creds", self.agent)),
        )?;
        Ok(spec)
    }

    fn nats_flags(&self, spec: &mut Spec, role: &Role, path: &Path) -> Result<()> {
        spec.flag("--nats-url", self.nats_url.clone());
        if let Some(authority) = &self.authority {
            issue(authority, role, path)?;
            spec.flag("--nats-creds", path.display().to_string());
        }
        Ok(())
    }
}

/// Waits, up to `deadline`, for the part of an `imn up` that was killed: it still drains, and has its state until then.
async fn vacated(state: &Path, deadline: Duration) {
    let end = Instant::now() + deadline;
    while let Err(file::Error::InUse { holder, .. }) = StateLock::acquire(state)
        && Instant::now() < end
    {
        tracing::debug!(state = %state.display(), holder, "waiting for the part of before to end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Writes a credentials file, unless there is one: identities stay the same over restarts.
fn issue(authority: &Authority, role: &Role, path: &Path) -> Result<()> {
    if let Some(text) = file::read_optional(path)? {
        match Credentials::parse(&text) {
            Ok(credentials) if authority.is_current(&credentials, role) => return Ok(()),
            Ok(_) => {
                tracing::info!(path = %path.display(), "credentials of another network or version; new ones are issued");
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "credentials unreadable; new ones are issued");
            }
        }
    }
    file::write_atomic(path, authority.issue(role, None)?.text().as_bytes())?;
    Ok(())
}

/// Finds out at once, and in words, when the port is taken. Port 0 becomes a free one.
fn free_to_listen(listen: SocketAddr) -> Result<SocketAddr> {
    if !listen.ip().is_loopback() {
        return Err(Exit::usage(format!(
            "--listen {listen}: only loopback addresses are served, because there is no TLS yet; put a TLS proxy before it"
        ))
        .into());
    }
    let bound = TcpListener::bind(listen).and_then(|listener| listener.local_addr());
    bound.map_err(|error| {
        Exit::new(
            Code::Error,
            format!("cannot listen on {listen}: {error}; stop what uses the port, or choose another with --listen ADDR:PORT"),
        )
    })
    .context("imn up")
}

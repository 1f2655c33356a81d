//! `imn up`: everything on this host, as separate processes under one supervisor.
//!
//! The private nats-server, the server and the agent are children of this process; the agent has the modules as
//! children of its own. An orderly end goes the other way round: the agent drains its modules and their spools into
//! the server, the server commits and ends, nats-server stops last.

mod child;
mod connect;
mod keys;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use imn_contract::AgentId;
use imn_runtime::{
    credential::{Authority, Signer},
    file,
    file::StateLock,
    nats_server::{self, NatsServer},
    task::Signals,
    tls::LocalAuthority,
};
use tokio::time::Instant;

use crate::{
    cli::{ServeArgs, UpArgs},
    exit::{Code, Exit},
    role,
};
use child::{Child, Spec};
use connect::Connect;
pub(crate) use keys::Vouched;

/// How long the parts may take to become ready.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// How long the modules may take to be ready before `ready` is said without them.
const MODULES_WITHIN: Duration = Duration::from_secs(10);
/// How long the agent may take to drain, then the server, then nats-server; together below 15 s.
const AGENT_DRAIN: Duration = Duration::from_secs(8);
const SERVER_DRAIN: Duration = Duration::from_secs(4);
const NATS_STOP: Duration = Duration::from_secs(2);
/// How often the certificate of the private nats-server is made anew; it is good for three times as long.
const CERTIFICATE_EVERY: Duration = Duration::from_hours(24 * 30);

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
    serve: ServeArgs,
    nats_url: String,
    /// Where agents of other hosts reach the private nats-server.
    public_nats: Option<SocketAddr>,
    keys: Option<keys::Files>,
    local: Option<LocalAuthority>,
    database_url: Option<String>,
    connect: Connect,
}

async fn run(args: UpArgs) -> Result<Code> {
    let mut signals = Signals::listen()?;
    role::check_database(args.database_url.as_deref())?;
    let state = role::state_dir(&args.state)?;
    let _lock = StateLock::acquire(&state)?;
    let listen = free_to_listen(args.listen, &args.serve)?;
    let agent_state = state.join("agents").join(args.agent_id.as_str());
    let tls_dir = state.join("keys/tls");
    let local = (args.serve.tls || args.nats_listen.is_some()).then(|| LocalAuthority::open(&tls_dir));
    let local = local.transpose()?;
    let (nats, authority, nats_url) = if let Some(url) = args.nats_url {
        (None, None, url)
    } else {
        let authority = Authority::open(&state.join("keys"))?;
        let public = match (&local, args.nats_listen) {
            (Some(local), Some(listen)) => {
                Some(keys::certificate(local, &tls_dir, listen, &args.serve.tls_name)?)
            }
            _ => None,
        };
        let config = nats_server::Config { directory: state.join("nats"), binary: None, public };
        let server = NatsServer::start(&config, &authority).await?;
        // One that was taken over shows the certificate of before.
        server.reload();
        let url = server.url();
        (Some(server), Some(authority), url)
    };
    let started = async {
        let ca = match &args.serve.tls_cert {
            Some(certificates) => Some(std::path::absolute(certificates)?),
            None => args.serve.tls.then(|| tls_dir.join("ca.pem")),
        };
        let http_url = keys::http_url(listen, &args.serve);
        let connect = Connect::prepare(&state, http_url, ca, &nats_url, authority.as_ref())?;
        let lifetime = args.serve.credential_lifetime;
        let keys = authority
            .as_ref()
            .map(|authority| keys::prepare(&state, &args.agent_id, &agent_state, authority, lifetime));
        let port = nats.as_ref().map(NatsServer::port);
        let public_nats = args.nats_listen.zip(port).map(|(listen, port)| SocketAddr::new(listen.ip(), port));
        let site = Site {
            state,
            agent: args.agent_id,
            listen,
            serve: args.serve,
            nats_url,
            public_nats,
            keys: keys.transpose()?,
            local,
            database_url: args.database_url,
            connect,
        };
        site.run_parts(&mut signals, nats.as_ref()).await
    }
    .await;
    if let Some(nats) = nats {
        nats.stop(NATS_STOP).await;
    }
    started
}

impl Site {
    async fn run_parts(&self, signals: &mut Signals, nats: Option<&NatsServer>) -> Result<Code> {
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
            () = self.keep_certificate(nats) => {}
        }
        let agent_ended = agent.stop(AGENT_DRAIN).await;
        let server_ended = server.stop(SERVER_DRAIN).await;
        if !(agent_ended && server_ended) {
            bail!("a part did not drain in time and was killed; what it had not finished is in its spool");
        }
        println!("stopped");
        Ok(Code::Ok)
    }

    /// Has the private nats-server show a new certificate before the one that it shows ends. Never returns.
    async fn keep_certificate(&self, nats: Option<&NatsServer>) {
        loop {
            tokio::time::sleep(CERTIFICATE_EVERY).await;
            let (Some(nats), Some(local), Some(listen)) = (nats, &self.local, self.public_nats) else {
                continue;
            };
            match keys::certificate(local, &self.state.join("keys/tls"), listen, &self.serve.tls_name) {
                Ok(_) => nats.reload(),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "certificate of nats not renewed");
                }
            }
        }
    }

    fn announce(&self, troubles: &[String]) {
        println!("ready {}", self.connect.http_url());
        println!("  data       {}", self.state.display());
        println!("  nats       {}", self.nats_url);
        if let Some(listen) = self.public_nats {
            println!("  for agents tls://{listen}");
        }
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
        let ServeArgs { tls, tls_cert, tls_key, tls_name, insecure, credential_lifetime } = &self.serve;
        for (name, given) in [("--tls", tls), ("--insecure", insecure)] {
            if *given {
                spec.switch(name);
            }
        }
        for (name, path) in [("--tls-cert", tls_cert), ("--tls-key", tls_key)] {
            if let Some(path) = path {
                spec.flag(name, std::path::absolute(path)?.display().to_string());
            }
        }
        for name in tls_name {
            spec.flag("--tls-name", name);
        }
        spec.flag("--credential-lifetime", format!("{}ms", credential_lifetime.as_millis()));
        if let Some(keys) = &self.keys {
            spec.flag("--keys-dir", self.state.join("keys").display().to_string());
            spec.flag("--vouched", keys.vouched.display().to_string());
            spec.flag("--nats-creds", keys.server.display().to_string());
        }
        if let Some(listen) = self.public_nats {
            spec.flag("--nats-public-url", format!("tls://{listen}"));
            spec.flag("--nats-ca", self.state.join("keys/tls/ca.pem").display().to_string());
        }
        if let Some(url) = &self.database_url {
            spec.secret("IMN_DATABASE_URL", url.clone());
        }
        spec.flag("--nats-url", self.nats_url.clone());
        Ok(spec)
    }

    fn agent_state(&self) -> PathBuf {
        self.state.join("agents").join(self.agent.as_str())
    }

    fn agent(&self) -> Result<Spec> {
        let mut spec = Spec::role("agent")?;
        spec.flag("--id", self.agent.to_string());
        spec.flag("--state-dir", self.agent_state().display().to_string());
        spec.flag("--listen", "127.0.0.1:0");
        spec.flag("--api-key-file", self.connect.key_path().display().to_string());
        spec.flag("--nats-url", self.nats_url.clone());
        if let Some(keys) = &self.keys {
            spec.flag("--module-creds-dir", keys.modules.display().to_string());
            spec.flag("--nats-creds", keys.agent.display().to_string());
            spec.flag("--registry-key", Signer::open(&self.state.join("keys"))?.public_key());
            if self.serve.is_secure() || self.listen.ip().is_loopback() {
                spec.flag("--control-plane", self.connect.http_url());
            }
            if let Some(ca) = self.connect.ca_file() {
                spec.flag("--ca-file", ca.display().to_string());
            }
        }
        Ok(spec)
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

/// Finds out at once, and in words, when the port is taken. Port 0 becomes a free one.
fn free_to_listen(listen: SocketAddr, serve: &ServeArgs) -> Result<SocketAddr> {
    serve.check(listen)?;
    let bound = TcpListener::bind(listen).and_then(|listener| listener.local_addr());
    bound.map_err(|error| {
        Exit::new(
            Code::Error,
            format!("cannot listen on {listen}: {error}; stop what uses the port, or choose another with --listen ADDR:PORT"),
        )
    })
    .context("imn up")
}

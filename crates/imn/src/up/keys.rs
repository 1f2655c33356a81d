//! The keys of `imn up`: credentials of its parts, and the local authority's certificates.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use imn_contract::{AgentId, InstanceId};
use imn_runtime::{
    credential::{Authority, Credentials, Role},
    file, nats_server,
    tls::{LocalAuthority, names_of},
};
use serde::{Deserialize, Serialize};

use crate::cli::ServeArgs;

/// A key that was vouched for here, as the server is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vouched {
    pub(crate) agent: AgentId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<InstanceId>,
    pub(crate) public_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_s: Option<u64>,
}

/// Where the credentials of the parts are.
pub(super) struct Files {
    pub(super) server: PathBuf,
    pub(super) agent: PathBuf,
    /// Those of the agent's modules.
    pub(super) modules: PathBuf,
    /// What was vouched for.
    pub(super) vouched: PathBuf,
}

/// Makes or renews the credentials of server, agent and modules.
pub(super) fn prepare(
    state: &Path,
    agent: &AgentId,
    agent_state: &Path,
    authority: &Authority,
    lifetime: Duration,
) -> Result<Files> {
    let keys = state.join("keys");
    let files = Files {
        server: keys.join("server.creds"),
        agent: keys.join(format!("agent-{agent}.creds")),
        modules: agent_state.join("creds"),
        vouched: keys.join("vouched.json"),
    };
    issue(authority, &Role::Server, &files.server, None)?;
    let mut vouched = Vec::new();
    let mut note = |instance: Option<InstanceId>, credentials: &Credentials| {
        let (public_key, expires_s) = (credentials.public_key(), credentials.expires_s());
        vouched.push(Vouched { agent: agent.clone(), instance, public_key, expires_s });
    };
    let role = Role::Agent { agent: agent.clone() };
    note(None, &issue(authority, &role, &files.agent, Some(lifetime))?);
    file::create_private_dir(&files.modules)?;
    for built_in in imn_agent::BuiltIn::all() {
        for slot in 0..built_in.instances {
            let instance = InstanceId::slot(agent, &built_in.kind, slot)?;
            let path = files.modules.join(format!("{instance}.creds"));
            let role = Role::Module {
                agent: agent.clone(),
                kind: built_in.kind.clone(),
                instance: instance.clone(),
            };
            note(Some(instance), &issue(authority, &role, &path, Some(lifetime))?);
        }
    }
    file::write_atomic(&files.vouched, serde_json::to_string_pretty(&vouched)?.as_bytes())?;
    Ok(files)
}

/// Makes a credentials file, unless there is a fit one: a key stays the same over restarts, and what it may do is
/// brought up to date. One that was revoked stays as it is, and shut out.
pub(super) fn issue(
    authority: &Authority,
    role: &Role,
    path: &Path,
    lifetime: Option<Duration>,
) -> Result<Credentials> {
    let known = match file::read_optional(path)?.as_deref().map(Credentials::parse) {
        Some(Ok(known)) if authority.has_issued(&known) => Some(known),
        Some(Ok(_)) => {
            tracing::info!(path = %path.display(), "credentials of another network; new ones are issued");
            None
        }
        Some(Err(error)) => {
            tracing::warn!(path = %path.display(), %error, "credentials unreadable; new ones are issued");
            None
        }
        None => None,
    };
    let issued = match known {
        Some(known) if authority.has_revoked_key(&known.public_key()) => return Ok(known),
        Some(known) if is_fit(&known, role, lifetime) => return Ok(known),
        Some(known) => authority.renew(&known, role, lifetime)?,
        None => authority.issue(role, lifetime)?,
    };
    file::write_atomic(path, issued.text().as_bytes())?;
    Ok(issued)
}

fn is_fit(known: &Credentials, role: &Role, lifetime: Option<Duration>) -> bool {
    known.permit(role) && known.lifetime() == lifetime && known.half_life().is_none_or(|left| !left.is_zero())
}

/// The certificate that the private nats-server shows to other hosts: made anew, to be read by it.
pub(super) fn certificate(
    local: &LocalAuthority,
    directory: &Path,
    listen: SocketAddr,
    names: &[String],
) -> Result<nats_server::Public> {
    let leaf = local.issue(&names_of(listen.ip(), names))?;
    let (chain, key) = (directory.join("nats.pem"), directory.join("nats.key"));
    file::write_atomic(&key, leaf.key.as_bytes())?;
    file::write_atomic(&chain, leaf.chain.as_bytes())?;
    Ok(nats_server::Public { listen, chain, key })
}

/// Where this host reaches the HTTP API.
pub(super) fn http_url(listen: SocketAddr, serve: &ServeArgs) -> String {
    let mut at = listen;
    if listen.ip().is_unspecified() {
        let loopback: IpAddr =
            if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        at.set_ip(loopback);
    }
    match (&serve.tls_cert, serve.tls_name.first()) {
        // A certificate from elsewhere is for a name.
        (Some(_), Some(name)) => format!("https://{name}:{}", at.port()),
        _ if serve.is_secure() => format!("https://{at}"),
        _ => format!("http://{at}"),
    }
}

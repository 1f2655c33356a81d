//! The keys of agents and modules: how agents come in, for whom is vouched, and who is shut out.

mod claims;
mod enroll;
mod nonce;
mod vouch;

use std::{sync::Arc, time::Duration};

use imn_contract::{AgentId, ErrorCode, Fault, InstanceId};
use imn_runtime::{
    credential::{Authority, Role, Vouching},
    nats,
};
use imn_store::{Catalog, CatalogError, Credential};
use tokio::sync::{Mutex, Notify};

use crate::{clock::now_us, registry::Registry};
use nonce::Nonces;

pub(crate) use claims::keep_told;
pub(crate) use enroll::{Application, Refusal, TOKEN_PREFIX};
pub(crate) use vouch::answer;

/// What an operator does about a key that is not taken.
const ENROLL_ANEW: &str = "make a token (`imn token create --agent ID`) and start the agent with it";

/// What is decided with.
pub(crate) struct Parts {
    pub(crate) authority: Option<Arc<Authority>>,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) registry: Registry,
    /// How NATS is reached.
    pub(crate) nats: Option<nats::Config>,
    /// How long a JWT is good for.
    pub(crate) lifetime: Duration,
}

/// The network's keys; cheap to clone.
#[derive(Clone)]
pub(crate) struct Keys {
    shared: Arc<Shared>,
}

struct Shared {
    parts: Parts,
    nonces: Nonces,
    /// One decision at a time: nobody is vouched for while being shut out.
    gate: Mutex<()>,
    /// Servers of NATS are to be told.
    poke: Notify,
}

/// What came of shutting an agent out.
#[derive(Clone, Debug)]
pub(crate) struct Revoked {
    /// Its keys and those of its modules.
    pub(crate) keys: Vec<Credential>,
    /// Why NATS does not know yet; it is told again until it does.
    pub(crate) untold: Option<String>,
}

impl Keys {
    pub(crate) fn new(parts: Parts) -> Self {
        let shared = Shared { parts, nonces: Nonces::new(), gate: Mutex::new(()), poke: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// The authority of the network.
    ///
    /// # Errors
    /// 409 when this server has none.
    fn authority(&self) -> Result<&Authority, Fault> {
        self.shared.parts.authority.as_deref().ok_or_else(|| {
            let message = "this server does not hold the keys of the network: start it with --keys-dir";
            Fault::new(ErrorCode::Conflict, message)
        })
    }

    fn catalog(&self) -> &dyn Catalog {
        &*self.shared.parts.catalog
    }

    fn now_and_end(&self) -> (i64, i64) {
        let now = now_us();
        (now, now.saturating_add(i64::try_from(self.shared.parts.lifetime.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Signs for a key, and notes it.
    async fn vouch(&self, role: &Role, public_key: &str) -> Result<Vouching, Fault> {
        let authority = self.authority()?;
        let (agent, instance) = owner(role)?;
        let _gate = self.shared.gate.lock().await;
        let known = self.catalog().credential(public_key).await.map_err(failed)?;
        match &known {
            Some(known) if known.revoked_us.is_some() => return Err(revoked(&agent)),
            Some(known) if known.agent != agent || known.instance != instance => {
                let message = format!("this key is that of another: {ENROLL_ANEW}");
                return Err(Fault::new(ErrorCode::Denied, message).at("public_key"));
            }
            None if instance.is_none() => {
                let message = format!("nobody has vouched for this key of the agent {agent}: {ENROLL_ANEW}");
                return Err(Fault::new(ErrorCode::Denied, message).at("public_key"));
            }
            Some(_) | None => {}
        }
        if instance.is_some() && self.is_shut_out(&agent).await.map_err(failed)? {
            return Err(revoked(&agent));
        }
        let vouching = authority
            .vouch(role, public_key, Some(self.shared.parts.lifetime))
            .map_err(|error| Fault::invalid("public_key", error.to_string()))?;
        let (now, end) = self.now_and_end();
        let credential = Credential {
            public_key: public_key.to_owned(),
            agent,
            instance,
            issued_us: now,
            expires_us: Some(end),
            revoked_us: None,
        };
        self.catalog().note_credentials(&[credential]).await.map_err(failed)?;
        Ok(vouching)
    }

    /// Whether every key of the agent itself was revoked. One of which no key is known has credentials from elsewhere.
    async fn is_shut_out(&self, agent: &AgentId) -> Result<bool, CatalogError> {
        let keys = self.catalog().credentials(Some(agent)).await?;
        let mut own = keys.iter().filter(|key| key.instance.is_none()).peekable();
        Ok(own.peek().is_some() && own.all(|key| key.revoked_us.is_some()))
    }

    /// Revokes the keys of an agent and its modules: NATS ends their connections and takes them no more.
    ///
    /// # Errors
    /// 409 when there is nothing to revoke, 503 when the decision cannot be written down.
    pub(crate) async fn revoke(&self, agent: &AgentId) -> Result<Revoked, Fault> {
        let authority = self.authority()?;
        let gate = self.shared.gate.lock().await;
        let keys = self.catalog().revoke_credentials(agent, now_us()).await.map_err(failed)?;
        if keys.is_empty() {
            let message = format!(
                "this server has vouched for no key of {agent}: its credentials were made elsewhere, revoke them there"
            );
            return Err(Fault::new(ErrorCode::Conflict, message));
        }
        authority
            .revoke(keys.iter().map(|key| key.public_key.as_str()))
            .map_err(|error| Fault::new(ErrorCode::Unavailable, error.to_string()))?;
        drop(gate);
        let untold = self.tell().await.err().map(|error| error.to_string());
        if let Some(error) = &untold {
            tracing::error!(%agent, error, "nats does not know yet who was revoked");
            self.shared.poke.notify_one();
        }
        self.shared.parts.registry.shut_out(agent);
        tracing::warn!(%agent, keys = keys.len(), "agent revoked");
        Ok(Revoked { keys, untold })
    }
}

/// Whose a key of this role is.
fn owner(role: &Role) -> Result<(AgentId, Option<InstanceId>), Fault> {
    match role {
        Role::Agent { agent } => Ok((agent.clone(), None)),
        Role::Module { agent, instance, .. } => Ok((agent.clone(), Some(instance.clone()))),
        Role::Server | Role::Queue { .. } | Role::Operator | Role::Viewer => {
            Err(Fault::new(ErrorCode::Denied, "only agents and modules are vouched for"))
        }
    }
}

fn revoked(agent: &AgentId) -> Fault {
    Fault::new(ErrorCode::Denied, format!("the keys of {agent} were revoked: {ENROLL_ANEW}"))
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn failed(error: CatalogError) -> Fault {
    Fault::new(ErrorCode::Unavailable, error.to_string())
}

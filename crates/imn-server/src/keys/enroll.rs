//! How an agent comes in: by a token that is good once, and a key that it shows to have.

use imn_contract::{AgentId, Fault};
use imn_runtime::credential::{self, Role, Vouching, enrollment_proof, renewal_proof};
use imn_store::{Credential, EnrollmentToken};
use subtle::ConstantTimeEq;

use super::{ENROLL_ANEW, Keys, failed};
use crate::{api, clock::now_us};

/// What a token begins with.
pub(crate) const TOKEN_PREFIX: &str = "imnt_";

/// What an agent sends.
#[derive(Clone)]
pub(crate) struct Application {
    /// The agent that it is to be.
    pub(crate) agent: AgentId,
    /// Its public key.
    pub(crate) public_key: String,
    /// A nonce of this server.
    pub(crate) nonce: String,
    /// By the key, over [`enrollment_proof`] or [`renewal_proof`].
    pub(crate) signature: String,
}

/// Why an agent does not come in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// 403
    #[error("the enrollment token is not known: it may have been removed; make one with `imn token create`")]
    Unknown,
    /// 410
    #[error(
        "the enrollment token has expired: make one with `imn token create`, `--ttl` says how long it is good for"
    )]
    Expired,
    /// 409
    #[error(
        "the enrollment token was used by {by}: each is good once. Started without --token, an agent goes on with what \
         it has; for another agent make another token"
    )]
    Used {
        /// Who came in by it.
        by: String,
    },
    /// 403
    #[error(
        "the enrollment token is for the agent {agent}: start the agent with --id {agent}, or {ENROLL_ANEW}"
    )]
    OtherAgent {
        /// For whom it is.
        agent: AgentId,
    },
    /// 409
    #[error(
        "there is an agent {agent} with keys in force: choose another --id; to replace it, {ENROLL_ANEW}, or revoke it \
         first (`imn agent revoke {agent}`)"
    )]
    InForce {
        /// Who there is.
        agent: AgentId,
    },
    /// 403
    #[error(
        "the nonce is not of this server, or older than two minutes: ask for one at /api/v1/enroll/nonce"
    )]
    Nonce,
    /// 403
    #[error("the signature is not that of the public key over nonce, agent and token")]
    Signature,
    /// As the fault says.
    #[error("{0}")]
    Fault(#[from] Fault),
}

impl Keys {
    /// A fresh nonce, and when it ends.
    pub(crate) fn nonce(&self) -> (String, i64) {
        self.shared.nonces.fresh(now_us())
    }

    /// Lets an agent in: spends the token and vouches for the key. With it, the token's public part.
    pub(crate) async fn enroll(
        &self,
        application: &Application,
        token: &str,
    ) -> Result<(Vouching, String), Refusal> {
        let authority = self.authority()?;
        let found = self.token(token).await?;
        let (now, end) = self.now_and_end();
        if let Some(by) = &found.used_by {
            return Err(Refusal::Used { by: by.to_string() });
        }
        if found.expires_us <= now {
            return Err(Refusal::Expired);
        }
        let Application { agent, public_key, .. } = application;
        if let Some(bound) = found.agent.as_ref().filter(|bound| *bound != agent) {
            return Err(Refusal::OtherAgent { agent: bound.clone() });
        }
        let proof = enrollment_proof(&application.nonce, agent, public_key, token);
        self.proved(application, &proof, now)?;
        let _gate = self.shared.gate.lock().await;
        // A revoked key does not come in again, whatever token it has.
        let known = self.catalog().credential(public_key).await.map_err(failed)?;
        if known.is_some_and(|known| known.revoked_us.is_some() || known.agent != *agent) {
            return Err(super::revoked(agent).into());
        }
        if found.agent.is_none() && self.is_in_force(agent, now).await? {
            return Err(Refusal::InForce { agent: agent.clone() });
        }
        let role = Role::Agent { agent: agent.clone() };
        let vouching = authority
            .vouch(&role, public_key, Some(self.shared.parts.lifetime))
            .map_err(|error| Fault::invalid("public_key", error.to_string()))?;
        let credential = Credential {
            public_key: public_key.clone(),
            agent: agent.clone(),
            instance: None,
            issued_us: now,
            expires_us: Some(end),
            revoked_us: None,
        };
        if !self.catalog().enroll(&found.id, &credential).await.map_err(failed)? {
            return Err(Refusal::Used { by: "somebody else just now".to_owned() });
        }
        tracing::info!(%agent, token = found.id, key = public_key, "agent enrolled");
        Ok((vouching, found.id))
    }

    /// Renews the JWT of an agent that NATS does not let in any more, or that cannot reach it.
    pub(crate) async fn renew(&self, application: &Application) -> Result<Vouching, Refusal> {
        let proof = renewal_proof(&application.nonce, &application.agent, &application.public_key);
        self.proved(application, &proof, now_us())?;
        let role = Role::Agent { agent: application.agent.clone() };
        let vouching = self.vouch(&role, &application.public_key).await?;
        tracing::info!(agent = %application.agent, key = application.public_key, "credentials renewed over HTTP");
        Ok(vouching)
    }

    async fn token(&self, token: &str) -> Result<EnrollmentToken, Refusal> {
        let parts = token.strip_prefix(TOKEN_PREFIX).and_then(|rest| rest.split_once('_'));
        let Some((id, secret)) = parts else { return Err(Refusal::Unknown) };
        let found = self.catalog().enrollment_token(id).await.map_err(failed)?;
        let expected = found.as_ref().map_or("", |found| &found.secret_hash);
        let matches: bool = api::hash(secret).as_bytes().ct_eq(expected.as_bytes()).into();
        found.filter(|_| matches).ok_or(Refusal::Unknown)
    }

    fn proved(&self, application: &Application, proof: &str, now_us: i64) -> Result<(), Refusal> {
        if !self.shared.nonces.is_good(&application.nonce, now_us) {
            return Err(Refusal::Nonce);
        }
        let Application { public_key, signature, .. } = application;
        if credential::verify(public_key, proof.as_bytes(), signature) {
            Ok(())
        } else {
            Err(Refusal::Signature)
        }
    }

    /// Whether somebody else may be connected as this agent.
    async fn is_in_force(&self, agent: &AgentId, now_us: i64) -> Result<bool, Fault> {
        let keys = self.catalog().credentials(Some(agent)).await.map_err(failed)?;
        let in_force = |key: &Credential| {
            key.instance.is_none()
                && key.revoked_us.is_none()
                && key.expires_us.is_none_or(|end| end > now_us)
        };
        Ok(keys.iter().any(in_force))
    }
}

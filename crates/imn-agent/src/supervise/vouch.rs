//! Credentials of modules: a key that the agent makes, for which the server vouches, and vouches again in time.

use std::time::Duration;

use async_nats::HeaderMap;
use imn_contract::{
    AgentId, Fault, InstanceId, ModuleType,
    latest::{ModuleOp, Vouch, VouchReply},
    subject,
};
use imn_runtime::{
    credential::{Applicant, Credentials, Role},
    file,
    nats::{self, Client},
    process::Signal,
};

use super::{Supervisor, record::Record};
use crate::{Error, ModuleCredentials, Result};

/// How long the server may take.
const WITHIN: Duration = Duration::from_secs(2);
/// How often a renewal that failed is tried.
const AGAIN: Duration = Duration::from_secs(2);

/// The credentials of an instance that is to be started: those on disk, renewed when they have ended, or new ones; `None`
/// where none are needed.
pub(super) async fn credentials(
    kept: &ModuleCredentials,
    client: &Client,
    agent: &AgentId,
    (kind, instance): (&ModuleType, &InstanceId),
) -> Result<Option<String>> {
    let found = kept.of(kind, instance);
    let Some(path) = kept.file(instance) else { return found };
    let missing = match found {
        Ok(None) => return Ok(None),
        Ok(Some(text)) => match Credentials::parse(&text) {
            Ok(found) if !found.have_expired() => return Ok(Some(text)),
            Ok(found) => {
                Missing { key: Some(found), why: format!("start {instance}: its credentials have expired") }
            }
            Err(error) => {
                tracing::warn!(%instance, path = %path.display(), %error, "credentials unreadable; new ones are asked for");
                Missing { key: None, why: error.to_string() }
            }
        },
        Err(error) => Missing { key: None, why: error.to_string() },
    };
    let failed = |message: String| Error::NotVouched { instance: instance.to_string(), message };
    let applicant = match &missing.key {
        Some(key) => key.applicant().map_err(|error| failed(error.to_string()))?,
        None => Applicant::default(),
    };
    let jwt =
        ask(client, agent, (kind, instance), applicant.public_key()).await.map_err(|error| match error {
            Refused::Silent(error) => failed(format!(
                "{}; and no server vouches for it ({error}): one with --keys-dir does",
                missing.why
            )),
            Refused::Fault(fault) => failed(fault.message),
        })?;
    let credentials = applicant.accept(jwt.into()).map_err(|error| failed(error.to_string()))?;
    file::write_atomic(&path, credentials.text().as_bytes())?;
    tracing::info!(%instance, key = credentials.public_key(), "credentials had from the server");
    Ok(Some(credentials.text()))
}

struct Missing {
    key: Option<Credentials>,
    why: String,
}

enum Refused {
    /// There was no answer.
    Silent(nats::Error),
    /// There was one.
    Fault(Fault),
}

async fn ask(
    client: &Client,
    agent: &AgentId,
    (kind, instance): (&ModuleType, &InstanceId),
    public_key: String,
) -> std::result::Result<String, Refused> {
    let vouch = Vouch { v: 1, kind: kind.clone(), instance: instance.clone(), public_key };
    let asked: nats::Result<VouchReply> =
        client.request_within(&subject::vouch(agent), &vouch, HeaderMap::new(), WITHIN).await;
    let reply = asked.map_err(Refused::Silent)?;
    reply.jwt.ok_or_else(|| {
        let none = || Fault::new(imn_contract::ErrorCode::Unavailable, "the server sent no JWT");
        Refused::Fault(reply.error.unwrap_or_else(none))
    })
}

impl Supervisor {
    /// Has the credentials of running instances renewed whose half life is over, or that do not say what this program's
    /// modules may do (`strange`, asked about once). When the next is due, at the latest.
    pub(crate) async fn renew_modules(&self, strange: bool) -> Option<Duration> {
        let mut next = None;
        for record in self.records.all() {
            let path = self.config.credentials.file(&record.instance)?;
            let Ok(Some(text)) = self.config.credentials.of(&record.kind, &record.instance) else { continue };
            // One that is unreadable is replaced when the instance is started again.
            let Ok(known) = Credentials::parse(&text) else { continue };
            let Record { kind, instance, .. } = record.clone();
            let role = Role::Module { agent: self.config.id.clone(), kind, instance };
            let due = known.half_life().is_some_and(|left| left.is_zero()) || strange && !known.permit(&role);
            let current = if due { self.renew_module(&record, &known, &path).await } else { None };
            let left = match current {
                Some(renewed) => renewed.half_life(),
                None if due => Some(AGAIN),
                None => known.half_life(),
            };
            next = [next, left].into_iter().flatten().min();
        }
        next
    }

    async fn renew_module(
        &self,
        record: &Record,
        known: &Credentials,
        path: &std::path::Path,
    ) -> Option<Credentials> {
        let instance = &record.instance;
        let asked = ask(&self.client, &self.config.id, (&record.kind, instance), known.public_key()).await;
        let renewed = match asked {
            Ok(jwt) => known.with(jwt.into()).map_err(|error| error.to_string()),
            Err(Refused::Silent(error)) => Err(error.to_string()),
            Err(Refused::Fault(fault)) => Err(fault.message),
        };
        let renewed = match renewed {
            Ok(renewed) => renewed,
            Err(error) => {
                tracing::warn!(%instance, error, "credentials not renewed; asked for again");
                return None;
            }
        };
        // The instance first: what is on disk tells whether it still has to be told.
        let told = self.tell(instance, ModuleOp::Renew { jwt: renewed.jwt().to_owned() }).await;
        if let Err(error) = file::write_atomic(path, renewed.text().as_bytes()) {
            tracing::error!(%instance, %error, "renewed credentials not kept; asked for again");
            return None;
        }
        if let Ok(true) = told {
            tracing::info!(%instance, "credentials renewed");
        } else {
            // It does not know how, or does not hear: started anew, it reads the new ones.
            tracing::info!(%instance, "credentials renewed; the module is started anew to take them");
            if let Err(error) = record.process.signal(Signal::SIGTERM) {
                tracing::warn!(%instance, %error, "module cannot be signalled");
            }
        }
        Some(renewed)
    }
}

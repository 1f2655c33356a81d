//! Credentials of a module that came with none: a fresh key, for which the server vouches.

use std::time::Duration;

use async_nats::HeaderMap;
use imn_contract::{
    AgentId, InstanceId, ModuleType,
    latest::{Vouch, VouchReply},
    subject,
};
use imn_runtime::{
    credential::Applicant,
    file,
    nats::{self, Client},
};

use crate::{Error, ModuleCredentials, Result};

/// How long the server may take.
const WITHIN: Duration = Duration::from_secs(2);

/// The credentials of an instance, those on disk or new ones; `None` where none are needed.
pub(super) async fn credentials(
    kept: &ModuleCredentials,
    client: &Client,
    agent: &AgentId,
    (kind, instance): (&ModuleType, &InstanceId),
) -> Result<Option<String>> {
    let missing = match kept.of(kind, instance) {
        Ok(found) => return Ok(found),
        Err(missing) => missing,
    };
    let Some(path) = kept.file(instance) else { return Err(missing) };
    let failed = |message: String| Error::NotVouched { instance: instance.to_string(), message };
    let applicant = Applicant::default();
    let vouch =
        Vouch { v: 1, kind: kind.clone(), instance: instance.clone(), public_key: applicant.public_key() };
    let asked: nats::Result<VouchReply> =
        client.request_within(&subject::vouch(agent), &vouch, HeaderMap::new(), WITHIN).await;
    let reply = asked.map_err(|error| {
        failed(format!("{missing}; and no server vouches for it ({error}): one with --keys-dir does"))
    })?;
    let Some(jwt) = reply.jwt else {
        return Err(failed(
            reply.error.map_or_else(|| "the server sent none".to_owned(), |fault| fault.message),
        ));
    };
    let credentials = applicant.accept(&jwt).map_err(|error| failed(error.to_string()))?;
    file::write_atomic(&path, credentials.text().as_bytes())?;
    tracing::info!(%instance, key = credentials.public_key(), "credentials had from the server");
    Ok(Some(credentials.text()))
}

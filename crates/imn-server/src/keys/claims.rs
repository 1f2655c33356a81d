//! Telling NATS of the account's JWT, in which the revoked keys stand.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use imn_runtime::{
    credential::{self, UPDATE_ACCOUNT},
    nats::{self, Client},
    task::Stop,
};
use serde::Deserialize;

use super::Keys;
use crate::context::Context;

/// How long NATS may take to answer.
const WITHIN: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(1);

/// Why NATS does not know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// This server does not hold the keys, or does not know how NATS is reached.
    #[error("tell nats of revoked keys: this server has no keys of the network")]
    NoKeys,
    /// A user for the errand could not be made.
    #[error("tell nats of revoked keys: {0}")]
    Credential(#[from] credential::Error),
    /// NATS is away, or refuses.
    #[error("tell nats of revoked keys: {0}")]
    Nats(#[from] nats::Error),
    /// Its resolver does not take it.
    #[error(
        "tell nats of revoked keys: it answers {text}; its resolver must be of type full, see docs/runbook/keys.md"
    )]
    Refused {
        /// What it said.
        text: String,
    },
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    error: Option<serde_json::Value>,
}

impl Keys {
    /// Hands the account's JWT to NATS, which at once ends the connections of those who are revoked in it.
    pub(super) async fn tell(&self) -> Result<(), Error> {
        let parts = &self.shared.parts;
        let (Some(authority), Some(nats)) = (&parts.authority, &parts.nats) else {
            return Err(Error::NoKeys);
        };
        let user = authority.system_user()?;
        let config = nats::Config {
            credentials: Some(user.text()),
            inbox_prefix: user.inbox_prefix().to_owned(),
            name: "claims".to_owned(),
            timeout: WITHIN,
            ..nats.clone()
        };
        let client = Client::connect(&config).await?;
        let jwt = Bytes::from(authority.account().1);
        let answer = client.request_bytes(UPDATE_ACCOUNT, jwt, HeaderMap::new(), WITHIN).await?;
        let text = String::from_utf8_lossy(&answer.payload);
        match serde_json::from_str::<Reply>(&text) {
            Ok(Reply { error: None }) => Ok(()),
            Ok(Reply { error: Some(error) }) => Err(Error::Refused { text: error.to_string() }),
            Err(_) => Err(Error::Refused { text: text.into_owned() }),
        }
    }
}

/// Tells NATS whenever it may not know: after each connection, and when it could not be told at once. Until `stop`.
pub(crate) async fn keep_told(context: Context, stop: Stop) {
    let keys = &context.keys;
    let Some(authority) = keys.shared.parts.authority.clone() else { return };
    let mut connected = context.client.events().connected();
    loop {
        if !matches!(stop.until(connected.wait_for(|up| *up)).await, Some(Ok(_))) {
            return;
        }
        if authority.has_revoked() {
            match stop.until(keys.tell()).await {
                None => return,
                Some(Ok(())) => tracing::debug!("nats knows who is revoked"),
                Some(Err(error)) => {
                    tracing::warn!(%error, "told again");
                    if !stop.sleep(RETRY).await {
                        return;
                    }
                    continue;
                }
            }
        }
        let down = async {
            tokio::select! {
                () = keys.shared.poke.notified() => true,
                down = connected.wait_for(|up| !*up) => down.is_ok(),
            }
        };
        if stop.until(down).await != Some(true) {
            return;
        }
    }
}

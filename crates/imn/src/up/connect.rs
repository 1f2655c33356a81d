//! `connect.json`: how a client on this host finds the network.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use imn_contract::AgentId;
use imn_runtime::{
    credential::{Authority, Role},
    file,
};
use serde::{Deserialize, Serialize};

use crate::client;

/// The content of `connect.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    http_url: String,
    api_key: String,
    nats_url: String,
    /// Credentials file with an operator client's rights; absent on a NATS without authentication.
    nats_creds: Option<PathBuf>,
    nats_inbox_prefix: String,
    /// The authority that signed the server's certificate; absent: one that this host knows, or no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Modules {
    items: Vec<Module>,
}

#[derive(Deserialize)]
struct Module {
    instance: String,
    state: String,
    reason: Option<String>,
}

impl Module {
    /// Whether waiting for it makes no sense: somebody switched it off, or it ended too often.
    fn is_left_alone(&self) -> bool {
        matches!(self.state.as_str(), "disabled" | "quarantined")
    }

    fn worded(&self) -> String {
        let reason = self.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
        format!("{} is {}{reason}", self.instance, self.state)
    }
}

pub(super) struct Connect {
    state: PathBuf,
    content: Content,
}

impl Connect {
    /// Writes the file. The key and the credentials of an earlier start stay.
    pub(super) fn prepare(
        state: &Path,
        http_url: String,
        ca_file: Option<PathBuf>,
        nats_url: &str,
        authority: Option<&Authority>,
    ) -> Result<Self> {
        let key_path = state.join("keys/api.key");
        file::create_private_dir(&state.join("keys"))?;
        let known = file::read_optional(&key_path)?.map(|key| key.trim().to_owned());
        let api_key = match known {
            Some(key) if imn_server::is_token(&key) => key,
            known => {
                if known.is_some() {
                    tracing::warn!(path = %key_path.display(), "the API key is unreadable; a new one is made");
                }
                let key = imn_server::fresh_token();
                file::write_atomic(&key_path, format!("{key}\n").as_bytes())?;
                key
            }
        };
        let creds = state.join("keys/client.creds");
        let nats_creds = match authority {
            Some(authority) => {
                super::keys::issue(authority, &Role::Operator, &creds, None)?;
                Some(creds)
            }
            None => None,
        };
        let content = Content {
            http_url,
            api_key,
            nats_url: nats_url.to_owned(),
            nats_creds,
            nats_inbox_prefix: Role::Operator.inbox_prefix(),
            ca_file,
        };
        let connect = Self { state: state.to_owned(), content };
        let text = serde_json::to_string_pretty(&connect.content)? + "\n";
        file::write_atomic(&connect.path(), text.as_bytes())?;
        Ok(connect)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.state.join("connect.json")
    }

    pub(super) fn key_path(&self) -> PathBuf {
        self.state.join("keys/api.key")
    }

    pub(super) fn ca_file(&self) -> Option<&Path> {
        self.content.ca_file.as_deref()
    }

    fn http(&self) -> Result<reqwest::Client> {
        let trust = client::trust(self.ca_file())?;
        Ok(client::http(self.http_url(), &trust)?.timeout(Duration::from_secs(2)).build()?)
    }

    pub(super) fn http_url(&self) -> &str {
        &self.content.http_url
    }

    /// Waits until the agent's modules are ready, but for those that are left alone; what is not ready by then, with the
    /// reason.
    pub(super) async fn wait_modules(&self, agent: &AgentId, deadline: Duration) -> Result<Vec<String>> {
        let client = self.http()?;
        let url = format!("{}/api/v1/modules?limit=1000", self.http_url());
        let end = tokio::time::Instant::now() + deadline;
        loop {
            let answer = client.get(&url).bearer_auth(&self.content.api_key).send().await;
            let modules = match answer {
                Ok(answer) => answer.json::<Modules>().await.map_or_else(|_| Vec::new(), |list| list.items),
                Err(_) => Vec::new(),
            };
            let waiting: Vec<_> = modules.iter().filter(|module| module.state != "ready").collect();
            // Before the agent itself is heard of, those that have announced themselves are not all.
            let agent = format!("{}/api/v1/agents/{agent}", self.http_url());
            let known = client.get(agent).bearer_auth(&self.content.api_key).send().await;
            let known = known.is_ok_and(|answer| answer.status().is_success());
            if known && !modules.is_empty() && waiting.iter().all(|module| module.is_left_alone()) {
                return Ok(waiting.iter().map(|module| module.worded()).collect());
            }
            if tokio::time::Instant::now() >= end {
                return Ok(match waiting.as_slice() {
                    [] => vec!["the agent has not been heard of yet".to_owned()],
                    waiting => waiting.iter().map(|module| module.worded()).collect(),
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the server says that it is ready.
    pub(super) async fn wait_ready(&self, deadline: Duration) -> Result<()> {
        let client = self.http()?;
        let url = format!("{}/readyz", self.http_url());
        let end = tokio::time::Instant::now() + deadline;
        let mut last = "no answer".to_owned();
        while tokio::time::Instant::now() < end {
            match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => last = answer.text().await.context("read /readyz")?,
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the server was not ready within {} s: {last}", deadline.as_secs())
    }
}

//! `connect.json`: how a client on this host finds the network.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use imn_runtime::{
    credential::{Authority, Role},
    file,
};
use serde::{Deserialize, Serialize};

/// The content of `connect.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    http_url: String,
    api_key: String,
    nats_url: String,
    /// Credentials file with an operator client's rights; absent on a NATS without authentication.
    nats_creds: Option<PathBuf>,
    nats_inbox_prefix: String,
}

pub(super) struct Connect {
    state: PathBuf,
    content: Content,
}

impl Connect {
    /// Writes the file. The key and the credentials of an earlier start stay.
    pub(super) fn prepare(
        state: &Path,
        listen: SocketAddr,
        nats_url: &str,
        authority: Option<&Authority>,
    ) -> Result<Self> {
        let key_path = state.join("keys/api.key");
        file::create_private_dir(&state.join("keys"))?;
        let api_key = match file::read_optional(&key_path)? {
            Some(key) => key.trim().to_owned(),
            None => {
                let key = imn_server::fresh_token();
                file::write_atomic(&key_path, format!("{key}\n").as_bytes())?;
                key
            }
        };
        let creds = state.join("keys/client.creds");
        let nats_creds = match authority {
            Some(authority) => {
                super::issue(authority, &Role::Operator, &creds)?;
                Some(creds)
            }
            None => None,
        };
        let content = Content {
            http_url: format!("http://{listen}"),
            api_key,
            nats_url: nats_url.to_owned(),
            nats_creds,
            nats_inbox_prefix: Role::Operator.inbox_prefix(),
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

    pub(super) fn http_url(&self) -> &str {
        &self.content.http_url
    }

    /// Waits until the server says that it is ready.
    pub(super) async fn wait_ready(&self, deadline: Duration) -> Result<()> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
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

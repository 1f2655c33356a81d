//! `imn token list|create|remove`.

use std::io::{self, Write};

use anyhow::Result;
use imn_sink::format::list::{Column, Format};
use serde_json::{Value, json};

use super::{block_on, remove, show_list, show_one};
use crate::{cli::TokenVerb, client::Client, exit::Code};

const COLUMNS: &[Column] = &[
    Column::new("ID", "id"),
    Column::new("STATE", "state"),
    Column::new("AGENT", "agent"),
    Column::new("EXPIRES", "expires"),
    Column::new("USED BY", "used_by"),
    Column::wide("CREATED", "created"),
    Column::wide("CREATED BY", "created_by"),
    Column::wide("USED", "used"),
];
const NEW: &[Column] = &[
    Column::new("ID", "id"),
    Column::new("AGENT", "agent"),
    Column::new("EXPIRES", "expires"),
    Column::new("TOKEN", "token"),
    Column::new("CA FINGERPRINT", "ca_fingerprint"),
];

pub(crate) fn main(verb: TokenVerb) -> Result<Code> {
    block_on(run(verb))
}

async fn run(verb: TokenVerb) -> Result<Code> {
    match verb {
        TokenVerb::List { watched } => {
            show_list(&watched, COLUMNS, async |client| {
                Ok(client.whole("/api/v1/enrollment-tokens", &[]).await?)
            })
            .await
        }
        TokenVerb::Create { agent, ttl, common } => {
            let client = Client::find(&common.connect)?;
            let spec = json!({
                "agent": agent.as_ref().map(ToString::to_string),
                "ttl": ttl.map(|ttl| format!("{}ms", ttl.as_millis())),
            });
            let made = client.post("/api/v1/enrollment-tokens", spec).await?.body;
            if matches!(common.output, Format::Table | Format::Wide) {
                write!(io::stdout(), "{}", worded(&made, client.url()))?;
                return Ok(Code::Ok);
            }
            show_one(&common, NEW, &made)
        }
        TokenVerb::Remove { ids, connect } => remove(&connect, "token", "enrollment-tokens", &ids).await,
    }
}

/// The token, and how it is used.
fn worded(made: &Value, url: &str) -> String {
    let text = |field: &str| made[field].as_str().unwrap_or_default();
    let agent = made["agent"].as_str().unwrap_or("ID");
    let pin = made["ca_fingerprint"].as_str();
    let pin = pin.map_or_else(String::new, |pin| format!(" \\\n    --ca-fingerprint {pin}"));
    format!(
        "{}\n\nGood once, until {}. On the host of the agent:\n\n  \
         imn agent --id {agent} --control-plane {url} \\\n    --token {}{pin}\n",
        text("token"),
        text("expires"),
        text("token"),
    )
}

//! `imn agent list|show|revoke|remove`.

use anyhow::Result;
use imn_sink::format::list::Column;
use serde_json::json;

use super::{block_on, item, query, remove, show_changed, show_one, show_pages};
use crate::{cli::AgentVerb, client::Client, exit::Code};

const COLUMNS: &[Column] = &[
    Column::new("ID", "id"),
    Column::new("STATUS", "status"),
    Column::new("REGION", "region"),
    Column::new("LOCATION", "location"),
    Column::new("MODULES", "modules"),
    Column::new("TARGETS", "telemetry.targets"),
    Column::new("ROUNDS/s", "telemetry.rounds_per_s"),
    Column::new("LAST HEARTBEAT", "last_heartbeat"),
    Column::wide("NAME", "name"),
    Column::wide("PROVIDER", "provider"),
    Column::wide("TAGS", "tags"),
    Column::wide("CPU %", "telemetry.cpu_pct"),
    Column::wide("RSS MB", "telemetry.rss_mb"),
    Column::wide("SPOOL ROWS", "telemetry.spool.rows"),
    Column::wide("UPTIME s", "telemetry.uptime_s"),
    Column::wide("VERSION", "version"),
    Column::wide("PUBLIC IP", "public_ip"),
    Column::wide("KEY EXPIRES", "key.expires"),
    Column::wide("REVOKED", "key.revoked"),
];
const REVOKED: &[Column] = &[
    Column::new("AGENT", "agent"),
    Column::new("STATUS", "status"),
    Column::new("REVOKED", "revoked"),
    Column::new("KEYS", "keys"),
];

pub(crate) fn main(verb: AgentVerb) -> Result<Code> {
    block_on(run(verb))
}

async fn run(verb: AgentVerb) -> Result<Code> {
    match verb {
        AgentVerb::List { status, region, which, watched } => {
            let query = query([("status", &status), ("region", &region)]);
            show_pages(&watched, COLUMNS, "/api/v1/agents", &which, &query).await
        }
        AgentVerb::Show { id, common } => {
            let client = Client::find(&common.connect)?;
            show_one(&common, COLUMNS, &client.get(&item("agents", &id), &[]).await?.body)
        }
        AgentVerb::Revoke { id, common } => {
            let client = Client::find(&common.connect)?;
            let path = format!("{}/revoke", item("agents", &id));
            show_changed(&common, REVOKED, &client.post(&path, json!({})).await?.body)
        }
        AgentVerb::Remove { ids, connect } => remove(&connect, "agent", "agents", &ids).await,
    }
}

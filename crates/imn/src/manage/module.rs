//! `imn module list|enable|disable`.

use anyhow::Result;
use imn_sink::format::list::{self, Column};
use reqwest::Method;

use super::{block_on, item, print, query, show_list};
use crate::{
    cli::{Common, ModuleVerb},
    client::{Client, Sent},
    exit::Code,
};

const COLUMNS: &[Column] = &[
    Column::new("INSTANCE", "instance"),
    Column::new("TYPE", "type"),
    Column::new("AGENT", "agent"),
    Column::new("STATE", "state"),
    Column::new("INFLIGHT", "inflight"),
    Column::new("SLOTS", "slots"),
    Column::new("PID", "pid"),
    Column::new("RESTARTS", "restarts"),
    Column::new("REASON", "reason"),
    Column::wide("VERSION", "version"),
    Column::wide("STANDING", "standing"),
    Column::wide("QUEUED", "health.queued"),
    Column::wide("DONE", "health.done"),
    Column::wide("ERRORS", "health.errors"),
    Column::wide("ROUNDS", "health.rounds_done"),
    Column::wide("LAST SEEN", "last_seen"),
];

const TOLD: &[Column] =
    &[Column::new("AGENT", "agent"), Column::new("DONE", "ok"), Column::new("ERROR", "error")];

pub(crate) fn main(verb: ModuleVerb) -> Result<Code> {
    block_on(run(verb))
}

async fn run(verb: ModuleVerb) -> Result<Code> {
    match verb {
        ModuleVerb::List { agent, kind, watched } => {
            let query = query([("agent", &agent), ("type", &kind)]);
            show_list(&watched, COLUMNS, async |client| Ok(client.whole("/api/v1/modules", &query).await?))
                .await
        }
        ModuleVerb::Enable { kind, agent, common } => switch("enable", &kind, agent, &common).await,
        ModuleVerb::Disable { kind, agent, common } => switch("disable", &kind, agent, &common).await,
    }
}

async fn switch(verb: &str, kind: &str, agent: Option<String>, common: &Common) -> Result<Code> {
    let client = Client::find(&common.connect)?;
    let query = query([("agent", &agent)]);
    let path = format!("{}/{verb}", item("modules", kind));
    let sent = Sent { query: &query, ..Sent::default() };
    let answer = client.call(Method::POST, &path, sent).await?;
    let told = answer.body["items"].as_array().cloned().unwrap_or_default();
    let mut text = Vec::new();
    list::write(&mut text, common.output, TOLD, &told)?;
    print(&text)?;
    Ok(if told.iter().all(|one| one["ok"] == true) { Code::Ok } else { Code::Partial })
}

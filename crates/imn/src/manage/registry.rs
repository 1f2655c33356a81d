//! `imn module publish|unpublish|registry`.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::{Context, Result};
use imn_contract::latest::MAX_ARTIFACT_BYTES;
use imn_sink::format::list::Column;
use reqwest::Method;
use serde_json::json;

use super::{item, show_changed, show_list};
use crate::{
    cli::{ConnectArgs, PublishArgs, Watched},
    client::{Body, Client, Sent},
    exit::{Code, Exit},
    job,
};

/// How long the server may take to store an executable.
const STORE: Duration = Duration::from_mins(2);

const COLUMNS: &[Column] = &[
    Column::new("TYPE", "type"),
    Column::new("VERSION", "version"),
    Column::new("REVISION", "revision"),
    Column::new("SIZE", "size"),
    Column::new("INSTANCES", "instances"),
    Column::new("SLOTS", "slots"),
    Column::new("AGENTS", "agents"),
    Column::new("PUBLISHED", "published"),
    Column::wide("STANDING", "standing"),
    Column::wide("ARGS", "args"),
    Column::wide("SHA256", "sha256"),
];

pub(super) async fn list(watched: &Watched) -> Result<Code> {
    show_list(watched, COLUMNS, async |client| Ok(client.whole("/api/v1/registry", &[]).await?)).await
}

pub(super) async fn publish(args: PublishArgs) -> Result<Code> {
    let shown = args.file.display();
    let unreadable = |error: io::Error| Exit::usage(format!("{shown}: {error}"));
    let size = std::fs::metadata(&args.file).map_err(unreadable)?.len();
    if size > MAX_ARTIFACT_BYTES {
        let most = MAX_ARTIFACT_BYTES >> 20;
        return Err(Exit::usage(format!(
            "{shown} is larger than {most} MiB; strip it of what is for debugging"
        ))
        .into());
    }
    let executable = std::fs::read(&args.file).map_err(unreadable)?;
    let stem = args.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let kind = args.kind.unwrap_or(stem);
    let client = Client::find(&args.common.connect)?;
    let mut query = vec![("version", args.version)];
    query.extend(args.instances.map(|instances| ("instances", instances.to_string())));
    query.extend(args.slots.map(|slots| ("slots", slots.to_string())));
    query.extend(args.standing.then(|| ("standing", "true".to_owned())));
    query.extend((!args.args.is_empty()).then(|| ("args", json!(args.args).to_string())));
    query.extend(args.config.map(|config| ("config", config)));
    query.extend(args.limits.map(|limits| ("limits", limits)));
    if args.agents != "all" {
        query.push(("agents", job::selector(&client, "--agents", &args.agents).await?.to_string()));
    }
    let body = Some(Body::Text("application/octet-stream", executable));
    let sent = Sent { query: &query, body, wait: STORE, ..Sent::default() };
    let published = client.call(Method::PUT, &item("registry", &kind), sent).await?.body;
    show_changed(&args.common, COLUMNS, &published)
}

pub(super) async fn unpublish(kind: &str, connect: &ConnectArgs) -> Result<Code> {
    let client = Client::find(connect)?;
    client.call(Method::DELETE, &item("registry", kind), Sent::default()).await?;
    writeln!(io::stdout(), "{kind} unpublished").context("say so")?;
    Ok(Code::Ok)
}

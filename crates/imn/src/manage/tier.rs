//! `imn tier`.

use anyhow::Result;
use imn_sink::format::list::Column;
use serde_json::{Value, json};

use super::{block_on, item, nothing_to_change, remove, show_changed, show_one, show_pages};
use crate::{
    cli::{TierFields, TierVerb},
    client::Client,
    exit::{Code, Exit},
};

const COLUMNS: &[Column] = &[
    Column::new("NAME", "name"),
    Column::new("INTERVAL", "probe_interval"),
    Column::new("TIMEOUT", "probe_timeout"),
    Column::new("COUNT", "count"),
    Column::new("STRATEGY", "agent_selection.strategy"),
    Column::new("AGENTS", "agent_selection.count"),
    Column::new("REGIONS", "agent_selection.regions"),
    Column::wide("RETRIES", "probe_retries"),
    Column::wide("PROBES", "probes"),
    Column::wide("DISPLAY NAME", "display_name"),
    Column::wide("UPDATED", "updated"),
];

pub(crate) fn main(verb: TierVerb) -> Result<Code> {
    block_on(run(verb))
}

async fn run(verb: TierVerb) -> Result<Code> {
    match verb {
        TierVerb::List { which, watched } => {
            show_pages(&watched, COLUMNS, "/api/v1/tiers", &which, &[]).await
        }
        TierVerb::Show { name, common } => {
            let client = Client::find(&common.connect)?;
            show_one(&common, COLUMNS, &client.get(&item("tiers", &name), &[]).await?.body)
        }
        TierVerb::Add { name, fields, common } => {
            if fields.interval.is_none() {
                return Err(
                    Exit::usage("--interval is missing: give the time between rounds, such as 30s").into()
                );
            }
            let mut body = json!({ "name": name });
            apply(&mut body, &fields)?;
            let client = Client::find(&common.connect)?;
            show_changed(&common, COLUMNS, &client.post("/api/v1/tiers", body).await?.body)
        }
        TierVerb::Set { name, fields, common } => {
            let client = Client::find(&common.connect)?;
            let path = item("tiers", &name);
            let found = client.get(&path, &[]).await?;
            let mut body = found.body.clone();
            apply(&mut body, &fields)?;
            if body == found.body {
                return Err(nothing_to_change(
                    "--interval, --timeout, --count, --retries, --probe, --agents, --region and --display-name, with a new value",
                ));
            }
            show_changed(&common, COLUMNS, &client.put(&path, found.etag.as_deref(), body).await?.body)
        }
        TierVerb::Remove { names, connect } => remove(&connect, "tier", "tiers", &names).await,
    }
}

/// Lays what is named over a tier.
fn apply(tier: &mut Value, fields: &TierFields) -> Result<()> {
    let texts = [
        ("display_name", &fields.display_name),
        ("probe_interval", &fields.interval),
        ("probe_timeout", &fields.timeout),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            tier[name] = json!(value);
        }
    }
    for (name, value) in [("count", fields.count), ("probe_retries", fields.retries)] {
        if let Some(value) = value {
            tier[name] = json!(value);
        }
    }
    if !fields.probes.is_empty() {
        tier["probes"] = fields.probes.iter().map(|kind| json!({ "type": kind })).collect();
    }
    match fields.agents.as_deref() {
        None => {}
        Some("all") => {
            tier["agent_selection"]["strategy"] = json!("all");
            tier["agent_selection"]["count"] = Value::Null;
        }
        Some(number) => {
            let count: u32 = number.parse().ok().filter(|count| *count > 0).ok_or_else(|| {
                Exit::usage(format!("--agents {number}: write `all` or a number of at least 1"))
            })?;
            tier["agent_selection"]["strategy"] = json!("distributed");
            tier["agent_selection"]["count"] = json!(count);
        }
    }
    if !fields.regions.is_empty() {
        tier["agent_selection"]["regions"] = json!(fields.regions);
    }
    Ok(())
}

//! `imn target`.

use std::{
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use imn_sink::format::list::{self, Column, Format};
use indicatif::ProgressBar;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    block_on, item, live, nothing_to_change, params, print, query, remove, show, show_changed, show_list,
    show_one, show_pages,
};
use crate::{
    cli::{Common, ConnectArgs, TargetFields, TargetVerb, once},
    client::{Body, Client, Sent},
    exit::{Code, Exit},
};

const COLUMNS: &[Column] = &[
    Column::new("ADDRESS", "address"),
    Column::new("TIER", "tier"),
    Column::new("STATE", "monitoring_state"),
    Column::new("NAME", "display_name"),
    Column::new("TAGS", "tags"),
    Column::wide("KIND", "kind"),
    Column::wide("SINCE", "state_since"),
    Column::wide("REASON", "state_reason"),
    Column::wide("ID", "id"),
    Column::wide("PARAMS", "params"),
    Column::wide("EXPECTED", "expected_outcome"),
];

const PAIRS: &[Column] = &[
    Column::new("AGENT", "agent"),
    Column::new("TYPE", "type"),
    Column::new("SENT", "sent"),
    Column::new("RECEIVED", "received"),
    Column::new("LOSS %", "loss_pct"),
    Column::new("RTT ms", "rtt_ms"),
    Column::new("FRESH", "fresh"),
    Column::new("TIME", "time"),
    Column::new("ERROR", "error"),
];

const HISTORY: &[Column] = &[
    Column::new("TIME", "time"),
    Column::new("AGENT", "agent"),
    Column::new("TYPE", "type"),
    Column::new("ROUNDS", "count"),
    Column::new("LOSS %", "loss_pct"),
    Column::new("MIN ms", "min"),
    Column::new("AVG ms", "avg"),
    Column::new("P95 ms", "p95"),
    Column::new("MAX ms", "max"),
    Column::wide("P50 ms", "p50"),
    Column::wide("P99 ms", "p99"),
    Column::wide("STDDEV ms", "stddev"),
    Column::wide("JITTER ms", "jitter"),
    Column::wide("SENT", "sent"),
    Column::wide("RECEIVED", "received"),
];

const ROUNDS: &[Column] = &[
    Column::new("DUE", "due"),
    Column::new("AGENT", "agent"),
    Column::new("TYPE", "type"),
    Column::new("ADDRESS", "address"),
    Column::new("SENT", "sent"),
    Column::new("RECEIVED", "received"),
    Column::new("LOSS %", "loss_pct"),
    Column::new("RTT us", "rtt_avg_us"),
    Column::new("ERROR", "error"),
    Column::wide("TIME", "time"),
    Column::wide("TARGET", "target"),
    Column::wide("UNKNOWN", "unknown"),
    Column::wide("DUPLICATES", "duplicates"),
    Column::wide("LATE", "late"),
    Column::wide("REORDERED", "reordered"),
    Column::wide("SUCCESS", "success"),
    Column::wide("MIN us", "rtt_min_us"),
    Column::wide("MAX us", "rtt_max_us"),
    Column::wide("STDDEV us", "rtt_stddev_us"),
    Column::wide("IPDV us", "ipdv_us"),
    Column::wide("LATE us", "late_us"),
    Column::wide("TMAX us", "tmax_us"),
    Column::wide("SOURCE", "ts_source"),
    Column::wide("BOUND us", "error_us"),
    Column::wide("RTTS us", "rtts_us"),
];

const GAPS: &[Column] = &[
    Column::new("FIRST DUE", "first_due"),
    Column::new("LAST DUE", "last_due"),
    Column::new("AGENT", "agent"),
    Column::new("TYPE", "type"),
    Column::new("ROUNDS", "rounds"),
    Column::new("REASON", "reason"),
    Column::wide("TARGET", "target"),
];

/// How long an import or an export may take.
const TRANSFER: Duration = Duration::from_mins(10);

pub(crate) fn main(verb: TargetVerb) -> Result<Code> {
    block_on(run(verb))
}

async fn run(verb: TargetVerb) -> Result<Code> {
    match verb {
        TargetVerb::List { which, watched } => {
            show_pages(&watched, COLUMNS, "/api/v1/targets", &which, &[]).await
        }
        TargetVerb::Show { target, common } => {
            let client = Client::find(&common.connect)?;
            show_one(&common, COLUMNS, &client.get(&item("targets", &target), &[]).await?.body)
        }
        TargetVerb::Add { address, fields, common } => {
            let mut body = json!({ "address": address });
            apply(&mut body, &fields, &[])?;
            let client = Client::find(&common.connect)?;
            show_changed(&common, COLUMNS, &client.post("/api/v1/targets", body).await?.body)
        }
        TargetVerb::Set { target, fields, untag, common } => set(&target, &fields, &untag, &common).await,
        TargetVerb::Remove { targets, connect } => remove(&connect, "target", "targets", &targets).await,
        TargetVerb::Status { target, watched } => {
            let path = format!("{}/status", item("targets", &target));
            show(&watched, status, async |client| Ok(client.get(&path, &[]).await?.body)).await
        }
        TargetVerb::History { target, from, to, step, agent, kind, watched } => {
            let path = format!("{}/history", item("targets", &target));
            let query =
                query([("from", &from), ("to", &to), ("step", &step), ("agent", &agent), ("type", &kind)]);
            show_list(&watched, HISTORY, async |client| Ok(client.whole(&path, &query).await?)).await
        }
        TargetVerb::Results { target, from, to, agent, kind, limit, common } => {
            let path = format!("{}/results", item("targets", &target));
            let query = query([("from", &from), ("to", &to), ("agent", &agent), ("type", &kind)]);
            let rows = Client::find(&common.connect)?.list(&path, &query, Some(limit)).await?;
            let mut text = Vec::new();
            list::write(&mut text, common.output, &round_columns(&rows), &rows)?;
            print(&text)?;
            Ok(Code::Ok)
        }
        TargetVerb::Gaps { target, from, to, agent, limit, watched } => {
            let path = format!("{}/gaps", item("targets", &target));
            let limit = Some(limit.to_string());
            let query = query([("from", &from), ("to", &to), ("agent", &agent), ("limit", &limit)]);
            show_list(&watched, GAPS, async |client| Ok(client.whole(&path, &query).await?)).await
        }
        TargetVerb::Live { target, common } => live::run(target.as_deref(), &common).await,
        TargetVerb::Export { filter, output, connect } => export(filter, output, &connect).await,
        TargetVerb::Import { file, csv, dry_run, atomic, common } => {
            let switches = [("dry_run", dry_run), ("atomic", atomic)];
            import(&file, csv, &switches, &common).await
        }
    }
}

/// The columns of rounds, with those of the types that are among them.
fn round_columns(rows: &[Value]) -> Vec<Column> {
    let mut columns = ROUNDS.to_vec();
    for kind in imn_store::typed().filter(|kind| rows.iter().any(|row| row["type"] == *kind)) {
        let own = imn_store::columns(kind).iter().map(|column| Column::wide(column.name, column.name));
        columns.extend(own.filter(|column| !columns.contains(column)).collect::<Vec<_>>());
    }
    columns.push(Column::wide("OUTCOME", "outcome"));
    columns
}

async fn set(target: &str, fields: &TargetFields, untag: &[String], common: &Common) -> Result<Code> {
    let client = Client::find(&common.connect)?;
    let path = item("targets", target);
    let found = client.get(&path, &[]).await?;
    let mut body = found.body.clone();
    apply(&mut body, fields, untag)?;
    if body == found.body {
        return Err(nothing_to_change(
            "--tier, --display-name, --kind, --tag, --untag, --param and --state, with a new value",
        ));
    }
    show_changed(common, COLUMNS, &client.put(&path, found.etag.as_deref(), body).await?.body)
}

/// Lays what is named over a target.
fn apply(target: &mut Value, fields: &TargetFields, untag: &[String]) -> Result<(), Exit> {
    let plain = [
        ("tier", &fields.tier),
        ("display_name", &fields.display_name),
        ("kind", &fields.kind),
        ("monitoring_state", &fields.state),
    ];
    for (name, value) in plain {
        if let Some(value) = value {
            target[name] = json!(value);
        }
    }
    let tags = once("--tag", &fields.tags)?.into_iter().map(|(key, value)| (key, json!(value)));
    extend(target, "tags", tags.collect());
    extend(target, "params", params(&fields.params)?);
    if let Some(tags) = target.get_mut("tags").and_then(Value::as_object_mut) {
        tags.retain(|key, _| !untag.contains(key));
    }
    Ok(())
}

fn extend(target: &mut Value, name: &str, more: Map<String, Value>) {
    if more.is_empty() {
        return;
    }
    match target[name].as_object_mut() {
        Some(map) => map.extend(more),
        None => target[name] = Value::Object(more),
    }
}

/// For people a head and a row per agent; whole objects for programs.
fn status(out: &mut Vec<u8>, format: Format, status: &Value) -> io::Result<()> {
    let rows = status["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    match format {
        Format::Table | Format::Wide => {
            let text = |name: &str| status[name].as_str().unwrap_or("-").to_owned();
            write!(out, "{}  {} now; ", text("address"), text("consensus"))?;
            write!(out, "state {} since {}", text("monitoring_state"), text("state_since"))?;
            if let Some(reason) = status["state_reason"].as_str() {
                write!(out, ": {reason}")?;
            }
            writeln!(
                out,
                "\ntier {}, {} of {} agents fresh",
                text("tier"),
                status["agents_fresh"],
                status["agents_assigned"]
            )?;
            for unmet in status["unmet"].as_array().map(Vec::as_slice).unwrap_or_default() {
                let kind = unmet["type"].as_str().map_or_else(String::new, |kind| format!(" by {kind}"));
                writeln!(
                    out,
                    "not measured as its tier wants{kind}: {}",
                    unmet["reason"].as_str().unwrap_or("-")
                )?;
                for agent in unmet["agents"].as_array().map(Vec::as_slice).unwrap_or_default() {
                    let said = |name: &str| agent[name].as_str().unwrap_or("-").to_owned();
                    writeln!(out, "  {}: {}", said("agent"), said("why"))?;
                }
            }
            writeln!(out)?;
            list::write(out, format, PAIRS, rows)
        }
        Format::Csv => list::write(out, format, PAIRS, rows),
        Format::Json | Format::Ndjson | Format::Yaml => list::write_one(out, format, PAIRS, status),
    }
}

async fn import(file: &Path, csv: bool, switches: &[(&str, bool)], common: &Common) -> Result<Code> {
    let text = read(file)?;
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    let csv =
        csv || file.extension().is_some_and(|ext| ext == "csv") || first.is_some_and(|byte| *byte != b'{');
    let query: Vec<(&str, String)> =
        switches.iter().filter(|(_, on)| *on).map(|(name, _)| (*name, "true".to_owned())).collect();
    let client = Client::find(&common.connect)?;
    let lines = text.split(|byte| *byte == b'\n').count();
    let wait = ProgressBar::new_spinner().with_message(format!("importing {lines} lines"));
    wait.enable_steady_tick(Duration::from_millis(100));
    let body = Some(Body::Text(if csv { "text/csv" } else { "application/x-ndjson" }, text));
    let sent = Sent { query: &query, body, wait: TRANSFER, ..Sent::default() };
    let answer = client.call(Method::POST, "/api/v1/targets:import", sent).await;
    wait.finish_and_clear();
    let report = answer?.body;
    let errors = report["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    if matches!(common.output, Format::Table | Format::Wide) {
        let line = format!(
            "{} created, {} updated, {} unchanged, {} wrong\n",
            report["created"],
            report["updated"],
            report["unchanged"],
            errors.len()
        );
        print(line.as_bytes())?;
        for error in errors {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            writeln!(io::stderr(), "line {}: {}: {}", error["line"], text("field"), text("message"))?;
        }
    } else {
        show_one(common, &[], &report)?;
    }
    let done = ["created", "updated", "unchanged"].iter().any(|name| report[name].as_u64().unwrap_or(0) > 0);
    Ok(match (errors.is_empty(), done) {
        (true, _) => Code::Ok,
        (false, true) => Code::Partial,
        (false, false) => Code::Usage,
    })
}

async fn export(filter: Option<String>, form: String, connect: &ConnectArgs) -> Result<Code> {
    let form = Some(form);
    let query = query([("filter", &filter), ("format", &form)]);
    let client = Client::find(connect)?;
    let mut out = io::stdout().lock();
    let last = client.download("/api/v1/targets:export", &query, TRANSFER, &mut out).await?;
    if last.starts_with(b"# count=") || last.starts_with(b"{\"count\":") {
        return Ok(Code::Ok);
    }
    Err(Exit::new(
        Code::Error,
        "the export ends without the number of targets: it is not complete; try again",
    )
    .into())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut text = Vec::new();
        io::stdin().read_to_end(&mut text).context("read targets from standard input")?;
        return Ok(text);
    }
    Ok(std::fs::read(file).map_err(|error| Exit::usage(format!("FILE {}: {error}", file.display())))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let fields = TargetFields {
            tier: Some("low".to_owned()),
            display_name: None,
            kind: None,
            tags: vec![("pop".to_owned(), "jfk".to_owned())],
            params: vec![("count".to_owned(), "3".to_owned())],
            state: None,
        };
        let mut target =
            json!({"address": "::1", "tier": "critical", "tags": {"a": "1", "b": "2"}, "display_name": "x"});
        apply(&mut target, &fields, &["a".to_owned()]).unwrap();
        let expected = json!({"address": "::1", "tier": "low", "tags": {"b": "2", "pop": "jfk"},
            "display_name": "x", "params": {"count": 3}});
        assert_eq!(target, expected);
    }

    #[test]
    fn a_new_target_has_what_is_named_only() {
        let fields = TargetFields {
            tier: None,
            display_name: None,
            kind: None,
            tags: Vec::new(),
            params: Vec::new(),
            state: None,
        };
        let mut target = json!({"address": "::1"});
        apply(&mut target, &fields, &[]).unwrap();
        assert_eq!(target, json!({"address": "::1"}));
        let tags = [("a", "1"), ("a", "1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let twice = TargetFields { tags: tags.into(), ..fields };
        assert_eq!(apply(&mut target, &twice, &[]).unwrap_err().code(), Code::Usage);
    }
}

//! `imn module list|enable|disable|roll|scale|set|logs|check`, and what is published.

mod logs;

use std::{
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    time::Duration,
};

use anyhow::Result;
use imn_agent::conformance::{Candidate, Place, Verdict, check as check_module};
use imn_contract::ModuleType;
use imn_runtime::{
    credential::Authority,
    nats_server::{self, NatsServer},
    task::Signals,
};
use imn_sink::format::list::{self, Column, Format};
use reqwest::Method;

use serde_json::{Map, Value, json};

use super::{block_on, item, nothing_to_change, params, print, query, registry, show};
use crate::{
    cli::{CheckArgs, Common, ModuleVerb},
    client::{Body, Client, Sent},
    exit::{Code, Exit},
};

/// How long the private nats-server may take to end.
const NATS_STOP: Duration = Duration::from_secs(2);

const MODULES: &str = "/api/v1/modules";
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
        ModuleVerb::List { agent, kind, which, watched } => {
            let narrowed = query([("agent", &agent), ("type", &kind)]);
            let mut asked = query([("filter", &which.filter), ("order_by", &which.order_by)]);
            asked.extend_from_slice(&narrowed);
            show(&watched, write_list, async |client| {
                let items = client.list(MODULES, &asked, which.limit).await?;
                let problems = client.get(MODULES, &narrowed).await?.body["problems"].take();
                Ok(json!({ "items": items, "problems": problems }))
            })
            .await
        }
        ModuleVerb::Logs { of, follow, lines, common } => logs::run(&of, lines, follow, &common).await,
        ModuleVerb::Check(args) => check(args).await,
        ModuleVerb::Publish(args) => registry::publish(args).await,
        ModuleVerb::Unpublish { kind, connect } => registry::unpublish(&kind, &connect).await,
        ModuleVerb::Registry { watched } => registry::list(&watched).await,
        ModuleVerb::Enable { kind, agent, common } => {
            order(Method::POST, "enable", &kind, None, agent, &common).await
        }
        ModuleVerb::Disable { kind, agent, common } => {
            order(Method::POST, "disable", &kind, None, agent, &common).await
        }
        ModuleVerb::Roll { kind, agent, common } => {
            order(Method::POST, "roll", &kind, None, agent, &common).await
        }
        ModuleVerb::Scale { kind, instances, agent, common } => {
            let body = json!({ "instances": instances });
            order(Method::POST, "scale", &kind, Some(body), agent, &common).await
        }
        ModuleVerb::Set { kind, slots, log_level, config, agent, common } => {
            let config: Option<Map<String, Value>> =
                config.map(|text| serde_json::from_str(&text)).transpose().map_err(|error| {
                    Exit::usage(format!("--config: write a JSON object, such as {{\"a\": 1}}: {error}"))
                })?;
            if slots.is_none() && log_level.is_none() && config.is_none() {
                return Err(nothing_to_change("--slots, --log-level, --config"));
            }
            let body = json!({ "slots": slots, "log_level": log_level, "config": config });
            order(Method::PUT, "settings", &kind, Some(body), agent, &common).await
        }
    }
}

/// The instances; for people also what keeps agents from running some.
fn write_list(out: &mut Vec<u8>, format: Format, body: &Value) -> io::Result<()> {
    let items = |name: &str| body[name].as_array().map(Vec::as_slice).unwrap_or_default();
    list::write(out, format, COLUMNS, items("items"))?;
    if matches!(format, Format::Table | Format::Wide) {
        for problem in items("problems") {
            let text = |name: &str| problem[name].as_str().unwrap_or_default();
            writeln!(out, "problem at {}: {}", text("agent"), text("problem"))?;
        }
    }
    Ok(())
}

async fn check(args: CheckArgs) -> Result<Code> {
    let stem = args.program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let kind = ModuleType::new(args.kind.as_deref().unwrap_or(&stem))
        .map_err(|error| Exit::usage(format!("--type: {error}")))?;
    // Not by what it links to: an interpreter of a virtual environment is known by its link.
    let program = std::path::absolute(&args.program)?;
    let meta = std::fs::metadata(&program)
        .map_err(|error| Exit::usage(format!("PROGRAM {}: {error}", program.display())))?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        let message = format!("PROGRAM {}: is no executable file: chmod +x it", program.display());
        return Err(Exit::usage(message).into());
    }
    let plain = params(&args.params)?;
    let slow = (!args.slow.is_empty()).then(|| params(&args.slow)).transpose()?;
    let slow = slow.map(|slow| plain.clone().into_iter().chain(slow).collect());
    let candidate = Candidate { program, args: args.args, kind, target: args.target, params: plain, slow };
    let directory = std::env::temp_dir().join(format!("imn-check-{:016x}", rand::random::<u64>()));
    // Nobody else may have made it.
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let mut signals = Signals::listen()?;
    let authority = Authority::open(&directory.join("keys"))?;
    let config = nats_server::Config { directory: directory.join("nats"), binary: None, public: None };
    let server = NatsServer::start(&config, &authority).await?;
    let place = Place { nats_url: server.url(), authority: &authority, log: directory.join("module.log") };
    let mut out = io::stdout().lock();
    let mut told = Ok(());
    let checking = check_module(&candidate, &place, |name, verdict| {
        let line = match verdict {
            Verdict::Kept => writeln!(out, "ok      {name}"),
            Verdict::LeftOut(why) => writeln!(out, "left    {name}: {why} (--slow-param)"),
            Verdict::Broken(instead) => writeln!(out, "BROKEN  {name}: {instead}"),
        };
        told = line.and_then(|()| out.flush());
    });
    let kept = tokio::select! {
        kept = checking => Some(kept),
        _ = signals.next() => None,
    };
    server.stop(NATS_STOP).await;
    let Some(kept) = kept.transpose()? else { return Ok(Code::Interrupted) };
    told?;
    if kept {
        writeln!(out, "{} keeps the contract", args.program.display())?;
        // Nothing in there is of use any more.
        let _ = std::fs::remove_dir_all(&directory);
        return Ok(Code::Ok);
    }
    writeln!(
        out,
        "{} does not keep the contract; what it wrote is in {}",
        args.program.display(),
        place.log.display()
    )?;
    Ok(Code::Error)
}

/// Tells the agents something of a type, and shows what each answered.
async fn order(
    method: Method,
    what: &str,
    kind: &str,
    body: Option<Value>,
    agent: Option<String>,
    common: &Common,
) -> Result<Code> {
    let client = Client::find(&common.connect)?;
    let query = query([("agent", &agent)]);
    let path = format!("{}/{what}", item("modules", kind));
    let sent = Sent { query: &query, body: body.map(Body::Json), ..Sent::default() };
    let answer = client.call(method, &path, sent).await?;
    let told = answer.body["items"].as_array().cloned().unwrap_or_default();
    let mut text = Vec::new();
    list::write(&mut text, common.output, TOLD, &told)?;
    print(&text)?;
    Ok(if told.iter().all(|one| one["ok"] == true) { Code::Ok } else { Code::Partial })
}

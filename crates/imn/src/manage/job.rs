//! `imn job`.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Result;
use imn_sink::format::list::{self, Column, Format};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{block_on, item, params, show, show_list, show_one};
use crate::{
    cli::{Common, ConnectArgs, JobVerb},
    client::Client,
    exit::Code,
    job::{self, Ended},
};

const COLUMNS: &[Column] = &[
    Column::new("JOB", "job_id"),
    Column::new("STATE", "state"),
    Column::new("TYPE", "type"),
    Column::new("TARGET", "target"),
    Column::new("CREATED", "created"),
    Column::wide("PARAMS", "params"),
    Column::wide("DEADLINE", "deadline"),
    Column::wide("TASKS", "tasks"),
];

/// How long submitting may be tried again.
const SUBMIT: Duration = Duration::from_secs(30);

pub(crate) fn main(verb: JobVerb) -> Result<Code> {
    block_on(run(verb))
}

async fn run(verb: JobVerb) -> Result<Code> {
    match verb {
        JobVerb::List { limit, watched } => {
            show_list(&watched, COLUMNS, async |client| {
                Ok(client.list("/api/v1/jobs", &[], Some(limit)).await?)
            })
            .await
        }
        JobVerb::Show { id, watched } => {
            let path = item("jobs", &id);
            let write =
                |out: &mut Vec<u8>, format: Format, job: &Value| list::write_one(out, format, COLUMNS, job);
            show(&watched, write, async |client| Ok(client.get(&path, &[]).await?.body)).await
        }
        JobVerb::Submit { kind, target, params: pairs, from, deadline, job_id, no_wait, common } => {
            let client = Client::find(&common.connect)?;
            let mut body = json!({
                "type": kind,
                "target": target,
                "params": params(&pairs)?,
                "from": job::selector(&client, "--from", &from).await?,
                "deadline_ms": deadline.as_millis() as u64,
            });
            if let Some(id) = job_id {
                body["job_id"] = json!(id);
            }
            if no_wait {
                let job = job::submit(&client, &body, Instant::now() + SUBMIT).await?;
                return show_one(&common, COLUMNS, &job);
            }
            submit(&client, body, deadline, &common).await
        }
        JobVerb::Cancel { ids, connect } => cancel(&ids, &connect).await,
    }
}

async fn submit(client: &Client, body: Value, deadline: Duration, common: &Common) -> Result<Code> {
    let wait = ProgressBar::new_spinner().with_message("waiting for the job to end");
    wait.enable_steady_tick(Duration::from_millis(100));
    let ended = job::run(client, body, deadline).await;
    wait.finish_and_clear();
    let Ended { job, timed_out } = ended?;
    show_one(common, COLUMNS, &job)?;
    let tasks = job["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let good = tasks.iter().filter(|task| task["state"] == "succeeded").count();
    Ok(match good {
        _ if timed_out => Code::Partial,
        0 if tasks.iter().all(|task| task["state"] == "rejected") => Code::Usage,
        0 => Code::Measurement,
        good if good < tasks.len() => Code::Partial,
        _ => Code::Ok,
    })
}

async fn cancel(ids: &[String], connect: &ConnectArgs) -> Result<Code> {
    let client = Client::find(connect)?;
    for id in ids {
        let job = client.delete(&item("jobs", id)).await?.body;
        writeln!(io::stdout(), "job {id} {}", job["state"].as_str().unwrap_or("cancelled"))?;
    }
    Ok(Code::Ok)
}

//! Jobs over the HTTP API: where they run, and following them to their end.

use std::time::Duration;

use anyhow::{Context, Result};
use imn_runtime::telemetry::{Side, Step, TraceParent};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    client::{Client, Failure, Sent, encoded},
    exit::{Code, Exit},
};

/// Where jobs are submitted.
const JOBS: &str = "/api/v1/jobs";
/// Longest time that the server is asked to wait in one request.
const WAIT: Duration = Duration::from_secs(20);
/// How long after its deadline a job may still be open before it is given up.
const GRACE: Duration = Duration::from_secs(15);

/// A job that has ended, or ran out of our time.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) job: Value,
    pub(crate) timed_out: bool,
}

/// The selector that a text stands for: `any`, `all`, a tag `k=v`, an agent's id or name, a region, a job's id.
/// `flag` is where it was given.
pub(crate) async fn selector(client: &Client, flag: &str, text: &str) -> Result<Value> {
    match text {
        "any" => return Ok(json!({ "limit": 1 })),
        "all" => return Ok(json!({})),
        _ => {}
    }
    if let Some((key, value)) = text.split_once('=') {
        return Ok(json!({ "tags": { key: value } }));
    }
    let agents = client.list("/api/v1/agents", &[], None).await?;
    if agents.iter().any(|agent| agent["id"] == text || agent["name"] == text) {
        return Ok(json!({ "agents": [text] }));
    }
    if agents.iter().any(|agent| agent["region"] == text) {
        return Ok(json!({ "regions": [text] }));
    }
    match client.get(&format!("/api/v1/jobs/{}", encoded(text)), &[]).await {
        Ok(job) => {
            let tasks = job.body["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(json!({ "agents": tasks.iter().map(|task| task["agent"].clone()).collect::<Vec<_>>() }))
        }
        Err(failure) if failure.code() == Code::NotFound => {
            let ids: Vec<&str> = agents.iter().filter_map(|agent| agent["id"].as_str()).collect();
            let known = if ids.is_empty() { "there are none".to_owned() } else { ids.join(", ") };
            Err(Exit::new(
                Code::NotFound,
                format!("{flag} {text}: no region, agent or job of that name; agents: {known}; or use any, all or k=v"),
            )
            .into())
        }
        Err(failure) => Err(failure.into()),
    }
}

/// Submits a job and follows it until it has ended. What the server cannot take now is tried again.
pub(crate) async fn run(client: &Client, body: Value, deadline: Duration) -> Result<Ended> {
    let end = Instant::now() + deadline + GRACE;
    let job = submit(client, &body, end).await?;
    follow(client, job, end).await
}

/// Submits a job, in the trace that `TRACEPARENT` of the environment names, if it names one.
pub(crate) async fn submit(client: &Client, body: &Value, end: Instant) -> Result<Value> {
    let parent = std::env::var("TRACEPARENT").ok().and_then(|text| TraceParent::parse(&text));
    let step = Step::http(Side::Client, "POST", JOBS, parent);
    let submitting = async {
        loop {
            match client.post(JOBS, body.clone()).await {
                Ok(answer) => return Ok(answer.body),
                Err(failure) => pause(failure, end).await?,
            }
        }
    };
    let submitted = step.run(submitting).await;
    match &submitted {
        Ok(job) => step.set("imn.job.id", job["job_id"].as_str().unwrap_or_default().to_owned()),
        Err(_) => step.failed_as("not_submitted"),
    }
    submitted
}

pub(crate) async fn follow(client: &Client, mut job: Value, end: Instant) -> Result<Ended> {
    let id = job["job_id"].as_str().unwrap_or_default().to_owned();
    let path = format!("/api/v1/jobs/{}", encoded(&id));
    while job["terminal"] != true {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Ended { job, timed_out: true });
        }
        let wait = left.min(WAIT);
        let query = [("wait", format!("{}ms", wait.as_millis().max(1)))];
        let sent = Sent { query: &query, wait, ..Sent::default() };
        match client.call(Method::GET, &path, sent).await {
            Ok(answer) => job = answer.body,
            Err(failure) => pause(failure, end)
                .await
                .with_context(|| format!("the job was accepted; see how it ends with `imn job show {id}`"))?,
        }
    }
    let tasks = job["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let timed_out = tasks.iter().any(|task| task["state"] == "timed_out");
    Ok(Ended { job, timed_out })
}

/// Waits where that may help, and gives the failure back where it does not.
async fn pause(failure: Failure, end: Instant) -> Result<()> {
    match failure.retry_after() {
        Some(after) if Instant::now() + after < end => {
            tokio::time::sleep(after).await;
            Ok(())
        }
        _ => Err(failure.into()),
    }
}

//! Measuring from agents: a job for each target, one row for each agent.

use std::{cell::RefCell, collections::BTreeSet, time::Duration};

use anyhow::Result;
use futures::{StreamExt, stream};
use imn_contract::{JobId, latest::PingOutcome};
use imn_module::{Family, PingSpec, Protocol};
use imn_runtime::{clock, task::Signals};
use imn_sink::format::Row;
use serde_json::{Map, Value, json};

use super::{Work, partial::unmeasured, report::Report};
use crate::{
    client::Client,
    exit::{Code, Exit},
    job::{self, Ended},
};

/// Jobs in work at once.
const AT_ONCE: usize = 16;
/// Time for a job to reach its agents and come back, beyond what it measures.
const SLACK: Duration = Duration::from_secs(10);
/// Longest deadline that the server takes.
const LONGEST: Duration = Duration::from_hours(1);

pub(super) async fn run(work: Work, client: &Client, from: &str, mut report: Report) -> Result<Code> {
    let mut signals = Signals::listen()?;
    let selector = job::selector(client, from).await?;
    let deadline = deadline(&work.spec)?;
    let open = RefCell::new(BTreeSet::new());
    let jobs = stream::iter(work.targets.iter().enumerate()).map(|(number, target)| {
        let (selector, open) = (&selector, &open);
        let spec = &work.spec;
        async move {
            let id = JobId::generate();
            let body = json!({
                "job_id": id,
                "type": kind(spec),
                "target": target,
                "params": params(spec),
                "from": selector,
                "deadline_ms": deadline.as_millis() as u64,
            });
            open.borrow_mut().insert(id.clone());
            let ended = job::run(client, body, deadline).await;
            open.borrow_mut().remove(&id);
            ended.map(|ended| (number, ended))
        }
    });
    let mut jobs = std::pin::pin!(jobs.buffer_unordered(AT_ONCE));
    loop {
        let ended = tokio::select! {
            ended = jobs.next() => ended,
            _ = signals.next() => {
                let open = open.borrow().clone();
                for id in open {
                    // It ends by its deadline when it cannot be cancelled.
                    let _ = client.delete(&format!("/api/v1/jobs/{id}")).await;
                }
                return report.interrupted();
            }
        };
        let Some(ended) = ended else { break };
        let (number, Ended { job, timed_out }) = ended?;
        if timed_out {
            report.note_timeout();
        }
        report.target(number, rows(&work, number, &job))?;
        report.flush()?;
    }
    report.finish()
}

fn kind(spec: &PingSpec) -> &'static str {
    match spec.protocol {
        Protocol::Icmp { .. } => "icmp",
        Protocol::Tcp { .. } => "tcp",
    }
}

fn params(spec: &PingSpec) -> Map<String, Value> {
    let mut params = Map::new();
    let mut set = |name: &str, value: Value| params.insert(name.to_owned(), value);
    set("count", json!(spec.count));
    set("interval", json!(span(spec.interval)));
    set("timeout", json!(span(spec.timeout)));
    match spec.protocol {
        Protocol::Icmp { size, .. } => set("size", json!(size)),
        Protocol::Tcp { port } => set("port", json!(port)),
    };
    match spec.family {
        Family::Any => None,
        Family::V4 => set("family", json!(4)),
        Family::V6 => set("family", json!(6)),
    };
    params
}

/// A duration as parameters write it.
fn span(span: Duration) -> String {
    let us = span.as_micros();
    if us.is_multiple_of(1000) { format!("{}ms", us / 1000) } else { format!("{us}us") }
}

/// Time for all packets, the last one's answer, and the way there and back.
fn deadline(spec: &PingSpec) -> Result<Duration> {
    let deadline = spec.interval * u32::from(spec.count.saturating_sub(1)) + spec.timeout + SLACK;
    if deadline > LONGEST {
        return Err(Exit::usage(format!(
            "--count {} at --interval {:?} takes longer than the hour that a job may; lower one of them",
            spec.count, spec.interval
        ))
        .into());
    }
    Ok(deadline)
}

/// One row for each agent.
fn rows(work: &Work, number: usize, job: &Value) -> Vec<Row> {
    let target = &work.targets[number];
    let tasks = job["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = tasks.iter().map(|task| {
        let result = &task["result"];
        let outcome = serde_json::from_value::<PingOutcome>(result["outcome"].clone()).unwrap_or_else(|_| {
            let state = task["state"].as_str().unwrap_or("unknown");
            let reason = result["error"]["message"].as_str().unwrap_or_default();
            let error = if reason.is_empty() { state.to_owned() } else { format!("{state}: {reason}") };
            PingOutcome { error: Some(error), ..unmeasured(target, &work.spec) }
        });
        let time = |name: &str| clock::parse_rfc3339(result[name].as_str()?).ok();
        let elapsed =
            time("finished").zip(time("started")).and_then(|(end, begin)| u64::try_from(end - begin).ok());
        Row {
            agent: task["agent"].as_str().map(str::to_owned),
            source: None,
            elapsed: elapsed.map(Duration::from_micros),
            outcome,
        }
    });
    rows.collect()
}

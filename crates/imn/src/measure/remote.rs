//! Measuring from agents: a job for each target, one row for each agent.

use std::{cell::RefCell, collections::BTreeMap, io::IsTerminal, time::Duration};

use anyhow::Result;
use futures::{StreamExt, stream};
use imn_contract::{
    AgentId, JobId, ModuleType,
    latest::{Outcome, Progress},
    subject,
};
use imn_module::Sign;
use imn_runtime::{clock, nats, task::Signals};
use imn_sink::format::Row;
use serde_json::{Value, json};

use super::{Work, how::named, report::Report};
use crate::{
    client::{self, Client},
    exit::Code,
    job::{self, Ended},
};

/// Jobs in work at once.
const AT_ONCE: usize = 16;
/// Looking on is not worth more than this.
const LISTEN_WITHIN: Duration = Duration::from_secs(1);

pub(super) async fn run(work: &Work, client: &Client, from: &str, mut report: Report) -> Result<Code> {
    let mut signals = Signals::listen()?;
    let selector = job::selector(client, "--from", from).await?;
    let (kind, params, deadline) = (work.how.kind()?, work.how.params(), work.how.deadline()?);
    let open = RefCell::new(BTreeMap::new());
    let mut progress = progress(work).await;
    let jobs = stream::iter(work.targets.iter().enumerate()).map(|(number, target)| {
        let (selector, open) = (&selector, &open);
        let (kind, params) = (&kind, &params);
        async move {
            let id = JobId::generate();
            let body = json!({
                "job_id": id,
                "type": kind,
                "target": target,
                "params": params,
                "from": selector,
                "deadline_ms": deadline.as_millis() as u64,
            });
            open.borrow_mut().insert(id.clone(), number);
            let ended = job::run(client, body, deadline).await;
            open.borrow_mut().remove(&id);
            ended.map(|ended| (number, ended))
        }
    });
    let mut jobs = std::pin::pin!(jobs.buffer_unordered(AT_ONCE));
    loop {
        let ended = tokio::select! {
            ended = jobs.next() => ended,
            Some((id, agent, sign)) = next(&mut progress) => {
                if let Some(number) = open.borrow().get(&id) {
                    report.view.heard(*number, agent.as_str(), &sign);
                }
                continue;
            }
            _ = signals.next() => {
                let open = open.borrow().clone();
                for id in open.keys() {
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
        report.target(number, rows(work, &kind, number, &job))?;
        report.flush()?;
    }
    report.finish()
}

/// What modules tell of their jobs, for a person who looks on; none where this host cannot listen.
async fn progress(work: &Work) -> Option<async_nats::Subscriber> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let config = client::nats(&work.args.connect, "imn")?;
    let connected = tokio::time::timeout(LISTEN_WITHIN, nats::Client::connect(&config)).await.ok()?.ok()?;
    connected.subscribe(subject::PROGRESS_ALL).await.ok()
}

/// The next thing told; pends for ever where nobody listens.
async fn next(progress: &mut Option<async_nats::Subscriber>) -> Option<(JobId, AgentId, Sign)> {
    loop {
        let Some(messages) = progress else { return std::future::pending().await };
        let Some(message) = messages.next().await else {
            *progress = None;
            continue;
        };
        if let Ok(Progress { job_id, agent, kind, detail, .. }) = nats::decode(&message) {
            return Some((job_id, agent, Sign { kind, detail }));
        }
    }
}

/// One row for each agent.
fn rows(work: &Work, kind: &ModuleType, number: usize, job: &Value) -> Vec<Row> {
    let target = &work.targets[number];
    let tasks = job["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = tasks.iter().map(|task| {
        let result = &task["result"];
        let outcome = match &result["outcome"] {
            Value::Null => {
                let state = task["state"].as_str().unwrap_or("unknown");
                let reason = result["error"]["message"].as_str().unwrap_or_default();
                let error = if reason.is_empty() { state.to_owned() } else { format!("{state}: {reason}") };
                work.how.unmeasured(target, error)
            }
            outcome => named(Outcome::read(kind, outcome.clone()), target),
        };
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

//! `/probe`: a measurement for Prometheus, as blackbox_exporter makes it, by a job of an agent.

use std::time::Duration;

use axum::{
    extract::{Query, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use imn_contract::{
    AgentId, ErrorCode, Fault, ModuleType,
    latest::{JobResult, Outcome, ResultStatus, Selector, Submit},
};
use imn_domain::{Scrape, ScrapeRequest};
use imn_runtime::clock;
use imn_sink::format::{Row, probe_page};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, jobs, problem::Problem};
use crate::clock::now_us;

/// Measurements for Prometheus at once; more are refused.
pub(super) const AT_ONCE: usize = 64;
/// What Prometheus says of its patience, in seconds.
const PATIENCE: &str = "x-prometheus-scrape-timeout-seconds";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The agent of a host that has server and agent.
const LOCAL: &str = "local";
/// What the way to the agent and back may take of the time that Prometheus gives.
const WAY: Duration = Duration::from_millis(300);

/// What is asked for; blackbox_exporter's other parameters are left alone.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Question {
    /// What to measure, as the module wants it: an address, `host:port`, a URL.
    target: Option<String>,
    /// A definition of `imn.toml` or one of the usual ones; `http_2xx` by default.
    module: Option<String>,
    /// The name by which the target is asked for: of `http` the header `Host` and the name of the certificate, of
    /// `tcp` with TLS the latter.
    hostname: Option<String>,
    /// `true`: show what was done and the definition beside the figures.
    debug: Option<String>,
    /// The agent that measures; by default the one of this host, else any.
    agent: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(probe))
}

/// Measure for Prometheus, as blackbox_exporter does
///
/// What could not be measured is an error and no page, for a page without an answer would tell Prometheus that the
/// target is down.
#[utoipa::path(get, path = "/probe", tag = "server", operation_id = "probe", params(Question),
    responses((status = 200, description = "The figures of one measurement", body = String, content_type = "text/plain")))]
async fn probe(
    State(api): State<Api>,
    Query(question): Query<Question>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let patience = headers
        .get(PATIENCE)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let definitions = &api.context.config.scrape;
    let scrape = definitions.scrape(&ScrapeRequest {
        module: question.module.as_deref(),
        target: question.target.as_deref(),
        hostname: question.hostname.as_deref(),
        patience,
    })?;
    let Ok(_room) = api.scrapes.try_acquire() else {
        let text = format!("more than {AT_ONCE} measurements at once; try again later");
        return Err(Fault::new(ErrorCode::Saturated, text).into());
    };
    let result = measure(&api, &scrape, question.agent).await?;
    let debug = question.debug.as_deref() == Some("true");
    let told = debug.then(|| result.outcome.clone());
    let row = row(&scrape.kind, result)?;
    let mut page = probe_page(&row);
    if let Some(outcome) = told {
        page = scrape.debug_page(&outcome, row.elapsed.unwrap_or_default(), &page);
    }
    Ok(([(header::CONTENT_TYPE, TEXT)], page).into_response())
}

async fn measure(api: &Api, scrape: &Scrape, agent: Option<String>) -> Result<JobResult, Problem> {
    let limit = scrape.limit;
    let submit = Submit {
        v: 1,
        job_id: None,
        kind: scrape.kind.to_string(),
        target: scrape.target.clone(),
        params: scrape.params.clone(),
        from: Some(selector(api, agent)),
        deadline_ms: (limit + WAY).as_millis() as u64,
        wait_for_module: false,
        max_attempts: 1,
    };
    let watcher = api.context.live.watch();
    let reply = api.context.jobs.submit(submit, None).await?;
    let id = reply.job_id.ok_or_else(|| Problem::internal("the job was accepted without an id"))?;
    let job = jobs::ended(api, &id, limit + WAY, watcher).await?;
    let late = || Fault::new(ErrorCode::Deadline, "the job has not ended in time");
    job.tasks.into_iter().find_map(|task| task.result).ok_or_else(|| late().into())
}

fn selector(api: &Api, agent: Option<String>) -> Selector {
    let local = || {
        let id = api.context.config.scrape_agent.clone().or_else(|| AgentId::new(LOCAL).ok())?;
        let known = api.context.registry.agent(&id, now_us()).is_some();
        (known || api.context.config.scrape_agent.is_some()).then(|| id.to_string())
    };
    let agents = agent.or_else(local).into_iter().collect();
    Selector { agents, limit: Some(1), ..Selector::default() }
}

fn row(kind: &ModuleType, result: JobResult) -> Result<Row, Fault> {
    if result.status != ResultStatus::Succeeded {
        let text = format!("the job is {:?} and says no more", result.status);
        return Err(result.error.unwrap_or_else(|| Fault::new(ErrorCode::Unavailable, text)));
    }
    let time = |text: &Option<String>| clock::parse_rfc3339(text.as_deref()?).ok();
    let took = time(&result.finished).zip(time(&result.started)).map(|(end, begin)| end - begin);
    let elapsed = took.and_then(|us| u64::try_from(us).ok()).map(Duration::from_micros);
    Ok(Row { elapsed, ..Row::new(Outcome::read(kind, result.outcome)) })
}

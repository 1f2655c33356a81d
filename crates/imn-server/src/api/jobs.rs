//! `/jobs`: measurements on demand.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use imn_contract::{
    Fault, JobId,
    latest::{JobResult, JobState, Selector, Submit},
};
use imn_store::{Job as Stored, TaskRow};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, audit,
    auth::Principal,
    decode::{Body, Key, Query},
    edge::Trace,
    page::{self, List},
    problem::Problem,
    text,
    tiers::Nothing,
};
use crate::live::{Event, Item};

/// Time that a job has if nothing is said, in milliseconds.
const DEADLINE_MS: u64 = 10_000;
/// Longest time that a request may wait for its job, in milliseconds.
const MAX_WAIT_MS: u64 = 60_000;

/// Which vantage points a job runs from.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct JobSelector {
    /// These agents, by id or name.
    pub(crate) agents: Vec<String>,
    /// Agents in any of these regions.
    pub(crate) regions: Vec<String>,
    /// Agents that carry all of these tags.
    pub(crate) tags: BTreeMap<String, String>,
    /// At most this many of those that match; all by default.
    #[schema(minimum = 1)]
    pub(crate) limit: Option<u32>,
}

/// A request to measure something once: the body of `mmn.jobs.submit`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobSpec {
    /// Major of the schema: 1.
    #[serde(default)]
    pub(crate) v: Option<u32>,
    /// The client's own identifier; the same id with the same body is the same job.
    #[serde(default)]
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub(crate) job_id: Option<String>,
    /// Module type or alias.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// What to measure: an address, a name or a URL, as the type wants it.
    pub(crate) target: String,
    /// Parameters of the type.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(crate) params: Map<String, Value>,
    /// Vantage points; absent: any one agent.
    #[serde(default)]
    pub(crate) from: Option<JobSelector>,
    /// Time until the job is `timed_out`, for example `30s`; `10s` by default.
    #[serde(default)]
    #[schema(examples("30s"))]
    pub(crate) deadline: Option<String>,
    /// The same in milliseconds, as on NATS.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 3_600_000)]
    pub(crate) deadline_ms: Option<u64>,
    /// Accept the job although no chosen agent has a module of the type yet.
    #[serde(default)]
    pub(crate) wait_for_module: bool,
    /// How often a task may be tried; 3 by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10)]
    pub(crate) max_attempts: Option<u32>,
}

/// The part of a job that one agent does.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct JobTask {
    /// The agent.
    pub(crate) agent: String,
    /// Its state.
    #[schema(value_type = String)]
    pub(crate) state: JobState,
    /// Attempts begun so far.
    pub(crate) attempts: u32,
    /// When it was last changed, RFC 3339 UTC.
    pub(crate) updated: String,
    /// Its result, as on `mmn.jobs.result.{job}`, once terminal.
    #[schema(required, value_type = Option<Object>)]
    pub(crate) result: Option<JobResult>,
}

/// A job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Job {
    /// Identifier.
    pub(crate) job_id: String,
    /// `queued`, `dispatched`, `running`, `retry_wait`; terminal: `succeeded`, `failed`, `timed_out`, `cancelled`,
    /// `dead`, `rejected`.
    #[schema(value_type = String)]
    pub(crate) state: JobState,
    /// Whether nothing can follow.
    pub(crate) terminal: bool,
    /// Module type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// What it measures.
    pub(crate) target: String,
    /// Parameters.
    #[schema(value_type = Object)]
    pub(crate) params: Map<String, Value>,
    /// When it was accepted, RFC 3339 UTC.
    pub(crate) created: String,
    /// When it times out, RFC 3339 UTC.
    pub(crate) deadline: String,
    /// How often a task may be tried.
    pub(crate) max_attempts: u32,
    /// Its tasks, by agent.
    pub(crate) tasks: Vec<JobTask>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct JobsQuery {
    /// Jobs of a page, 1 to 1,000; 100 by default.
    #[param(value_type = Option<u16>)]
    limit: Option<String>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Wait so long for the job to end, at most `60s`, for example `10s`.
    wait: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, submit)).routes(routes!(show, cancel))
}

/// List the jobs, newest first
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", operation_id = "list_jobs", params(JobsQuery),
    responses((status = 200, description = "A page of jobs", body = List<Job>)))]
async fn list(State(api): State<Api>, Query(query): Query<JobsQuery>) -> Result<Json<List<Job>>, Problem> {
    let limit = page::limit(query.limit.as_deref())?;
    let after: Option<String> = page::after("jobs", query.page_token.as_deref())?;
    let jobs = api.context.catalog.jobs(after.as_deref(), limit).await?;
    let next_page_token = jobs.next.and_then(|key| page::token("jobs", key));
    Ok(Json(List { items: jobs.items.into_iter().map(Job::from).collect(), next_page_token }))
}

/// Submit a job
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs", operation_id = "submit_job", request_body = JobSpec,
    params(WaitQuery, ("Idempotency-Key" = Option<String>, Header, description = "A repetition is answered as the first time")),
    responses((status = 202, description = "Accepted", body = Job, headers(("Location" = String, description = "Where it is"))),
              (status = 200, description = "Ended within `wait`", body = Job, headers(("Location" = String, description = "Where it is")))))]
async fn submit(
    State(api): State<Api>,
    by: Principal,
    Extension(Trace(trace)): Extension<Trace>,
    Query(query): Query<WaitQuery>,
    Body(spec): Body<JobSpec>,
) -> Result<Response, Problem> {
    let wait = wait(&query)?;
    let watcher = api.context.live.watch();
    let reply = api.context.jobs.submit(spec.into_submit()?, trace).await?;
    let id = reply.job_id.ok_or_else(|| Problem::internal("the job was accepted without an id"))?;
    audit::record(&api, &by, "job.submit", id.as_str(), &serde_json::json!({ "agents": reply.agents })).await;
    let job = ended(&api, &id, wait, watcher).await?;
    let status = if job.terminal && query.wait.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = HeaderValue::from_str(&format!("/api/v1/jobs/{id}"))
        .map_err(|error| Problem::internal(error.to_string()))?;
    Ok((status, [(header::LOCATION, location)], Json(job)).into_response())
}

/// Show a job
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "jobs", operation_id = "get_job",
    params(("id" = String, Path, description = "Its id"), WaitQuery),
    responses((status = 200, description = "The job", body = Job)))]
async fn show(State(api): State<Api>, id: Key, Query(query): Query<WaitQuery>) -> Result<Json<Job>, Problem> {
    let wait = wait(&query)?;
    let watcher = api.context.live.watch();
    let id = job_id(&id)?;
    ended(&api, &id, wait, watcher).await.map(Json)
}

/// Cancel a job
#[utoipa::path(delete, path = "/api/v1/jobs/{id}", tag = "jobs", operation_id = "cancel_job",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "The job after it; one that had ended is not changed", body = Job)))]
async fn cancel(
    State(api): State<Api>,
    by: Principal,
    id: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<Job>, Problem> {
    let id = job_id(&id)?;
    let before = find(&api, &id).await?;
    if !before.terminal {
        api.context.jobs.cancel(&id).await?;
        audit::record(&api, &by, "job.cancel", id.as_str(), &Value::Null).await;
    }
    find(&api, &id).await.map(Json)
}

fn wait(query: &WaitQuery) -> Result<Duration, Problem> {
    let ms = text::duration_field("wait", query.wait.as_deref())?.unwrap_or(0);
    if ms > MAX_WAIT_MS {
        return Err(Problem::field("wait", format!("is longer than {}", text::duration(MAX_WAIT_MS))));
    }
    Ok(Duration::from_millis(ms))
}

/// The job once it is terminal or `wait` is over. `watcher` must watch since before the job could end.
pub(super) async fn ended(
    api: &Api,
    id: &JobId,
    wait: Duration,
    mut watcher: crate::live::Watcher,
) -> Result<Job, Problem> {
    let deadline = Instant::now() + wait;
    loop {
        let job = find(api, id).await?;
        if job.terminal || Instant::now() >= deadline {
            return Ok(job);
        }
        let news = async {
            while let Some(item) = watcher.next().await {
                match item {
                    Item::Event(Event::Result(result)) if result.job_id == *id => return,
                    Item::Dropped(_) => return,
                    Item::Event(_) => {}
                }
            }
        };
        tokio::select! {
            () = news => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = api.context.stop.requested() => return Ok(job),
        }
    }
}

fn job_id(text: &str) -> Result<JobId, Problem> {
    JobId::new(text).map_err(|_| Problem::not_found("job", text))
}

async fn find(api: &Api, id: &JobId) -> Result<Job, Problem> {
    let job = api.context.catalog.job(id).await?;
    job.map(Job::from).ok_or_else(|| Problem::not_found("job", id.as_str()))
}

impl JobSpec {
    fn into_submit(self) -> Result<Submit, Problem> {
        if self.v.is_some_and(|v| v != 1) {
            return Err(Problem::field("v", "the only major is 1"));
        }
        let job_id = self
            .job_id
            .map(JobId::new)
            .transpose()
            .map_err(|error| Problem::from(Fault::invalid("job_id", error.to_string())))?;
        let deadline_ms =
            match (text::duration_field("deadline", self.deadline.as_deref())?, self.deadline_ms) {
                (Some(_), Some(_)) => {
                    return Err(Problem::field("deadline_ms", "deadline is given already; give one of them"));
                }
                (Some(ms), None) | (None, Some(ms)) => ms,
                (None, None) => DEADLINE_MS,
            };
        Ok(Submit {
            v: 1,
            job_id,
            kind: self.kind,
            target: self.target,
            params: self.params,
            from: self.from.map(|from| Selector {
                agents: from.agents,
                regions: from.regions,
                tags: from.tags,
                limit: from.limit,
            }),
            deadline_ms,
            wait_for_module: self.wait_for_module,
            max_attempts: self.max_attempts.unwrap_or(3),
        })
    }
}

impl From<Stored> for Job {
    fn from(job: Stored) -> Self {
        let state = imn_domain::job_state(job.tasks.iter().map(|task| task.state));
        Self {
            job_id: job.id.to_string(),
            state,
            terminal: state.is_terminal(),
            kind: job.kind.to_string(),
            target: job.target,
            params: job.params,
            created: text::time(job.created_us),
            deadline: text::time(job.deadline_us),
            max_attempts: job.max_attempts,
            tasks: job.tasks.into_iter().map(JobTask::from).collect(),
        }
    }
}

impl From<TaskRow> for JobTask {
    fn from(task: TaskRow) -> Self {
        Self {
            agent: task.agent.to_string(),
            state: task.state,
            attempts: task.attempts,
            updated: text::time(task.updated_us),
            result: task.result,
        }
    }
}

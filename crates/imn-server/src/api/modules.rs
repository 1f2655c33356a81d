//! `/modules`: module instances of all agents, switching types on and off, and changing how they run.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use axum::{Json, extract::State};
use futures::future::join_all;
use imn_contract::{
    AgentId, ErrorCode, Fault, ModuleType, canonical_type,
    latest::{AgentControl, AgentOp, ControlReply, ModuleState, Roll, RollState, Tuning},
    subject,
};
use imn_domain::Liveness;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, audit,
    auth::Principal,
    decode::{Body, Key, Query},
    listing::{ListQuery, Listing},
    page::List,
    problem::Problem,
    text,
    tiers::Nothing,
};
use crate::{clock::now_us, context::Context, registry::Instance};

/// A module instance.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ModuleInstance {
    /// Its name, stable across restarts of its process.
    pub(crate) instance: String,
    /// Its agent.
    pub(crate) agent: String,
    /// Its module type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Version of the module.
    pub(crate) version: String,
    /// `starting`, `ready`, `saturated`, `draining`, `degraded`, `lost`, `backoff`, `quarantined` or `disabled`.
    #[schema(value_type = String)]
    pub(crate) state: ModuleState,
    /// Why it is not ready.
    #[schema(required)]
    pub(crate) reason: Option<String>,
    /// Jobs in work.
    pub(crate) inflight: u32,
    /// Jobs that it can do at once.
    pub(crate) slots: u32,
    /// Its process, on its agent's host.
    #[schema(required)]
    pub(crate) pid: Option<u32>,
    /// Times its process was started again since the agent began.
    pub(crate) restarts: u32,
    /// Whether it takes standing assignments.
    pub(crate) standing: bool,
    /// When it was last heard of, RFC 3339 UTC.
    pub(crate) last_seen: String,
    /// Its own figures.
    #[schema(required)]
    pub(crate) health: Option<ModuleHealth>,
}

/// What an instance says of itself.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ModuleHealth {
    /// Jobs accepted and waiting.
    pub(crate) queued: u32,
    /// Smoothed service time, in milliseconds.
    pub(crate) ewma_ms: f64,
    /// Jobs done since start.
    pub(crate) done: u64,
    /// Of them, failed.
    pub(crate) errors: u64,
    /// Circuits open.
    pub(crate) circuits_open: u32,
    /// Rounds that fell due since start.
    pub(crate) rounds_due: u64,
    /// Of them, completed and spooled.
    pub(crate) rounds_done: u64,
    /// 99th percentile of sent − due, in microseconds.
    pub late_p99_us: u64,
}

/// All instances of a type together.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct ModuleTypeSummary {
    /// The type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Agents that have an instance.
    pub(crate) agents: usize,
    /// Instances.
    pub(crate) instances: usize,
    /// Of them, able to take jobs.
    pub(crate) ready: usize,
    /// Versions in use.
    pub(crate) versions: Vec<String>,
    /// Jobs that they can do at once.
    pub(crate) slots: u32,
    /// Jobs in work.
    pub(crate) inflight: u32,
    /// Jobs waiting in instances.
    pub(crate) queued: u32,
    /// Tasks of jobs that are accepted and have not ended: in the queue or in work.
    pub(crate) open_tasks: u32,
    /// Jobs done.
    pub(crate) done: u64,
    /// Of them, failed.
    pub(crate) errors: u64,
}

/// Why an agent does not run a module as it should.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ModuleProblem {
    /// The agent.
    pub(crate) agent: String,
    /// What is wrong, in words.
    pub(crate) problem: String,
}

/// The replacement of a module type by another version, at one agent.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ModuleRoll {
    /// The agent.
    pub(crate) agent: String,
    /// The module type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// `starting`, `testing`, `shifting`, `replacing`, `done`, `rolled_back` or `abandoned`.
    #[schema(value_type = String)]
    pub(crate) state: RollState,
    /// The wave, from 1; 0 before the first.
    pub(crate) wave: u32,
    /// How many waves there are.
    pub(crate) waves: u32,
    /// How much of the jobs goes to the new version, in percent.
    pub(crate) share_pct: u32,
    /// The version that is replaced.
    pub(crate) from: String,
    /// The version that replaces it.
    pub(crate) to: String,
    /// When it began, RFC 3339 UTC.
    pub(crate) started: String,
    /// Why it was rolled back.
    #[schema(required)]
    pub(crate) reason: Option<String>,
}

/// Module instances, and their types.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Modules {
    /// The instances of the page.
    pub(crate) items: Vec<ModuleInstance>,
    /// The types of all that match, by name.
    pub(crate) types: Vec<ModuleTypeSummary>,
    /// Replacements by other versions: those under way, and the last of each other type at each agent.
    pub(crate) rolls: Vec<ModuleRoll>,
    /// What keeps agents from running a module.
    pub(crate) problems: Vec<ModuleProblem>,
    /// Give it as `page_token`, with all other parameters unchanged, for the next page; null at the end.
    #[schema(required)]
    pub(crate) next_page_token: Option<String>,
}

/// A type with its instances and parameters.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ModuleTypeDetail {
    /// All instances together.
    pub(crate) summary: ModuleTypeSummary,
    /// The instances, by name.
    pub(crate) instances: Vec<ModuleInstance>,
    /// The last replacement by another version at each agent, which may be under way.
    pub(crate) rolls: Vec<ModuleRoll>,
    /// JSON Schema of `params`, as an instance announced it; null when none did.
    #[schema(value_type = Object)]
    pub(crate) params_schema: Value,
}

/// What one agent answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Told {
    /// The agent.
    pub(crate) agent: String,
    /// Whether it did it.
    pub(crate) ok: bool,
    /// Why not.
    #[schema(required)]
    pub(crate) error: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ModulesQuery {
    /// Only those of this agent.
    agent: Option<String>,
    /// Only those of this type or alias.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// AIP-160-like: `state=quarantined OR restarts>3`.
    filter: Option<String>,
    /// `field [desc], …`; by instance otherwise.
    order_by: Option<String>,
    /// Instances of a page, 1 to 1,000; 100 by default.
    #[param(value_type = Option<u16>)]
    limit: Option<String>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// How many instances there are to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scale {
    /// Processes on each agent.
    #[schema(minimum = 1, maximum = 64)]
    instances: u32,
}

/// How instances are to run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Jobs that each does at once.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10_000)]
    slots: Option<u32>,
    /// What each logs, such as `info` or `imn_module=debug`.
    #[serde(default)]
    log_level: Option<String>,
    /// The configuration of the type, as a whole.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SwitchQuery {
    /// Only on this agent; by default on every agent that has the type.
    agent: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(enable))
        .routes(routes!(disable))
        .routes(routes!(roll))
        .routes(routes!(scale))
        .routes(routes!(settings))
}

/// List module instances
///
/// Filtered and ordered by `instance`, `agent`, `type`, `version`, `state`, `reason`, `inflight`, `slots`, `restarts`,
/// `standing`, `last_seen` and the numbers of `health`.
#[utoipa::path(get, path = "/api/v1/modules", tag = "modules", operation_id = "list_modules", params(ModulesQuery),
    responses((status = 200, description = "A page of instances, and the types of all that match", body = Modules)))]
async fn list(State(api): State<Api>, Query(query): Query<ModulesQuery>) -> Result<Json<Modules>, Problem> {
    let ModulesQuery { agent, kind, filter, order_by, limit, page_token } = query;
    let scope = format!("modules\0{agent:?}\0{kind:?}");
    let listing = Listing::read::<ModuleInstance>(&scope, ListQuery { filter, order_by, limit, page_token })?;
    let kind = kind.as_deref().map(canonical_type);
    let wanted = |i: &Instance| {
        agent.as_ref().is_none_or(|agent| i.agent.as_str() == agent)
            && kind.is_none_or(|kind| i.kind.as_str() == kind)
    };
    let found = api.context.registry.instances(now_us()).into_iter().filter(wanted);
    let (instances, views): (Vec<Instance>, Vec<ModuleInstance>) = found
        .map(|instance| (instance.clone(), ModuleInstance::from(instance)))
        .filter(|(_, view)| listing.filter.matches(view))
        .unzip();
    let types = summaries(&api, &instances);
    let List { items, next_page_token } = listing.page(views, |view| &view.instance)?;
    let views = api.context.registry.agents(now_us()).into_iter();
    let views = views.filter(|view| agent.as_ref().is_none_or(|id| view.agent.id.as_str() == id));
    let problems = views.flat_map(|view| {
        let agent = view.agent.id.to_string();
        let told = view.agent.heartbeat.into_iter().flat_map(|heartbeat| heartbeat.problems);
        told.map(move |problem| ModuleProblem { agent: agent.clone(), problem })
    });
    let mut rolls = rolls(&api.context, kind);
    rolls.retain(|roll| agent.as_ref().is_none_or(|agent| roll.agent == *agent));
    Ok(Json(Modules { items, types, rolls, problems: problems.collect(), next_page_token }))
}

/// Show a module type
#[utoipa::path(get, path = "/api/v1/modules/{type}", tag = "modules", operation_id = "get_module",
    params(("type" = String, Path, description = "The type or an alias")),
    responses((status = 200, description = "The type", body = ModuleTypeDetail)))]
async fn show(
    State(api): State<Api>,
    kind: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<ModuleTypeDetail>, Problem> {
    let mut instances = api.context.registry.instances(now_us());
    instances.retain(|i| i.kind.as_str() == canonical_type(&kind));
    let summary =
        summaries(&api, &instances).pop().ok_or_else(|| Problem::not_found("module type", &kind))?;
    let params_schema = module_type(&kind)
        .ok()
        .and_then(|kind| api.context.registry.params_schema(&kind))
        .unwrap_or_default();
    let instances = instances.into_iter().map(ModuleInstance::from).collect();
    let rolls = rolls(&api.context, Some(canonical_type(&kind)));
    Ok(Json(ModuleTypeDetail { summary, instances, rolls, params_schema }))
}

/// Start a module type's instances
#[utoipa::path(post, path = "/api/v1/modules/{type}/enable", tag = "modules", operation_id = "enable_module",
    params(("type" = String, Path, description = "The type or an alias"), SwitchQuery),
    responses((status = 200, description = "What each agent answered", body = List<Told>)))]
async fn enable(
    State(api): State<Api>,
    by: Principal,
    kind: Key,
    Query(query): Query<SwitchQuery>,
) -> Result<Json<List<Told>>, Problem> {
    let kind = module_type(&kind)?;
    switch(&api, &by, AgentOp::Enable { kind: kind.clone() }, &kind, query.agent.as_deref()).await
}

/// Drain a module type's instances and keep them down
#[utoipa::path(post, path = "/api/v1/modules/{type}/disable", tag = "modules", operation_id = "disable_module",
    params(("type" = String, Path, description = "The type or an alias"), SwitchQuery),
    responses((status = 200, description = "What each agent answered", body = List<Told>)))]
async fn disable(
    State(api): State<Api>,
    by: Principal,
    kind: Key,
    Query(query): Query<SwitchQuery>,
) -> Result<Json<List<Told>>, Problem> {
    let kind = module_type(&kind)?;
    switch(&api, &by, AgentOp::Disable { kind: kind.clone() }, &kind, query.agent.as_deref()).await
}

/// Replace a module type's instances by the version that is there now
///
/// One instance of the new version is tried beside the others, then jobs are shared in waves, then the others are
/// replaced one after the other; what does not do as well as before is rolled back. It is done with the answer only
/// begun: see `rolls` of the type.
#[utoipa::path(post, path = "/api/v1/modules/{type}/roll", tag = "modules", operation_id = "roll_module",
    params(("type" = String, Path, description = "The type or an alias"), SwitchQuery),
    responses((status = 200, description = "What each agent answered", body = List<Told>)))]
async fn roll(
    State(api): State<Api>,
    by: Principal,
    kind: Key,
    Query(query): Query<SwitchQuery>,
) -> Result<Json<List<Told>>, Problem> {
    let kind = module_type(&kind)?;
    switch(&api, &by, AgentOp::Roll { kind: kind.clone() }, &kind, query.agent.as_deref()).await
}

/// Run so many instances of a module type
#[utoipa::path(post, path = "/api/v1/modules/{type}/scale", tag = "modules", operation_id = "scale_module",
    request_body = Scale, params(("type" = String, Path, description = "The type or an alias"), SwitchQuery),
    responses((status = 200, description = "What each agent answered", body = List<Told>)))]
async fn scale(
    State(api): State<Api>,
    by: Principal,
    kind: Key,
    Query(query): Query<SwitchQuery>,
    Body(scale): Body<Scale>,
) -> Result<Json<List<Told>>, Problem> {
    let tuning = Tuning { instances: Some(scale.instances), ..Tuning::default() };
    tune(&api, &by, &kind, query.agent.as_deref(), tuning).await
}

/// Change how the instances of a module type run
///
/// What is not named stays; it is remembered over restarts, and takes effect at once.
#[utoipa::path(put, path = "/api/v1/modules/{type}/settings", tag = "modules", operation_id = "set_module",
    request_body = Settings, params(("type" = String, Path, description = "The type or an alias"), SwitchQuery),
    responses((status = 200, description = "What each agent answered", body = List<Told>)))]
async fn settings(
    State(api): State<Api>,
    by: Principal,
    kind: Key,
    Query(query): Query<SwitchQuery>,
    Body(settings): Body<Settings>,
) -> Result<Json<List<Told>>, Problem> {
    let Settings { slots, log_level, config } = settings;
    let tuning = Tuning { instances: None, slots, log_level, config };
    tune(&api, &by, &kind, query.agent.as_deref(), tuning).await
}

async fn tune(
    api: &Api,
    by: &Principal,
    kind: &str,
    only: Option<&str>,
    tuning: Tuning,
) -> Result<Json<List<Told>>, Problem> {
    let kind = module_type(kind)?;
    switch(api, by, AgentOp::Tune { kind: kind.clone(), tuning }, &kind, only).await
}

pub(crate) fn module_type(text: &str) -> Result<ModuleType, Problem> {
    ModuleType::new(canonical_type(text)).map_err(|error| Problem::field("type", error.to_string()))
}

async fn switch(
    api: &Api,
    by: &Principal,
    op: AgentOp,
    kind: &ModuleType,
    only: Option<&str>,
) -> Result<Json<List<Told>>, Problem> {
    let agents: Vec<AgentId> = match only {
        Some(id) => {
            let agent = AgentId::new(id).ok().and_then(|id| api.context.registry.agent(&id, now_us()));
            vec![agent.ok_or_else(|| Problem::not_found("agent", id))?.agent.id]
        }
        None => with_type(&api.context, kind),
    };
    if agents.is_empty() {
        return Err(Problem::not_found("module type", kind.as_str()));
    }
    let control = AgentControl { v: 1, op };
    let answers = join_all(agents.iter().map(|agent| tell(&api.context, agent, &control))).await;
    // Where nobody has done it, what is wrong with what was asked comes first.
    let of_request = |fault: &&Fault| matches!(fault.code, 400 | 409 | 423);
    let wrong = answers.iter().find_map(|answer| answer.as_ref().err().filter(of_request));
    if let Some(fault) = wrong.filter(|_| answers.iter().all(Result::is_err)) {
        return Err(fault.clone().into());
    }
    let told: Vec<Told> = agents
        .iter()
        .zip(answers)
        .map(|(agent, answer)| {
            let error = answer.err().map(|fault| fault.to_string());
            Told { agent: agent.to_string(), ok: error.is_none(), error }
        })
        .collect();
    let action = match &control.op {
        AgentOp::Enable { .. } => "module.enable",
        AgentOp::Roll { .. } => "module.roll",
        AgentOp::Tune { tuning: Tuning { instances: Some(_), .. }, .. } => "module.scale",
        AgentOp::Tune { .. } => "module.set",
        _ => "module.disable",
    };
    let done: Vec<&str> = told.iter().filter(|t| t.ok).map(|t| t.agent.as_str()).collect();
    if done.is_empty() {
        let reasons: Vec<String> =
            told.iter().map(|t| format!("{}: {}", t.agent, t.error.as_deref().unwrap_or_default())).collect();
        return Err(Problem::unavailable(format!("no agent did it: {}", reasons.join("; "))));
    }
    audit::record(api, by, action, kind.as_str(), &json!({ "agents": done })).await;
    Ok(Json(List::whole(told)))
}

/// Agents that can be told, and have or had an instance of the type.
fn with_type(context: &Context, kind: &ModuleType) -> Vec<AgentId> {
    let now = now_us();
    let mut agents: Vec<AgentId> = context
        .registry
        .instances(now)
        .into_iter()
        .filter(|instance| instance.kind == *kind)
        .map(|instance| instance.agent)
        .filter(|id| context.registry.agent(id, now).is_some_and(|a| a.liveness != Liveness::Offline))
        .collect();
    agents.sort();
    agents.dedup();
    agents
}

async fn tell(context: &Context, agent: &AgentId, control: &AgentControl) -> Result<(), Fault> {
    let subject = subject::agent_control(agent);
    let reply = context
        .client
        .request_within::<_, ControlReply>(&subject, control, HeaderMap::new(), Context::CONTROL_TIMEOUT)
        .await;
    let unavailable = |text: String| Fault::new(ErrorCode::Unavailable, text);
    match reply {
        Ok(ControlReply { ok: true, .. }) => Ok(()),
        Ok(ControlReply { error, .. }) => {
            Err(error.unwrap_or_else(|| unavailable("refused without a reason".to_owned())))
        }
        Err(error) => Err(unavailable(error.to_string())),
    }
}

/// What agents tell of replacements, of all types or of one.
fn rolls(context: &Context, only: Option<&str>) -> Vec<ModuleRoll> {
    let mut rolls = Vec::new();
    for view in context.registry.agents(now_us()) {
        let agent = view.agent.id.to_string();
        let told = view.agent.heartbeat.map(|heartbeat| heartbeat.rolls).unwrap_or_default();
        let told = told.into_iter().filter(|roll| only.is_none_or(|kind| roll.kind.as_str() == kind));
        rolls.extend(told.map(|roll| {
            let Roll { kind, state, wave, waves, share_pct, from, to, started, reason } = roll;
            let (agent, kind) = (agent.clone(), kind.to_string());
            ModuleRoll { agent, kind, state, wave, waves, share_pct, from, to, started, reason }
        }));
    }
    rolls
}

fn summaries(api: &Api, instances: &[Instance]) -> Vec<ModuleTypeSummary> {
    let mut types: BTreeMap<&ModuleType, (ModuleTypeSummary, Vec<&AgentId>)> = BTreeMap::new();
    for instance in instances {
        let (summary, agents) = types.entry(&instance.kind).or_default();
        if !agents.contains(&&instance.agent) {
            agents.push(&instance.agent);
        }
        if !summary.versions.contains(&instance.version) {
            summary.versions.push(instance.version.clone());
        }
        summary.instances += 1;
        summary.ready += usize::from(matches!(instance.state, ModuleState::Ready | ModuleState::Saturated));
        summary.slots += instance.slots;
        summary.inflight += instance.inflight;
        if let Some(health) = &instance.health {
            summary.queued += health.queued;
            summary.done += health.done;
            summary.errors += health.errors;
        }
    }
    types
        .into_iter()
        .map(|(kind, (summary, agents))| ModuleTypeSummary {
            kind: kind.to_string(),
            agents: agents.len(),
            open_tasks: api.context.jobs.open_tasks(kind),
            ..summary
        })
        .collect()
}

impl From<Instance> for ModuleInstance {
    fn from(instance: Instance) -> Self {
        Self {
            instance: instance.instance.to_string(),
            agent: instance.agent.to_string(),
            kind: instance.kind.to_string(),
            version: instance.version,
            state: instance.state,
            reason: instance.reason,
            inflight: instance.inflight,
            slots: instance.slots,
            pid: instance.pid,
            restarts: instance.restarts,
            standing: instance.standing,
            last_seen: text::time(instance.seen_us),
            health: instance.health.map(|h| ModuleHealth {
                queued: h.queued,
                ewma_ms: h.ewma_ms,
                done: h.done,
                errors: h.errors,
                circuits_open: h.circuits_open,
                rounds_due: h.rounds_due,
                rounds_done: h.rounds_done,
                late_p99_us: h.late_p99_us,
            }),
        }
    }
}

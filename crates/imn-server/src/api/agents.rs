//! `/agents`: who measures, and how they are.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use imn_contract::{AgentId, latest::ModuleState};
use imn_domain::Liveness;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, audit,
    auth::Principal,
    decode::{Key, Query},
    modules::ModuleInstance,
    page::List,
    problem::Problem,
    text,
    tiers::Nothing,
};
use crate::{clock::now_us, registry::AgentView};

/// How an agent is doing, by its heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AgentStatus {
    /// At work.
    Active,
    /// Silent for 30 s, or saying so itself.
    Degraded,
    /// Silent for 60 s.
    Offline,
}

/// What waits in an agent's spools.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Spool {
    /// Bytes on disk, about.
    pub(crate) bytes: u64,
    /// Rounds not committed yet.
    pub(crate) rows: u64,
    /// Age of the oldest of them, in seconds.
    pub(crate) oldest_s: u64,
}

/// What an agent says of itself; absent before its first heartbeat to this server.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Telemetry {
    /// Seconds since it started.
    pub(crate) uptime_s: u64,
    /// Targets under standing measurement.
    pub(crate) targets: u64,
    /// Rounds completed per second.
    pub(crate) rounds_per_s: f64,
    /// What waits in its spools.
    pub(crate) spool: Spool,
    /// Generation of the assignments in force.
    pub(crate) assignment_generation: u64,
    /// Offset of its clock, in microseconds; null when not synchronized.
    #[schema(required)]
    pub(crate) clock_offset_us: Option<f64>,
    /// Whether its kernel calls the clock synchronized.
    pub(crate) clock_synced: bool,
    /// CPU of agent and modules, in percent of one core.
    pub(crate) cpu_pct: f64,
    /// Resident memory of agent and modules, in MB.
    pub(crate) rss_mb: f64,
}

/// An agent.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Agent {
    /// Identifier.
    pub(crate) id: String,
    /// Name for people.
    #[schema(required)]
    pub(crate) name: Option<String>,
    /// Coarse place.
    #[schema(required)]
    pub(crate) region: Option<String>,
    /// Fine place.
    #[schema(required)]
    pub(crate) location: Option<String>,
    /// Network or cloud.
    #[schema(required)]
    pub(crate) provider: Option<String>,
    /// Free tags.
    pub(crate) tags: BTreeMap<String, String>,
    /// Address as seen from outside.
    #[schema(required)]
    pub(crate) public_ip: Option<String>,
    /// Its module types.
    pub(crate) modules: Vec<String>,
    /// Most targets that it may be given; null: no limit.
    #[schema(required)]
    pub(crate) max_targets: Option<u64>,
    /// Version of its program.
    #[schema(required)]
    pub(crate) version: Option<String>,
    /// How it is doing.
    pub(crate) status: AgentStatus,
    /// When it was first heard of, RFC 3339 UTC.
    pub(crate) first_seen: String,
    /// When it was last heard of, RFC 3339 UTC.
    pub(crate) last_heartbeat: String,
    /// What it says of itself.
    #[schema(required)]
    pub(crate) telemetry: Option<Telemetry>,
    /// What is wrong with modules that it should run.
    pub(crate) problems: Vec<String>,
}

/// An agent's figures and those of its module instances.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AgentMetrics {
    /// The agent.
    pub(crate) agent: String,
    /// How it is doing.
    pub(crate) status: AgentStatus,
    /// What it says of itself.
    #[schema(required)]
    pub(crate) telemetry: Option<Telemetry>,
    /// Its module instances.
    pub(crate) modules: Vec<ModuleInstance>,
    /// Of them, able to take jobs.
    pub(crate) modules_ready: usize,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AgentsQuery {
    /// Only those doing so.
    status: Option<AgentStatus>,
    /// Only those in this region.
    region: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show, remove)).routes(routes!(metrics))
}

/// List the agents by id
#[utoipa::path(get, path = "/api/v1/agents", tag = "agents", operation_id = "list_agents", params(AgentsQuery),
    responses((status = 200, description = "The agents", body = List<Agent>)))]
async fn list(State(api): State<Api>, Query(query): Query<AgentsQuery>) -> Json<List<Agent>> {
    let agents = api.context.registry.agents(now_us()).into_iter().map(Agent::from);
    let wanted = |agent: &Agent| {
        query.status.is_none_or(|status| agent.status == status)
            && query.region.as_ref().is_none_or(|region| agent.region.as_ref() == Some(region))
    };
    Json(List::whole(agents.filter(wanted).collect()))
}

/// Show an agent
#[utoipa::path(get, path = "/api/v1/agents/{id}", tag = "agents", operation_id = "get_agent",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "The agent", body = Agent)))]
async fn show(
    State(api): State<Api>,
    id: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<Agent>, Problem> {
    Ok(Json(find(&api, &id)?.into()))
}

/// Show an agent's figures
#[utoipa::path(get, path = "/api/v1/agents/{id}/metrics", tag = "agents", operation_id = "get_agent_metrics",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "Its figures", body = AgentMetrics)))]
async fn metrics(
    State(api): State<Api>,
    id: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<AgentMetrics>, Problem> {
    let view = find(&api, &id)?;
    let instances = api.context.registry.instances_of(&view.agent.id, now_us());
    let modules_ready = instances.iter().filter(|i| i.state == ModuleState::Ready).count();
    let agent = Agent::from(view);
    Ok(Json(AgentMetrics {
        agent: agent.id,
        status: agent.status,
        telemetry: agent.telemetry,
        modules: instances.into_iter().map(ModuleInstance::from).collect(),
        modules_ready,
    }))
}

/// Remove an agent and its assignments; it is back with its next heartbeat
#[utoipa::path(delete, path = "/api/v1/agents/{id}", tag = "agents", operation_id = "delete_agent",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "Removed")))]
async fn remove(
    State(api): State<Api>,
    by: Principal,
    id: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<StatusCode, Problem> {
    let agent = find(&api, &id)?.agent.id;
    match api.context.catalog.delete_agent(&agent).await {
        // One that was heard of only now is not in the catalog yet.
        Ok(()) | Err(imn_store::CatalogError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    api.context.registry.forget(&agent);
    api.changed();
    audit::record(&api, &by, "agent.delete", agent.as_str(), &Value::Null).await;
    Ok(StatusCode::NO_CONTENT)
}

fn find(api: &Api, id: &str) -> Result<AgentView, Problem> {
    AgentId::new(id)
        .ok()
        .and_then(|id| api.context.registry.agent(&id, now_us()))
        .ok_or_else(|| Problem::not_found("agent", id))
}

impl From<Liveness> for AgentStatus {
    fn from(liveness: Liveness) -> Self {
        match liveness {
            Liveness::Active => Self::Active,
            Liveness::Degraded => Self::Degraded,
            Liveness::Offline => Self::Offline,
        }
    }
}

impl From<AgentView> for Agent {
    fn from(view: AgentView) -> Self {
        let agent = view.agent;
        let heartbeat = agent.heartbeat;
        let mut modules: Vec<String> =
            heartbeat.iter().flat_map(|h| &h.modules).map(|m| m.kind.to_string()).collect();
        modules.sort();
        modules.dedup();
        Self {
            id: agent.id.to_string(),
            name: agent.name,
            region: agent.region,
            location: agent.location,
            provider: agent.provider,
            tags: agent.tags,
            public_ip: agent.public_ip,
            modules,
            max_targets: agent.max_targets,
            version: heartbeat.as_ref().map(|h| h.version.clone()),
            status: view.liveness.into(),
            first_seen: text::time(agent.first_seen_us),
            last_heartbeat: text::time(agent.last_heartbeat_us),
            problems: heartbeat.as_ref().map(|h| h.problems.clone()).unwrap_or_default(),
            telemetry: heartbeat.map(|h| Telemetry {
                uptime_s: h.uptime_s,
                targets: h.targets,
                rounds_per_s: h.rounds_per_s,
                spool: Spool { bytes: h.spool.bytes, rows: h.spool.rows, oldest_s: h.spool.oldest_s },
                assignment_generation: h.assignment.generation,
                clock_offset_us: h.clock.offset_us,
                clock_synced: h.clock.synced,
                cpu_pct: h.cpu_pct,
                rss_mb: h.rss_mb,
            }),
        }
    }
}

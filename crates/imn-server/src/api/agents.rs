//! `/agents`: who measures, and how they are.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use imn_contract::{AgentId, latest::ModuleState};
use imn_domain::{FieldValue, Fields, LiteralError, Liveness};
use imn_store::Credential;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, audit,
    auth::Principal,
    decode::{Key, Query},
    listing::{ListQuery, Listing, Literal, names, time_value},
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
    /// Its keys were revoked: NATS does not let it in.
    Revoked,
}

/// The key by which an agent comes in.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AgentKey {
    /// The public key, an nkey of a user.
    pub(crate) public_key: String,
    /// When it was last vouched for, RFC 3339 UTC.
    pub(crate) issued: String,
    /// When that ends, RFC 3339 UTC; null: never.
    #[schema(required)]
    pub(crate) expires: Option<String>,
    /// When it was revoked, RFC 3339 UTC.
    #[schema(required)]
    pub(crate) revoked: Option<String>,
}

/// What came of a revocation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Revocation {
    /// The agent.
    pub(crate) agent: String,
    /// `revoked`.
    pub(crate) status: AgentStatus,
    /// When, RFC 3339 UTC.
    #[schema(required)]
    pub(crate) revoked: Option<String>,
    /// Keys that are not let in any more: its own and those of its modules.
    pub(crate) keys: usize,
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
    /// The key by which it comes in; null where this server has vouched for none.
    #[schema(required)]
    pub(crate) key: Option<AgentKey>,
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
    /// AIP-160-like: `status=active AND (region=eu OR tags.pop="jfk") AND modules:icmp`.
    filter: Option<String>,
    /// `field [desc], …`; by id otherwise.
    order_by: Option<String>,
    /// Agents of a page, 1 to 1,000; 100 by default.
    #[param(value_type = Option<u16>)]
    limit: Option<String>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, remove))
        .routes(routes!(metrics))
        .routes(routes!(revoke))
}

/// List agents
///
/// Filtered and ordered by `id`, `name`, `region`, `location`, `provider`, `tags.KEY`, `public_ip`, `modules` (their types),
/// `max_targets`, `version`, `status`, `first_seen`, `last_heartbeat` and the numbers of `telemetry`.
#[utoipa::path(get, path = "/api/v1/agents", tag = "agents", operation_id = "list_agents", params(AgentsQuery),
    responses((status = 200, description = "A page of agents", body = List<Agent>)))]
async fn list(
    State(api): State<Api>,
    Query(query): Query<AgentsQuery>,
) -> Result<Json<List<Agent>>, Problem> {
    let keys = api.context.catalog.credentials(None).await?;
    let keys = keys.iter().filter(|key| key.instance.is_none());
    // Of several keys of an agent, one that is in force counts, else the latest.
    let mut of: BTreeMap<&AgentId, &Credential> = BTreeMap::new();
    for key in keys {
        let known = of.entry(&key.agent).or_insert(key);
        *known = better(known, key);
    }
    let agents = api.context.registry.agents(now_us()).into_iter();
    let agents = agents.map(|view| {
        let key = of.get(&view.agent.id).copied();
        agent(view, key)
    });
    let AgentsQuery { status, region, filter, order_by, limit, page_token } = query;
    let scope = format!("agents\0{}\0{region:?}", status.map_or("", AgentStatus::name));
    let listing = Listing::read::<Agent>(&scope, ListQuery { filter, order_by, limit, page_token })?;
    let wanted = |agent: &Agent| {
        status.is_none_or(|status| agent.status == status)
            && region.as_ref().is_none_or(|region| agent.region.as_ref() == Some(region))
    };
    Ok(Json(listing.page(agents.filter(wanted), |agent| &agent.id)?))
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
    let view = find(&api, &id)?;
    let key = key_of(&api, &view.agent.id).await?;
    Ok(Json(agent(view, key.as_ref())))
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
    let key = key_of(&api, &view.agent.id).await?;
    let agent = agent(view, key.as_ref());
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

/// Revoke an agent's keys and those of its modules: their connections end at once
#[utoipa::path(post, path = "/api/v1/agents/{id}/revoke", tag = "agents", operation_id = "revoke_agent",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "Revoked, and NATS knows", body = Revocation),
              (status = 409, description = "This server has vouched for none of its keys"),
              (status = 503, description = "Revoked, but NATS is away; it is told as soon as it is back")))]
async fn revoke(
    State(api): State<Api>,
    by: Principal,
    id: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<Revocation>, Problem> {
    let agent = AgentId::new(&*id).map_err(|_| Problem::not_found("agent", &id))?;
    // One that was enrolled and never came is not in the registry.
    if api.context.registry.agent(&agent, now_us()).is_none() && key_of(&api, &agent).await?.is_none() {
        return Err(Problem::not_found("agent", &id));
    }
    let revoked = api.context.keys.revoke(&agent).await?;
    api.context.assign.agents_changed();
    let own = revoked.keys.iter().filter(|key| key.instance.is_none());
    let own = own.max_by_key(|key| key.issued_us);
    let detail = json!({ "keys": revoked.keys.iter().map(|key| &key.public_key).collect::<Vec<_>>() });
    audit::record(&api, &by, "agent.revoke", agent.as_str(), &detail).await;
    if let Some(reason) = revoked.untold {
        return Err(Problem::unavailable(format!(
            "{agent} is revoked, but NATS does not know yet and is told again every second: {reason}"
        )));
    }
    Ok(Json(Revocation {
        agent: agent.to_string(),
        status: AgentStatus::Revoked,
        revoked: own.and_then(|key| key.revoked_us).map(text::time),
        keys: revoked.keys.len(),
    }))
}

/// The key by which an agent comes in: one that is in force, else the latest.
async fn key_of(api: &Api, id: &AgentId) -> Result<Option<Credential>, Problem> {
    let keys = api.context.catalog.credentials(Some(id)).await?;
    let own = keys.iter().filter(|key| key.instance.is_none());
    Ok(own.reduce(better).cloned())
}

fn better<'a>(one: &'a Credential, other: &'a Credential) -> &'a Credential {
    let rank = |key: &Credential| (key.revoked_us.is_none(), key.issued_us);
    if rank(other) > rank(one) { other } else { one }
}

fn find(api: &Api, id: &str) -> Result<AgentView, Problem> {
    AgentId::new(id)
        .ok()
        .and_then(|id| api.context.registry.agent(&id, now_us()))
        .ok_or_else(|| Problem::not_found("agent", id))
}

impl AgentStatus {
    const NAMES: [&str; 4] = ["active", "degraded", "offline", "revoked"];

    fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Offline => "offline",
            Self::Revoked => "revoked",
        }
    }
}

impl Fields for Agent {
    fn literal(path: &[String], text: &str) -> Result<FieldValue, LiteralError> {
        let literal = match names(path).as_slice() {
            ["id" | "name" | "region" | "location" | "provider" | "public_ip" | "modules" | "version"]
            | ["tags", _] => Literal::Text,
            ["status"] => Literal::OneOf(&AgentStatus::NAMES),
            ["max_targets"]
            | ["telemetry", "uptime_s" | "targets" | "rounds_per_s" | "cpu_pct" | "rss_mb"] => {
                Literal::Number
            }
            ["first_seen" | "last_heartbeat"] => Literal::Time,
            _ => return Err(LiteralError::UnknownField),
        };
        literal.read(text)
    }

    fn value(&self, path: &[String]) -> Option<FieldValue> {
        let text = match names(path).as_slice() {
            ["id"] => self.id.clone(),
            ["name"] => self.name.clone()?,
            ["region"] => self.region.clone()?,
            ["location"] => self.location.clone()?,
            ["provider"] => self.provider.clone()?,
            ["public_ip"] => self.public_ip.clone()?,
            ["modules"] => self.modules.join(" "),
            ["version"] => self.version.clone()?,
            ["tags", tag] => self.tags.get(*tag)?.clone(),
            ["status"] => self.status.name().to_owned(),
            ["max_targets"] => return self.max_targets.map(|max| FieldValue::Number(max as f64)),
            ["first_seen"] => return time_value(&self.first_seen),
            ["last_heartbeat"] => return time_value(&self.last_heartbeat),
            ["telemetry", figure] => {
                let telemetry = self.telemetry.as_ref()?;
                let number = match *figure {
                    "uptime_s" => telemetry.uptime_s as f64,
                    "targets" => telemetry.targets as f64,
                    "rounds_per_s" => telemetry.rounds_per_s,
                    "cpu_pct" => telemetry.cpu_pct,
                    "rss_mb" => telemetry.rss_mb,
                    _ => return None,
                };
                return Some(FieldValue::Number(number));
            }
            _ => return None,
        };
        Some(FieldValue::Text(text))
    }

    fn is_sortable(path: &[String]) -> bool {
        Self::literal(path, "*") != Err(LiteralError::UnknownField)
    }
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

fn agent(view: AgentView, key: Option<&Credential>) -> Agent {
    let agent = view.agent;
    let heartbeat = agent.heartbeat;
    let mut modules: Vec<String> =
        heartbeat.iter().flat_map(|h| &h.modules).map(|m| m.kind.to_string()).collect();
    modules.sort();
    modules.dedup();
    let revoked = key.is_some_and(|key| key.revoked_us.is_some());
    Agent {
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
        status: if revoked { AgentStatus::Revoked } else { view.liveness.into() },
        first_seen: text::time(agent.first_seen_us),
        last_heartbeat: text::time(agent.last_heartbeat_us),
        key: key.map(|key| AgentKey {
            public_key: key.public_key.clone(),
            issued: text::time(key.issued_us),
            expires: key.expires_us.map(text::time),
            revoked: key.revoked_us.map(text::time),
        }),
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

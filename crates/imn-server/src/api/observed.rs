//! What was measured of one target: `/status`, `/history`, `/results`, `/gaps`, `/state-history`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use imn_contract::{AgentId, ModuleType, canonical_type};
use imn_domain::Consensus;
use imn_store::{GapQuery, Order, Results, ResultsError, RoundQuery, RoundRow};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    decode::{Key, Query},
    history::{Bucket, History},
    page::{self, List},
    problem::Problem,
    rounds::{Gap, Round, Scan},
    target::MonitoringState,
    targets::{find, find_id},
    text,
    tiers::Nothing,
    why::{Unmeasured, unmeasured},
};
use crate::clock::now_us;

const NDJSON: &str = "application/x-ndjson";
/// Rounds read at once for an export or an aggregation.
const CHUNK: usize = 5_000;
/// Rounds read first for an export, and bytes of a part of it that are enough: a round can be as long as a message.
const FIRST_CHUNK: usize = 250;
const PART_BYTES: usize = 4 << 20;
/// What `/history` shows when the request does not say, in microseconds.
const DEFAULT_RANGE_US: i64 = 3_600_000_000;
/// Steps of `/history` when the request does not say how long one is.
const DEFAULT_STEPS: i64 = 240;
/// Most steps of one answer.
const MAX_STEPS: i64 = 20_000;
/// Steps that people like, in milliseconds.
const ROUND_STEPS_MS: [u64; 15] = [
    1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000,
    3_600_000, 21_600_000, 86_400_000,
];

/// The latest round of one agent and type.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PairStatus {
    /// The agent.
    pub(crate) agent: String,
    /// Module type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// When the round was due, RFC 3339 UTC.
    pub(crate) due: String,
    /// When its first packet was sent, RFC 3339 UTC.
    pub(crate) time: String,
    /// Packets sent.
    pub(crate) sent: u32,
    /// Packets received.
    pub(crate) received: u32,
    /// Packets of which nothing can be said.
    pub(crate) unknown: u32,
    /// Whether the measurement succeeded.
    pub(crate) success: bool,
    /// Mean round-trip time, in milliseconds.
    #[schema(required)]
    pub(crate) rtt_ms: Option<f64>,
    /// lost / (sent − unknown), in percent.
    #[schema(required)]
    pub(crate) loss_pct: Option<f64>,
    /// What went wrong.
    #[schema(required)]
    pub(crate) error: Option<String>,
    /// Whether the round is recent enough to say anything about now.
    pub(crate) fresh: bool,
}

/// How a target is doing.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TargetStatus {
    /// The target's id.
    pub(crate) target: String,
    /// Its address.
    pub(crate) address: String,
    /// Its tier.
    pub(crate) tier: String,
    /// `reachable`, `unreachable`, `degraded` or `unknown`: what the agents say together, now.
    #[schema(value_type = String)]
    pub(crate) consensus: Consensus,
    /// How it is doing, over time.
    pub(crate) monitoring_state: MonitoringState,
    /// Why.
    #[schema(required)]
    pub(crate) state_reason: Option<String>,
    /// Since when, RFC 3339 UTC.
    pub(crate) state_since: String,
    /// Agents assigned.
    pub(crate) agents_assigned: usize,
    /// Of them, with a fresh round.
    pub(crate) agents_fresh: usize,
    /// The latest rounds, by agent and type.
    pub(crate) agents: Vec<PairStatus>,
    /// What keeps it from being measured as its tier demands; empty when nothing does.
    pub(crate) unmet: Vec<Unmeasured>,
}

/// Rounds aggregated over steps of time.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct HistoryView {
    /// The steps that have rounds, by type, time and agent.
    pub(crate) items: Vec<Bucket>,
    /// Length of a step.
    pub(crate) step: String,
    /// Begin, RFC 3339 UTC.
    pub(crate) from: String,
    /// End, not included, RFC 3339 UTC.
    pub(crate) to: String,
    /// Always null: there is one page.
    #[schema(required)]
    pub(crate) next_page_token: Option<String>,
}

/// A transition of a target's monitoring state.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct StateTransition {
    /// The target's id.
    pub(crate) target: String,
    /// When, RFC 3339 UTC.
    pub(crate) time: String,
    /// The state left.
    pub(crate) from: MonitoringState,
    /// The state reached.
    pub(crate) to: MonitoringState,
    /// Why.
    pub(crate) reason: String,
}

/// Which rounds to aggregate.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryQuery {
    /// Rounds due at or after this time, RFC 3339; an hour before `to` by default.
    from: Option<String>,
    /// Rounds due before this time, RFC 3339; now by default.
    to: Option<String>,
    /// Length of a step, at least `1s`; chosen by the range otherwise.
    step: Option<String>,
    /// Only by this agent.
    agent: Option<String>,
    /// Only of this type or alias.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Which rounds.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ResultsQuery {
    /// Rounds due at or after this time, RFC 3339.
    from: Option<String>,
    /// Rounds due before this time, RFC 3339.
    to: Option<String>,
    /// Only by this agent.
    agent: Option<String>,
    /// Only of this type or alias.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// `due desc` (newest first, the default) or `due`. An export is in order of `due`.
    order_by: Option<String>,
    /// Rounds of a page, 1 to 1,000; 100 by default. An export has no pages.
    #[param(value_type = Option<u16>)]
    limit: Option<String>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// Which gaps.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GapsQuery {
    /// Gaps that end at or after this time, RFC 3339.
    from: Option<String>,
    /// Gaps that begin before this time, RFC 3339.
    to: Option<String>,
    /// Only by this agent.
    agent: Option<String>,
    /// Gaps at most, 1 to 1,000; 100 by default.
    #[param(value_type = Option<u16>)]
    limit: Option<String>,
}

/// How many transitions.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatesQuery {
    /// Transitions at most, 1 to 1,000; 100 by default.
    #[param(value_type = Option<u16>)]
    limit: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(history))
        .routes(routes!(results))
        .routes(routes!(gaps))
        .routes(routes!(state_history))
}

/// Show how a target is doing now
#[utoipa::path(get, path = "/api/v1/targets/{id}/status", tag = "targets", operation_id = "get_target_status",
    params(("id" = String, Path, description = "Its id or its address, percent-encoded")),
    responses((status = 200, description = "Its status", body = TargetStatus)))]
async fn status(
    State(api): State<Api>,
    id: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<TargetStatus>, Problem> {
    let target = find(&api, &id).await?;
    let now = now_us();
    let board = api.context.board.status(&target.id, now);
    let rounds = board.as_ref().map(|board| board.pairs.as_slice()).unwrap_or_default();
    let unmet = unmeasured(&api, &target, rounds, now);
    let mut status = TargetStatus {
        target: target.id.to_string(),
        address: target.address,
        tier: target.tier,
        consensus: Consensus::Unknown,
        monitoring_state: target.monitoring_state.into(),
        state_reason: target.state_reason,
        state_since: text::time(target.state_since_us),
        agents_assigned: 0,
        agents_fresh: 0,
        agents: Vec::new(),
        unmet,
    };
    // The board is ahead of the catalog, except about what it does not measure.
    if let Some(board) = board {
        status.consensus = board.consensus;
        if board.monitoring_state != target.monitoring_state {
            status.monitoring_state = board.monitoring_state.into();
            status.state_since = text::time(board.state_since_us);
            status.state_reason = None;
        }
        status.agents_assigned = board.assigned;
        status.agents_fresh = board.fresh;
        status.agents = board.pairs.into_iter().map(PairStatus::from).collect();
    }
    Ok(Json(status))
}

/// Show a target's rounds aggregated over steps of time
#[utoipa::path(get, path = "/api/v1/targets/{id}/history", tag = "targets", operation_id = "get_target_history",
    params(("id" = String, Path, description = "Its id or its address, percent-encoded; the id also once it was removed"), HistoryQuery),
    responses((status = 200, description = "The steps that have rounds", body = HistoryView)))]
async fn history(
    State(api): State<Api>,
    id: Key,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<HistoryView>, Problem> {
    let to = text::time_field("to", query.to.as_deref())?.unwrap_or_else(now_us);
    let from =
        text::time_field("from", query.from.as_deref())?.unwrap_or(to.saturating_sub(DEFAULT_RANGE_US));
    ordered(from, to)?;
    let step_ms = step(query.step.as_deref(), to.saturating_sub(from))?;
    let agent = agent(query.agent.as_deref())?;
    let kind = kind(query.kind.as_deref())?;
    let target = find_id(&api, &id).await?;
    let mut scan = Scan::new(
        RoundQuery {
            target: Some(target),
            agent,
            kind,
            from_us: Some(from),
            to_us: Some(to),
            brief: true,
            limit: None,
            order: Order::Ascending,
        },
        None,
    );
    // Types are never mixed: a connect time and an echo are no one distribution.
    let mut by_type: BTreeMap<ModuleType, History> = BTreeMap::new();
    loop {
        let rows = scan.next(&*api.context.results, CHUNK).await?;
        for row in &rows {
            by_type.entry(row.kind.clone()).or_insert_with(|| History::new(step_ms as i64 * 1000)).take(row);
        }
        if rows.len() < CHUNK {
            break;
        }
    }
    Ok(Json(HistoryView {
        items: by_type.into_values().flat_map(History::finish).collect(),
        step: text::duration(step_ms),
        from: text::time(from),
        to: text::time(to),
        next_page_token: None,
    }))
}

/// List a target's rounds
///
/// With `Accept: application/x-ndjson` all that match are streamed, one per line, oldest first; the last line is
/// `{"count": n}`, without which the export is not complete.
#[utoipa::path(get, path = "/api/v1/targets/{id}/results", tag = "targets", operation_id = "list_target_results",
    params(("id" = String, Path, description = "Its id or its address, percent-encoded; the id also once it was removed"), ResultsQuery),
    responses((status = 200, description = "A page of rounds, or all of them", content(
        (List<Round> = "application/json"), (String = "application/x-ndjson")))))]
async fn results(
    State(api): State<Api>,
    id: Key,
    headers: HeaderMap,
    Query(query): Query<ResultsQuery>,
) -> Result<Response, Problem> {
    let from_us = text::time_field("from", query.from.as_deref())?;
    let to_us = text::time_field("to", query.to.as_deref())?;
    ordered(from_us.unwrap_or(i64::MIN), to_us.unwrap_or(i64::MAX))?;
    let order = match query.order_by.as_deref() {
        None | Some("due desc") => Order::Descending,
        Some("due" | "due asc") => Order::Ascending,
        Some(_) => return Err(Problem::field("order_by", "rounds are ordered by \"due\" or \"due desc\"")),
    };
    let limit = page::limit(query.limit.as_deref())?;
    let agent = agent(query.agent.as_deref())?;
    let kind = kind(query.kind.as_deref())?;
    let target = find_id(&api, &id).await?;
    let question = format!("results\0{target}\0{from_us:?}\0{to_us:?}\0{agent:?}\0{kind:?}\0{order:?}");
    let rounds =
        RoundQuery { target: Some(target), agent, kind, from_us, to_us, brief: false, limit: None, order };
    if wants_ndjson(&headers) {
        let rounds = RoundQuery { order: Order::Ascending, ..rounds };
        return Ok(export(api.context.results.clone(), rounds));
    }
    let after = page::after(&question, query.page_token.as_deref())?;
    let mut scan = Scan::new(rounds, after);
    let mut rows = scan.next(&*api.context.results, limit).await?;
    let next_page_token = if rows.len() == limit {
        let token = scan.cursor().and_then(|cursor| page::token(&question, cursor.clone()));
        let more = !scan.next(&*api.context.results, 1).await?.is_empty();
        token.filter(|_| more)
    } else {
        None
    };
    let items = rows.drain(..).map(Round::from).collect();
    Ok(Json(List { items, next_page_token }).into_response())
}

/// List a target's gaps: rounds that were due and could not be made
#[utoipa::path(get, path = "/api/v1/targets/{id}/gaps", tag = "targets", operation_id = "list_target_gaps",
    params(("id" = String, Path, description = "Its id or its address, percent-encoded; the id also once it was removed"), GapsQuery),
    responses((status = 200, description = "The gaps, oldest first", body = List<Gap>)))]
async fn gaps(
    State(api): State<Api>,
    id: Key,
    Query(query): Query<GapsQuery>,
) -> Result<Json<List<Gap>>, Problem> {
    let query = GapQuery {
        from_us: text::time_field("from", query.from.as_deref())?,
        to_us: text::time_field("to", query.to.as_deref())?,
        agent: agent(query.agent.as_deref())?,
        limit: Some(page::limit(query.limit.as_deref())?),
        target: Some(find_id(&api, &id).await?),
    };
    let gaps = api.context.results.gaps(&query).await?;
    Ok(Json(List::whole(gaps.into_iter().map(Gap::from).collect())))
}

/// List a target's transitions, newest first
#[utoipa::path(get, path = "/api/v1/targets/{id}/state-history", tag = "targets", operation_id = "list_target_states",
    params(("id" = String, Path, description = "Its id or its address, percent-encoded"), StatesQuery),
    responses((status = 200, description = "The transitions", body = List<StateTransition>)))]
async fn state_history(
    State(api): State<Api>,
    id: Key,
    Query(query): Query<StatesQuery>,
) -> Result<Json<List<StateTransition>>, Problem> {
    let limit = page::limit(query.limit.as_deref())?;
    let target = find(&api, &id).await?;
    let changes = api.context.catalog.state_history(&target.id, limit).await?;
    Ok(Json(List::whole(changes.into_iter().map(StateTransition::from).collect())))
}

fn ordered(from_us: i64, to_us: i64) -> Result<(), Problem> {
    if from_us < to_us { Ok(()) } else { Err(Problem::field("from", "is not before to")) }
}

fn agent(text: Option<&str>) -> Result<Option<AgentId>, Problem> {
    text.map(AgentId::new).transpose().map_err(|error| Problem::field("agent", error.to_string()))
}

fn kind(text: Option<&str>) -> Result<Option<ModuleType>, Problem> {
    let kind = text.map(|text| ModuleType::new(canonical_type(text))).transpose();
    kind.map_err(|error| Problem::field("type", error.to_string()))
}

/// The step in milliseconds.
fn step(given: Option<&str>, range_us: i64) -> Result<u64, Problem> {
    let Some(ms) = text::duration_field("step", given)? else {
        let wanted = (range_us / 1000 / DEFAULT_STEPS).max(1) as u64;
        let longest = ROUND_STEPS_MS[ROUND_STEPS_MS.len() - 1];
        let found = ROUND_STEPS_MS.into_iter().find(|step| *step >= wanted);
        return Ok(found.unwrap_or_else(|| wanted.div_ceil(longest) * longest));
    };
    if ms < 1_000 {
        return Err(Problem::field("step", "is shorter than 1s"));
    }
    let steps = range_us / 1000 / i64::try_from(ms).unwrap_or(i64::MAX);
    if steps > MAX_STEPS {
        return Err(Problem::field(
            "step",
            format!("makes {steps} steps of this range; at most {MAX_STEPS}"),
        ));
    }
    Ok(ms)
}

fn wants_ndjson(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|accept| {
        accept.split(',').any(|range| range.split(';').next().is_some_and(|media| media.trim() == NDJSON))
    })
}

/// Streams all rounds that match, then their number.
fn export(results: Arc<dyn Results>, query: RoundQuery) -> Response {
    let start = Some((Scan::new(query, None), 0u64, FIRST_CHUNK));
    let lines = stream::try_unfold(start, move |state| {
        let results = results.clone();
        async move {
            let Some((mut scan, count, chunk)) = state else { return Ok(None) };
            let rows = scan.next(&*results, chunk).await?;
            let read = rows.len();
            let count = count + read as u64;
            let mut text = lines(rows);
            let next = if read < chunk {
                text.extend_from_slice(format!("{{\"count\":{count}}}\n").as_bytes());
                None
            } else {
                let row_bytes = (text.len() / read.max(1)).max(1);
                Some((scan, count, (PART_BYTES / row_bytes).clamp(1, CHUNK)))
            };
            Ok::<_, ResultsError>(Some((Bytes::from(text), next)))
        }
    });
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}

fn lines(rows: Vec<RoundRow>) -> Vec<u8> {
    let mut text = Vec::with_capacity(rows.len() * 512);
    for row in rows {
        // Writing plain values to memory cannot fail.
        let _ = serde_json::to_writer(&mut text, &Round::from(row));
        text.push(b'\n');
    }
    text
}

impl From<crate::status::PairStatus> for PairStatus {
    fn from(pair: crate::status::PairStatus) -> Self {
        Self {
            agent: pair.agent.to_string(),
            kind: pair.kind.to_string(),
            due: text::time(pair.due_us),
            time: text::time(pair.time_us),
            sent: pair.sent,
            received: pair.received,
            unknown: pair.unknown,
            success: pair.success,
            rtt_ms: pair.rtt_avg_us.map(|us| us.round() / 1e3),
            loss_pct: pair.loss_pct,
            error: pair.error,
            fresh: pair.fresh,
        }
    }
}

impl From<imn_store::StateChange> for StateTransition {
    fn from(change: imn_store::StateChange) -> Self {
        Self {
            target: change.target.to_string(),
            time: text::time(change.time_us),
            from: change.from.into(),
            to: change.to.into(),
            reason: change.reason,
        }
    }
}

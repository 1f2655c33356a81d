//! `/live`: what happens, as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    response::sse::{Event as Sse, KeepAlive, KeepAliveStream},
};
use futures::{Stream, StreamExt, stream};
use imn_contract::TargetId;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    bgp::BgpFinding,
    decode::{Key, Query},
    observed::StateTransition,
    problem::Problem,
    rounds::Round,
    targets::find,
    tiers::Nothing,
};
use crate::live::{Event, Item, Watcher};

/// How often a silent stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

type Events<S> = axum::response::Sse<KeepAliveStream<S>>;

/// What to watch.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LiveQuery {
    /// Only this target's, by id or address; results of jobs are then left out.
    target: Option<String>,
}

/// Events that a watcher missed because it was too slow.
#[derive(Serialize)]
struct Dropped {
    count: u64,
}

struct Live {
    watcher: Watcher,
    only: Option<TargetId>,
    stop: imn_runtime::task::Stop,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(of_target)).routes(routes!(of_all))
}

/// Watch a target's rounds as they are committed
///
/// Server-sent events: `round` and `state` with the same objects as `/results` and `/state-history`, `bgp` with
/// findings as `/bgp` has them, `dropped` with
/// the number of events missed by a slow reader. The stream ends when the server stops.
#[utoipa::path(get, path = "/api/v1/targets/{id}/live", tag = "targets", operation_id = "watch_target",
    params(("id" = String, Path, description = "Its id or its address, percent-encoded")),
    responses((status = 200, description = "The events", body = String, content_type = "text/event-stream")))]
async fn of_target(
    State(api): State<Api>,
    id: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Events<impl Stream<Item = Result<Sse, Infallible>>>, Problem> {
    let target = find(&api, &id).await?;
    Ok(events(&api, Some(target.id)))
}

/// Watch all rounds, transitions and results of jobs
///
/// Server-sent events: `round`, `state`, `bgp`, `result` (as on `mmn.jobs.result.{job}`) and `dropped`.
#[utoipa::path(get, path = "/api/v1/live", tag = "live", operation_id = "watch", params(LiveQuery),
    responses((status = 200, description = "The events", body = String, content_type = "text/event-stream")))]
async fn of_all(
    State(api): State<Api>,
    Query(query): Query<LiveQuery>,
) -> Result<Events<impl Stream<Item = Result<Sse, Infallible>>>, Problem> {
    let only = match query.target {
        Some(target) => Some(find(&api, &target).await?.id),
        None => None,
    };
    Ok(events(&api, only))
}

fn events(api: &Api, only: Option<TargetId>) -> Events<impl Stream<Item = Result<Sse, Infallible>> + use<>> {
    let live = Live { watcher: api.context.live.watch(), only, stop: api.context.stop.clone() };
    let batches = stream::unfold(live, |mut live| async move {
        let item = live.stop.until(live.watcher.next()).await.flatten()?;
        Some((stream::iter(written(item, live.only.as_ref())), live))
    });
    // The first comment tells the client that it misses nothing from here on.
    let begin = stream::iter([Sse::default().comment("watching")]);
    let stream = begin.chain(batches.flatten()).map(Ok);
    axum::response::Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn written(item: Item, only: Option<&TargetId>) -> Vec<Sse> {
    let wanted = |target: &TargetId| only.is_none_or(|only| only == target);
    match item {
        Item::Event(Event::Rounds(rounds)) => rounds
            .iter()
            .filter(|round| wanted(&round.target))
            .filter_map(|round| event("round", &Round::from(round.clone())))
            .collect(),
        Item::Event(Event::States(changes)) => changes
            .iter()
            .filter(|change| wanted(&change.target))
            .filter_map(|change| event("state", &StateTransition::from(change.clone())))
            .collect(),
        Item::Event(Event::Routing(found)) => found
            .iter()
            .filter(|found| wanted(&found.target))
            .filter_map(|found| event("bgp", &BgpFinding::from(found)))
            .collect(),
        Item::Event(Event::Result(result)) if only.is_none() => {
            event("result", &*result).into_iter().collect()
        }
        Item::Event(Event::Result(_)) => Vec::new(),
        Item::Dropped(count) => event("dropped", &Dropped { count }).into_iter().collect(),
    }
}

fn event(name: &str, data: &impl Serialize) -> Option<Sse> {
    Sse::default().event(name).json_data(data).ok()
}

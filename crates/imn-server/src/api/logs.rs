//! `/modules/{type}/logs`: what modules have written, and what they write.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    response::sse::{Event as Sse, KeepAlive, KeepAliveStream},
};
use futures::{Stream, StreamExt, stream};
use imn_contract::{canonical_type, latest::ModuleLog};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    decode::{Key, Query},
    page::List,
    problem::Problem,
};
use crate::clock::now_us;

/// How often a silent stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Lines that are shown of what was written before, unless asked for otherwise.
const LINES: usize = 100;
const MOST_LINES: usize = 10_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogsQuery {
    /// Lines of before at most, 0 to 10,000; 100 by default.
    #[param(value_type = Option<u16>)]
    lines: Option<String>,
}

/// A line that a module's process has written.
#[derive(Serialize, ToSchema)]
pub(crate) struct LogLine {
    agent: String,
    instance: String,
    #[serde(rename = "type")]
    kind: String,
    /// `stdout` or `stderr`.
    stream: String,
    /// error, warn, info, debug or trace, where the line says so.
    #[schema(required)]
    level: Option<String>,
    message: String,
    /// RFC 3339 UTC.
    time: String,
    /// Counts the lines of the instance that its agent has told.
    seq: u64,
    /// Lines before it that were too many to be told.
    dropped: u64,
}

impl From<&ModuleLog> for LogLine {
    fn from(line: &ModuleLog) -> Self {
        Self {
            agent: line.agent.to_string(),
            instance: line.instance.to_string(),
            kind: line.kind.to_string(),
            stream: serde_json::to_value(line.stream)
                .ok()
                .and_then(|name| name.as_str().map(str::to_owned))
                .unwrap_or_default(),
            level: line.level.clone(),
            message: line.message.clone(),
            time: line.time.clone(),
            seq: line.seq,
            dropped: line.dropped,
        }
    }
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(live))
}

/// List the latest lines that modules have written
///
/// The server keeps 200 lines of each instance, those that it has heard since it began.
#[utoipa::path(get, path = "/api/v1/modules/{type}/logs", tag = "modules", operation_id = "list_module_logs",
    params(("type" = String, Path, description = "A type, an alias or an instance"), LogsQuery),
    responses((status = 200, description = "The lines, oldest first", body = List<LogLine>)))]
async fn list(
    State(api): State<Api>,
    of: Key,
    Query(query): Query<LogsQuery>,
) -> Result<Json<List<LogLine>>, Problem> {
    let (lines, _) = follow(&api, &of, &query)?;
    Ok(Json(List::whole(lines.iter().map(|line| LogLine::from(&**line)).collect())))
}

/// Watch what modules write
///
/// Server-sent events: `line`, first those of before, and `dropped` with the number of lines missed by a slow reader.
#[utoipa::path(get, path = "/api/v1/modules/{type}/logs/live", tag = "modules", operation_id = "watch_module_logs",
    params(("type" = String, Path, description = "A type, an alias or an instance"), LogsQuery),
    responses((status = 200, description = "The events", body = String, content_type = "text/event-stream")))]
async fn live(
    State(api): State<Api>,
    of: Key,
    Query(query): Query<LogsQuery>,
) -> Result<axum::response::Sse<KeepAliveStream<impl Stream<Item = Result<Sse, Infallible>>>>, Problem> {
    let (before, receiver) = follow(&api, &of, &query)?;
    let following =
        Following { before: before.into(), receiver, of: of.to_string(), stop: api.context.stop.clone() };
    let events =
        stream::unfold(following, |mut following| async move { Some((following.next().await?, following)) });
    // The first comment tells the client that it misses nothing from here on.
    let begin = stream::iter([Sse::default().comment("watching")]);
    let stream = begin.chain(events).map(Ok);
    Ok(axum::response::Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

struct Following {
    before: VecDeque<Arc<ModuleLog>>,
    receiver: Receiver<Arc<ModuleLog>>,
    of: String,
    stop: imn_runtime::task::Stop,
}

impl Following {
    async fn next(&mut self) -> Option<Sse> {
        if let Some(line) = self.before.pop_front() {
            return event("line", &LogLine::from(&*line));
        }
        loop {
            match self.stop.until(self.receiver.recv()).await? {
                Ok(line) if is_of(&line, &self.of) => return event("line", &LogLine::from(&*line)),
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => return event("dropped", &json!({ "count": count })),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn event(name: &str, data: &impl Serialize) -> Option<Sse> {
    Sse::default().event(name).json_data(data).ok()
}

type Lines = (Vec<Arc<ModuleLog>>, Receiver<Arc<ModuleLog>>);

fn follow(api: &Api, of: &str, query: &LogsQuery) -> Result<Lines, Problem> {
    let most = match query.lines.as_deref().map(str::parse) {
        None => LINES,
        Some(Ok(most @ 0..=MOST_LINES)) => most,
        Some(_) => return Err(Problem::field("lines", format!("write a number, 0 to {MOST_LINES}"))),
    };
    let (lines, receiver) = api.context.logs.follow(|line| is_of(line, of), most);
    let instances = api.context.registry.instances(now_us());
    let known = |instance: &crate::registry::Instance| {
        instance.instance.as_str() == of || instance.kind.as_str() == canonical_type(of)
    };
    if lines.is_empty() && !instances.iter().any(known) {
        return Err(Problem::not_found("module type or instance", of));
    }
    Ok((lines, receiver))
}

fn is_of(line: &ModuleLog, of: &str) -> bool {
    line.instance.as_str() == of || line.kind.as_str() == canonical_type(of)
}

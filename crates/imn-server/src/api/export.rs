//! `targets:export`: all targets, in a form that an import takes back.

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use imn_domain as domain;
use imn_store::CatalogError;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    decode::Query,
    import::{CSV_COUNT, Trailer},
    policy::ExpectedOutcome,
    problem::Problem,
    target::Target,
    targets::filter,
};

/// Targets read at once.
const CHUNK: usize = 2_000;
/// What is written of a target as CSV: all that users decide, and its state.
const COLUMNS: [&str; 8] =
    ["address", "kind", "display_name", "tier", "tags", "params", "expected_outcome", "monitoring_state"];

/// Which targets to export, and how.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// As of the list of targets.
    filter: Option<String>,
    /// `ndjson` or `csv`; by default what `Accept` asks for, else `ndjson`.
    format: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Ndjson,
    Csv,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(export))
}

/// Stream all targets, one per line, and their number
///
/// The last line is `{"count": n}`, of CSV `# count=n`: without it the export is not complete. An import takes it back as
/// it is.
#[utoipa::path(get, path = "/api/v1/targets:export", tag = "targets", operation_id = "export_targets", params(ExportQuery),
    responses((status = 200, description = "The targets, by id", content(
        (String = "application/x-ndjson"), (String = "text/csv")))))]
async fn export(
    State(api): State<Api>,
    headers: HeaderMap,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Problem> {
    let filter = filter(query.filter.as_deref())?;
    let format = match query.format.as_deref() {
        None => accepted(&headers),
        Some("ndjson") => Format::Ndjson,
        Some("csv") => Format::Csv,
        Some(_) => return Err(Problem::field("format", "is neither ndjson nor csv")),
    };
    let catalog = api.context.catalog.clone();
    let lines = stream::try_unfold(Some((None::<String>, 0usize)), move |state| {
        let (catalog, filter) = (catalog.clone(), filter.clone());
        async move {
            let Some((after, mut count)) = state else { return Ok(None) };
            let page = catalog.targets(after.as_deref(), CHUNK).await?;
            let mut text = if after.is_none() { format.head() } else { String::new() };
            for target in page.items.into_iter().filter(|target| filter.matches(target)) {
                count += 1;
                text.push_str(&format.line(target));
            }
            if page.next.is_none() {
                text.push_str(&format.end(count));
            }
            Ok::<_, CatalogError>(Some((Bytes::from(text), page.next.map(|next| (Some(next), count)))))
        }
    });
    Ok(([(header::CONTENT_TYPE, format.media())], Body::from_stream(lines)).into_response())
}

/// The first form of `Accept` that there is.
fn accepted(headers: &HeaderMap) -> Format {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut media =
        accept.flat_map(|text| text.split(',')).map(|range| range.split(';').next().unwrap_or("").trim());
    let form = |media: &str| match media {
        "text/csv" => Some(Format::Csv),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Format::Ndjson),
        _ => None,
    };
    media.find_map(form).unwrap_or(Format::Ndjson)
}

impl Format {
    fn media(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
        }
    }

    fn head(self) -> String {
        match self {
            Self::Ndjson => String::new(),
            Self::Csv => record(&COLUMNS.map(str::to_owned)),
        }
    }

    fn line(self, target: domain::Target) -> String {
        match self {
            Self::Ndjson => json(&Target::from(target)) + "\n",
            Self::Csv => cells(target),
        }
    }

    fn end(self, count: usize) -> String {
        match self {
            Self::Ndjson => json(&Trailer { count }) + "\n",
            Self::Csv => format!("{CSV_COUNT}{count}\n"),
        }
    }
}

fn cells(target: domain::Target) -> String {
    let expected = target.expected_outcome.map(ExpectedOutcome::from);
    record(&[
        target.address,
        target.kind.as_str().to_owned(),
        target.display_name.unwrap_or_default(),
        target.tier,
        if target.tags.is_empty() { String::new() } else { json(&target.tags) },
        if target.params.is_empty() { String::new() } else { json(&target.params) },
        expected.map(|expected| json(&expected)).unwrap_or_default(),
        target.monitoring_state.as_str().to_owned(),
    ])
}

/// One line of CSV, quoted where it must be.
fn record(cells: &[String]) -> String {
    let quoted = |cell: &String| {
        if cell.contains(['"', ',', '\r', '\n']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.clone()
        }
    };
    cells.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

fn json(value: &impl Serialize) -> String {
    // Plain values always serialize.
    serde_json::to_string(value).unwrap_or_default()
}

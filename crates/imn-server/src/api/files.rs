//! `/results/files` and `/results:compact`: the store's Parquet files.

use axum::{Json, extract::State};
use imn_store::SegmentFile;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, audit, auth::Principal, decode::Query, page::List, problem::Problem, text, tiers::Nothing};

/// A live Parquet file of the store.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ResultFile {
    /// Where it is, on the server's host.
    pub(crate) path: String,
    /// Module type of its rounds, or `gap`.
    pub(crate) table: String,
    /// Least due time within, RFC 3339 UTC.
    pub(crate) min_due: String,
    /// Greatest due time within, RFC 3339 UTC.
    pub(crate) max_due: String,
    /// Rows.
    pub(crate) rows: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// What there is after a compaction.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Compacted {
    /// Live files.
    pub(crate) files: usize,
    /// Rows in them.
    pub(crate) rows: u64,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FilesQuery {
    /// Rounds due at or after this time, RFC 3339.
    from: Option<String>,
    /// Rounds due before this time, RFC 3339.
    to: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(compact))
}

/// List the live Parquet files that hold rounds of a time
#[utoipa::path(get, path = "/api/v1/results/files", tag = "results", operation_id = "list_result_files", params(FilesQuery),
    responses((status = 200, description = "The files; what is not yet in a file is not listed", body = List<ResultFile>)))]
async fn list(
    State(api): State<Api>,
    Query(query): Query<FilesQuery>,
) -> Result<Json<List<ResultFile>>, Problem> {
    let from = text::time_field("from", query.from.as_deref())?.unwrap_or(i64::MIN);
    let to = text::time_field("to", query.to.as_deref())?.unwrap_or(i64::MAX);
    let files = api.context.results.files(from, to).await?;
    Ok(Json(List::whole(files.into_iter().map(ResultFile::from).collect())))
}

/// Move everything committed to Parquet now
#[utoipa::path(post, path = "/api/v1/results:compact", tag = "results", operation_id = "compact_results",
    responses((status = 200, description = "Done", body = Compacted)))]
async fn compact(
    State(api): State<Api>,
    by: Principal,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<Compacted>, Problem> {
    api.context.results.compact().await?;
    audit::record(&api, &by, "results.compact", "results", &Value::Null).await;
    let files = api.context.results.files(i64::MIN, i64::MAX).await?;
    Ok(Json(Compacted { files: files.len(), rows: files.iter().map(|file| file.rows).sum() }))
}

impl From<SegmentFile> for ResultFile {
    fn from(file: SegmentFile) -> Self {
        Self {
            path: file.path.display().to_string(),
            table: file.table,
            min_due: text::time(file.min_due_us),
            max_due: text::time(file.max_due_us),
            rows: file.rows,
            bytes: file.bytes,
        }
    }
}

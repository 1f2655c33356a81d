//! The audit log: who changed what.

use axum::{Json, extract::State};
use imn_store::AuditEntry;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    auth::Principal,
    decode::Query,
    page::{self, List},
    problem::Problem,
    text,
};
use crate::clock::now_us;

/// One change.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AuditRecord {
    /// When, RFC 3339 UTC.
    pub(crate) time: String,
    /// Who, for example `key:4f1d2a90c3b7`.
    pub(crate) actor: String,
    /// What was done, for example `target.create`.
    pub(crate) action: String,
    /// To what.
    pub(crate) subject: String,
    /// Details.
    #[schema(value_type = Object)]
    pub(crate) detail: Value,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Records at most, 1 to 1,000; 100 by default.
    #[param(value_type = Option<u16>)]
    limit: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Writes down a change that was made. The change stands even when this fails, so a failure is logged, not answered.
pub(crate) async fn record(api: &Api, by: &Principal, action: &str, subject: &str, detail: &impl Serialize) {
    let entry = AuditEntry {
        time_us: now_us(),
        actor: by.actor.clone(),
        action: action.to_owned(),
        subject: subject.to_owned(),
        detail: serde_json::to_string(detail).unwrap_or_else(|_| "null".to_owned()),
    };
    if let Err(error) = api.context.catalog.audit(&entry).await {
        tracing::error!(%error, actor = entry.actor, action, subject, "audit entry lost");
    }
}

/// List changes, newest first
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", operation_id = "list_audit", params(AuditQuery),
    responses((status = 200, description = "The newest changes", body = List<AuditRecord>)))]
async fn list(
    State(api): State<Api>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<List<AuditRecord>>, Problem> {
    let entries = api.context.catalog.audit_log(page::limit(query.limit.as_deref())?).await?;
    Ok(Json(List::whole(entries.into_iter().map(AuditRecord::from).collect())))
}

impl From<AuditEntry> for AuditRecord {
    fn from(entry: AuditEntry) -> Self {
        Self {
            time: text::time(entry.time_us),
            actor: entry.actor,
            action: entry.action,
            subject: entry.subject,
            detail: serde_json::from_str(&entry.detail).unwrap_or(Value::Null),
        }
    }
}

//! `/api-keys`.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use imn_store::ApiKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, audit,
    auth::{self, Principal, Role},
    decode::{Body, Key, Query},
    page::List,
    problem::Problem,
    text,
    tiers::Nothing,
};
use crate::clock::now_us;

const MAX_NAME: usize = 200;

/// A key to make.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeySpec {
    /// Name for people, 1 to 200 bytes.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) role: Role,
    /// When it ends, RFC 3339; absent: never.
    #[serde(default)]
    pub(crate) expires: Option<String>,
}

/// A key, without its secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct KeyView {
    /// The public part of `imn_<id>_<secret>`.
    pub(crate) id: String,
    /// Name for people.
    pub(crate) name: String,
    /// `viewer`, `operator` or `admin`.
    pub(crate) role: String,
    /// When it was made, RFC 3339 UTC.
    pub(crate) created: String,
    /// When it ends, RFC 3339 UTC.
    #[schema(required)]
    pub(crate) expires: Option<String>,
}

/// A fresh key: the only time that its secret is shown.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewKey {
    /// The public part.
    pub(crate) id: String,
    /// Name for people.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) role: Role,
    /// When it ends, RFC 3339 UTC.
    #[schema(required)]
    pub(crate) expires: Option<String>,
    /// Send it as `Authorization: Bearer …`; it is shown this once.
    pub(crate) key: String,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(remove))
}

/// List the API keys
#[utoipa::path(get, path = "/api/v1/api-keys", tag = "api-keys", operation_id = "list_api_keys",
    responses((status = 200, description = "All keys, without secrets", body = List<KeyView>)))]
async fn list(
    State(api): State<Api>,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<List<KeyView>>, Problem> {
    let keys = api.context.catalog.api_keys().await?;
    Ok(Json(List::whole(keys.into_iter().map(KeyView::from).collect())))
}

/// Make an API key
#[utoipa::path(post, path = "/api/v1/api-keys", tag = "api-keys", operation_id = "create_api_key", request_body = KeySpec,
    responses((status = 201, description = "Made; the secret is shown this once", body = NewKey,
                  headers(("Location" = String, description = "Where it is")))))]
async fn create(
    State(api): State<Api>,
    by: Principal,
    Query(Nothing {}): Query<Nothing>,
    Body(spec): Body<KeySpec>,
) -> Result<Response, Problem> {
    if !(1..=MAX_NAME).contains(&spec.name.len()) {
        return Err(Problem::field("name", format!("must be 1 to {MAX_NAME} bytes")));
    }
    let expires_us = spec
        .expires
        .as_deref()
        .map(text::parse_time)
        .transpose()
        .map_err(|message| Problem::field("expires", message))?;
    if expires_us.is_some_and(|expires| expires <= now_us()) {
        return Err(Problem::field("expires", "is in the past"));
    }
    let minted = auth::mint(&*api.context.catalog, &spec.name, spec.role, expires_us).await?;
    let detail =
        json!({ "name": minted.key.name, "role": minted.key.role, "expires": expires_us.map(text::time) });
    audit::record(&api, &by, "api_key.create", &minted.key.id, &detail).await;
    let location = format!("/api/v1/api-keys/{}", minted.key.id);
    let body = NewKey {
        id: minted.key.id,
        name: minted.key.name,
        role: spec.role,
        expires: expires_us.map(text::time),
        key: minted.token,
    };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response())
}

/// Remove an API key
#[utoipa::path(delete, path = "/api/v1/api-keys/{id}", tag = "api-keys", operation_id = "delete_api_key",
    params(("id" = String, Path, description = "The public part")),
    responses((status = 204, description = "Removed; it is refused from now on")))]
async fn remove(
    State(api): State<Api>,
    by: Principal,
    id: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<StatusCode, Problem> {
    if by.actor == format!("key:{}", &*id) {
        return Err(Problem::conflict("a key cannot remove itself; use another admin's"));
    }
    api.context.catalog.delete_api_key(&id).await?;
    audit::record(&api, &by, "api_key.delete", &id, &Value::Null).await;
    Ok(StatusCode::NO_CONTENT)
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            role: key.role,
            created: text::time(key.created_us),
            expires: key.expires_us.map(text::time),
        }
    }
}

//! `/enrollment-tokens`: by each, one agent comes in, once.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use imn_contract::AgentId;
use imn_store::EnrollmentToken;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, audit,
    auth::{self, Principal},
    decode::{Body, Key, Query},
    page::List,
    problem::Problem,
    text,
    tiers::Nothing,
};
use crate::{clock::now_us, keys::TOKEN_PREFIX};

const ID_BYTES: usize = 6;
/// 256 bits.
const SECRET_BYTES: usize = 32;
const DEFAULT_TTL_MS: u64 = 15 * 60 * 1000;
const MAX_TTL_MS: u64 = 7 * 24 * 3600 * 1000;

/// A token to make.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TokenSpec {
    /// The only agent that it is for; absent: any that does not exist yet.
    pub(crate) agent: Option<String>,
    /// How long it is good for, such as `15m`, the default; 7 days at most.
    pub(crate) ttl: Option<String>,
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TokenState {
    /// It may be used.
    Open,
    /// An agent came in by it.
    Used,
    /// Nobody came in time.
    Expired,
}

/// A token, without its secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TokenView {
    /// The public part.
    pub(crate) id: String,
    /// What became of it.
    pub(crate) state: TokenState,
    /// The only agent that it is for.
    #[schema(required)]
    pub(crate) agent: Option<String>,
    /// When it was made, RFC 3339 UTC.
    pub(crate) created: String,
    /// Who made it.
    pub(crate) created_by: String,
    /// When it ends, RFC 3339 UTC.
    pub(crate) expires: String,
    /// When it was used, RFC 3339 UTC.
    #[schema(required)]
    pub(crate) used: Option<String>,
    /// The agent that came in by it.
    #[schema(required)]
    pub(crate) used_by: Option<String>,
}

/// A fresh token: the only time that its secret is shown.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewToken {
    /// The public part.
    pub(crate) id: String,
    /// The only agent that it is for.
    #[schema(required)]
    pub(crate) agent: Option<String>,
    /// When it ends, RFC 3339 UTC.
    pub(crate) expires: String,
    /// For `imn agent --token`; it is shown this once.
    pub(crate) token: String,
    /// Fingerprint of the certificate of the network's own authority, for `--ca-fingerprint`; null where there is none.
    #[schema(required)]
    pub(crate) ca_fingerprint: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(remove))
}

/// List the enrollment tokens, newest first
#[utoipa::path(get, path = "/api/v1/enrollment-tokens", tag = "enrollment", operation_id = "list_enrollment_tokens",
    responses((status = 200, description = "All tokens, without secrets", body = List<TokenView>)))]
async fn list(
    State(api): State<Api>,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<List<TokenView>>, Problem> {
    let now = now_us();
    let tokens = api.context.catalog.enrollment_tokens().await?;
    Ok(Json(List::whole(tokens.into_iter().map(|token| view(token, now)).collect())))
}

/// Make an enrollment token
#[utoipa::path(post, path = "/api/v1/enrollment-tokens", tag = "enrollment",
    operation_id = "create_enrollment_token", request_body = TokenSpec,
    responses((status = 201, description = "Made; the secret is shown this once", body = NewToken,
                  headers(("Location" = String, description = "Where it is"))),
              (status = 409, description = "This server does not hold the keys of the network")))]
async fn create(
    State(api): State<Api>,
    by: Principal,
    Query(Nothing {}): Query<Nothing>,
    Body(spec): Body<TokenSpec>,
) -> Result<Response, Problem> {
    let agent = spec.agent.as_deref().map(AgentId::new).transpose();
    let agent = agent.map_err(|error| Problem::field("agent", error.to_string()))?;
    let ttl = text::duration_field("ttl", spec.ttl.as_deref())?.unwrap_or(DEFAULT_TTL_MS);
    if !(1000..=MAX_TTL_MS).contains(&ttl) {
        let message = format!("must be 1s to {}", text::duration(MAX_TTL_MS));
        return Err(Problem::field("ttl", message));
    }
    if api.context.config.authority.is_none() {
        let words = "this server does not hold the keys of the network, so nobody can come in by a token: start it with \
                     --keys-dir";
        return Err(Problem::conflict(words));
    }
    let now = now_us();
    let secret = auth::random_hex::<SECRET_BYTES>();
    let token = EnrollmentToken {
        id: auth::random_hex::<ID_BYTES>(),
        secret_hash: auth::hash(&secret),
        agent,
        created_us: now,
        created_by: by.actor.clone(),
        expires_us: now.saturating_add(i64::try_from(ttl).unwrap_or(i64::MAX).saturating_mul(1000)),
        used_us: None,
        used_by: None,
    };
    api.context.catalog.create_enrollment_token(&token).await?;
    let body = NewToken {
        token: format!("{TOKEN_PREFIX}{}_{secret}", token.id),
        agent: token.agent.as_ref().map(ToString::to_string),
        expires: text::time(token.expires_us),
        ca_fingerprint: api.context.config.fingerprint.clone(),
        id: token.id,
    };
    let detail = json!({ "agent": body.agent, "expires": body.expires });
    audit::record(&api, &by, "enrollment_token.create", &body.id, &detail).await;
    let location = format!("/api/v1/enrollment-tokens/{}", body.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response())
}

/// Remove an enrollment token
#[utoipa::path(delete, path = "/api/v1/enrollment-tokens/{id}", tag = "enrollment",
    operation_id = "delete_enrollment_token", params(("id" = String, Path, description = "The public part")),
    responses((status = 204, description = "Removed; nobody comes in by it any more")))]
async fn remove(
    State(api): State<Api>,
    by: Principal,
    id: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<StatusCode, Problem> {
    api.context.catalog.delete_enrollment_token(&id).await?;
    audit::record(&api, &by, "enrollment_token.delete", &id, &Value::Null).await;
    Ok(StatusCode::NO_CONTENT)
}

fn view(token: EnrollmentToken, now_us: i64) -> TokenView {
    let state = match token.used_us {
        Some(_) => TokenState::Used,
        None if token.expires_us <= now_us => TokenState::Expired,
        None => TokenState::Open,
    };
    TokenView {
        id: token.id,
        state,
        agent: token.agent.map(|agent| agent.to_string()),
        created: text::time(token.created_us),
        created_by: token.created_by,
        expires: text::time(token.expires_us),
        used: token.used_us.map(text::time),
        used_by: token.used_by.map(|agent| agent.to_string()),
    }
}

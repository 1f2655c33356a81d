//! `/enroll`: how an agent of another host comes in, and stays. No API key is needed: a token and a key of the agent's
//! own are.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use imn_contract::AgentId;
use imn_runtime::credential::{self, Vouching};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, audit,
    auth::{NOBODY, Principal, Role},
    decode::{Body, Query},
    problem::{FieldError, Problem},
    text,
    tiers::Nothing,
};
use crate::{
    clock::now_us,
    keys::{Application, Refusal},
};

/// A nonce to sign.
#[derive(Serialize, ToSchema)]
pub(crate) struct Nonce {
    /// Text to sign over.
    pub(crate) nonce: String,
    /// When it ends, RFC 3339 UTC.
    pub(crate) expires: String,
}

/// A request to come in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EnrollSpec {
    /// The enrollment token.
    token: String,
    /// The agent to be.
    agent: String,
    /// Its public key, an nkey of a user; the seed stays where it was made.
    public_key: String,
    /// A nonce from `/api/v1/enroll/nonce`.
    nonce: String,
    /// Base64url, by the key, over the lines `imn-enroll`, nonce, agent, public key and token, joined by line feeds.
    signature: String,
}

/// A request for a fresh JWT.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenewSpec {
    /// The agent.
    agent: String,
    /// Its public key.
    public_key: String,
    /// A nonce from `/api/v1/enroll/nonce`.
    nonce: String,
    /// Base64url, by the key, over the lines `imn-renew`, nonce, agent and public key, joined by line feeds.
    signature: String,
}

/// What an agent needs to connect.
#[derive(Serialize, ToSchema)]
pub(crate) struct Enrolled {
    /// The agent.
    pub(crate) agent: String,
    /// JWT of its key, which says what it may do.
    pub(crate) jwt: String,
    /// JWT of the same key with which it takes jobs from their queues, over a connection of its own.
    #[schema(required)]
    pub(crate) queue_jwt: Option<String>,
    /// When the JWT ends, RFC 3339 UTC; it is to be renewed at half of its life.
    #[schema(required)]
    pub(crate) expires: Option<String>,
    /// Where NATS is.
    pub(crate) nats_urls: Vec<String>,
    /// Certificates to believe, in PEM; null: those that the host knows.
    #[schema(required)]
    pub(crate) ca: Option<String>,
    /// Prefix of its private inboxes.
    pub(crate) inbox_prefix: String,
    /// Public key of the network's registry of modules; null: this server signs none.
    #[schema(required)]
    pub(crate) registry_key: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(nonce)).routes(routes!(enroll)).routes(routes!(renew))
}

/// Whether a path is one of these.
pub(crate) fn is_open(path: &str) -> bool {
    path.strip_prefix("/api/v1/enroll").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Ask for a nonce to sign
#[utoipa::path(post, path = "/api/v1/enroll/nonce", tag = "enrollment", operation_id = "enroll_nonce",
    responses((status = 200, description = "Good for two minutes", body = Nonce)))]
async fn nonce(State(api): State<Api>, Query(Nothing {}): Query<Nothing>) -> Result<Json<Nonce>, Problem> {
    api.limits.take(NOBODY)?;
    let (nonce, end) = api.context.keys.nonce();
    Ok(Json(Nonce { nonce, expires: text::time(end) }))
}

/// Enroll an agent
#[utoipa::path(post, path = "/api/v1/enroll", tag = "enrollment", operation_id = "enroll", request_body = EnrollSpec,
    responses((status = 200, description = "It may connect", body = Enrolled),
              (status = 403, description = "The token is not known or for another, or the signature is wrong"),
              (status = 409, description = "The token was used, or such an agent has keys in force"),
              (status = 410, description = "The token has expired")))]
async fn enroll(
    State(api): State<Api>,
    headers: HeaderMap,
    Query(Nothing {}): Query<Nothing>,
    Body(spec): Body<EnrollSpec>,
) -> Result<Json<Enrolled>, Problem> {
    api.limits.take(NOBODY)?;
    let EnrollSpec { token, agent, public_key, nonce, signature } = spec;
    let application = Application { agent: id(&agent)?, public_key, nonce, signature };
    let (vouching, token) = api.context.keys.enroll(&application, &token).await?;
    let by = Principal { actor: format!("enrollment-token:{token}"), role: Role::Admin };
    let detail = json!({ "public_key": application.public_key });
    audit::record(&api, &by, "agent.enroll", application.agent.as_str(), &detail).await;
    Ok(Json(enrolled(&api, &headers, &application.agent, vouching)))
}

/// Renew the JWT of an agent that cannot ask over NATS
#[utoipa::path(post, path = "/api/v1/enroll/renew", tag = "enrollment", operation_id = "renew_enrollment",
    request_body = RenewSpec,
    responses((status = 200, description = "It may connect", body = Enrolled),
              (status = 403, description = "The key is not known or was revoked, or the signature is wrong")))]
async fn renew(
    State(api): State<Api>,
    headers: HeaderMap,
    Query(Nothing {}): Query<Nothing>,
    Body(spec): Body<RenewSpec>,
) -> Result<Json<Enrolled>, Problem> {
    api.limits.take(NOBODY)?;
    let RenewSpec { agent, public_key, nonce, signature } = spec;
    let application = Application { agent: id(&agent)?, public_key, nonce, signature };
    let vouching = api.context.keys.renew(&application).await?;
    Ok(Json(enrolled(&api, &headers, &application.agent, vouching)))
}

fn id(text: &str) -> Result<AgentId, Problem> {
    AgentId::new(text).map_err(|error| Problem::field("agent", error.to_string()))
}

fn enrolled(api: &Api, headers: &HeaderMap, agent: &AgentId, vouching: Vouching) -> Enrolled {
    let config = &api.context.config;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(host_alone);
    let lifetime = i64::try_from(config.credential_lifetime.as_micros()).unwrap_or(i64::MAX);
    Enrolled {
        agent: agent.to_string(),
        jwt: vouching.jwt,
        queue_jwt: vouching.queue_jwt,
        expires: Some(text::time(now_us().saturating_add(lifetime))),
        nats_urls: config.public_nats.iter().map(|url| reached(url, host)).collect(),
        ca: config.certificates.clone(),
        inbox_prefix: credential::Role::Agent { agent: agent.clone() }.inbox_prefix(),
        registry_key: config.signer.as_ref().map(|signer| signer.public_key()),
    }
}

/// A URL as it is reached by whoever reached this server as `host`.
fn reached(url: &str, host: Option<&str>) -> String {
    match host {
        Some(host) => {
            url.replace("//0.0.0.0:", &format!("//{host}:")).replace("//[::]:", &format!("//{host}:"))
        }
        None => url.to_owned(),
    }
}

/// The host of a `Host` header, without the port.
fn host_alone(text: &str) -> &str {
    match text.rfind(':') {
        // Within brackets a colon is part of an address.
        Some(at) if !text[at..].contains(']') => &text[..at],
        _ => text,
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        let (status, kind, field) = match refusal {
            Refusal::Fault(fault) => return fault.into(),
            Refusal::Unknown => (StatusCode::FORBIDDEN, "forbidden", "token"),
            Refusal::OtherAgent { .. } => (StatusCode::FORBIDDEN, "forbidden", "agent"),
            Refusal::Nonce => (StatusCode::FORBIDDEN, "forbidden", "nonce"),
            Refusal::Signature => (StatusCode::FORBIDDEN, "forbidden", "signature"),
            Refusal::Used { .. } => (StatusCode::CONFLICT, "token-used", "token"),
            Refusal::InForce { .. } => (StatusCode::CONFLICT, "conflict", "agent"),
            Refusal::Expired => (StatusCode::GONE, "token-expired", "token"),
        };
        Self::new(status, kind, detail.clone()).with(FieldError::new(field, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nats_is_where_the_server_is_unless_it_is_said() {
        for (host, expected) in [
            ("imn.example:8443", "tls://imn.example:4222"),
            ("192.0.2.1", "tls://192.0.2.1:4222"),
            ("[2001:db8::1]:8443", "tls://[2001:db8::1]:4222"),
            ("[2001:db8::1]", "tls://[2001:db8::1]:4222"),
        ] {
            assert_eq!(reached("tls://0.0.0.0:4222", Some(host_alone(host))), expected, "{host}");
        }
        assert_eq!(reached("tls://nats.example:4222", Some("a")), "tls://nats.example:4222");
        assert_eq!(reached("tls://0.0.0.0:4222", None), "tls://0.0.0.0:4222");
    }

    #[test]
    fn only_enrolling_is_open() {
        assert!(is_open("/api/v1/enroll") && is_open("/api/v1/enroll/nonce"));
        assert!(!is_open("/api/v1/enrollment-tokens") && !is_open("/api/v1/agents"));
    }
}

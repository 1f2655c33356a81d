//! API keys, roles, and the guard before every route under `/api/v1`.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use imn_store::{ApiKey, Catalog, CatalogError};
use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::{Api, problem::Problem};
use crate::clock::now_us;

/// Whose wrong keys share one rate limit.
pub(crate) const NOBODY: &str = "";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

/// What a key may do; each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Change what is measured, and measure.
    Operator,
    /// Manage keys, agents, and see the audit log.
    Admin,
}

/// A fresh API key. The secret is nowhere else: only its hash is stored.
#[derive(Clone)]
pub struct Minted {
    /// What is stored.
    pub key: ApiKey,
    /// What the client sends as `Authorization: Bearer …`: `imn_<id>_<secret>`.
    pub token: String,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// `key:<id>`, as the audit log names it.
    pub(crate) actor: String,
    pub(crate) role: Role,
}

/// Makes an API key and stores its hash. `expires_us` in microseconds since the Unix epoch.
///
/// # Errors
/// When the catalog refuses it.
pub async fn mint(
    catalog: &dyn Catalog,
    name: &str,
    role: Role,
    expires_us: Option<i64>,
) -> Result<Minted, CatalogError> {
    let id = random_hex::<ID_BYTES>();
    let secret = random_hex::<SECRET_BYTES>();
    let key = ApiKey {
        secret_hash: hash(&secret),
        name: name.to_owned(),
        role: role.as_str().to_owned(),
        created_us: now_us(),
        expires_us,
        id,
    };
    catalog.create_api_key(&key).await?;
    let token = format!("imn_{}_{secret}", key.id);
    Ok(Minted { key, token })
}

/// A fresh token that no catalog knows yet: for whoever must have it before the server has started.
pub fn fresh_token() -> String {
    format!("imn_{}_{}", random_hex::<ID_BYTES>(), random_hex::<SECRET_BYTES>())
}

/// Whether a text has the form of [`fresh_token`].
pub fn is_token(text: &str) -> bool {
    let hex =
        |part: &str, bytes: usize| part.len() == 2 * bytes && part.bytes().all(|b| b.is_ascii_hexdigit());
    text.strip_prefix("imn_")
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(id, secret)| hex(id, ID_BYTES) && hex(secret, SECRET_BYTES))
}

/// Makes a token from [`fresh_token`] valid, unless the catalog knows its key already.
///
/// # Errors
/// [`AdmitError`].
pub async fn admit(catalog: &dyn Catalog, name: &str, role: Role, token: &str) -> Result<(), AdmitError> {
    let Some((id, secret)) = token.strip_prefix("imn_").and_then(|rest| rest.split_once('_')) else {
        return Err(AdmitError::Malformed);
    };
    if catalog.api_key(id).await?.is_some() {
        return Ok(());
    }
    let key = ApiKey {
        id: id.to_owned(),
        secret_hash: hash(secret),
        name: name.to_owned(),
        role: role.as_str().to_owned(),
        created_us: now_us(),
        expires_us: None,
    };
    Ok(catalog.create_api_key(&key).await?)
}

/// Why a token was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// It is no token.
    #[error("admit api key: it is not of the form imn_<id>_<secret>")]
    Malformed,
    /// The catalog failed.
    #[error("admit api key: {0}")]
    Catalog(#[from] CatalogError),
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minted").field("id", &self.key.id).field("token", &"***").finish_non_exhaustive()
    }
}

impl Role {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|role| role.as_str() == text)
    }

    /// The role that a route needs: this one table, which the OpenAPI document shows as well.
    pub(crate) fn required(method: &Method, path: &str) -> Self {
        let rest = path.strip_prefix("/api/v1/").unwrap_or(path);
        let root = rest.split(['/', ':']).next().unwrap_or(rest);
        match (root, method) {
            // What is published in the registry runs on the hosts of all agents.
            ("api-keys" | "audit" | "enrollment-tokens", _)
            | ("agents", &Method::DELETE | &Method::POST)
            | ("registry", &Method::PUT | &Method::DELETE) => Self::Admin,
            (_, &Method::GET | &Method::HEAD) => Self::Viewer,
            _ => Self::Operator,
        }
    }
}

/// Lets a request pass whose key is known, allowed here, and within its rate.
pub(crate) async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let principal = match authenticate(&*api.context.catalog, request.headers()).await {
        Ok(principal) => principal,
        Err(problem) => {
            return match api.limits.take(NOBODY) {
                Ok(_) => problem.into_response(),
                Err(limited) => limited.into_response(),
            };
        }
    };
    let rate = match api.limits.take(&principal.actor) {
        Ok(rate) => rate,
        Err(limited) => return limited.into_response(),
    };
    let required = Role::required(request.method(), request.uri().path());
    let mut response = if principal.role < required {
        Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("this needs the role {}, the key has {}", required.as_str(), principal.role.as_str()),
        )
        .into_response()
    } else {
        request.extensions_mut().insert(principal);
        next.run(request).await
    };
    rate.write(response.headers_mut());
    response
}

async fn authenticate(catalog: &dyn Catalog, headers: &HeaderMap) -> Result<Principal, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(unauthorized("send the header Authorization: Bearer imn_<id>_<secret>", ""));
    };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let Some((id, secret)) =
        token.and_then(|token| token.strip_prefix("imn_")).and_then(|rest| rest.split_once('_'))
    else {
        let detail = "the header Authorization is not Bearer imn_<id>_<secret>";
        return Err(unauthorized(detail, ", error=\"invalid_request\""));
    };
    let key = catalog.api_key(id).await?;
    // An unknown id costs the same comparison as a wrong secret, and answers the same.
    let expected = key.as_ref().map_or_else(String::new, |key| key.secret_hash.clone());
    let matches: bool = hash(secret).as_bytes().ct_eq(expected.as_bytes()).into();
    let rejected = |detail| unauthorized(detail, ", error=\"invalid_token\"");
    let key = key.filter(|_| matches).ok_or_else(|| rejected("the API key is not known"))?;
    if key.expires_us.is_some_and(|expires| expires <= now_us()) {
        return Err(rejected("the API key has expired"));
    }
    let role = Role::parse(&key.role).ok_or_else(|| {
        Problem::internal(format!("API key {} has the unknown role {:?}", key.id, key.role))
    })?;
    Ok(Principal { actor: format!("key:{}", key.id), role })
}

fn unauthorized(detail: &str, error: &str) -> Problem {
    let challenge = HeaderValue::from_str(&format!("Bearer realm=\"imn\"{error}"))
        .unwrap_or(HeaderValue::from_static("Bearer"));
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).header(header::WWW_AUTHENTICATE, challenge)
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Problem::internal("the route is not behind the guard"))
    }
}

pub(crate) fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

pub(crate) fn random_hex<const N: usize>() -> String {
    let mut bytes = [0u8; N];
    rand::rng().fill_bytes(&mut bytes);
    hex(&bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

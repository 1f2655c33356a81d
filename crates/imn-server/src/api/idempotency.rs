//! `Idempotency-Key`: a POST that is repeated is answered as the first time, and done once.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Api,
    auth::{Principal, hex},
    decode, import,
    problem::Problem,
};
use crate::clock::now_us;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_KEY: usize = 255;
/// Headers of an answer that are part of it.
const KEPT: [HeaderName; 3] = [header::CONTENT_TYPE, header::LOCATION, header::ETAG];
/// Greatest answer that is remembered, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Keys whose first request is still at work.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<Mutex<HashSet<String>>>);

struct Claim {
    keys: InFlight,
    key: String,
}

/// What is remembered of an answer.
#[derive(Serialize, Deserialize)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl InFlight {
    fn claim(&self, key: &str) -> Option<Claim> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.to_owned()).then(|| Claim { keys: self.clone(), key: key.to_owned() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.keys.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Answers a repeated POST from memory.
pub(crate) async fn once(
    State(api): State<Api>,
    by: Principal,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Some(given) = request.headers().get(KEY).filter(|_| request.method() == Method::POST) else {
        return Ok(next.run(request).await);
    };
    let given = given.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len())).ok_or_else(|| {
        Problem::field("Idempotency-Key", format!("must be 1 to {MAX_KEY} visible characters"))
    })?;
    let path = request.uri().path();
    if path.starts_with("/api/v1/api-keys") || path.starts_with("/api/v1/enrollment-tokens") {
        // The answer holds a secret, which is stored nowhere.
        return Err(Problem::field(
            "Idempotency-Key",
            "is not accepted here: the answer must not be remembered",
        ));
    }
    let key = format!("{}/{given}", by.actor);
    let limit = if path.ends_with(":import") { import::MAX_BODY } else { decode::MAX_BODY };
    let Some(_claim) = api.in_flight.claim(&key) else {
        return Err(Problem::conflict("a request with this Idempotency-Key is still at work"));
    };
    let (parts, body) = request.into_parts();
    let bytes = decode::read(&parts.headers, body, limit).await?;
    let mut digest = Sha256::new();
    digest.update(parts.uri.to_string().as_bytes());
    digest.update([0]);
    digest.update(&bytes);
    let digest = hex(&digest.finalize());
    let catalog = &*api.context.catalog;
    if let Some((before, answer)) = catalog.idempotent(&key, &digest, None, now_us()).await? {
        if before != digest {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "this Idempotency-Key was used with another request",
            ));
        }
        return replay(&answer);
    }
    let response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, MAX_ANSWER).await.map_err(|error| Problem::internal(error.to_string()))?;
    let answer = Answer {
        status: parts.status.as_u16(),
        headers: kept(&parts.headers),
        body: String::from_utf8_lossy(&bytes).into_owned(),
    };
    let text = serde_json::to_string(&answer).map_err(|error| Problem::internal(error.to_string()))?;
    catalog.idempotent(&key, &digest, Some(&text), now_us()).await?;
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

fn kept(headers: &HeaderMap) -> Vec<(String, String)> {
    KEPT.iter()
        .filter_map(|name| Some((name.to_string(), headers.get(name)?.to_str().ok()?.to_owned())))
        .collect()
}

fn replay(text: &str) -> Result<Response, Problem> {
    let broken = || Problem::internal("the remembered answer cannot be read");
    let answer: Answer = serde_json::from_str(text).map_err(|_| broken())?;
    let status = StatusCode::from_u16(answer.status).map_err(|_| broken())?;
    let mut response = (status, answer.body).into_response();
    for (name, value) in answer.headers {
        let name = HeaderName::try_from(name).map_err(|_| broken())?;
        response.headers_mut().insert(name, HeaderValue::try_from(value).map_err(|_| broken())?);
    }
    response
        .headers_mut()
        .insert(HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
    Ok(response)
}

//! Requests into values: bodies and queries, strictly, with errors that name the field.

use std::{ops::Deref, time::Duration};

use axum::{
    body::{BodyDataStream, Bytes},
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use futures::StreamExt;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};

use super::problem::Problem;

/// Greatest body of an ordinary request, in bytes.
pub(crate) const MAX_BODY: usize = 1 << 20;
/// Bytes beyond the greatest body that are read and thrown away before the refusal.
const DISCARDED: usize = 16 << 20;

/// How long the next piece of a body may take.
const PIECE_WITHIN: Duration = Duration::from_secs(15);

/// A JSON body, also under curl's default content type. Unknown fields are refused by `T`.
pub(crate) struct Body<T>(pub(crate) T);

/// A query string. Unknown and repeated parameters are refused.
pub(crate) struct Query<T>(pub(crate) T);

/// The one parameter of the path, percent-decoded.
pub(crate) struct Key(pub(crate) String);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let media = media_type(&parts.headers);
        let is_json = matches!(media, "" | "application/json" | "application/x-www-form-urlencoded")
            || media.starts_with("application/") && media.ends_with("+json");
        if !is_json {
            return Err(unsupported(media, "application/json"));
        }
        json(&read(&parts.headers, body, MAX_BODY).await?).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let axum::extract::Query(pairs) =
            axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
                .map_err(|error| Problem::field("", format!("malformed query string: {error}")))?;
        let mut map = Map::new();
        for (name, value) in pairs {
            if map.insert(name.clone(), Value::String(value)).is_some() {
                return Err(Problem::field(name, "is given more than once"));
            }
        }
        value(Value::Object(map)).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::<String>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(key)| Self(key))
            .map_err(|error| Problem::field("path", error.body_text()))
    }
}

impl Deref for Key {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// The media type of a body, without parameters; empty when none is said.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or("").trim()
}

/// The refusal of a media type.
pub(crate) fn unsupported(media: &str, wanted: &str) -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        format!("the body is {media:?}; send {wanted}"),
    )
}

/// A body of at most so many bytes, piece by piece.
pub(crate) struct Pieces {
    body: BodyDataStream,
    limit: usize,
    fits: bool,
    taken: usize,
    discarded: usize,
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: axum::body::Body,
    limit: usize,
) -> Result<Bytes, Problem> {
    let mut pieces = Pieces::of(headers, body, limit)?;
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

impl Pieces {
    pub(crate) fn of(headers: &HeaderMap, body: axum::body::Body, limit: usize) -> Result<Self, Problem> {
        let declared = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok())
            .and_then(|text| text.parse::<usize>().ok());
        let fits = declared.is_none_or(|length| length <= limit);
        let pieces = Self { body: body.into_data_stream(), limit, fits, taken: 0, discarded: 0 };
        if !fits && headers.contains_key(header::EXPECT) {
            // A client that asks first has sent nothing yet.
            return Err(pieces.too_large());
        }
        if let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
            let detail = format!("the body is encoded as {coding:?}; send it as it is");
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-content-encoding",
                detail,
            ));
        }
        Ok(pieces)
    }

    /// The next piece; `None` at the end of a body that fits.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let slow = |_| {
            let detail = format!("nothing more of the body came within {} s", PIECE_WITHIN.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail)
        };
        while let Some(piece) = tokio::time::timeout(PIECE_WITHIN, self.body.next()).await.map_err(slow)? {
            let unreadable = |error| Problem::field("", format!("the body could not be read: {error}"));
            let piece = piece.map_err(unreadable)?;
            self.fits &= self.taken + piece.len() <= self.limit;
            if self.fits {
                self.taken += piece.len();
                return Ok(Some(piece));
            }
            // A client that is still sending when its connection closes does not see the answer.
            self.discarded += piece.len();
            if self.discarded > DISCARDED {
                break;
            }
        }
        if self.fits { Ok(None) } else { Err(self.too_large()) }
    }

    fn too_large(&self) -> Problem {
        let detail = format!("the body is larger than {} bytes", self.limit);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }
}

/// One JSON object and nothing after it.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    object(bytes, |error| format!("line {}, column {}", error.line(), error.column()))
}

/// One JSON object on a line of its own, whose number the caller knows.
pub(crate) fn json_line<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    object(bytes, |error| format!("column {}", error.column()))
}

fn object<T: DeserializeOwned>(
    bytes: &[u8],
    place: impl Fn(&serde_json::Error) -> String,
) -> Result<T, Problem> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::field("", "the body is empty; send a JSON object"));
    }
    // An array would fill the fields by position, which nobody means.
    if let Some(b'[') = bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        return Err(Problem::field("", "the body is an array; send a JSON object"));
    }
    // Where the text is no JSON, no field of it is to blame.
    let malformed = |error: &serde_json::Error| {
        let text = error.to_string();
        let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        Problem::field("", format!("malformed JSON at {}: {reason}", place(error)))
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        // What comes after a field that is wrong may be no JSON either; that is the greater mistake.
        match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) if inner.is_data() => located(&path, &inner.to_string()),
            Ok(_) => malformed(&inner),
            Err(error) => malformed(&error),
        }
    })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

/// A JSON value as `T`.
pub(crate) fn value<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        located(&path, &error.into_inner().to_string())
    })
}

fn located(path: &str, message: &str) -> Problem {
    // Where the key itself is at fault, serde names it in the message only.
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split('`').next())
        .unwrap_or("");
    let message = message.rsplit_once(" at line ").map_or(message, |(text, _)| text);
    // What is a type here is an object to whoever writes it.
    let message = match message.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected an object"),
        None => message.to_owned(),
    };
    Problem::field(field(path, named), message)
}

/// Joins serde's path, whose root is `.`, and the name of a key within.
fn field(path: &str, name: &str) -> String {
    let path = if path == "." { "" } else { path };
    match (path, name) {
        (path, "") => path.to_owned(),
        ("", name) => name.to_owned(),
        // The key's own path is already there when serde tracked it.
        (path, name) if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        (path, name) => format!("{path}.{name}"),
    }
}

//! The HTTP API from the client's side: how the server is found, and what its refusals mean for the exit code.

use std::{fmt::Write as _, io, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use imn_runtime::{config, credential::Credentials, file, nats, telemetry::TraceParent, tls::Trust};
use reqwest::{Method, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    cli::ConnectArgs,
    exit::{Code, Exit},
};

/// Longest time that an answer may take, beyond what the request itself asks the server to wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Items of a page.
const PAGE: usize = 1000;
/// Greatest event of a stream, in bytes: a few messages of the contract.
const MOST_EVENT: usize = 8 << 20;
/// Longest last line of a download that is looked at, in bytes.
const LAST_LINE: usize = 64;

/// A server and the key for it.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    key: Option<String>,
}

/// What a request carries.
#[derive(Default)]
pub(crate) struct Sent<'a> {
    pub(crate) query: &'a [(&'a str, String)],
    pub(crate) body: Option<Body>,
    pub(crate) if_match: Option<&'a str>,
    /// How long the server is asked to wait.
    pub(crate) wait: Duration,
}

/// A body and what it is.
pub(crate) enum Body {
    Json(Value),
    Text(&'static str, Vec<u8>),
}

/// A good answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Value,
    pub(crate) etag: Option<String>,
}

/// Server-sent events as they come.
pub(crate) struct Events {
    client: Client,
    response: reqwest::Response,
    text: Vec<u8>,
}

/// A bad answer, or none.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server refused.
    Refused { status: StatusCode, problem: Box<Problem>, retry_after: Option<Duration> },
    /// There was no answer.
    Silent { code: Code, message: String },
}

/// RFC 9457, as the server writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    title: String,
    detail: String,
    errors: Vec<FieldError>,
    request_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FieldError {
    field: String,
    message: String,
}

#[derive(Deserialize)]
struct Connect {
    http_url: String,
    api_key: String,
    #[serde(default)]
    nats_url: Option<String>,
    #[serde(default)]
    nats_creds: Option<PathBuf>,
    /// The authority that signed the server's certificate.
    #[serde(default)]
    ca_file: Option<PathBuf>,
}

impl Client {
    /// Finds the server: the flag or `IMN_URL`, else the state directory's `connect.json`.
    pub(crate) fn find(args: &ConnectArgs) -> Result<Self> {
        let state = config::state_dir(args.state.state_dir.as_deref())?;
        let path = state.join("connect.json");
        let known = known(&path);
        let (url, known) = match (&args.url, known) {
            (Some(url), known) => {
                let url = url.trim_end_matches('/').to_owned();
                // The key of this host's server is for that server only.
                let known = known.ok().flatten().filter(|known| known.http_url == url);
                (url, known)
            }
            (None, Ok(Some(known))) => (known.http_url.clone(), Some(known)),
            (None, Ok(None)) => {
                return Err(Exit::new(
                    Code::Error,
                    format!(
                        "no server is known: {} does not exist; start one with `imn up`, or name one with --url and --token",
                        path.display()
                    ),
                )
                .into());
            }
            (None, Err(error)) => return Err(error),
        };
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Exit::usage(format!("--url {url}: write it as http://HOST:PORT")).into());
        }
        let (key, ca) = known.map_or((None, None), |known| (Some(known.api_key), known.ca_file));
        let http = http(&url, &trust(args.server_ca.clone().or(ca).as_deref())?)?
            .connect_timeout(CONNECT_WITHIN)
            .build()
            .context("prepare the HTTP client")?;
        Ok(Self { http, url, key: args.token.clone().or(key) })
    }

    /// Where the server is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Answer, Failure> {
        self.call(Method::GET, path, Sent { query, ..Sent::default() }).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Answer, Failure> {
        self.call(Method::POST, path, Sent { body: Some(Body::Json(body)), ..Sent::default() }).await
    }

    /// Removes what is there, whatever became of it since.
    pub(crate) async fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.call(Method::DELETE, path, Sent { if_match: Some("*"), ..Sent::default() }).await
    }

    /// Replaces what was read with this ETag.
    pub(crate) async fn put(&self, path: &str, etag: Option<&str>, body: Value) -> Result<Answer, Failure> {
        let body = Some(Body::Json(body));
        self.call(Method::PUT, path, Sent { body, if_match: etag, ..Sent::default() }).await
    }

    /// All items of a list, page by page, `most` at most.
    pub(crate) async fn list(
        &self,
        path: &str,
        query: &[(&str, String)],
        most: Option<usize>,
    ) -> Result<Vec<Value>, Failure> {
        let most = most.unwrap_or(usize::MAX);
        let mut items = Vec::new();
        let mut token = None::<String>;
        while items.len() < most {
            let mut query = query.to_vec();
            query.push(("limit", PAGE.min(most - items.len()).to_string()));
            query.extend(token.map(|token| ("page_token", token)));
            let mut page = self.get(path, &query).await?.body;
            if let Value::Array(more) = page["items"].take() {
                items.extend(more);
            }
            match page["next_page_token"].as_str() {
                Some(next) => token = Some(next.to_owned()),
                None => break,
            }
        }
        Ok(items)
    }

    /// The items of a list that has no pages.
    pub(crate) async fn whole(&self, path: &str, query: &[(&str, String)]) -> Result<Vec<Value>, Failure> {
        match self.get(path, query).await?.body["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    pub(crate) async fn call(&self, method: Method, path: &str, sent: Sent<'_>) -> Result<Answer, Failure> {
        let mut url = format!("{}{path}", self.url);
        for (n, (name, value)) in sent.query.iter().enumerate() {
            let _ = write!(url, "{}{name}={}", if n == 0 { '?' } else { '&' }, encoded(value));
        }
        let mut request = self.http.request(method, &url).timeout(ANSWER_WITHIN + sent.wait);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(etag) = sent.if_match {
            request = request.header(header::IF_MATCH, etag);
        }
        if let Some(trace) = TraceParent::current() {
            request = request.header(imn_contract::header::TRACEPARENT, trace.as_str());
        }
        request = match sent.body {
            Some(Body::Json(body)) => request.json(&body),
            Some(Body::Text(media, text)) => request.header(header::CONTENT_TYPE, media).body(text),
            None => request,
        };
        let response = request.send().await.map_err(|error| self.silent(&error))?;
        let status = response.status();
        let text =
            |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let etag = text(header::ETAG);
        let retry_after =
            text(header::RETRY_AFTER).and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let bytes = response.bytes().await.map_err(|error| self.silent(&error))?;
        if !status.is_success() {
            let problem = serde_json::from_slice(&bytes).unwrap_or_default();
            return Err(Failure::Refused { status, problem: Box::new(problem), retry_after });
        }
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).map_err(|error| Failure::Silent {
                code: Code::Error,
                message: format!("{} did not answer in JSON: {error}; is it an imn server?", self.url),
            })?
        };
        Ok(Answer { body, etag })
    }

    /// Writes an answer as it comes; its last line, as far as it is short.
    pub(crate) async fn download(
        &self,
        path: &str,
        query: &[(&str, String)],
        within: Duration,
        out: &mut impl io::Write,
    ) -> Result<Vec<u8>> {
        let mut url = format!("{}{path}", self.url);
        for (n, (name, value)) in query.iter().enumerate() {
            let _ = write!(url, "{}{name}={}", if n == 0 { '?' } else { '&' }, encoded(value));
        }
        let mut request = self.http.get(&url).timeout(within);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let mut response = request.send().await.map_err(|error| self.silent(&error))?;
        let status = response.status();
        if !status.is_success() {
            let bytes = response.bytes().await.map_err(|error| self.silent(&error))?;
            let problem = serde_json::from_slice(&bytes).unwrap_or_default();
            return Err(Failure::Refused { status, problem: Box::new(problem), retry_after: None }.into());
        }
        let mut last = Vec::new();
        while let Some(more) = response.chunk().await.map_err(|error| self.silent(&error))? {
            out.write_all(&more).context("write what the server sends")?;
            // Of what was there before, only a line that is not at its end matters.
            if last.last() == Some(&b'\n') {
                last.clear();
            }
            last.extend_from_slice(&more[more.len().saturating_sub(LAST_LINE)..]);
            let end = last.strip_suffix(b"\n").unwrap_or(&last);
            if let Some(at) = end.iter().rposition(|byte| *byte == b'\n') {
                last.drain(..=at);
            }
            let long = last.len().saturating_sub(LAST_LINE);
            last.drain(..long);
        }
        out.flush().context("write what the server sends")?;
        Ok(last)
    }

    /// Opens a stream of server-sent events.
    pub(crate) async fn events(&self, path: &str) -> Result<Events, Failure> {
        let mut request = self.http.get(format!("{}{path}", self.url));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.map_err(|error| self.silent(&error))?;
        let status = response.status();
        if !status.is_success() {
            let bytes = response.bytes().await.map_err(|error| self.silent(&error))?;
            let problem = serde_json::from_slice(&bytes).unwrap_or_default();
            return Err(Failure::Refused { status, problem: Box::new(problem), retry_after: None });
        }
        Ok(Events { client: self.clone(), response, text: Vec::new() })
    }

    fn silent(&self, error: &reqwest::Error) -> Failure {
        let url = &self.url;
        if error.is_connect() {
            let mut cause: &dyn std::error::Error = error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            let message = format!(
                "no server answers at {url}: {cause}; start one with `imn up`, or name another with --url and --token"
            );
            return Failure::Silent { code: Code::Error, message };
        }
        if error.is_timeout() {
            return Failure::Silent { code: Code::Partial, message: format!("{url} did not answer in time") };
        }
        if error.is_builder() {
            return Failure::Silent { code: Code::Usage, message: format!("--url {url}: {error}") };
        }
        Failure::Silent { code: Code::Error, message: format!("{url}: {error}") }
    }
}

impl Events {
    /// The next event's name and data; none at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<(String, Value)>, Failure> {
        loop {
            if let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.text.drain(..end + 2).collect();
                if let Some(event) = event_of(&String::from_utf8_lossy(&event)) {
                    return Ok(Some(event));
                }
                continue;
            }
            match self.response.chunk().await.map_err(|error| self.client.silent(&error))? {
                Some(more) if self.text.len() + more.len() <= MOST_EVENT => {
                    self.text.extend_from_slice(&more);
                }
                Some(_) => {
                    let message = format!("{} sends an event without an end", self.client.url);
                    return Err(Failure::Silent { code: Code::Error, message });
                }
                None => return Ok(None),
            }
        }
    }
}

/// Who is believed: the authority in a file, else those that this host knows.
pub(crate) fn trust(file: Option<&std::path::Path>) -> Result<Trust> {
    let Some(path) = file else { return Ok(Trust::System) };
    let text = std::fs::read_to_string(path);
    let text =
        text.map_err(|error| Exit::usage(format!("certificate authority {}: {error}", path.display())))?;
    Ok(Trust::Pem(text))
}

/// An HTTP client for one server. Over TLS it is TLS 1.3.
pub(crate) fn http(url: &str, trust: &Trust) -> Result<reqwest::ClientBuilder> {
    // Reading all that the host believes takes longer than many a command.
    let trust = if url.starts_with("https://") { trust } else { &Trust::Nobody };
    Ok(reqwest::Client::builder()
        .no_proxy()
        .user_agent(concat!("imn/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(trust.client()?))
}

/// The name and data of an event; none of a comment.
fn event_of(text: &str) -> Option<(String, Value)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let data = serde_json::from_str(field("data")?).ok()?;
    Some((field("event")?.trim().to_owned(), data))
}

/// What `connect.json` of a state directory says of the server, if it is there and whole: its URL.
pub(crate) fn known_url(connect: &std::path::Path) -> Option<String> {
    known(connect).ok().flatten().map(|known| known.http_url)
}

/// How to listen to the network of this host's server, if it is that which a command talks to.
pub(crate) fn nats(args: &ConnectArgs, name: &str) -> Option<nats::Config> {
    let state = config::state_dir(args.state.state_dir.as_deref()).ok()?;
    let known = known(&state.join("connect.json")).ok().flatten()?;
    if args.url.as_ref().is_some_and(|url| url.trim_end_matches('/') != known.http_url) {
        return None;
    }
    let mut config = nats::Config::new(known.nats_url?, name);
    if let Some(path) = known.nats_creds {
        let text = std::fs::read_to_string(path).ok()?;
        Credentials::parse(&text).ok()?.inbox_prefix().clone_into(&mut config.inbox_prefix);
        config.credentials = Some(text);
    }
    Some(config)
}

fn known(path: &std::path::Path) -> Result<Option<Connect>> {
    let Some(text) = file::read_optional(path)? else { return Ok(None) };
    let connect = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    Ok(Some(connect))
}

impl Failure {
    pub(crate) fn code(&self) -> Code {
        let status = match self {
            Self::Silent { code, .. } => return *code,
            Self::Refused { status, .. } => status.as_u16(),
        };
        match status {
            400 | 413 | 415 | 422 => Code::Usage,
            401 | 403 => Code::Authentication,
            404 => Code::NotFound,
            429 => Code::RateLimited,
            408 | 504 => Code::Partial,
            _ => Code::Error,
        }
    }

    /// Whether no server answered at all.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Silent { .. })
    }

    /// When to try the same again, if that may help.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { status, retry_after, .. } if matches!(status.as_u16(), 429 | 503) => {
                Some(retry_after.unwrap_or(Duration::from_secs(1)))
            }
            _ => None,
        }
    }

    fn message(&self) -> String {
        let (status, problem) = match self {
            Self::Silent { message, .. } => return message.clone(),
            Self::Refused { status, problem, .. } => (status, problem),
        };
        // The detail is the sentence for people; the title only words the status.
        let mut text = match (problem.detail.as_str(), problem.title.as_str()) {
            ("", "") => status.to_string(),
            ("", title) => title.to_owned(),
            (detail, _) => detail.to_owned(),
        };
        for error in &problem.errors {
            // The detail of a single error says it already.
            if problem.detail.contains(&error.message) {
                continue;
            }
            let separator = if error.field.is_empty() { "" } else { ": " };
            let _ = write!(text, "\n  {}{separator}{}", error.field, error.message);
        }
        if status.is_server_error() && !problem.request_id.is_empty() {
            let _ = write!(text, "\n  the server's log has it as request {}", problem.request_id);
        }
        if *status == StatusCode::UNAUTHORIZED {
            text.push_str("\n  give a valid key with --token or IMN_TOKEN");
        }
        text
    }
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        Exit::new(failure.code(), failure.message()).into()
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

/// Percent-encodes a segment of a path or a value of a query (RFC 3986).
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The state directory in which an offline command finds the store.
pub(crate) fn state_dir(args: &ConnectArgs) -> Result<PathBuf> {
    Ok(config::state_dir(args.state.state_dir.as_deref())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Failure {
        Failure::Refused {
            status: StatusCode::from_u16(status).unwrap(),
            problem: serde_json::from_str(body).unwrap(),
            retry_after: None,
        }
    }

    #[test]
    fn refusals_show_every_field() {
        let failure = refused(
            400,
            r#"{"title":"Bad Request","detail":"2 fields are wrong","errors":[
                {"field":"tier","message":"is missing"},{"field":"address","message":"is empty"}]}"#,
        );
        assert_eq!(failure.message(), "2 fields are wrong\n  tier: is missing\n  address: is empty");
        let failure = refused(404, r#"{"title":"Not Found","detail":"target \"x\" not found"}"#);
        assert_eq!((failure.code(), failure.message().as_str()), (Code::NotFound, "target \"x\" not found"));
        assert_eq!(refused(503, r#"{"title":"Service Unavailable"}"#).message(), "Service Unavailable");
        assert_eq!(refused(502, "{}").message(), "502 Bad Gateway");
    }

    #[test]
    fn statuses_have_exit_codes() {
        for (status, code) in [
            (400, Code::Usage),
            (401, Code::Authentication),
            (403, Code::Authentication),
            (404, Code::NotFound),
            (409, Code::Error),
            (412, Code::Error),
            (422, Code::Usage),
            (429, Code::RateLimited),
            (500, Code::Error),
            (504, Code::Partial),
        ] {
            assert_eq!(refused(status, "{}").code(), code, "{status}");
        }
    }

    #[test]
    fn addresses_fit_into_paths() {
        assert_eq!(encoded("2001:db8::1/64"), "2001%3Adb8%3A%3A1%2F64");
        assert_eq!(encoded("a b&c=ü"), "a%20b%26c%3D%C3%BC");
        assert_eq!(encoded("lon1-icmp_0.x~"), "lon1-icmp_0.x~");
    }
}

//! What is asked of `http`: parameters as they are written, and the spec that they come to.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash, Hasher},
    net::IpAddr,
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use imn_contract::{Fault, latest::Assignment};
use imn_probe::{
    http::{
        Engine, Expect, Family, HeaderMap, HeaderName, HeaderValue, Limit, Method, Rule, Spec, Url, Version,
        parse_url,
    },
    tls::{Trust, server_name},
};
use regex::bytes::RegexBuilder;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    module,
    ping::{Span, within},
};

/// Requests of one job or round, at most.
const MOST_REQUESTS: i64 = 1000;
const MOST_REDIRECTS: i64 = 30;
const LONGEST_TIMEOUT: Duration = Duration::from_hours(1);
const LONGEST_SPACING: Duration = Duration::from_hours(1);
/// Requests of a standing round are spread over at most this share of its interval.
const ROUND_SHARE: u32 = 2;
/// Bytes of a compiled expression.
const LARGEST_PATTERN: usize = 1 << 20;
const MOST_RULES: usize = 32;
const MOST_HEADERS: usize = 64;

/// How a target is measured. Targets of equal parameters share their engine.
#[derive(Debug)]
pub(crate) struct HttpSpec {
    /// The target as it was named.
    pub(crate) target: String,
    pub(crate) url: Url,
    /// Requests, 1..=1000.
    pub(crate) count: u16,
    /// Time between them.
    pub(crate) interval: Duration,
    /// Tell the certificates themselves.
    pub(crate) certificates: bool,
    pub(crate) engine: Arc<Engine>,
    /// The parameters as text.
    key: Arc<str>,
}

impl PartialEq for HttpSpec {
    fn eq(&self, other: &Self) -> bool {
        self.target == other.target && self.key == other.key
    }
}

impl Eq for HttpSpec {}

impl Hash for HttpSpec {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.target, &self.key).hash(state);
    }
}

/// Parameters of `http`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpParams {
    /// Method; `GET` if absent.
    #[serde(default)]
    method: Option<String>,
    /// Headers of the request.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Body of the request.
    #[serde(default)]
    body: Option<String>,
    /// Version of HTTP; whichever TLS agrees on if absent.
    #[serde(default)]
    http: Option<HttpVersion>,
    /// Requests; one if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    count: Option<i64>,
    /// Time between requests; one second if absent.
    #[serde(default, alias = "interval_ms")]
    interval: Option<Span>,
    /// How long each request may take, from the name to the last byte; ten seconds if absent.
    #[serde(default, alias = "timeout_ms")]
    timeout: Option<Span>,
    /// Address family: 4 or 6; of a name, its first address if absent.
    #[serde(default)]
    #[schemars(range(min = 4, max = 6))]
    family: Option<i64>,
    /// Connect to this address in place of what the URL's host resolves to.
    #[serde(default)]
    resolve: Option<IpAddr>,
    /// Name that the certificate must be for, in place of the URL's host.
    #[serde(default)]
    server_name: Option<String>,
    /// Redirects followed; ten if absent.
    #[serde(default)]
    #[schemars(range(min = 0, max = 30))]
    redirects: Option<i64>,
    /// Status codes that are expected: `[200, "300-399"]`; 200 to 299 if absent.
    #[serde(default)]
    expect_status: Option<Vec<StatusRange>>,
    /// Headers that must be there and match: a regular expression for each name.
    #[serde(default)]
    expect_header: BTreeMap<String, String>,
    /// Headers that must not match.
    #[serde(default)]
    refuse_header: BTreeMap<String, String>,
    /// Regular expressions that the first 1 MiB of the body must match.
    #[serde(default)]
    expect_body: Vec<String>,
    /// Regular expressions that the first 1 MiB of the body must not match.
    #[serde(default)]
    refuse_body: Vec<String>,
    /// Bytes that the body may have; 10 MiB if absent.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_073_741_824))]
    max_body: Option<i64>,
    /// Bytes that the head of the answer may have; 64 KiB if absent.
    #[serde(default)]
    #[schemars(range(min = 1024, max = 262_144))]
    max_head: Option<i64>,
    /// Take any certificate, and tell what is wrong with it.
    #[serde(default)]
    insecure: bool,
    /// Further certificate authorities to believe, in PEM.
    #[serde(default)]
    ca: Option<String>,
    /// Tell the certificates themselves, in PEM.
    #[serde(default)]
    certificates: bool,
    /// Differentiated services code point.
    #[serde(default)]
    #[schemars(range(min = 0, max = 63))]
    dscp: Option<i64>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(crate) enum HttpVersion {
    #[serde(rename = "1.1", alias = "1")]
    Http1,
    #[serde(rename = "2", alias = "2.0")]
    Http2,
}

/// A status code, or a range as text.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum StatusRange {
    One(u16),
    Text(String),
}

impl StatusRange {
    fn range(&self) -> Result<RangeInclusive<u16>, Fault> {
        let range = match self {
            Self::One(code) => Some(*code..=*code),
            Self::Text(text) => {
                let (from, to) = text.split_once('-').unwrap_or((text, text));
                from.trim().parse().ok().zip(to.trim().parse().ok()).map(|(from, to)| from..=to)
            }
        };
        range.filter(|range| *range.start() >= 100 && *range.end() <= 999 && !range.is_empty()).ok_or_else(
            || Fault::invalid("params.expect_status", "use codes such as 200 or ranges such as 200-299"),
        )
    }
}

/// The engines in use, by their parameters.
#[derive(Debug, Default)]
pub(crate) struct Engines(Mutex<HashMap<Arc<str>, Weak<Engine>>>);

impl Engines {
    /// Reads the target and the parameters of a job.
    ///
    /// # Errors
    /// A fault that names the field that is wrong.
    pub(crate) fn spec(&self, target: &str, params: &Map<String, Value>) -> Result<HttpSpec, Fault> {
        let url = parse_url(target).map_err(|error| Fault::invalid("target", error))?;
        let read: HttpParams = module::params(params)?;
        let count = within("count", read.count, 1, MOST_REQUESTS)?.unwrap_or(1) as u16;
        let interval = read.interval.map_or(Duration::from_secs(1), |span| span.0);
        if interval > LONGEST_SPACING {
            return Err(Fault::invalid("params.interval", "use at most one hour"));
        }
        let key: Arc<str> = Value::Object(params.clone()).to_string().into();
        let certificates = read.certificates;
        let engine = self.engine(&key, read)?;
        Ok(HttpSpec { target: target.to_owned(), url, count, interval, certificates, engine, key })
    }

    /// Reads standing work, whose count and timeout are the tier's. Unless the parameters say so, the requests of a
    /// round are a second apart, or closer where the interval is too short for that.
    ///
    /// # Errors
    /// A fault that names the field that is wrong.
    pub(crate) fn standing_spec(&self, assignment: &Assignment) -> Result<HttpSpec, Fault> {
        let params = standing_params(assignment);
        let mut spec = self.spec(&assignment.address, &params)?;
        if !params.contains_key("interval") && !params.contains_key("interval_ms") {
            let share =
                Duration::from_micros(assignment.interval_us()) / (ROUND_SHARE * u32::from(spec.count));
            spec.interval = spec.interval.min(share);
            // Equal parameters are not an equal spec where the interval of the rounds differs.
            spec.key = format!("{} {}", spec.key, spec.interval.as_nanos()).into();
        }
        Ok(spec)
    }

    fn engine(&self, key: &Arc<str>, params: HttpParams) -> Result<Arc<Engine>, Fault> {
        let mut engines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.get(key).and_then(Weak::upgrade) {
            return Ok(engine);
        }
        let insecure = params.insecure;
        let trust = trust(params.ca.as_deref())?;
        let engine = Arc::new(Engine::new(engine_spec(params)?, trust, insecure));
        engines.retain(|_, engine| engine.strong_count() > 0);
        engines.insert(Arc::clone(key), Arc::downgrade(&engine));
        Ok(engine)
    }
}

/// The parameters of standing work with the tier's count and timeout.
pub(crate) fn standing_params(assignment: &Assignment) -> Map<String, Value> {
    let mut params = assignment.params.clone();
    params.remove("timeout_ms");
    params.insert("count".to_owned(), assignment.count.into());
    params.insert("timeout".to_owned(), assignment.timeout_ms.into());
    params
}

/// The system's authorities, and those of the parameter `ca`.
pub(crate) fn trust(ca: Option<&str>) -> Result<Trust, Fault> {
    let system = Trust::system();
    match ca {
        None => Ok(system),
        Some(pem) => {
            system.with_pem(pem.as_bytes()).map_err(|error| Fault::invalid("params.ca", error.to_string()))
        }
    }
}

fn engine_spec(params: HttpParams) -> Result<Spec, Fault> {
    let default = Spec::default();
    let timeout = params.timeout.map_or(default.timeout, |span| span.0);
    if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
        return Err(Fault::invalid("params.timeout", "use 1 ms to 1 hour"));
    }
    if let Some(name) = &params.server_name {
        server_name(name).map_err(|error| Fault::invalid("params.server_name", error.to_string()))?;
    }
    let redirects = within("redirects", params.redirects, 0, MOST_REDIRECTS)?;
    let max_body = within("max_body", params.max_body, 0, 1 << 30)?;
    let max_head = within("max_head", params.max_head, 1024, 256 << 10)?;
    Ok(Spec {
        method: params.method.map_or(Ok(default.method), |name| method(&name))?,
        headers: headers(&params.headers)?,
        body: params.body.unwrap_or_default().into(),
        version: match params.http {
            None => Version::Any,
            Some(HttpVersion::Http1) => Version::Http1,
            Some(HttpVersion::Http2) => Version::Http2,
        },
        family: match params.family {
            None => Family::Any,
            Some(4) => Family::V4,
            Some(6) => Family::V6,
            Some(_) => return Err(Fault::invalid("params.family", "use 4 or 6")),
        },
        address: params.resolve,
        server_name: params.server_name,
        redirects: redirects.map_or(default.redirects, |n| n as u8),
        expect: expect(
            params.expect_status,
            [(&params.expect_header, false), (&params.refuse_header, true)],
            [(&params.expect_body, false), (&params.refuse_body, true)],
        )?,
        limit: Limit {
            head: max_head.map_or(default.limit.head, |bytes| bytes as u32),
            body: max_body.map_or(default.limit.body, |bytes| bytes as u64),
        },
        timeout,
        dscp: within("dscp", params.dscp, 0, 63)?.unwrap_or(0) as u8,
    })
}

fn method(name: &str) -> Result<Method, Fault> {
    let method = Method::from_bytes(name.to_ascii_uppercase().as_bytes());
    let bad = || Fault::invalid("params.method", "use a method such as GET, HEAD or POST");
    // A tunnel is no measurement of a URL.
    method.ok().filter(|method| *method != Method::CONNECT).ok_or_else(bad)
}

fn headers(given: &BTreeMap<String, String>) -> Result<HeaderMap, Fault> {
    // What frames a message is not for the one who asks to say.
    const OURS: [&str; 6] = ["content-length", "transfer-encoding", "connection", "upgrade", "expect", "te"];
    let mut headers = HeaderMap::new();
    if given.len() > MOST_HEADERS {
        return Err(Fault::invalid("params.headers", format!("use at most {MOST_HEADERS}")));
    }
    for (name, value) in given {
        let field = || format!("params.headers.{}", name.chars().take(40).collect::<String>());
        let name: HeaderName = name.parse().map_err(|_| Fault::invalid(field(), "is no name of a header"))?;
        if OURS.contains(&name.as_str()) {
            return Err(Fault::invalid(field(), "is set by the measurement itself"));
        }
        let value =
            HeaderValue::from_str(value).map_err(|_| Fault::invalid(field(), "is no value of a header"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn expect(
    status: Option<Vec<StatusRange>>,
    headers: [(&BTreeMap<String, String>, bool); 2],
    body: [(&Vec<String>, bool); 2],
) -> Result<Expect, Fault> {
    let mut expect = Expect::default();
    if let Some(ranges) = status {
        if ranges.is_empty() || ranges.len() > MOST_RULES {
            return Err(Fault::invalid(
                "params.expect_status",
                format!("use 1 to {MOST_RULES} codes or ranges"),
            ));
        }
        expect.status = ranges.iter().map(StatusRange::range).collect::<Result<_, _>>()?;
    }
    for (rules, negate) in headers {
        let field = if negate { "params.refuse_header" } else { "params.expect_header" };
        for (name, pattern) in rules {
            let name: HeaderName = name.parse().map_err(|_| Fault::invalid(field, "names no header"))?;
            expect.headers.push((name, rule(field, pattern, negate)?));
        }
    }
    for (patterns, negate) in body {
        let field = if negate { "params.refuse_body" } else { "params.expect_body" };
        for pattern in patterns {
            expect.body.push(rule(field, pattern, negate)?);
        }
    }
    if expect.headers.len() > MOST_RULES || expect.body.len() > MOST_RULES {
        let text = format!("use at most {MOST_RULES} rules");
        return Err(Fault::invalid("params.expect_body", text));
    }
    Ok(expect)
}

fn rule(field: &str, pattern: &str, negate: bool) -> Result<Rule, Fault> {
    let pattern = RegexBuilder::new(pattern)
        .size_limit(LARGEST_PATTERN)
        .dfa_size_limit(LARGEST_PATTERN)
        .build()
        .map_err(|error| Fault::invalid(field, error.to_string()))?;
    Ok(Rule { pattern, negate })
}

#[cfg(test)]
mod tests {
    use imn_contract::{ModuleType, TargetId};
    use serde_json::json;

    use super::*;

    fn spec(target: &str, params: &Value) -> Result<HttpSpec, Fault> {
        Engines::default().spec(target, params.as_object().unwrap())
    }

    #[test]
    fn parameters_come_to_a_spec() {
        let params = json!({
            "method": "post", "headers": {"X-Test": "a"}, "body": "b", "http": "2", "count": 2, "interval": "10ms",
            "timeout": "5s", "family": 4, "redirects": 0, "expect_status": [204, "300-399"], "max_body": 10,
            "expect_header": {"server": "^nginx"}, "refuse_body": ["error"], "insecure": true, "dscp": 46,
        });
        let spec = spec("www.example.net/a", &params).unwrap();
        let engine = spec.engine.spec();
        assert_eq!((spec.url.as_str(), spec.count), ("http://www.example.net/a", 2));
        assert_eq!((engine.method.as_str(), &engine.body[..], engine.redirects), ("POST", &b"b"[..], 0));
        assert_eq!(engine.expect.status, [204..=204, 300..=399]);
        assert!(engine.expect.body[0].negate && !engine.expect.headers[0].1.negate);
        assert_eq!((engine.timeout, engine.limit.body, engine.dscp), (Duration::from_secs(5), 10, 46));
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (target, params, field) in [
            ("ftp://a/", json!({}), "target"),
            ("", json!({}), "target"),
            ("a", json!({"metod": "GET"}), "params.metod"),
            ("a", json!({"method": "G T"}), "params.method"),
            ("a", json!({"method": "CONNECT"}), "params.method"),
            ("a", json!({"headers": {"content-length": "3"}}), "params.headers.content-length"),
            ("a", json!({"headers": {"x": "a\nb"}}), "params.headers.x"),
            ("a", json!({"http": "3"}), "params.http"),
            ("a", json!({"count": 0}), "params.count"),
            ("a", json!({"timeout": 0}), "params.timeout"),
            ("a", json!({"family": 5}), "params.family"),
            ("a", json!({"resolve": "nobody"}), "params.resolve"),
            ("a", json!({"server_name": "a b"}), "params.server_name"),
            ("a", json!({"redirects": 31}), "params.redirects"),
            ("a", json!({"expect_status": ["2xx"]}), "params.expect_status"),
            ("a", json!({"expect_status": ["300-200"]}), "params.expect_status"),
            ("a", json!({"expect_body": ["("]}), "params.expect_body"),
            ("a", json!({"expect_body": ["(a{1000}){1000}"]}), "params.expect_body"),
            ("a", json!({"max_head": 10}), "params.max_head"),
            ("a", json!({"ca": "none"}), "params.ca"),
        ] {
            let fault = spec(target, &params).unwrap_err();
            assert_eq!(fault.field.as_deref(), Some(field), "{params}: {fault}");
        }
    }

    #[test]
    fn standing_work_takes_count_and_timeout_of_its_tier_and_shares_engines() {
        let engines = Engines::default();
        let assignment = |address: &str, interval_ms| Assignment {
            target: TargetId::new("t").unwrap(),
            kind: ModuleType::new("http").unwrap(),
            address: address.to_owned(),
            interval_ms,
            timeout_ms: 1500,
            count: 3,
            params: json!({"count": 9, "timeout_ms": 9, "method": "HEAD"}).as_object().unwrap().clone(),
            since_us: 0,
            until_us: None,
        };
        let (one, two) = (
            engines.standing_spec(&assignment("a", 3000)).unwrap(),
            engines.standing_spec(&assignment("b", 3000)).unwrap(),
        );
        assert_eq!((one.count, one.interval), (3, Duration::from_millis(500)));
        assert_eq!(one.engine.spec().timeout, Duration::from_millis(1500));
        assert!(Arc::ptr_eq(&one.engine, &two.engine) && one != two);
        assert_eq!(one, engines.standing_spec(&assignment("a", 3000)).unwrap());
        assert_ne!(one, engines.standing_spec(&assignment("a", 1500)).unwrap());
    }
}

//! Parameters of `dns`, and the spec that they come to.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use imn_contract::{Fault, latest::Assignment};
use imn_probe::dns::{Class, Query, Rcode, RecordType, Transport, reverse};
use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::SPACING;
use crate::{
    Family, module,
    ping::{Span, Target, target},
};

/// Queries of one round or job, at most.
const MOST_QUERIES: u32 = 1000;
const LONGEST_SPACING: Duration = Duration::from_hours(1);
/// Queries of a standing round are spread over at most this share of its interval.
const ROUND_SHARE: u32 = 2;
/// Bytes that a compiled expectation may take.
const PATTERN_SIZE: usize = 256 * 1024;

/// Parameters of `dns`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a parameter of its own")]
pub(crate) struct Params {
    /// Type of the records, by name or number; A if absent, or PTR if the target is an address.
    #[serde(alias = "record_type")]
    r#type: Option<NameOrNumber>,
    /// Class of the records, by name or number; IN if absent.
    class: Option<NameOrNumber>,
    /// The name to look up, where the target is the resolver.
    query: Option<String>,
    /// Resolver: an address or name, with or without a port, or a URL such as tls://9.9.9.9 or
    /// https://dns.example/dns-query; the host's own if absent.
    resolver: Option<String>,
    /// udp, tcp, dot or doh; udp if neither this nor the resolver says so.
    #[schemars(extend("enum" = ["udp", "tcp", "dot", "doh", null]))]
    transport: Option<String>,
    /// Port of the resolver; the transport's own if absent.
    #[schemars(range(min = 1, max = 65_535))]
    port: Option<i64>,
    /// Ask for recursion; yes if absent.
    recursion: Option<bool>,
    /// Set the flag CD: take also what fails validation.
    checking_disabled: bool,
    /// Set the flag AD: ask whether the resolver has validated.
    authentic_data: bool,
    /// Use EDNS; yes if absent.
    edns: Option<bool>,
    /// Size of UDP answers that EDNS asks for; 1232 if absent.
    #[schemars(range(min = 512, max = 65_535))]
    udp_size: Option<i64>,
    /// Set the flag DO: ask for DNSSEC's records.
    dnssec: bool,
    /// Ask for the name of the server's instance; yes if absent.
    nsid: Option<bool>,
    /// Ask again over TCP when the answer is truncated; yes if absent.
    retry_tcp: Option<bool>,
    /// Name in the resolver's certificate; its own name or address if absent.
    server_name: Option<String>,
    /// Take any certificate.
    insecure: bool,
    /// Path of DNS over HTTPS; /dns-query if absent.
    path: Option<String>,
    /// Queries; 1 if absent.
    #[schemars(range(min = 1, max = 1000))]
    count: Option<i64>,
    /// Time between queries; one second if absent.
    #[serde(alias = "interval_ms")]
    interval: Option<Span>,
    /// How long a query may take, from its first packet; two seconds if absent.
    #[serde(alias = "timeout_ms")]
    timeout: Option<Span>,
    /// Differentiated services code point.
    #[schemars(range(min = 0, max = 63))]
    dscp: Option<i64>,
    /// Address family of the resolver: 4 or 6.
    #[schemars(range(min = 4, max = 6))]
    family: Option<i64>,
    /// Response codes that are a success, by name or number; NOERROR if absent.
    expect_rcode: Option<OneOrMany>,
    /// Regular expression that the data of an answer must match for a success.
    expect_answer: Option<String>,
}

/// A number, or a name of one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum NameOrNumber {
    Number(u16),
    Name(String),
}

impl NameOrNumber {
    fn text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => name,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrMany {
    One(NameOrNumber),
    Many(Vec<NameOrNumber>),
}

/// How a resolver is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spec {
    /// The target as it was named.
    pub target: String,
    pub query: Query,
    /// The resolver and how it was named; the host's own if none.
    pub resolver: Option<(Host, String)>,
    pub port: u16,
    pub family: Family,
    pub count: u32,
    pub interval: Duration,
    pub expectation: Expectation,
}

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Address(IpAddr),
    Name(String),
}

/// What makes a success.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Expectation {
    pub rcodes: Vec<Rcode>,
    pub answer: Option<Pattern>,
}

/// A regular expression, equal to another by its text.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    fn new(text: &str) -> Result<Self, Fault> {
        let pattern = RegexBuilder::new(text).size_limit(PATTERN_SIZE).build();
        pattern.map(Self).map_err(|error| {
            // The last line has the reason, those before it the place.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Fault::invalid("params.expect_answer", reason)
        })
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    pub(crate) fn text(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text().hash(state);
    }
}

impl Spec {
    /// Reads the parameters of a job.
    pub(crate) fn read(target: &str, params: &Map<String, Value>) -> Result<Self, Fault> {
        let params: Params = module::params(params)?;
        let Asked { name, resolver, default } =
            asked(target, params.query.as_deref(), params.resolver.as_deref())?;
        let kind = match params.r#type {
            Some(kind) => parse("type", &kind.text())?,
            None => default,
        };
        let transport = match &params.transport {
            None => resolver.transport.unwrap_or_default(),
            Some(text) => {
                text.parse::<Transport>().map_err(|text| Fault::invalid("params.transport", text))?
            }
        };
        if resolver.transport.is_some_and(|named| named != transport) {
            return Err(Fault::invalid("params.transport", "the resolver's URL says another one"));
        }
        // A target of the kind resolver always has a port, 53 if none was given: nobody speaks TLS there.
        let told = resolver.port.filter(|port| *port != 53);
        let port = match (within("port", params.port, 1, 65_535)?.map(|port| port as u16), told) {
            (Some(port), Some(told)) if port != told => {
                return Err(Fault::invalid(
                    "params.port",
                    format!("the resolver says {told}; leave one of them out"),
                ));
            }
            (Some(port), _) | (None, Some(port)) => port,
            (None, None) => transport.port(),
        };
        let edns = params.edns.unwrap_or(true);
        if !edns && (params.dnssec || params.udp_size.is_some() || params.nsid == Some(true)) {
            return Err(Fault::invalid("params.edns", "dnssec, udp_size and nsid need it"));
        }
        let udp_size = within("udp_size", params.udp_size, 512, 65_535)?;
        let default = Query::new(name, kind);
        let server_name = params.server_name.or(match &resolver.host {
            Some((Host::Name(name), _)) => Some(name.clone()),
            _ => None,
        });
        let query = Query {
            class: params.class.map(|class| parse("class", &class.text())).transpose()?.unwrap_or(Class::IN),
            transport,
            recursion: params.recursion.unwrap_or(true),
            checking_disabled: params.checking_disabled,
            authentic_data: params.authentic_data,
            udp_size: udp_size.map(|size| size as u16).or(default.udp_size).filter(|_| edns),
            dnssec_ok: params.dnssec,
            nsid: edns && params.nsid.unwrap_or(true),
            retry_truncated: params.retry_tcp.unwrap_or(true),
            timeout: params.timeout.map_or(default.timeout, |span| span.0),
            dscp: within("dscp", params.dscp, 0, 63)?.unwrap_or(0) as u8,
            server_name,
            insecure: params.insecure,
            path: params.path.or(resolver.path).unwrap_or_else(|| default.path.clone()),
            ..default
        };
        let family = match params.family {
            None => Family::Any,
            Some(4) => Family::V4,
            Some(6) => Family::V6,
            Some(_) => return Err(Fault::invalid("params.family", "use 4 or 6")),
        };
        if let Some((Host::Address(address), _)) = &resolver.host
            && !family.admits(*address)
        {
            return Err(Fault::invalid("params.family", "the resolver is an address of the other family"));
        }
        let spec = Self {
            target: target.to_owned(),
            query,
            resolver: resolver.host,
            port,
            family,
            count: within("count", params.count, 1, i64::from(MOST_QUERIES))?.unwrap_or(1) as u32,
            interval: params.interval.map_or(SPACING, |span| span.0),
            expectation: Expectation {
                rcodes: rcodes(params.expect_rcode)?,
                answer: params.expect_answer.as_deref().map(Pattern::new).transpose()?,
            },
        };
        if spec.interval > LONGEST_SPACING {
            return Err(Fault::invalid("params.interval", "use at most 1 hour"));
        }
        spec.query.check().map_err(|(field, text)| {
            let field = match (field, resolver.is_target) {
                ("name", false) => "target".to_owned(),
                ("name", true) => "params.query".to_owned(),
                (field, _) => format!("params.{field}"),
            };
            Fault::invalid(field, text)
        })?;
        Ok(spec)
    }

    /// Reads the parameters of standing work, whose count and timeout are the tier's. Unless the parameters say so,
    /// the queries of a round are a second apart, or closer where the interval is too short for that.
    pub(crate) fn standing(assignment: &Assignment) -> Result<Self, Fault> {
        let mut params = assignment.params.clone();
        for name in ["count", "timeout", "timeout_ms"] {
            params.remove(name);
        }
        let spaced = params.contains_key("interval") || params.contains_key("interval_ms");
        let mut spec = Self::read(&assignment.address, &params)?;
        if !(1..=MOST_QUERIES).contains(&assignment.count) {
            return Err(Fault::invalid("count", format!("use 1 to {MOST_QUERIES} queries")));
        }
        spec.count = assignment.count;
        spec.query.timeout = Duration::from_millis(assignment.timeout_ms);
        if !spaced {
            let share = Duration::from_micros(assignment.interval_us()) / (ROUND_SHARE * spec.count);
            spec.interval = spec.interval.min(share);
        }
        spec.query.check().map_err(|(field, text)| Fault::invalid(field, text))?;
        Ok(spec)
    }

    /// The resolver as it was named.
    pub(crate) fn resolver_name(&self) -> &str {
        self.resolver.as_ref().map_or("system", |(_, name)| name)
    }
}

/// What the target and the two parameters beside it come to.
struct Asked {
    name: String,
    resolver: Resolver,
    default: RecordType,
}

/// A resolver as it was written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    host: Option<(Host, String)>,
    port: Option<u16>,
    transport: Option<Transport>,
    path: Option<String>,
    is_target: bool,
}

fn asked(target: &str, query: Option<&str>, named: Option<&str>) -> Result<Asked, Fault> {
    let (name, field, resolver) = match (query, named) {
        (Some(_), Some(_)) => {
            let text = "with a query the target is the resolver: leave out one of query and resolver";
            return Err(Fault::invalid("params.resolver", text));
        }
        (Some(query), None) => {
            let resolver = resolver(target).map_err(|text| Fault::invalid("target", text))?;
            (query, "params.query", Resolver { is_target: true, ..resolver })
        }
        (None, Some(named)) => {
            (target, "target", resolver(named).map_err(|text| Fault::invalid("params.resolver", text))?)
        }
        (None, None) => (target, "target", Resolver::default()),
    };
    if name.is_empty() || name.len() > 1100 {
        return Err(Fault::invalid(field, "use a domain name"));
    }
    // Addresses are looked up the other way round.
    let (name, default) = match name.parse::<IpAddr>() {
        Ok(address) => (reverse(address), RecordType::PTR),
        Err(_) => (name.to_owned(), RecordType::A),
    };
    Ok(Asked { name, resolver, default })
}

/// Reads a resolver.
fn resolver(text: &str) -> Result<Resolver, String> {
    let shown: String = text.chars().take(80).collect();
    let wrong =
        || format!("{shown:?} is no resolver: use an address or a name, with or without a port, or a URL");
    let (scheme, rest) = match text.split_once("://") {
        None => (None, text),
        Some((scheme, rest)) => (Some(scheme), rest),
    };
    let transport = match scheme {
        None => None,
        Some("udp" | "dns") => Some(Transport::Udp),
        Some("tcp") => Some(Transport::Tcp),
        Some("tls" | "dot") => Some(Transport::Dot),
        Some("https" | "doh") => Some(Transport::Doh),
        Some(_) => return Err("use udp://, tcp://, tls:// or https://".to_owned()),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) if transport == Some(Transport::Doh) => {
            // The template of RFC 8484 is for GET.
            let path = rest[at..].split('{').next().unwrap_or_default();
            (&rest[..at], Some(path.to_owned()))
        }
        Some(at) if rest[at..] == *"/" && transport.is_some() => (&rest[..at], None),
        Some(_) => return Err(wrong()),
        None => (rest, None),
    };
    let (host, port) = host(authority).ok_or_else(wrong)?;
    Ok(Resolver { host: Some((host, text.to_owned())), port, transport, path, is_target: false })
}

fn host(text: &str) -> Option<(Host, Option<u16>)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return (address.port() != 0).then(|| (Host::Address(address.ip()), Some(address.port())));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => {
            (name, Some(port.parse().ok().filter(|port| *port != 0)?))
        }
        _ => (text, None),
    };
    match target(name).ok()? {
        Target::Address(address) => Some((Host::Address(address), port)),
        Target::Name(name) => Some((Host::Name(name), port)),
    }
}

fn rcodes(given: Option<OneOrMany>) -> Result<Vec<Rcode>, Fault> {
    let texts: Vec<String> = match given {
        None => return Ok(vec![Rcode::NOERROR]),
        Some(OneOrMany::One(one)) => one.text().split(',').map(|part| part.trim().to_owned()).collect(),
        Some(OneOrMany::Many(many)) => many.into_iter().map(NameOrNumber::text).collect(),
    };
    if texts.is_empty() {
        return Err(Fault::invalid("params.expect_rcode", "name at least one"));
    }
    texts.iter().map(|text| parse("expect_rcode", text)).collect()
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<T, Fault> {
    text.parse().map_err(|error: T::Err| Fault::invalid(format!("params.{field}"), error.to_string()))
}

fn within(field: &str, value: Option<i64>, min: i64, max: i64) -> Result<Option<i64>, Fault> {
    match value {
        Some(value) if !(min..=max).contains(&value) => Err(Fault::invalid(
            format!("params.{field}"),
            format!("{value} is out of range: use {min} to {max}"),
        )),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(target: &str, params: &Value) -> Result<Spec, Fault> {
        Spec::read(target, params.as_object().unwrap())
    }

    #[test]
    fn the_target_is_a_name_an_address_or_the_resolver() {
        let plain = spec("example.org", &json!({})).unwrap();
        assert_eq!(
            (plain.query.name.as_str(), plain.query.kind, plain.port),
            ("example.org", RecordType::A, 53)
        );
        assert_eq!((plain.resolver_name(), plain.count), ("system", 1));
        let back = spec("192.0.2.1", &json!({"resolver": "192.0.2.53"})).unwrap();
        assert_eq!((back.query.name.as_str(), back.query.kind), ("1.2.0.192.in-addr.arpa.", RecordType::PTR));
        let standing = spec("192.0.2.53:53", &json!({"query": "example.org", "type": "aaaa"})).unwrap();
        assert_eq!(
            standing.resolver,
            Some((Host::Address("192.0.2.53".parse().unwrap()), "192.0.2.53:53".to_owned()))
        );
        assert_eq!((standing.query.name.as_str(), standing.query.kind), ("example.org", RecordType::AAAA));
        let secured = spec("192.0.2.53:53", &json!({"query": ".", "type": 2, "transport": "dot"})).unwrap();
        assert_eq!((secured.port, secured.query.kind), (853, RecordType::NS));
        let fault = spec("a.example", &json!({"query": "b.example", "resolver": "192.0.2.1"})).unwrap_err();
        assert_eq!(fault.field.as_deref(), Some("params.resolver"));
    }

    #[test]
    fn resolvers_in_every_spelling() {
        for (text, host, port, transport, path) in [
            ("192.0.2.1", "192.0.2.1", 53, Transport::Udp, "/dns-query"),
            ("192.0.2.1:5353", "192.0.2.1", 5353, Transport::Udp, "/dns-query"),
            ("2001:db8::1", "2001:db8::1", 53, Transport::Udp, "/dns-query"),
            ("[2001:db8::1]", "2001:db8::1", 53, Transport::Udp, "/dns-query"),
            ("[2001:db8::1]:54", "2001:db8::1", 54, Transport::Udp, "/dns-query"),
            ("ns.example:54", "ns.example", 54, Transport::Udp, "/dns-query"),
            ("tcp://192.0.2.1", "192.0.2.1", 53, Transport::Tcp, "/dns-query"),
            ("tls://ns.example/", "ns.example", 853, Transport::Dot, "/dns-query"),
            ("tls://[2001:db8::1]:8853", "2001:db8::1", 8853, Transport::Dot, "/dns-query"),
            ("https://ns.example/q{?dns}", "ns.example", 443, Transport::Doh, "/q"),
            ("https://192.0.2.1:8443/a/b", "192.0.2.1", 8443, Transport::Doh, "/a/b"),
            ("https://ns.example", "ns.example", 443, Transport::Doh, "/dns-query"),
        ] {
            let spec = spec("x.example", &json!({"resolver": text})).unwrap();
            let host = host.parse().map_or_else(|_| Host::Name(host.to_owned()), Host::Address);
            assert_eq!(spec.resolver, Some((host.clone(), text.to_owned())), "{text}");
            assert_eq!(
                (spec.port, spec.query.transport, spec.query.path.as_str()),
                (port, transport, path),
                "{text}"
            );
            let name = matches!(host, Host::Name(_));
            assert_eq!(spec.query.server_name.is_some(), name, "{text}");
        }
        for text in
            ["", "a b", "192.0.2.1:0", "192.0.2.1:x", "ftp://192.0.2.1", "tls://a/b", "a/b", "https://"]
        {
            let fault = spec("x.example", &json!({"resolver": text})).unwrap_err();
            assert_eq!(fault.field.as_deref(), Some("params.resolver"), "{text}");
        }
    }

    #[test]
    fn misfits_name_their_field() {
        let field = |params: Value| spec("a.example", &params).unwrap_err().field.unwrap();
        for (params, name) in [
            (json!({"type": "AXFR"}), "type"),
            (json!({"type": "NONSENSE"}), "type"),
            (json!({"class": "XX"}), "class"),
            (json!({"transport": "quic"}), "transport"),
            (json!({"transport": "udp", "resolver": "tls://192.0.2.1"}), "transport"),
            (json!({"port": 0}), "port"),
            (json!({"udp_size": 100}), "udp_size"),
            (json!({"edns": false, "dnssec": true}), "edns"),
            (json!({"timeout_ms": 0}), "timeout"),
            (json!({"interval": "2h"}), "interval"),
            (json!({"count": 1001}), "count"),
            (json!({"dscp": 64}), "dscp"),
            (json!({"family": 5}), "family"),
            (json!({"family": 6, "resolver": "192.0.2.1"}), "family"),
            (json!({"server_name": "a b"}), "server_name"),
            (json!({"path": "nothing"}), "path"),
            (json!({"expect_rcode": "FINE"}), "expect_rcode"),
            (json!({"expect_rcode": []}), "expect_rcode"),
            (json!({"expect_answer": "("}), "expect_answer"),
            (json!({"expect_answer": "(a{1000}){1000}"}), "expect_answer"),
            (json!({"colour": "red"}), "colour"),
        ] {
            assert_eq!(field(params.clone()), format!("params.{name}"), "{params}");
        }
        assert_eq!(spec("a..b", &json!({})).unwrap_err().field.as_deref(), Some("target"));
        let fault = spec("192.0.2.1", &json!({"query": "a..b"})).unwrap_err();
        assert_eq!(fault.field.as_deref(), Some("params.query"));
    }

    #[test]
    fn expectations_and_equality() {
        let one =
            spec("a.example", &json!({"expect_rcode": "NXDOMAIN, 2", "expect_answer": "^192"})).unwrap();
        assert_eq!(one.expectation.rcodes, [Rcode::NXDOMAIN, Rcode::SERVFAIL]);
        let same =
            spec("a.example", &json!({"expect_rcode": [3, "servfail"], "expect_answer": "^192"})).unwrap();
        assert_eq!(one, same);
        let other = spec("a.example", &json!({"expect_answer": "^193"})).unwrap();
        assert_ne!(one, other);
        assert!(other.expectation.answer.unwrap().matches("193.0.0.1"));
    }
}

//! What is asked of `icmp` and `tcp`: parameters as they are written, and the spec that they come to.

use std::{fmt, net::IpAddr, time::Duration};

use imn_contract::Fault;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use crate::{module, standing::Family};

/// Packets of one round or job, at most.
const MOST_PACKETS: u32 = 65_535;
const LONGEST_TIMEOUT: Duration = Duration::from_hours(1);
const LONGEST_SPACING: Duration = Duration::from_hours(24);
/// Packets of a standing round are spread over at most this share of its interval.
const ROUND_SHARE: u32 = 2;

/// How one target is measured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PingSpec {
    /// What is sent.
    pub protocol: Protocol,
    /// Packets, or connection attempts, 1..=65,535.
    pub count: u16,
    /// Time between them.
    pub interval: Duration,
    /// Tmax of each.
    pub timeout: Duration,
    /// Differentiated services code point, 0..=63.
    pub dscp: u8,
    /// Which address of a name is taken.
    pub family: Family,
    /// Of standing echo requests: rounds in a row without an answer that are each confirmed under a fresh identifier.
    pub retries: u8,
}

/// Rounds in a row that are confirmed unless somebody says otherwise.
const RETRIES: u8 = 3;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// ICMP or ICMPv6 echo requests.
    Icmp {
        /// Bytes of payload, 20..=65,507.
        size: u16,
        /// TTL or hop limit; the host's default if none.
        ttl: Option<u8>,
    },
    /// TCP connections.
    Tcp {
        /// Port, at least 1.
        port: u16,
    },
}

impl PingSpec {
    /// Four echo requests of 56 bytes, one a second, each waited for a second.
    pub const fn icmp() -> Self {
        Self::new(Protocol::Icmp { size: 56, ttl: None })
    }

    /// Four connections, one a second, each waited for a second.
    pub const fn tcp(port: u16) -> Self {
        Self::new(Protocol::Tcp { port })
    }

    const fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            count: 4,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            dscp: 0,
            family: Family::Any,
            retries: RETRIES,
        }
    }

    /// Whether all numbers are in their ranges.
    ///
    /// # Errors
    /// A fault that names the parameter.
    pub fn check(&self) -> Result<(), Fault> {
        let bad = |field: &str, text: &str| Err(Fault::invalid(format!("params.{field}"), text));
        if self.count == 0 {
            return bad("count", "use 1 to 65535 packets");
        }
        if self.interval > LONGEST_SPACING {
            return bad("interval", "use at most 24 hours");
        }
        if self.timeout.is_zero() || self.timeout > LONGEST_TIMEOUT {
            return bad("timeout", "use 1 ms to 1 hour");
        }
        if self.dscp > 63 {
            return bad("dscp", "use 0 to 63");
        }
        match self.protocol {
            Protocol::Icmp { size, .. } if !(20..=65_507).contains(&size) => {
                bad("size", "use 20 to 65507 bytes")
            }
            Protocol::Icmp { ttl: Some(0), .. } => bad("ttl", "use 1 to 255"),
            Protocol::Tcp { port: 0 } => bad("port", "use 1 to 65535"),
            _ => Ok(()),
        }
    }
}

/// Parameters of `icmp`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IcmpParams {
    /// Packets; 4 if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    count: Option<i64>,
    /// Time between packets; one second if absent.
    #[serde(default, alias = "interval_ms")]
    interval: Option<Span>,
    /// How long each answer is waited for; one second if absent.
    #[serde(default, alias = "timeout_ms")]
    timeout: Option<Span>,
    /// Bytes of payload; 56 if absent.
    #[serde(default)]
    #[schemars(range(min = 20, max = 65_507))]
    size: Option<i64>,
    /// TTL or hop limit.
    #[serde(default)]
    #[schemars(range(min = 1, max = 255))]
    ttl: Option<i64>,
    /// Differentiated services code point.
    #[serde(default)]
    #[schemars(range(min = 0, max = 63))]
    dscp: Option<i64>,
    /// Address family: 4 or 6; of a name, its first address if absent.
    #[serde(default)]
    #[schemars(range(min = 4, max = 6))]
    family: Option<i64>,
    /// Of standing work: rounds in a row without an answer that are each confirmed under a fresh identifier, later ones
    /// now and then; 3 if absent.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10))]
    retries: Option<i64>,
}

/// Parameters of `tcp`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TcpParams {
    /// Port; 80 if absent, 443 with TLS.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    port: Option<i64>,
    /// Connections; 4 if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    count: Option<i64>,
    /// Time between connections; one second if absent.
    #[serde(default, alias = "interval_ms")]
    interval: Option<Span>,
    /// How long each is waited for; one second if absent.
    #[serde(default, alias = "timeout_ms")]
    timeout: Option<Span>,
    /// Differentiated services code point.
    #[serde(default)]
    #[schemars(range(min = 0, max = 63))]
    dscp: Option<i64>,
    /// Address family: 4 or 6; of a name, its first address if absent.
    #[serde(default)]
    #[schemars(range(min = 4, max = 6))]
    family: Option<i64>,
    /// Make a TLS handshake over each connection; it is answered once it is secured.
    #[serde(default)]
    pub(crate) tls: bool,
    /// Name that the certificate must be for, and that is sent; the target if absent.
    #[serde(default)]
    pub(crate) server_name: Option<String>,
    /// Take any certificate, and tell what is wrong with it.
    #[serde(default)]
    pub(crate) insecure: bool,
    /// Further certificate authorities to believe, in PEM.
    #[serde(default)]
    pub(crate) ca: Option<String>,
    /// Tell the certificates themselves, in PEM.
    #[serde(default)]
    pub(crate) certificates: bool,
}

/// Numbers that both have.
struct Shared {
    count: Option<i64>,
    interval: Option<Span>,
    timeout: Option<Span>,
    dscp: Option<i64>,
    family: Option<i64>,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Icmp,
    Tcp,
}

impl Kind {
    /// Reads the parameters of a job.
    pub(crate) fn spec(self, params: &Map<String, Value>) -> Result<PingSpec, Fault> {
        let mut retries = None;
        let (protocol, shared) = match self {
            Self::Icmp => {
                let IcmpParams { count, interval, timeout, size, ttl, dscp, family, retries: told } =
                    module::params(params)?;
                retries = within("retries", told, 0, 10)?;
                let size = within("size", size, 20, 65_507)?.unwrap_or(56) as u16;
                let ttl = within("ttl", ttl, 1, 255)?.map(|ttl| ttl as u8);
                (Protocol::Icmp { size, ttl }, Shared { count, interval, timeout, dscp, family })
            }
            Self::Tcp => {
                let TcpParams { port, count, interval, timeout, dscp, family, tls, .. } =
                    module::params(params)?;
                let port = within("port", port, 1, 65_535)?.unwrap_or(if tls { 443 } else { 80 }) as u16;
                (Protocol::Tcp { port }, Shared { count, interval, timeout, dscp, family })
            }
        };
        let default = PingSpec::new(protocol);
        let spec = PingSpec {
            count: within("count", shared.count, 1, i64::from(MOST_PACKETS))?
                .map_or(default.count, |n| n as u16),
            interval: shared.interval.map_or(default.interval, |span| span.0),
            timeout: shared.timeout.map_or(default.timeout, |span| span.0),
            dscp: within("dscp", shared.dscp, 0, 63)?.unwrap_or(0) as u8,
            family: match shared.family {
                None => Family::Any,
                Some(4) => Family::V4,
                Some(6) => Family::V6,
                Some(_) => return Err(Fault::invalid("params.family", "use 4 or 6")),
            },
            retries: retries.map_or(default.retries, |retries| retries as u8),
            ..default
        };
        spec.check()?;
        Ok(spec)
    }

    /// Reads the parameters of standing work, whose count and timeout are the tier's. Unless the parameters say so,
    /// the packets of a round are a second apart, or closer where the interval is too short for that.
    pub(crate) fn standing_spec(
        self,
        assignment: &imn_contract::latest::Assignment,
    ) -> Result<PingSpec, Fault> {
        let mut params = assignment.params.clone();
        for name in ["count", "timeout", "timeout_ms"] {
            params.remove(name);
        }
        let spaced = params.contains_key("interval") || params.contains_key("interval_ms");
        let mut spec = self.spec(&params)?;
        let count = assignment.count.clamp(1, MOST_PACKETS);
        spec.count = count as u16;
        spec.timeout = Duration::from_millis(assignment.timeout_ms);
        if !spaced {
            let share = Duration::from_micros(assignment.interval_us()) / (ROUND_SHARE * count);
            spec.interval = spec.interval.min(share);
        }
        if assignment.count != count {
            return Err(Fault::invalid("count", "use 1 to 65535 packets"));
        }
        spec.check()?;
        Ok(spec)
    }
}

pub(crate) fn within(field: &str, value: Option<i64>, min: i64, max: i64) -> Result<Option<i64>, Fault> {
    match value {
        Some(value) if !(min..=max).contains(&value) => Err(Fault::invalid(
            format!("params.{field}"),
            format!("{value} is out of range: use {min} to {max}"),
        )),
        value => Ok(value),
    }
}

/// A duration: a number of milliseconds, or a text such as `10ms`, `1.5s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub Duration);

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let unit = match unit.trim() {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number * unit).ok().map(Self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("milliseconds, or a duration such as 10ms, 1.5s or 2m")
            }
            fn visit_u64<E: de::Error>(self, ms: u64) -> Result<Span, E> {
                Ok(Span(Duration::from_millis(ms)))
            }
            fn visit_i64<E: de::Error>(self, ms: i64) -> Result<Span, E> {
                match u64::try_from(ms) {
                    Ok(ms) => self.visit_u64(ms),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(ms), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Milliseconds, or a duration such as 10ms, 1.5s or 2m",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9.]+ *(us|µs|ms|s|m|h)$" }
            ]
        })
    }
}

/// Reads a target: an address, with or without brackets, or a name.
///
/// # Errors
/// A fault that names the field `target`.
pub(crate) fn target(text: &str) -> Result<Target, Fault> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        // An IPv4 address in IPv6's dress is an IPv4 address.
        let ip = ip.to_canonical();
        if ip.is_unspecified() {
            return Err(Fault::invalid("target", format!("{ip} is nobody's address; use the host's own")));
        }
        return Ok(Target::Address(ip));
    }
    if is_name(text) {
        return Ok(Target::Name(text.to_owned()));
    }
    let shown: String = text.chars().take(80).collect();
    Err(Fault::invalid("target", format!("{shown:?} is no address and no host name")))
}

/// What is to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Address(IpAddr),
    Name(String),
}

/// RFC 1123, and the underscores that are out there; a name that ends in a number would be a misspelt address.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (1..=253).contains(&text.len())
        && text.split('.').all(label)
        && !text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn icmp(params: &Value) -> Result<PingSpec, Fault> {
        Kind::Icmp.spec(params.as_object().unwrap())
    }

    #[test]
    fn parameters_in_every_spelling() {
        let spec =
            icmp(&json!({"count": 2, "interval": "10ms", "timeout_ms": 500, "size": 100, "ttl": 3})).unwrap();
        assert_eq!(
            (spec.count, spec.interval, spec.timeout),
            (2, Duration::from_millis(10), Duration::from_millis(500))
        );
        assert_eq!(spec.protocol, Protocol::Icmp { size: 100, ttl: Some(3) });
        assert_eq!(icmp(&json!({})).unwrap(), PingSpec::icmp());
        let tcp = Kind::Tcp.spec(json!({"port": 443}).as_object().unwrap()).unwrap();
        assert_eq!(tcp, PingSpec::tcp(443));
    }

    #[test]
    fn misfits_name_their_field() {
        let field = |params: Value| icmp(&params).unwrap_err().field.unwrap();
        assert_eq!(field(json!({"count": 0})), "params.count");
        assert_eq!(field(json!({"count": "four"})), "params.count");
        assert_eq!(field(json!({"interval": "soon"})), "params.interval");
        assert_eq!(field(json!({"interval": -5})), "params.interval");
        assert_eq!(field(json!({"timeout_ms": 0})), "params.timeout");
        assert_eq!(field(json!({"size": 1_000_000})), "params.size");
        assert_eq!(field(json!({"ttl": 0})), "params.ttl");
        assert_eq!(field(json!({"family": 5})), "params.family");
        assert_eq!(field(json!({"colour": "red"})), "params.colour");
        let fault = Kind::Tcp.spec(json!({"port": 65_536}).as_object().unwrap()).unwrap_err();
        assert_eq!((fault.code, fault.field.as_deref()), (400, Some("params.port")));
    }

    #[test]
    fn targets_are_addresses_or_names() {
        assert_eq!(target("[::1]"), Ok(Target::Address("::1".parse().unwrap())));
        assert!(matches!(target("192.0.2.1"), Ok(Target::Address(_))));
        for name in ["localhost", "a.example.", "_x.example.net", "xn--bcher-kva.example"] {
            assert!(matches!(target(name), Ok(Target::Name(_))), "{name}");
        }
        for text in ["", ".", "a b", "999.1.1.1", "http://x", "-x.net", "a..b", "1.2.3", &"a".repeat(64)] {
            assert_eq!(target(text).unwrap_err().field.as_deref(), Some("target"), "{text}");
        }
    }
}

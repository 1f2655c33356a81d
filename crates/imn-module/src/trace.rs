//! What is asked of `trace`: parameters as they are written, and the spec that they come to.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use imn_contract::{Fault, latest::Assignment};
use imn_probe::{
    Timestamp,
    dns::{Query, RecordType},
    trace::{Multipath, Protocol, Spec},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    module,
    ping::{Span, within},
    standing::Family,
};

/// Cycles of one trace at most.
const MOST_CYCLES: i64 = 65_535;
/// Cycles of a standing round are spread over at most this share of its interval.
const ROUND_SHARE: u32 = 2;

/// The zone that the field uses.
pub(crate) const ASN_ZONE: &str = "asn.cymru.com";

/// What is wanted beside addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub names: bool,
    /// Look for autonomous systems under this zone.
    pub asn_zone: Option<String>,
    /// Who is asked; the host's own resolver if nobody is named.
    pub resolver: Option<SocketAddr>,
}

/// How one target is traced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TraceSpec {
    pub target: String,
    pub protocol: Protocol,
    pub cycles: u16,
    pub interval: Duration,
    pub timeout: Duration,
    pub grace: Duration,
    pub first_hop: u8,
    pub max_hops: u8,
    pub size: u16,
    pub dscp: u8,
    pub flow: u8,
    pub multipath: bool,
    pub max_flows: u16,
    pub family: Family,
    pub wanted: Wanted,
}

/// Parameters of `trace`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceParams {
    /// What to send: `icmp`, `udp` or `tcp`; `icmp` if absent, or `udp` where all paths are looked for, since routers
    /// spread ICMP less often.
    #[serde(default)]
    protocol: Option<Transport>,
    /// Destination port of UDP (33434 if absent) or TCP (80 if absent).
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    port: Option<i64>,
    /// Cycles; 1 if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    count: Option<i64>,
    /// Time between the starts of cycles; one second if absent.
    #[serde(default, alias = "interval_ms")]
    interval: Option<Span>,
    /// How long each answer is waited for; one second if absent.
    #[serde(default, alias = "timeout_ms")]
    timeout: Option<Span>,
    /// Once the target has answered and nothing is left to send, what is missing is given up after three times the
    /// longest round trip of the trace, but not before this time; 250 ms if absent.
    #[serde(default, alias = "grace_ms")]
    grace: Option<Span>,
    /// First TTL or hop limit; 1 if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    first_hop: Option<i64>,
    /// Last TTL or hop limit; 30 if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    max_hops: Option<i64>,
    /// Bytes of ICMP or UDP payload; 32 if absent.
    #[serde(default)]
    #[schemars(range(min = 20, max = 1472))]
    size: Option<i64>,
    /// Differentiated services code point.
    #[serde(default)]
    #[schemars(range(min = 0, max = 63))]
    dscp: Option<i64>,
    /// Which of 256 flow identifiers to use; 0 if absent. Equal flows take equal paths.
    #[serde(default)]
    #[schemars(range(min = 0, max = 255))]
    flow: Option<i64>,
    /// Find all parallel paths.
    #[serde(default)]
    multipath: bool,
    /// Flows tried at most to find all parallel paths; 128 if absent.
    #[serde(default)]
    #[schemars(range(min = 2, max = 256))]
    max_flows: Option<i64>,
    /// Address family: 4 or 6; of a name, its first address if absent.
    #[serde(default)]
    #[schemars(range(min = 4, max = 6))]
    family: Option<i64>,
    /// Look up the names of the hops' addresses.
    #[serde(default)]
    names: bool,
    /// Look up which autonomous systems originate the hops' addresses.
    #[serde(default)]
    asn: bool,
    /// Where autonomous systems are looked up: a zone that answers as `asn.cymru.com`, which is taken if absent, but
    /// asked of public addresses only.
    #[serde(default)]
    asn_zone: Option<String>,
    /// Who is asked for both: an address, with or without a port; the host's own resolver if absent.
    #[serde(default)]
    resolver: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Transport {
    Icmp,
    Udp,
    Tcp,
}

impl TraceSpec {
    /// Reads the parameters of a job.
    pub(crate) fn read(target: &str, params: &Map<String, Value>) -> Result<Self, Fault> {
        let params: TraceParams = module::params(params)?;
        let hop = |name, value| Ok::<_, Fault>(within(name, value, 1, 64)?.map(|hop| hop as u8));
        let port = within("port", params.port, 1, 65_535)?.map(|port| port as u16);
        let transport = params.protocol.unwrap_or(match (params.multipath, port) {
            (false, None) => Transport::Icmp,
            _ => Transport::Udp,
        });
        let protocol = match (transport, port) {
            (Transport::Icmp, None) => Protocol::Icmp,
            (Transport::Icmp, Some(_)) => {
                return Err(Fault::invalid("params.port", "ICMP has no ports; use udp or tcp as protocol"));
            }
            (Transport::Udp, None) => Protocol::UDP,
            (Transport::Udp, Some(port)) => Protocol::Udp { port },
            (Transport::Tcp, None) => Protocol::TCP,
            (Transport::Tcp, Some(port)) => Protocol::Tcp { port },
        };
        let span = |span: Option<Span>, default| span.map_or(default, |span| span.0);
        let spec = Self {
            target: target.to_owned(),
            protocol,
            cycles: within("count", params.count, 1, MOST_CYCLES)?.unwrap_or(1) as u16,
            interval: span(params.interval, Duration::from_secs(1)),
            timeout: span(params.timeout, Duration::from_secs(1)),
            grace: span(params.grace, Duration::from_millis(250)),
            first_hop: hop("first_hop", params.first_hop)?.unwrap_or(1),
            max_hops: hop("max_hops", params.max_hops)?.unwrap_or(30),
            size: within("size", params.size, 20, 1472)?.unwrap_or(32) as u16,
            dscp: within("dscp", params.dscp, 0, 63)?.unwrap_or(0) as u8,
            flow: within("flow", params.flow, 0, 255)?.unwrap_or(0) as u8,
            multipath: params.multipath,
            max_flows: within("max_flows", params.max_flows, 2, 256)?.unwrap_or(128) as u16,
            family: match params.family {
                None => Family::Any,
                Some(4) => Family::V4,
                Some(6) => Family::V6,
                Some(_) => return Err(Fault::invalid("params.family", "use 4 or 6")),
            },
            wanted: Wanted {
                names: params.names,
                asn_zone: params.asn_zone.or_else(|| params.asn.then(|| ASN_ZONE.to_owned())),
                resolver: params.resolver.as_deref().map(resolver).transpose()?,
            },
        };
        spec.check()?;
        Ok(spec)
    }

    /// Reads the parameters of standing work, whose count and timeout are the tier's: as many cycles as it wants
    /// packets. Unless the parameters say so, the cycles of a round are a second apart, or closer where the interval
    /// is too short for that.
    pub(crate) fn standing(assignment: &Assignment) -> Result<Self, Fault> {
        let mut params = assignment.params.clone();
        for name in ["count", "timeout", "timeout_ms"] {
            params.remove(name);
        }
        let spaced = params.contains_key("interval") || params.contains_key("interval_ms");
        let mut spec = Self::read(&assignment.address, &params)?;
        spec.cycles = if spec.multipath {
            1
        } else {
            u16::try_from(assignment.count.max(1))
                .map_err(|_| Fault::invalid("count", "use 1 to 65535 packets"))?
        };
        spec.timeout = Duration::from_millis(assignment.timeout_ms);
        if !spaced {
            let share =
                Duration::from_micros(assignment.interval_us()) / (ROUND_SHARE * u32::from(spec.cycles));
            spec.interval = spec.interval.min(share);
        }
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), Fault> {
        let bad = |field: &str, text: &str| Err(Fault::invalid(format!("params.{field}"), text));
        if self.multipath && self.cycles != 1 {
            return bad("count", "finding all paths takes one cycle; leave the count out");
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_mins(1) {
            return bad("timeout", "use 1 ms to 1 minute");
        }
        if self.interval > Duration::from_hours(1) {
            return bad("interval", "use at most 1 hour");
        }
        if let Some(zone) = &self.wanted.asn_zone
            && let Err((_, text)) = Query::new(zone.clone(), RecordType::TXT).check()
        {
            return bad("asn_zone", &text);
        }
        if self.first_hop > self.max_hops {
            return bad("first_hop", "use at most max_hops");
        }
        if u32::from(self.cycles) * u32::from(self.max_hops - self.first_hop + 1) > Spec::MAX_PROBES {
            return bad("count", "too many for so many hops: at most 500000 probes make a trace");
        }
        Ok(())
    }

    /// What the engine is asked for.
    pub(crate) fn engine(&self, key: u64, target: IpAddr, due: Timestamp, progress: bool) -> Spec {
        Spec {
            protocol: self.protocol,
            due,
            cycles: self.cycles,
            interval: self.interval,
            timeout: self.timeout,
            grace: self.grace,
            first_hop: self.first_hop,
            max_hops: self.max_hops,
            size: self.size,
            dscp: self.dscp,
            flow: self.flow,
            multipath: self
                .multipath
                .then(|| Multipath { max_flows: self.max_flows, ..Multipath::default() }),
            progress,
            ..Spec::new(key, target)
        }
    }
}

fn resolver(text: &str) -> Result<SocketAddr, Fault> {
    let address = text.parse().or_else(|_| text.parse().map(|address: IpAddr| (address, 53).into()));
    address.map_err(|_| Fault::invalid("params.resolver", "use an address, with or without a port"))
}

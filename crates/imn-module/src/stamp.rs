//! What is asked of `stamp`: parameters as they are written, and the spec that they come to.

use std::{path::Path, time::Duration};

use imn_contract::{Fault, latest::Assignment};
use imn_probe::stamp::{AUTHENTICATED, ClockQuality, Format, PORT, Peer, UNAUTHENTICATED};
use imn_runtime::clock;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    module,
    ping::{Span, within},
    standing::Family,
};

/// Packets of a standing round are spread over at most this share of its interval.
const ROUND_SHARE: u32 = 2;

/// What this host knows of its clock, for whoever sends or reflects STAMP packets.
pub fn clock_quality() -> ClockQuality {
    let clock::Quality { synced, error, tai_offset } = clock::quality();
    ClockQuality { synced, error, tai_offset }
}

/// Parameters of `stamp`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// UDP port of the reflector; 862 if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    port: Option<i64>,
    /// Packets; 10 if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    count: Option<i64>,
    /// Time between packets; 100 ms if absent.
    #[serde(default, alias = "interval_ms")]
    interval: Option<Span>,
    /// How long each answer is waited for; one second if absent.
    #[serde(default, alias = "timeout_ms")]
    timeout: Option<Span>,
    /// Bytes of UDP payload; the least that the mode has, 44 or 112, if absent; else at least four more.
    #[serde(default)]
    #[schemars(range(min = 44, max = 65_507))]
    size: Option<i64>,
    /// Differentiated services code point.
    #[serde(default)]
    #[schemars(range(min = 0, max = 63))]
    dscp: Option<i64>,
    /// Whether packets carry an HMAC; `authenticated` if there is a key file, else `unauthenticated`.
    #[serde(default)]
    mode: Option<Mode>,
    /// Name of the file with the secret of authenticated mode, in the vantage point's directory of keys.
    #[serde(default)]
    key_file: Option<String>,
    /// Session identifier (RFC 8972); a random one if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    ssid: Option<i64>,
    /// How time stamps are written: `ntp` (if absent) or `ptp`.
    #[serde(default)]
    timestamps: Timestamps,
    /// How the reflector numbers its answers: found out (`auto`) if absent.
    #[serde(default)]
    reflector: Reflector,
    /// Port to send from; any if absent.
    #[serde(default)]
    #[schemars(range(min = 1024, max = 65_535))]
    source_port: Option<i64>,
    /// Address family: 4 or 6; of a name, its first address if absent.
    #[serde(default)]
    #[schemars(range(min = 4, max = 6))]
    family: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Unauthenticated,
    Authenticated,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Timestamps {
    #[default]
    Ntp,
    Ptp,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Reflector {
    #[default]
    Auto,
    Stateful,
    Stateless,
}

/// How one target is measured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StampSpec {
    /// The target as it was named.
    pub(crate) target: String,
    pub(crate) port: u16,
    pub(crate) count: u16,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) size: u16,
    pub(crate) dscp: u8,
    /// Name of a file in the directory of keys; none for unauthenticated packets.
    pub(crate) key_file: Option<String>,
    pub(crate) ssid: Option<u16>,
    pub(crate) format: Format,
    pub(crate) peer: Peer,
    pub(crate) source_port: Option<u16>,
    pub(crate) family: Family,
}

impl StampSpec {
    /// Reads the parameters of a job.
    pub(crate) fn new(target: &str, params: &Map<String, Value>) -> Result<Self, Fault> {
        let params: Params = module::params(params)?;
        let bad = |field: &str, text: &str| Err(Fault::invalid(format!("params.{field}"), text));
        match (params.mode, &params.key_file) {
            (Some(Mode::Authenticated), None) => {
                return bad("key_file", "is missing: authenticated mode needs it");
            }
            (Some(Mode::Unauthenticated), Some(_)) => {
                return bad("mode", "use authenticated with a key_file");
            }
            _ => {}
        }
        if let Some(name) = &params.key_file
            && Path::new(name).file_name() != Some(name.as_ref())
        {
            return bad("key_file", "use the name of a file in the vantage point's directory of keys");
        }
        let least = if params.key_file.is_some() { AUTHENTICATED } else { UNAUTHENTICATED } as i64;
        let size = within("size", params.size, least, 65_507)?.unwrap_or(least);
        if size != least && size < least + 4 {
            return bad("size", &format!("use {least}, or {} to 65507", least + 4));
        }
        let spec = Self {
            target: target.to_owned(),
            port: within("port", params.port, 1, 65_535)?.map_or(PORT, |port| port as u16),
            count: within("count", params.count, 1, 65_535)?.unwrap_or(10) as u16,
            interval: params.interval.map_or(Duration::from_millis(100), |span| span.0),
            timeout: params.timeout.map_or(Duration::from_secs(1), |span| span.0),
            size: size as u16,
            dscp: within("dscp", params.dscp, 0, 63)?.unwrap_or(0) as u8,
            key_file: params.key_file,
            ssid: within("ssid", params.ssid, 1, 65_535)?.map(|ssid| ssid as u16),
            format: match params.timestamps {
                Timestamps::Ntp => Format::Ntp,
                Timestamps::Ptp => Format::Ptp,
            },
            peer: match params.reflector {
                Reflector::Auto => Peer::Auto,
                Reflector::Stateful => Peer::Stateful,
                Reflector::Stateless => Peer::Stateless,
            },
            source_port: within("source_port", params.source_port, 1024, 65_535)?.map(|port| port as u16),
            family: match params.family {
                None => Family::Any,
                Some(4) => Family::V4,
                Some(6) => Family::V6,
                Some(_) => return bad("family", "use 4 or 6"),
            },
        };
        if spec.timeout.is_zero() || spec.timeout > Duration::from_hours(1) {
            return bad("timeout", "use 1 ms to 1 hour");
        }
        if spec.interval > Duration::from_hours(24) {
            return bad("interval", "use at most 24 hours");
        }
        Ok(spec)
    }

    /// Reads the parameters of standing work, whose count and timeout are the tier's. Unless the parameters say so,
    /// the packets of a round are closer where its interval is too short for them.
    pub(crate) fn standing(assignment: &Assignment) -> Result<Self, Fault> {
        let mut params = assignment.params.clone();
        for name in ["timeout", "timeout_ms"] {
            params.remove(name);
        }
        params.insert("count".to_owned(), assignment.count.into());
        params.insert("timeout".to_owned(), assignment.timeout_ms.into());
        let spaced = params.contains_key("interval") || params.contains_key("interval_ms");
        let mut spec = Self::new(&assignment.address, &params)?;
        if !spaced {
            let share =
                Duration::from_micros(assignment.interval_us()) / (ROUND_SHARE * u32::from(spec.count));
            spec.interval = spec.interval.min(share);
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(params: &Value) -> Result<StampSpec, Fault> {
        StampSpec::new("192.0.2.1", params.as_object().unwrap())
    }

    #[test]
    fn parameters_and_their_defaults() {
        let plain = spec(&json!({})).unwrap();
        assert_eq!((plain.port, plain.count, plain.size, plain.key_file), (862, 10, 44, None));
        let secured =
            spec(&json!({"key_file": "lon", "ssid": 7, "interval": "5ms", "timestamps": "ptp"})).unwrap();
        assert_eq!((secured.size, secured.ssid, secured.format), (112, Some(7), Format::Ptp));
        assert_eq!(secured.interval, Duration::from_millis(5));
    }

    #[test]
    fn misfits_name_their_field() {
        let field = |params: Value| spec(&params).unwrap_err().field.unwrap();
        assert_eq!(field(json!({"size": 46})), "params.size");
        assert_eq!(field(json!({"size": 44, "key_file": "k"})), "params.size");
        assert_eq!(field(json!({"mode": "authenticated"})), "params.key_file");
        assert_eq!(field(json!({"mode": "secret"})), "params.mode");
        for name in ["../shadow", "/etc/shadow", "", ".", "a/b", "a/"] {
            assert_eq!(field(json!({"key_file": name})), "params.key_file", "{name}");
        }
        assert_eq!(field(json!({"ssid": 0})), "params.ssid");
        assert_eq!(field(json!({"source_port": 862})), "params.source_port");
        assert_eq!(field(json!({"timeout": 0})), "params.timeout");
        assert_eq!(field(json!({"colour": "red"})), "params.colour");
    }
}

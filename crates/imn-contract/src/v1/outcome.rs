//! Outcomes of measurements: what a module found, a file for each type.

mod bgp;
mod dns;
mod echo;
mod heartbeat;
mod http;
mod ping;
mod stamp;
mod tls;
mod trace;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::TimestampSource;
use crate::{id::ModuleType, name::canonical_type};

pub use bgp::{BgpOrigin, BgpOutcome, BgpPath, BgpSession, BgpUpdate};
pub use dns::{DnsCounts, DnsEdns, DnsFlags, DnsOutcome, DnsPhases, DnsRecord, DnsTls, DnsWrong};
pub use echo::{EchoInput, EchoOutcome};
pub use heartbeat::HostOutcome;
pub use http::{HttpHop, HttpOutcome, HttpPhases};
pub use ping::{PingOutcome, RttSummary};
pub use stamp::{StampClock, StampClocks, StampDirection, StampOutcome};
pub use tls::{CertificateOutcome, TlsOutcome};
pub use trace::{
    IcmpExtension, IcmpObject, LossKind, MplsLabel, TraceHop, TraceOutcome, TracePath, TraceResponder,
};

/// What the outcomes of every type have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head<'a> {
    /// The target as it was named.
    pub target: &'a str,
    /// The address measured.
    pub address: Option<&'a str>,
    /// When the first packet was sent, RFC 3339 UTC.
    pub time: Option<&'a str>,
    /// Whether the measurement met its expectation; for pings: whether any packet was answered.
    pub success: bool,
    /// Packets, queries or requests sent.
    pub sent: u32,
    /// Of them, those answered within Tmax.
    pub received: u32,
    /// Of them, those of which nothing can be said.
    pub unknown: u32,
    /// Further answers to what was answered already.
    pub duplicates: u32,
    /// The latency of the type, such as the round-trip time, of each of them in milliseconds; `None` for one that was
    /// not received.
    pub latencies_ms: &'a [Option<f64>],
    /// Where the timestamps come from.
    pub timestamp_source: TimestampSource,
    /// Bound of the systematic error of a latency, in microseconds.
    pub error_us: f64,
    /// How long an answer was waited for, in milliseconds.
    pub tmax_ms: u64,
    /// Why nothing, or not all, was measured.
    pub error: Option<&'a str>,
}

/// An outcome with a type of its own.
pub trait Typed: Serialize + DeserializeOwned {
    /// The outcome of a target of which nothing was measured, and why.
    fn unmeasured(target: &str, tmax_ms: u64, error: String) -> Self;

    /// What it has in common with the outcomes of other types.
    fn head(&self) -> Head<'_>;
}

/// Makes [`Outcome`] of the list of types.
macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident($type:ty), $name:literal = $($kind:literal)|+;)+) => {
        /// An outcome of any module type.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Outcome {
            $($(#[$doc])* $variant(Box<$type>),)+
            /// Of a type that has no outcome of its own here: a third party's, `echo` or `heartbeat`.
            Other(Value),
        }

        impl Outcome {
            /// Reads the outcome of a job of this type. What the type's own form cannot hold is kept as it is.
            pub fn read(kind: &ModuleType, value: Value) -> Self {
                match canonical_type(kind.as_str()) {
                    $($($kind)|+ => match <$type>::deserialize(&value) {
                        Ok(outcome) => Self::$variant(Box::new(outcome)),
                        Err(_) => Self::Other(value),
                    },)+
                    _ => Self::Other(value),
                }
            }

            /// The outcome of a target of which nothing was measured, and why.
            pub fn unmeasured(kind: &ModuleType, target: &str, tmax_ms: u64, error: String) -> Self {
                match canonical_type(kind.as_str()) {
                    $($($kind)|+ => Self::$variant(Box::new(<$type>::unmeasured(target, tmax_ms, error))),)+
                    _ => Self::Other(json!({ "target": target, "tmax_ms": tmax_ms, "error": error })),
                }
            }

            /// The form's name, such as `ping`.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)+
                    Self::Other(_) => "outcome",
                }
            }

            /// What it has in common with the outcomes of other types.
            pub fn head(&self) -> Head<'_> {
                match self {
                    $(Self::$variant(outcome) => outcome.head(),)+
                    Self::Other(value) => other(value),
                }
            }
        }

        impl Serialize for Outcome {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$variant(outcome) => outcome.serialize(serializer),)+
                    Self::Other(value) => value.serialize(serializer),
                }
            }
        }

        $(impl From<$type> for Outcome {
            fn from(outcome: $type) -> Self {
                Self::$variant(Box::new(outcome))
            }
        })+
    };
}

// The forms: variant, type, name, and the module types whose outcome has it.
outcomes! {
    /// Of `icmp` and `tcp`.
    Ping(PingOutcome), "ping" = "icmp" | "tcp";
    /// Of `dns`.
    Dns(DnsOutcome), "dns" = "dns";
    /// Of `http`.
    Http(HttpOutcome), "http" = "http";
    /// Of `stamp`.
    Stamp(StampOutcome), "stamp" = "stamp";
    /// Of `bgp`.
    Bgp(BgpOutcome), "bgp" = "bgp";
    /// Of `trace`.
    Trace(TraceOutcome), "trace" = "trace";
}

/// What can be told of an outcome whose type is not known: the fields that it names as the others do. It counts as
/// successful unless it says otherwise.
fn other(value: &Value) -> Head<'_> {
    let text = |name: &str| value[name].as_str();
    let count = |name: &str| value[name].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    let source = TimestampSource::deserialize(&value["timestamp_source"]);
    Head {
        target: text("target").or(value["echo"]["target"].as_str()).unwrap_or_default(),
        address: text("address"),
        time: text("time"),
        success: value["success"].as_bool().unwrap_or_else(|| value["error"].is_null()),
        sent: count("sent"),
        received: count("received"),
        unknown: count("unknown"),
        duplicates: count("duplicates"),
        latencies_ms: &[],
        timestamp_source: source.unwrap_or_default(),
        error_us: value["error_us"].as_f64().unwrap_or(0.0),
        tmax_ms: value["tmax_ms"].as_u64().unwrap_or(0),
        error: text("error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> ModuleType {
        ModuleType::new(name).unwrap()
    }

    #[test]
    fn an_outcome_is_read_as_its_type_says() {
        let outcome =
            PingOutcome { sent: 2, received: 1, ..PingOutcome::unmeasured("a", 9, "late".to_owned()) };
        let value = serde_json::to_value(&outcome).unwrap();
        let read = Outcome::read(&kind("ping"), value.clone());
        assert_eq!(read, Outcome::from(outcome));
        assert_eq!((read.head().sent, read.head().success, read.head().tmax_ms), (2, true, 9));
        assert_eq!(serde_json::to_value(&read).unwrap(), value);
        // A type's form that does not fit, and a type that has none, lose nothing.
        for name in ["icmp", "acme"] {
            let value = json!({"target": "b", "error": "broken", "depth": {"m": 3}});
            let read = Outcome::read(&kind(name), value.clone());
            assert_eq!(read, Outcome::Other(value));
            assert_eq!((read.head().target, read.head().success), ("b", false));
        }
    }

    #[test]
    fn nothing_measured_has_a_reason() {
        for name in ["icmp", "tcp", "dns", "http", "acme"] {
            let outcome = Outcome::unmeasured(&kind(name), "t", 7, "no agent".to_owned());
            let head = outcome.head();
            assert_eq!((head.target, head.tmax_ms, head.error), ("t", 7, Some("no agent")), "{name}");
            assert!(!head.success && head.sent == 0, "{name}");
        }
    }
}

//! Outcome of `trace`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Head, RttSummary, Typed};
use crate::v1::TimestampSource;

/// Outcome of `trace`: the path to a target, hop by hop. Counts, loss and round-trip times of the outcome itself are
/// those of the target (RFC 2681, RFC 6673); without an answer of the target all of its probes are lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TraceOutcome {
    /// The target as it was named.
    pub target: String,
    /// The address traced; absent when the name did not resolve.
    pub address: Option<String>,
    /// The address traced from.
    #[serde(default)]
    pub source: Option<String>,
    /// Type-P: protocol, `icmp`, `icmpv6`, `udp` or `tcp`.
    pub protocol: String,
    /// Type-P: destination port, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Type-P: payload size, in bytes; TCP probes have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Type-P: differentiated services code point.
    #[serde(default)]
    pub dscp: u8,
    /// Last TTL or hop limit that would have been tried.
    pub max_hops: u8,
    /// Cycles; when parallel paths were looked for, flows.
    pub cycles: u32,
    /// Whether the target answered.
    pub reached: bool,
    /// TTL or hop limit at which the path ends: at the target, or at whoever says that it cannot be reached.
    pub distance: Option<u8>,
    /// Probes sent to the target.
    pub sent: u32,
    /// Probes that it answered within Tmax.
    pub received: u32,
    /// Probes to it of which nothing can be said, because this host lost something itself.
    pub unknown: u32,
    /// lost / (sent − unknown) of the target, in percent; null when nothing is known.
    pub loss_pct: Option<f64>,
    /// Round-trip times of the target.
    pub rtt_ms: RttSummary,
    /// Mean absolute difference of consecutive round-trip times of the target (RFC 3393), in milliseconds; undefined
    /// across a loss.
    pub ipdv_ms: Option<f64>,
    /// Mean of delay minus least delay of the target (RFC 5481), in milliseconds.
    pub pdv_ms: Option<f64>,
    /// The mean absolute ipdv of the target under its common name, in milliseconds.
    pub jitter_ms: Option<f64>,
    /// Round-trip time of each probe to the target, in milliseconds; null for one not answered.
    pub rtts_ms: Vec<Option<f64>>,
    /// Every hop, without gap.
    pub hops: Vec<TraceHop>,
    /// The paths found, the most used first: one, unless parallel paths were looked for.
    pub paths: Vec<TracePath>,
    /// Whether parallel paths were looked for, and if so, whether the stopping rule was satisfied at every branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths_complete: Option<bool>,
    /// Further copies of answers.
    pub duplicates: u32,
    /// Answers after Tmax; their probes are lost.
    pub late: u32,
    /// Genuine answers from an address that was not asked.
    #[serde(default)]
    pub wrong_source: u32,
    /// Answers that name a probe of this trace but cannot be genuine; they were ignored.
    #[serde(default)]
    pub forged: u32,
    /// Probes that turned out to go beyond the path's end; no hop counts them.
    #[serde(default)]
    pub beyond: u32,
    /// Where the timestamps come from.
    pub timestamp_source: TimestampSource,
    /// Bound of the systematic error of a round-trip time, in microseconds.
    pub error_us: f64,
    /// Every lost probe was waited for at least so long, in milliseconds.
    pub tmax_ms: u64,
    /// From the first probe to the last answer or the last probe given up, in milliseconds.
    #[serde(default)]
    pub elapsed_ms: Option<f64>,
    /// When the first probe was sent, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Why the target was not reached.
    #[serde(default)]
    pub error: Option<String>,
}

/// One TTL of a path. Round-trip times are over all who answered there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TraceHop {
    /// TTL or hop limit.
    pub hop: u8,
    /// Who answered most; null if nobody did.
    pub address: Option<String>,
    /// Its name, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Number of the autonomous system that originates its address, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    /// Probes sent.
    pub sent: u32,
    /// Probes answered within Tmax.
    pub received: u32,
    /// Probes of which nothing can be said.
    pub unknown: u32,
    /// lost / (sent − unknown), in percent.
    pub loss_pct: Option<f64>,
    /// What the loss means; null when too few probes tell.
    pub loss_kind: Option<LossKind>,
    /// Last round-trip time, in milliseconds.
    pub last_ms: Option<f64>,
    /// Mean round-trip time of received probes, in milliseconds.
    pub avg_ms: Option<f64>,
    /// Least round-trip time, in milliseconds.
    pub best_ms: Option<f64>,
    /// Greatest round-trip time, in milliseconds.
    pub worst_ms: Option<f64>,
    /// Sample standard deviation, in milliseconds.
    pub stddev_ms: Option<f64>,
    /// Mean absolute ipdv (RFC 3393), in milliseconds.
    pub jitter_ms: Option<f64>,
    /// Round-trip time of each probe in order of sending, in milliseconds; null for one not answered.
    pub rtts_ms: Vec<Option<f64>>,
    /// Where the timestamps come from.
    pub timestamp_source: TimestampSource,
    /// Who answered, in order of appearance.
    pub responders: Vec<TraceResponder>,
    /// Where several answered: for each probe, the index of who did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered_by: Vec<Option<u8>>,
}

/// What loss at a hop means for packets that are only forwarded there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// Nothing was lost.
    None,
    /// Packets are lost on the way: later hops have the loss too, or there is none that answers.
    Forwarding,
    /// The hop answers less than it forwards: later hops do not have the loss (Fisher's exact test, 5 %).
    RateLimited,
}

/// A node that answered at a hop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TraceResponder {
    /// Its address.
    pub address: String,
    /// Its answers within Tmax.
    pub received: u32,
    /// Mean round-trip time of these, in milliseconds.
    pub avg_ms: Option<f64>,
    /// How it answered last: `time_exceeded`, `echo_reply`, `syn_ack`, `reset` or `unreachable`.
    pub answer: String,
    /// ICMP or ICMPv6 type, if it is `unreachable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP or ICMPv6 code, if it is `unreachable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// Traceroute's sign for it, such as `!H`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign: Option<String>,
    /// TTL or hop limit at which its answer arrived.
    pub reply_ttl: Option<u8>,
    /// Bytes of its answer behind the IP header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_size: Option<u32>,
    /// TTL or hop limit at which the probe had arrived there; 1 unless somebody hides hops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quoted_ttl: Option<u8>,
    /// ICMP extension (RFC 4884) of its last error that had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<IcmpExtension>,
}

/// An ICMP extension.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IcmpExtension {
    /// The message says itself where the extension begins, as RFC 4884 asks.
    pub rfc4884: bool,
    /// Its objects.
    pub objects: Vec<IcmpObject>,
}

/// An object of an ICMP extension.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IcmpObject {
    /// Class number; 1 is MPLS.
    pub class: u8,
    /// Class type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// The MPLS label stack (RFC 4950), outermost first, if it is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mpls: Vec<MplsLabel>,
}

/// An entry of an MPLS label stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MplsLabel {
    /// Label, 20 bits.
    pub label: u32,
    /// Traffic class, formerly experimental bits.
    pub exp: u8,
    /// 1 at the bottom of the stack.
    pub s: u8,
    /// Time to live.
    pub ttl: u8,
}

/// The nodes that flows passed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TracePath {
    /// Names the sequence of addresses, the same from every vantage point and at all times: 16 hexadecimal digits.
    pub id: String,
    /// Address at each hop; null where none answered.
    pub addresses: Vec<Option<String>>,
    /// Number of flows that took it.
    pub flows: u32,
}

impl Typed for TraceOutcome {
    fn unmeasured(target: &str, tmax_ms: u64, error: String) -> Self {
        Self { target: target.to_owned(), tmax_ms, error: Some(error), ..Self::default() }
    }

    fn head(&self) -> Head<'_> {
        Head {
            target: &self.target,
            address: self.address.as_deref(),
            time: self.time.as_deref(),
            success: self.reached && self.received > 0,
            sent: self.sent,
            received: self.received,
            unknown: self.unknown,
            duplicates: self.duplicates,
            latencies_ms: &self.rtts_ms,
            timestamp_source: self.timestamp_source,
            error_us: self.error_us,
            tmax_ms: self.tmax_ms,
            error: self.error.as_deref(),
        }
    }
}

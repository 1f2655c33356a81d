//! Outcome of `icmp` and `tcp`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Head, TlsOutcome, Typed};
use crate::v1::TimestampSource;

/// Summary of the round-trip times of received packets, in milliseconds. Percentiles are nearest-rank and count a
/// lost packet as infinite, so they are null where they fall on a loss; the rest is over received packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RttSummary {
    /// Least.
    pub min: Option<f64>,
    /// Mean.
    pub avg: Option<f64>,
    /// Greatest.
    pub max: Option<f64>,
    /// Sample standard deviation.
    pub stddev: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
}

/// Outcome of `icmp` (RFC 2681 round-trip delay and RFC 6673 round-trip loss) and of `tcp` (connect time).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PingOutcome {
    /// The target as it was named.
    pub target: String,
    /// The address measured; absent when the name did not resolve.
    pub address: Option<String>,
    /// Type-P: protocol, `icmp`, `icmpv6` or `tcp`.
    pub protocol: String,
    /// Type-P: port, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Type-P: payload size, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Type-P: differentiated services code point.
    #[serde(default)]
    pub dscp: u8,
    /// Packets sent.
    pub sent: u32,
    /// Packets answered within Tmax.
    pub received: u32,
    /// Packets of which nothing can be said, because this host lost something itself.
    pub unknown: u32,
    /// lost / (sent − unknown), in percent; null when nothing is known.
    pub loss_pct: Option<f64>,
    /// Round-trip times.
    pub rtt_ms: RttSummary,
    /// Mean absolute difference of consecutive round-trip times (RFC 3393), in milliseconds; undefined across a loss.
    pub ipdv_ms: Option<f64>,
    /// Mean of delay minus least delay (RFC 5481), in milliseconds.
    pub pdv_ms: Option<f64>,
    /// The mean absolute ipdv under its common name, in milliseconds.
    pub jitter_ms: Option<f64>,
    /// Further answers to a packet already answered.
    pub duplicates: u32,
    /// Answers after Tmax; their packets are lost.
    pub late: u32,
    /// Answers that arrived out of order (RFC 4737).
    pub reordered: u32,
    /// Each packet's round-trip time in order of sending, in milliseconds; null for one not received.
    pub rtts_ms: Vec<Option<f64>>,
    /// TTL or hop limit of the last answer, as it arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// How long resolving the target's name took, in milliseconds; absent when it is an address or was not timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolve_ms: Option<f64>,
    /// The TLS handshake after the connection, where one was asked for: of the first that failed, or of the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsOutcome>,
    /// Where the timestamps come from.
    pub timestamp_source: TimestampSource,
    /// Bound of the systematic error of a round-trip time, in microseconds.
    pub error_us: f64,
    /// How long an answer was waited for, in milliseconds.
    pub tmax_ms: u64,
    /// When the first packet was sent, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Why nothing, or not all, was measured: for example `destination host unreachable from 192.0.2.1`.
    #[serde(default)]
    pub error: Option<String>,
}

impl Typed for PingOutcome {
    fn unmeasured(target: &str, tmax_ms: u64, error: String) -> Self {
        Self {
            target: target.to_owned(),
            address: None,
            protocol: String::new(),
            port: None,
            size: None,
            dscp: 0,
            sent: 0,
            received: 0,
            unknown: 0,
            loss_pct: None,
            rtt_ms: RttSummary::default(),
            ipdv_ms: None,
            pdv_ms: None,
            jitter_ms: None,
            duplicates: 0,
            late: 0,
            reordered: 0,
            rtts_ms: Vec::new(),
            ttl: None,
            resolve_ms: None,
            tls: None,
            timestamp_source: TimestampSource::User,
            error_us: 0.0,
            tmax_ms,
            time: None,
            error: Some(error),
        }
    }

    fn head(&self) -> Head<'_> {
        Head {
            target: &self.target,
            address: self.address.as_deref(),
            time: self.time.as_deref(),
            success: self.received > 0,
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

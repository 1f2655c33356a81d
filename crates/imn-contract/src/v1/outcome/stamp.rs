//! Outcome of `stamp`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Head, RttSummary, Typed};
use crate::v1::TimestampSource;

/// Outcome of `stamp` (RFC 8762): round trips without the time that the reflector kept each packet, and both
/// directions by the clocks of both ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StampOutcome {
    /// The target as it was named.
    pub target: String,
    /// The address measured; absent when the name did not resolve.
    pub address: Option<String>,
    /// Type-P: UDP port of the reflector.
    pub port: u16,
    /// `unauthenticated` or `authenticated`.
    pub mode: String,
    /// Type-P: UDP payload, in bytes.
    pub size: u32,
    /// Type-P: differentiated services code point.
    #[serde(default)]
    pub dscp: u8,
    /// Session identifier sent (RFC 8972); absent when nothing was sent.
    #[serde(default)]
    pub ssid: Option<u16>,
    /// Whether the reflector returned the session identifier; absent without an answer. A TWAMP-light peer does not.
    #[serde(default)]
    pub ssid_returned: Option<bool>,
    /// Packets sent.
    pub sent: u32,
    /// Packets answered within Tmax.
    pub received: u32,
    /// Packets of which nothing can be said, because this host lost something itself.
    pub unknown: u32,
    /// lost / (sent − unknown), in percent; null when nothing is known.
    pub loss_pct: Option<f64>,
    /// Round-trip times, less the time at the reflector.
    pub rtt_ms: RttSummary,
    /// Mean absolute difference of consecutive round-trip times (RFC 3393), in milliseconds; undefined across a loss.
    pub ipdv_ms: Option<f64>,
    /// Mean of round trip minus least round trip (RFC 5481), in milliseconds.
    pub pdv_ms: Option<f64>,
    /// The mean absolute ipdv under its common name, in milliseconds.
    pub jitter_ms: Option<f64>,
    /// Further answers to a packet already answered, wherever they were made.
    pub duplicates: u32,
    /// Answers after Tmax; their packets are lost.
    pub late: u32,
    /// Answers that arrived out of order (RFC 4737).
    pub reordered: u32,
    /// Genuine answers from an address or port that was not asked.
    #[serde(default)]
    pub wrong_source: u32,
    /// Packets from the reflector that are no answer: too short, or with another HMAC than the key gives.
    #[serde(default)]
    pub corrupted: u32,
    /// Packets that answer nothing that was sent.
    #[serde(default)]
    pub foreign: u32,
    /// Mean time at the reflector by its own clock, in milliseconds.
    #[serde(default)]
    pub residence_ms: Option<f64>,
    /// From here to the reflector.
    pub forward: StampDirection,
    /// From the reflector to here.
    pub backward: StampDirection,
    /// Packets lost in one of the two directions, and nothing tells in which; null where directions cannot be told at
    /// all, because the reflector does not count.
    #[serde(default)]
    pub unattributed: Option<u32>,
    /// The clocks that the one-way delays are differences of.
    pub clock: StampClocks,
    /// Each packet's round-trip time in order of sending, in milliseconds; null for one not received.
    pub rtts_ms: Vec<Option<f64>>,
    /// Where the timestamps of this end come from.
    pub timestamp_source: TimestampSource,
    /// Bound of the systematic error of a round-trip time by this host, in microseconds.
    pub error_us: f64,
    /// How long an answer was waited for, in milliseconds.
    pub tmax_ms: u64,
    /// When the first packet was sent, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Why nothing, or not all, was measured.
    #[serde(default)]
    pub error: Option<String>,
}

/// One direction of a STAMP session.
///
/// Delays are differences of two clocks (RFC 7679): as wrong as these are, so they may be negative; see
/// [`StampClocks`]. Their variation is free of a constant difference. A packet lost in this direction, or in one that is
/// not known, counts as infinite in percentiles.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StampDirection {
    /// One-way delays of answered packets; all null where a timestamp is missing or a clock was stepped.
    pub delay_ms: RttSummary,
    /// Mean absolute difference of consecutive one-way delays (RFC 3393), in milliseconds; undefined across a loss.
    pub ipdv_ms: Option<f64>,
    /// Mean of one-way delay minus least one-way delay (RFC 5481), in milliseconds.
    pub pdv_ms: Option<f64>,
    /// Packets sent into this direction of which it is known whether they arrived; null where it cannot be told.
    pub sent: Option<u32>,
    /// Of them, those that did not arrive (RFC 7680). Backward these are answers, to copies too.
    pub lost: Option<u32>,
    /// lost / sent, in percent.
    pub loss_pct: Option<f64>,
    /// Further copies that arrived.
    pub duplicates: Option<u32>,
    /// Packets that arrived out of order (RFC 4737).
    pub reordered: Option<u32>,
    /// Least TTL or hop limit on arrival; both ends of this implementation send with 255.
    pub ttl: Option<u8>,
    /// Each packet's one-way delay in order of sending, in milliseconds; null where there is none.
    pub delays_ms: Vec<Option<f64>>,
}

/// What both ends know of their clocks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StampClocks {
    /// Whether both are synchronized to UTC; if not, one-way delays say nothing but how they vary.
    pub synced: bool,
    /// Bound of the error of a one-way delay, in microseconds: those of both clocks and of taking the stamps; null
    /// unless both are synchronized.
    pub error_us: Option<f64>,
    /// This host's, as its kernel has it.
    pub local: StampClock,
    /// The reflector's, as its error estimates tell it; null without an answer.
    pub remote: Option<StampClock>,
}

/// One end's clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StampClock {
    /// Whether it is synchronized to UTC.
    pub synced: bool,
    /// Bound of its error, in microseconds; null when unknown.
    pub error_us: Option<f64>,
}

impl Typed for StampOutcome {
    fn unmeasured(target: &str, tmax_ms: u64, error: String) -> Self {
        Self {
            target: target.to_owned(),
            address: None,
            port: 0,
            mode: String::new(),
            size: 0,
            dscp: 0,
            ssid: None,
            ssid_returned: None,
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
            wrong_source: 0,
            corrupted: 0,
            foreign: 0,
            residence_ms: None,
            forward: StampDirection::default(),
            backward: StampDirection::default(),
            unattributed: None,
            clock: StampClocks::default(),
            rtts_ms: Vec::new(),
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

//! Rounds on their way from a spool to the store: sealed batches, columnar and compressed, and watermarks.

use std::{io::Read, sync::Arc};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::one;
use crate::{
    codec::{self, DecodeError, Encoding, MAX_MESSAGE_BYTES, Message},
    id::{AgentId, InstanceId, ModuleType, TargetId},
};

/// Level of zstd: the fastest that still halves a batch.
const ZSTD_LEVEL: i32 = 1;

/// Where a round's timestamps come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimestampSource {
    /// Kernel stamps on send and receive.
    Kernel,
    /// Some by the kernel, some in user space.
    Mixed,
    /// User space.
    #[default]
    User,
}

/// One execution of an assignment: identified by (agent, target, type, due).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// The target.
    pub target: Option<TargetId>,
    /// The address measured; empty when the name did not resolve.
    pub address: Arc<str>,
    /// When it was due, in microseconds since the Unix epoch.
    pub due_us: i64,
    /// When its first packet was sent, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// Packets sent.
    pub sent: u32,
    /// Packets answered within Tmax.
    pub received: u32,
    /// Packets of which nothing can be said.
    pub unknown: u32,
    /// Further answers to packets already answered.
    pub duplicates: u32,
    /// Answers after Tmax.
    pub late: u32,
    /// Answers out of order (RFC 4737).
    pub reordered: u32,
    /// Whether the measurement met its expectation, for pings: whether any packet was answered.
    pub success: bool,
    /// What went wrong, in words.
    pub error: Option<String>,
    /// Least round-trip time, in nanoseconds.
    pub rtt_min_ns: Option<u64>,
    /// Mean round-trip time of received packets, in nanoseconds.
    pub rtt_avg_ns: Option<u64>,
    /// Greatest round-trip time, in nanoseconds.
    pub rtt_max_ns: Option<u64>,
    /// Sample standard deviation, in nanoseconds.
    pub rtt_stddev_ns: Option<u64>,
    /// Mean absolute ipdv (RFC 3393), in nanoseconds.
    pub ipdv_ns: Option<u64>,
    /// Sent − due of the worst packet, in microseconds.
    pub late_us: u32,
    /// Tmax, in microseconds.
    pub tmax_us: u64,
    /// Source of the timestamps.
    pub ts_source: TimestampSource,
    /// Bound of the systematic error, in nanoseconds.
    pub error_ns: u64,
    /// Each packet's round-trip time in order of sending, in nanoseconds; `None` for one not received. Empty when
    /// the round has one packet.
    pub rtts_ns: Vec<Option<u64>>,
    /// Outcome of a type without columns of its own, as JSON text.
    pub outcome: Option<String>,
}

/// Rounds that were due and could not be made: recorded, never silent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// The target.
    pub target: TargetId,
    /// First due time missed, in microseconds since the Unix epoch.
    pub first_due_us: i64,
    /// Last due time missed, in microseconds since the Unix epoch.
    pub last_due_us: i64,
    /// Rounds missed.
    pub rounds: u64,
    /// Why: `module_crashed`, `stopped`, `spool_full`, `spool_lost`, `overload`, `clock_step`, `moved`.
    pub reason: String,
}

/// A sealed batch of one spool: resent byte-identical until it is committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The agent.
    pub agent: AgentId,
    /// The instance whose spool this is.
    pub instance: InstanceId,
    /// Module type of the rounds.
    pub kind: ModuleType,
    /// Random per spool and partition.
    pub epoch: u64,
    /// First sequence number covered. Differs from `last_seq` only where a hole can no longer be filled.
    pub first_seq: u64,
    /// Last sequence number covered; sequences count from 1.
    pub last_seq: u64,
    /// The rounds.
    pub rounds: Vec<Round>,
    /// The gaps.
    pub gaps: Vec<Gap>,
}

/// The wire form of [`Batch`]: one array per column, all of one length.
///
/// `due_us` and `time_us` are differences: `due_us` to the row before, `time_us` to the row's own `due_us`. Times in
/// `rtt_*`, `ipdv` and `error` are nanoseconds. `rtts_ns` holds the packets of all rounds in one run, `rtts_len` how
/// many belong to each round; −1 stands for a packet not received.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the columns are those of Round")]
pub struct BatchColumns {
    #[serde(default = "one")]
    pub v: u32,
    pub agent: String,
    pub instance: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub epoch: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    pub target: Vec<Arc<str>>,
    pub address: Vec<Arc<str>>,
    pub due_us: Vec<i64>,
    pub time_us: Vec<i64>,
    pub sent: Vec<u32>,
    pub received: Vec<u32>,
    pub unknown: Vec<u32>,
    pub duplicates: Vec<u32>,
    pub late: Vec<u32>,
    pub reordered: Vec<u32>,
    pub success: Vec<bool>,
    pub error: Vec<Option<String>>,
    pub rtt_min_ns: Vec<Option<u64>>,
    pub rtt_avg_ns: Vec<Option<u64>>,
    pub rtt_max_ns: Vec<Option<u64>>,
    pub rtt_stddev_ns: Vec<Option<u64>>,
    pub ipdv_ns: Vec<Option<u64>>,
    pub late_us: Vec<u32>,
    pub tmax_us: Vec<u64>,
    pub ts_source: Vec<TimestampSource>,
    pub error_ns: Vec<u64>,
    pub rtts_len: Vec<u32>,
    pub rtts_ns: Vec<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcome: Vec<Option<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// How far the server has committed one spool's stream of batches: broadcast after each commit, and the answer to
/// [`WatermarkRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Watermark {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The epoch.
    pub epoch: u64,
    /// Every sequence up to this one is committed; 0 when none is.
    pub committed: u64,
}

/// Asks for a watermark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WatermarkRequest {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The epoch asked for.
    pub epoch: u64,
}

impl Batch {
    /// CBOR of the columns, compressed by zstd: what is published and what the spool keeps.
    ///
    /// # Errors
    /// When the encoding or compression fails, or a round has no target.
    pub fn seal(&self) -> Result<Bytes, DecodeError> {
        compress(BatchColumns::NAME, &codec::encode(&self.columns()?, Encoding::Cbor)?)
    }

    /// Reads [`Self::seal`]. Any bytes give a batch or an error.
    ///
    /// # Errors
    /// [`DecodeError`] for anything but a sealed batch of this major whose columns agree in length.
    pub fn open(bytes: &[u8]) -> Result<Self, DecodeError> {
        let columns: BatchColumns = codec::decode(&decompress(BatchColumns::NAME, bytes)?, Encoding::Cbor)?;
        columns.try_into()
    }

    fn columns(&self) -> Result<BatchColumns, DecodeError> {
        let n = self.rounds.len();
        let mut c = BatchColumns {
            v: 1,
            agent: self.agent.to_string(),
            instance: self.instance.to_string(),
            kind: self.kind.to_string(),
            epoch: self.epoch,
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            target: Vec::with_capacity(n),
            due_us: Vec::with_capacity(n),
            gaps: self.gaps.clone(),
            ..BatchColumns::default()
        };
        let with_outcome = self.rounds.iter().any(|r| r.outcome.is_some());
        let mut before = 0;
        for round in &self.rounds {
            let Some(target) = &round.target else { return Err(invalid("target", "a round has no target")) };
            c.target.push(target.text());
            c.address.push(Arc::clone(&round.address));
            c.due_us.push(round.due_us.wrapping_sub(before));
            before = round.due_us;
            c.time_us.push(round.time_us.wrapping_sub(round.due_us));
            c.sent.push(round.sent);
            c.received.push(round.received);
            c.unknown.push(round.unknown);
            c.duplicates.push(round.duplicates);
            c.late.push(round.late);
            c.reordered.push(round.reordered);
            c.success.push(round.success);
            c.error.push(round.error.clone());
            c.rtt_min_ns.push(round.rtt_min_ns);
            c.rtt_avg_ns.push(round.rtt_avg_ns);
            c.rtt_max_ns.push(round.rtt_max_ns);
            c.rtt_stddev_ns.push(round.rtt_stddev_ns);
            c.ipdv_ns.push(round.ipdv_ns);
            c.late_us.push(round.late_us);
            c.tmax_us.push(round.tmax_us);
            c.ts_source.push(round.ts_source);
            c.error_ns.push(round.error_ns);
            c.rtts_len.push(round.rtts_ns.len() as u32);
            c.rtts_ns.extend(round.rtts_ns.iter().map(|rtt| rtt.map_or(-1, |ns| ns as i64)));
            if with_outcome {
                c.outcome.push(round.outcome.clone());
            }
        }
        Ok(c)
    }
}

impl TryFrom<BatchColumns> for Batch {
    type Error = DecodeError;

    fn try_from(c: BatchColumns) -> Result<Self, DecodeError> {
        let n = c.target.len();
        let lengths = [
            ("address", c.address.len()),
            ("due_us", c.due_us.len()),
            ("time_us", c.time_us.len()),
            ("sent", c.sent.len()),
            ("received", c.received.len()),
            ("unknown", c.unknown.len()),
            ("duplicates", c.duplicates.len()),
            ("late", c.late.len()),
            ("reordered", c.reordered.len()),
            ("success", c.success.len()),
            ("error", c.error.len()),
            ("rtt_min_ns", c.rtt_min_ns.len()),
            ("rtt_avg_ns", c.rtt_avg_ns.len()),
            ("rtt_max_ns", c.rtt_max_ns.len()),
            ("rtt_stddev_ns", c.rtt_stddev_ns.len()),
            ("ipdv_ns", c.ipdv_ns.len()),
            ("late_us", c.late_us.len()),
            ("tmax_us", c.tmax_us.len()),
            ("ts_source", c.ts_source.len()),
            ("error_ns", c.error_ns.len()),
            ("rtts_len", c.rtts_len.len()),
            ("outcome", if c.outcome.is_empty() { n } else { c.outcome.len() }),
        ];
        if let Some((column, len)) = lengths.into_iter().find(|(_, len)| *len != n) {
            return Err(invalid(column, format!("the column has {len} rows, `target` has {n}")));
        }
        let packets: u64 = c.rtts_len.iter().map(|len| u64::from(*len)).sum();
        if packets != c.rtts_ns.len() as u64 {
            return Err(invalid("rtts_ns", "its length is not the sum of `rtts_len`"));
        }
        if c.first_seq == 0 || c.first_seq > c.last_seq {
            return Err(invalid("first_seq", "sequences count from 1 and first_seq must not pass last_seq"));
        }
        let id = |field: &str, error: crate::IdError| invalid(field, error.to_string());
        let mut rounds = Vec::with_capacity(n);
        let mut due_us = 0i64;
        let mut packet = 0usize;
        let mut error = c.error.into_iter();
        let mut address = c.address.into_iter();
        let mut outcome = c.outcome.into_iter();
        for (row, target) in c.target.into_iter().enumerate() {
            due_us = due_us.wrapping_add(c.due_us[row]);
            let end = packet + c.rtts_len[row] as usize;
            rounds.push(Round {
                target: Some(TargetId::new(target).map_err(|e| id("target", e))?),
                address: address.next().unwrap_or_default(),
                due_us,
                time_us: due_us.wrapping_add(c.time_us[row]),
                sent: c.sent[row],
                received: c.received[row],
                unknown: c.unknown[row],
                duplicates: c.duplicates[row],
                late: c.late[row],
                reordered: c.reordered[row],
                success: c.success[row],
                error: error.next().flatten(),
                rtt_min_ns: c.rtt_min_ns[row],
                rtt_avg_ns: c.rtt_avg_ns[row],
                rtt_max_ns: c.rtt_max_ns[row],
                rtt_stddev_ns: c.rtt_stddev_ns[row],
                ipdv_ns: c.ipdv_ns[row],
                late_us: c.late_us[row],
                tmax_us: c.tmax_us[row],
                ts_source: c.ts_source[row],
                error_ns: c.error_ns[row],
                rtts_ns: c.rtts_ns[packet..end].iter().map(|ns| u64::try_from(*ns).ok()).collect(),
                outcome: outcome.next().flatten(),
            });
            packet = end;
        }
        Ok(Self {
            agent: AgentId::new(c.agent).map_err(|e| id("agent", e))?,
            instance: InstanceId::new(c.instance).map_err(|e| id("instance", e))?,
            kind: ModuleType::new(c.kind).map_err(|e| id("type", e))?,
            epoch: c.epoch,
            first_seq: c.first_seq,
            last_seq: c.last_seq,
            rounds,
            gaps: c.gaps,
        })
    }
}

fn invalid(field: &str, message: impl Into<String>) -> DecodeError {
    DecodeError::body(BatchColumns::schema(), Some(field.to_owned()), message)
}

pub(super) fn compress(schema: &str, bytes: &[u8]) -> Result<Bytes, DecodeError> {
    zstd::bulk::compress(bytes, ZSTD_LEVEL)
        .map(Bytes::from)
        .map_err(|e| DecodeError::body(schema.to_owned(), None, format!("compress: {e}")))
}

/// Decompresses at most one message's worth, so that a small payload cannot fill the memory.
pub(super) fn decompress(schema: &str, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let fail = |e: std::io::Error| DecodeError::body(schema.to_owned(), None, format!("decompress: {e}"));
    let limit = MAX_MESSAGE_BYTES as u64 + 1;
    let mut out = Vec::new();
    zstd::stream::read::Decoder::new(bytes).map_err(fail)?.take(limit).read_to_end(&mut out).map_err(fail)?;
    Ok(out)
}

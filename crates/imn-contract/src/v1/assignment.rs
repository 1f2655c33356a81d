//! Standing work: what one agent probes and how often.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::one;
use crate::{
    codec::{self, DecodeError, Encoding, Message},
    id::{AgentId, InstanceId, ModuleType, TargetId},
    name::phase_us,
    v1::ingest::{compress, decompress},
};

/// One target under standing measurement by one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Assignment {
    /// The target.
    pub target: TargetId,
    /// Module type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// Address, name or URL to measure.
    pub address: String,
    /// Time between rounds, in milliseconds, at least 1.
    pub interval_ms: u64,
    /// Tmax of each packet, in milliseconds, at least 1; may exceed the interval.
    pub timeout_ms: u64,
    /// Packets per round, at least 1.
    pub count: u32,
    /// Parameters of the type.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
    /// Rounds are owed from this time on, in microseconds since the Unix epoch.
    pub since_us: i64,
    /// Rounds due at this time or later are another instance's, in microseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_us: Option<i64>,
}

impl Assignment {
    /// The interval in microseconds, at least 1.
    pub fn interval_us(&self) -> u64 {
        self.interval_ms.saturating_mul(1000).max(1)
    }

    /// The first due time at or after `from_us`, both in microseconds since the Unix epoch.
    pub fn next_due_us(&self, from_us: i64) -> i64 {
        let interval = i64::try_from(self.interval_us()).unwrap_or(i64::MAX);
        let phase = phase_us(&self.target, &self.kind, self.interval_us()) as i64;
        let wait = (phase - from_us).rem_euclid(interval);
        from_us.saturating_add(wait)
    }

    /// [`Self::until_us`], or the end of time.
    pub fn end_us(&self) -> i64 {
        self.until_us.unwrap_or(i64::MAX)
    }

    /// How many rounds fall due in `[from_us, to_us)`.
    pub fn dues_between(&self, from_us: i64, to_us: i64) -> u64 {
        let first = self.next_due_us(from_us);
        if first >= to_us { 0 } else { ((to_us - 1 - first) as u64) / self.interval_us() + 1 }
    }
}

/// Which shards make up an agent's assignments; written after them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AssignmentMeta {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The agent.
    pub agent: AgentId,
    /// Counts changes of this agent's assignments.
    pub generation: u64,
    /// Hash of each shard's bytes, by shard number; empty text: the shard has no entries and no key.
    pub shards: Vec<String>,
    /// Number of ingest partitions.
    #[serde(default = "one")]
    pub partitions: u32,
}

/// One shard of an agent's assignments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AssignmentShard {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// The entries, by target and type.
    pub assignments: Vec<Assignment>,
}

impl AssignmentShard {
    /// CBOR, compressed by zstd: what stands under the shard's key.
    ///
    /// # Errors
    /// When the encoding or compression fails.
    pub fn pack(&self) -> Result<Bytes, DecodeError> {
        compress(Self::NAME, &codec::encode(self, Encoding::Cbor)?)
    }

    /// Reads [`Self::pack`].
    ///
    /// # Errors
    /// [`DecodeError`] for any bytes that are no packed shard of this major.
    pub fn unpack(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(&decompress(Self::NAME, bytes)?, Encoding::Cbor)
    }

    /// The hash of packed bytes that stands in [`AssignmentMeta`].
    pub fn hash(packed: &[u8]) -> String {
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(packed))
    }
}

/// The file by which an agent hands one instance its standing work; replaced as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AssignmentFile {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// Counts versions of this file.
    pub generation: u64,
    /// The instance.
    pub instance: InstanceId,
    /// Its share. A target is named once for each time in which it is this instance's: those that have ended are told on
    /// until it has been ready for a while, so that one that died in them can account for them; at most one has no end.
    pub assignments: Vec<Assignment>,
}

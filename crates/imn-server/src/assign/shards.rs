//! What one agent can read: its shards, and the meta entry that says which they are.

use std::collections::BTreeSet;

use async_nats::HeaderMap;
use bytes::Bytes;
use imn_contract::{
    AgentId, TargetId,
    latest::{AssignmentMeta, AssignmentShard},
    stream as names,
};
use imn_runtime::nats::{self, Client};

use super::plan::Plan;

/// Assignments of one shard, about.
const PER_SHARD: usize = 200;
/// Assignments up to which one shard is enough.
const ONE_SHARD: usize = 500;
const MAX_SHARDS: u32 = 512;

/// What is published for one agent, and what is not yet.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) generation: u64,
    /// Hash of each shard's bytes, as in the meta entry.
    hashes: Vec<String>,
    /// Shards to look at; `None`: all of them.
    dirty: Option<BTreeSet<u32>>,
    /// Whether the bucket is known to hold `generation` and `hashes`.
    settled: bool,
}

/// What is to be written for one agent.
#[derive(Debug)]
pub(super) struct Writing {
    shards: Vec<(u32, Bytes)>,
    hashes: Vec<String>,
}

impl Published {
    /// Nothing is known but the generation.
    pub(super) fn unknown(generation: u64) -> Self {
        Self { generation, ..Self::default() }
    }

    /// Whether the bucket must be asked what it holds.
    pub(super) fn is_doubted(&self) -> bool {
        self.dirty.is_none()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// The entries of these targets are others now.
    pub(super) fn touch<'a>(&mut self, targets: impl IntoIterator<Item = &'a TargetId>) {
        self.settled = false;
        let of = self.hashes.len() as u32;
        if let Some(dirty) = &mut self.dirty {
            dirty.extend(targets.into_iter().map(|target| imn_contract::shard(target, of)));
        }
    }

    /// Forgets what is published: the bucket may have lost it.
    pub(super) fn doubt(&mut self) {
        (self.settled, self.dirty) = (false, None);
    }

    /// Takes over what the bucket says, when it is of this generation.
    pub(super) async fn compare(&mut self, client: &Client, agent: &AgentId) -> nats::Result<()> {
        let subject = names::kv_subject(names::ASSIGNMENTS_BUCKET, &names::meta_key(agent));
        let kept = client.direct_get(names::ASSIGNMENTS, &subject).await?;
        let meta = kept.and_then(|kept| {
            imn_contract::decode::<AssignmentMeta>(&kept.payload, imn_contract::Encoding::Json).ok()
        });
        self.hashes = match meta {
            Some(meta) if meta.generation == self.generation => meta.shards,
            // Another's, or nothing: everything is written.
            Some(meta) => {
                self.generation = self.generation.max(meta.generation);
                Vec::new()
            }
            None => Vec::new(),
        };
        Ok(())
    }

    /// Packs what may have changed of `count` assignments; `None` when it all is as published.
    pub(super) fn pack(
        &self,
        agent: &AgentId,
        plan: &Plan,
        count: usize,
    ) -> Result<Option<Writing>, imn_contract::DecodeError> {
        let now = self.hashes.len() as u32;
        let ideal = shard_count(count);
        // Halving or doubling is worth writing everything anew, less is not.
        let fits = now > 0 && now >= ideal.div_ceil(2) && now <= ideal.saturating_mul(4);
        let of = if fits { now } else { ideal };
        let dirty = self.dirty.as_ref().filter(|_| fits);
        let mut entries = plan.entries(agent, dirty, of);
        let mut hashes = if fits { self.hashes.clone() } else { vec![String::new(); of as usize] };
        let mut shards = Vec::new();
        let looked_at: Vec<u32> = dirty.map_or_else(|| (0..of).collect(), |d| d.iter().copied().collect());
        for shard in looked_at {
            let (bytes, hash) = match entries.remove(&shard) {
                Some(assignments) => {
                    let packed = AssignmentShard { v: 1, assignments }.pack()?;
                    let hash = AssignmentShard::hash(&packed);
                    (packed, hash)
                }
                None => (Bytes::new(), String::new()),
            };
            if hashes[shard as usize] != hash || !fits {
                hashes[shard as usize] = hash;
                if !bytes.is_empty() {
                    shards.push((shard, bytes));
                }
            }
        }
        Ok((hashes != self.hashes).then_some(Writing { shards, hashes }))
    }

    /// What is published is what should be.
    pub(super) fn settle(&mut self) {
        (self.settled, self.dirty) = (true, Some(BTreeSet::new()));
    }

    /// Writes shards, then the meta entry; how many shards.
    pub(super) async fn write(
        &mut self,
        client: &Client,
        agent: &AgentId,
        partitions: u32,
        writing: Writing,
    ) -> nats::Result<usize> {
        let written = writing.shards.len();
        for (shard, bytes) in writing.shards {
            let subject = names::kv_subject(names::ASSIGNMENTS_BUCKET, &names::shard_key(agent, shard));
            client.publish_bytes_acked(&subject, bytes, None, HeaderMap::new(), client.timeout()).await?;
        }
        let meta = AssignmentMeta {
            v: 1,
            agent: agent.clone(),
            generation: self.generation,
            shards: writing.hashes.clone(),
            partitions,
        };
        let subject = names::kv_subject(names::ASSIGNMENTS_BUCKET, &names::meta_key(agent));
        client.publish_acked(&subject, &meta, None, HeaderMap::new()).await?;
        self.hashes = writing.hashes;
        self.settle();
        Ok(written)
    }
}

/// One shard for few assignments, else a power of two up to 512, of about 200 each.
fn shard_count(assignments: usize) -> u32 {
    if assignments < ONE_SHARD {
        return 1;
    }
    ((assignments / PER_SHARD) as u32).next_power_of_two().min(MAX_SHARDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_grow_with_the_assignments() {
        assert_eq!([0, 499, 500, 20_000, 100_000, 1_000_000].map(shard_count), [1, 1, 2, 128, 512, 512]);
    }
}

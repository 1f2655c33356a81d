//! The commit log: sealed batches by position, and the watermark of every (agent, epoch), written together.

mod mend;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use imn_contract::AgentId;

use super::error::Error;

/// Batches pass through the log within minutes: nothing is gained by caching or buffering much of it.
const CACHE_BYTES: u64 = 1 << 20;
const MEMTABLE_BYTES: u64 = 4 << 20;
/// The least that fjall takes.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Entries removed in one step.
const TRIM: usize = 1_000;

/// Watermarks: by agent and epoch.
pub(super) type Watermarks = HashMap<(AgentId, u64), u64>;

/// The log, open. A failed write poisons it: it is then closed and opened again.
pub(super) struct Log {
    path: PathBuf,
    open: Option<Open>,
}

struct Open {
    database: Database,
    /// Position → sealed batch.
    entries: Keyspace,
    /// Agent, 0, epoch → last sequence number committed.
    watermarks: Keyspace,
}

impl Log {
    pub(super) fn open(path: PathBuf) -> Result<Self, Error> {
        let open = match Open::new(&path) {
            Err(error @ fjall::Error::JournalRecovery(_)) => {
                mend::cut_damage(&path, &error)?;
                Open::new(&path)
            }
            open => open,
        };
        let open = open.map_err(Error::log("open log", &path))?;
        Ok(Self { path, open: Some(open) })
    }

    /// Opens it again after a failed write; whether that was so.
    pub(super) fn reopen(&mut self) -> Result<bool, Error> {
        if self.open.is_some() {
            return Ok(false);
        }
        self.open = Some(Open::new(&self.path).map_err(Error::log("reopen log", &self.path))?);
        Ok(true)
    }

    /// Closes it, until it is reopened.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Writes entries and watermarks together and fsyncs them. An error says nothing about whether they are there:
    /// it closes the log, and opening it again tells.
    pub(super) fn append(&mut self, entries: &[(i64, Bytes)], watermarks: &Watermarks) -> Result<(), Error> {
        let Some(open) = &self.open else { return Err(Error::new("commit", "the log is closed")) };
        let mut batch = open.database.batch().durability(Some(PersistMode::SyncData));
        for (position, sealed) in entries {
            batch.insert(&open.entries, key_of(*position), sealed.as_ref());
        }
        for ((agent, epoch), sequence) in watermarks {
            batch.insert(&open.watermarks, watermark_key(agent, *epoch), sequence.to_be_bytes());
        }
        let result = batch.commit().map_err(Error::log("commit", &self.path));
        if result.is_err() {
            self.open = None;
        }
        result
    }

    /// All watermarks.
    pub(super) fn watermarks(&self) -> Result<Watermarks, Error> {
        let open = self.opened()?;
        let mut watermarks = Watermarks::new();
        for entry in open.watermarks.iter() {
            let (key, value) = entry.into_inner().map_err(Error::log("read log", &self.path))?;
            let parsed = parse_watermark(&key, &value);
            let (agent, epoch, sequence) =
                parsed.ok_or_else(|| Error::new("read log", "a watermark cannot be read"))?;
            watermarks.insert((agent, epoch), sequence);
        }
        Ok(watermarks)
    }

    /// Gives every entry after `position` to `visit`.
    pub(super) fn read(
        &self,
        position: i64,
        mut visit: impl FnMut(i64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for entry in self.opened()?.entries.range(key_of(position + 1)..) {
            let (key, value) = entry.into_inner().map_err(Error::log("read log", &self.path))?;
            let position = key.as_ref().try_into().map(i64::from_be_bytes);
            let position = position.map_err(|_| Error::new("read log", "a position cannot be read"))?;
            visit(position, &value)?;
        }
        Ok(())
    }

    /// Removes entries up to `position`. Not fsynced: what comes back after a crash is ignored by its position.
    pub(super) fn trim(&mut self, position: i64) -> Result<(), Error> {
        let open = self.opened()?;
        let mut keys = Vec::new();
        for entry in open.entries.range(..=key_of(position)) {
            keys.push(entry.key().map_err(Error::log("trim log", &self.path))?);
        }
        for chunk in keys.chunks(TRIM) {
            let mut batch = open.database.batch();
            for key in chunk {
                batch.remove(&open.entries, key.clone());
            }
            if let Err(error) = batch.commit() {
                let error = Error::log("trim log", &self.path)(error);
                self.open = None;
                return Err(error);
            }
        }
        Ok(())
    }

    fn opened(&self) -> Result<&Open, Error> {
        self.open.as_ref().ok_or_else(|| Error::new("read log", "the log is closed after a failed write"))
    }
}

impl Open {
    fn new(path: &Path) -> fjall::Result<Self> {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(1)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let entries = database.keyspace("entries", options)?;
        let watermarks = database.keyspace("watermarks", options)?;
        Ok(Self { database, entries, watermarks })
    }
}

fn key_of(position: i64) -> [u8; 8] {
    position.to_be_bytes()
}

fn watermark_key(agent: &AgentId, epoch: u64) -> Vec<u8> {
    let mut key = agent.as_str().as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(&epoch.to_be_bytes());
    key
}

fn parse_watermark(key: &[u8], value: &[u8]) -> Option<(AgentId, u64, u64)> {
    let (agent, epoch) = key.split_last_chunk::<8>()?;
    let agent = std::str::from_utf8(agent.strip_suffix(&[0])?).ok()?;
    let sequence = u64::from_be_bytes(value.try_into().ok()?);
    Some((AgentId::new(agent).ok()?, u64::from_be_bytes(*epoch), sequence))
}

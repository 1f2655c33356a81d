//! What a spool keeps on disk: one ordered key space in a log-structured store.
//!
//! Keys: `e{part}` epoch and committed sequence · `c{counter}` open chunk · `s{part}{seq}` sealed batch ·
//! `p` progress mark · `z` time of an orderly stop · `d` an earlier store was damaged. Numbers are big endian, so that
//! keys sort by them.
//!
//! Beside the store lies the floor: the due time before which nothing waits to be committed. It is what is still known
//! when the store itself cannot be read.

use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use imn_contract::latest::Batch;
use rand::RngExt;

use super::Error;

/// Memory for writes before they go to a table file, in bytes. Batches live for seconds, so small is enough.
const MEMTABLE_BYTES: u64 = 4 * 1024 * 1024;
/// Memory for reads, in bytes: a batch is read once.
const CACHE_BYTES: u64 = 1024 * 1024;
/// The journal's limit, in bytes: the least that the store takes.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// What is known of a sealed batch without reading it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Greatest due time within.
    pub(super) max_due_us: i64,
    /// When it was sealed.
    pub(super) sealed_us: i64,
    /// Rounds within.
    pub(super) rows: u32,
    /// Size of the sealed bytes.
    pub(super) bytes: u32,
}

impl Header {
    const LEN: usize = 24;

    fn write(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.max_due_us.to_be_bytes());
        out[8..16].copy_from_slice(&self.sealed_us.to_be_bytes());
        out[16..20].copy_from_slice(&self.rows.to_be_bytes());
        out[20..].copy_from_slice(&self.bytes.to_be_bytes());
        out
    }

    fn read(value: &[u8]) -> Option<Self> {
        Some(Self {
            max_due_us: i64::from_be_bytes(value.get(..8)?.try_into().ok()?),
            sealed_us: i64::from_be_bytes(value.get(8..16)?.try_into().ok()?),
            rows: u32::from_be_bytes(value.get(16..20)?.try_into().ok()?),
            bytes: u32::from_be_bytes(value.get(20..24)?.try_into().ok()?),
        })
    }
}

/// A chunk of open rounds: partition, number, content, and its size on disk.
pub(super) type Chunk = (u32, u64, Batch, usize);

pub(super) struct Disk {
    dir: PathBuf,
    /// Held for as long as the spool is open; the store's own lock waits instead of refusing.
    _lock: File,
    store: Option<Store>,
    next_chunk: u64,
    floor: Option<i64>,
}

struct Store {
    database: Database,
    keys: Keyspace,
}

impl Disk {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let open = |message: String| Error::Open { dir: dir.to_owned(), message };
        std::fs::create_dir_all(dir).map_err(|e| open(e.to_string()))?;
        let lock = File::create(dir.join("lock")).map_err(|e| open(e.to_string()))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::InUse { dir: dir.to_owned() },
            TryLockError::Error(e) => open(e.to_string()),
        })?;
        let floor = read_floor(dir);
        let mut disk = Self { dir: dir.to_owned(), _lock: lock, store: None, next_chunk: 0, floor };
        match disk.attach() {
            Err(error @ Error::Damaged { .. }) => disk.set_aside(&error)?,
            done => done?,
        }
        Ok(disk)
    }

    fn attach(&mut self) -> Result<(), Error> {
        let store = Store::open(&self.dir)?;
        let last = store.keys.prefix("c").next_back();
        let last = last.map(fjall::Guard::key).transpose().map_err(|e| failed("open", &e))?;
        self.next_chunk = last.and_then(|key| number(&key, 1)).map_or(0, |n| n + 1);
        self.store = Some(store);
        Ok(())
    }

    /// Goes on with an empty store that knows from when on rounds are lost; the damaged one is kept beside it, and one
    /// that was kept before is not.
    pub(super) fn set_aside(&mut self, damage: &Error) -> Result<(), Error> {
        self.store = None;
        let (store, kept) = (self.dir.join("store"), self.dir.join("store.damaged"));
        let moved = match fs::remove_dir_all(&kept) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => fs::rename(&store, &kept),
        };
        moved
            .map_err(|e| Error::Open { dir: self.dir.clone(), message: format!("set damage aside: {e}") })?;
        tracing::error!(%damage, kept = %kept.display(), "damaged spool set aside; what it held becomes a gap");
        self.attach()?;
        if let Some(floor) = self.floor {
            self.write("progress", |batch, keys| {
                batch.insert(keys, "p", floor.to_be_bytes());
                batch.insert(keys, "d", "");
            })?;
        }
        self.sync()
    }

    /// Whether rounds were lost with a damaged store and are not told as lost yet: with one before this, or with the end
    /// of this one, which is cut off where it cannot be read. The mark is then behind the floor, which was written after it.
    pub(super) fn is_damaged(&self) -> Result<bool, Error> {
        let behind = self.floor.is_some() && self.mark()? < self.floor;
        Ok(behind || self.get(b"d")?.is_some())
    }

    /// Takes note that nothing due before `floor_us` waits to be committed. Lossy: an older floor is only too low.
    pub(super) fn put_floor(&mut self, floor_us: i64) {
        if self.floor == Some(floor_us) {
            return;
        }
        self.floor = Some(floor_us);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&floor_us.to_be_bytes());
        bytes[8..].copy_from_slice(&(!floor_us).to_be_bytes());
        if let Err(error) = fs::write(self.dir.join("floor"), bytes) {
            tracing::debug!(%error, "floor of the spool not written");
        }
    }

    /// After a failed write, for example on a full disk, the store refuses everything; a fresh one starts from what
    /// is on disk, which is what every caller was told.
    pub(super) fn reopen_if_broken(&mut self, dir: &Path) -> Result<(), Error> {
        if self.store.is_none() {
            self.store = Some(Store::open(dir)?);
            tracing::warn!(dir = %dir.display(), "spool opened again after a failed write");
        }
        Ok(())
    }

    /// How many partitions there are, by the highest number.
    pub(super) fn partitions(&self) -> Result<u32, Error> {
        let Some(store) = &self.store else { return Ok(0) };
        let last = store.keys.prefix("e").next_back().map(fjall::Guard::key).transpose();
        let last = last.map_err(|error| failed("open", &error))?;
        let highest = last.and_then(|key| key.get(1..5)?.try_into().ok()).map(u32::from_be_bytes);
        Ok(highest.map_or(0, |highest| highest.saturating_add(1)))
    }

    /// Epoch and committed sequence of a partition; a new partition gets a random epoch.
    pub(super) fn stream(&mut self, part: u32) -> Result<(u64, u64), Error> {
        let key = stream_key(part);
        if let Some(value) = self.get(&key)?
            && let (Some(epoch), Some(committed)) = (number(&value, 0), number(&value, 8))
        {
            return Ok((epoch, committed));
        }
        let epoch = rand::rng().random::<u64>() | 1;
        self.write("create", |batch, keys| batch.insert(keys, key, stream_value(epoch, 0)))?;
        Ok((epoch, 0))
    }

    pub(super) fn put_committed(&mut self, part: u32, committed: u64) -> Result<(), Error> {
        let (epoch, _) = self.stream(part)?;
        self.write("commit", |batch, keys| {
            batch.insert(keys, stream_key(part), stream_value(epoch, committed));
        })
    }

    /// The progress mark; where that was lost, the floor.
    pub(super) fn progress(&self) -> Result<Option<i64>, Error> {
        Ok(self.mark()?.max(self.floor))
    }

    fn mark(&self) -> Result<Option<i64>, Error> {
        Ok(self.get(b"p")?.and_then(|value| number(&value, 0)).map(|n| n as i64))
    }

    pub(super) fn put_progress(&mut self, mark: i64) -> Result<(), Error> {
        // Whoever moves the mark has told what was lost before it.
        self.write("progress", |batch, keys| {
            batch.insert(keys, "p", mark.to_be_bytes());
            batch.remove(keys, "d");
        })
    }

    /// Reads and removes the mark of an orderly stop.
    pub(super) fn take_stopped(&mut self) -> Result<Option<i64>, Error> {
        let stopped = self.get(b"z")?.and_then(|value| number(&value, 0)).map(|n| n as i64);
        if stopped.is_some() {
            self.write("open", |batch, keys| batch.remove(keys, "z"))?;
        }
        Ok(stopped)
    }

    pub(super) fn put_stopped(&mut self, now_us: i64) -> Result<(), Error> {
        self.write("close", |batch, keys| batch.insert(keys, "z", now_us.to_be_bytes()))
    }

    pub(super) fn put_chunk(&mut self, part: u32, bytes: &Bytes) -> Result<u64, Error> {
        let id = self.next_chunk;
        let mut value = Vec::with_capacity(4 + bytes.len());
        value.extend_from_slice(&part.to_be_bytes());
        value.extend_from_slice(bytes);
        self.write("append", |batch, keys| batch.insert(keys, chunk_key(id), value))?;
        self.next_chunk += 1;
        Ok(id)
    }

    /// All open chunks, in the order in which they were written. One that cannot be read is reported and dropped.
    pub(super) fn chunks(&self) -> Result<Vec<Chunk>, Error> {
        let mut chunks = Vec::new();
        for guard in self.store()?.keys.prefix("c") {
            let (key, value) = guard.into_inner().map_err(|e| failed("read", &e))?;
            let part = value.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
            let batch = value.get(4..).map(Batch::open);
            if let (Some(id), Some(part), Some(Ok(batch))) = (number(&key, 1), part, batch) {
                chunks.push((part, id, batch, value.len()));
            } else {
                tracing::error!(key = ?key, "spool chunk is unreadable; its rounds become a gap");
            }
        }
        Ok(chunks)
    }

    /// Writes a sealed batch and removes the chunks that it is made of, together.
    pub(super) fn put_sealed(
        &mut self,
        part: u32,
        seq: u64,
        header: Header,
        bytes: &Bytes,
        chunks: &[u64],
    ) -> Result<(), Error> {
        let mut value = Vec::with_capacity(Header::LEN + bytes.len());
        value.extend_from_slice(&header.write());
        value.extend_from_slice(bytes);
        self.write("seal", |batch, keys| {
            batch.insert(keys, sealed_key(part, seq), value);
            for chunk in chunks {
                batch.remove(keys, chunk_key(*chunk));
            }
        })
    }

    /// Sequence numbers and headers of a partition's sealed batches, ascending.
    pub(super) fn sealed(&self, part: u32) -> Result<Vec<(u64, Header)>, Error> {
        let mut found = Vec::new();
        let prefix = &sealed_key(part, 0)[..5];
        for guard in self.store()?.keys.prefix(prefix) {
            let (key, value) = guard.into_inner().map_err(|e| failed("read", &e))?;
            if let (Some(seq), Some(header)) = (number(&key, 5), Header::read(&value)) {
                found.push((seq, header));
            } else {
                tracing::error!(key = ?key, "spool batch is unreadable; its rounds become a gap");
            }
        }
        Ok(found)
    }

    pub(super) fn bytes(&self, part: u32, seq: u64) -> Result<Bytes, Error> {
        let value = self.get(&sealed_key(part, seq))?;
        match value.as_deref().and_then(|v| v.get(Header::LEN..)) {
            Some(bytes) => Ok(Bytes::copy_from_slice(bytes)),
            None => Err(Error::Disk { operation: "read", message: format!("batch {part}/{seq} is missing") }),
        }
    }

    pub(super) fn batch(&self, part: u32, seq: u64) -> Result<Batch, Error> {
        let bytes = self.bytes(part, seq)?;
        Batch::open(&bytes).map_err(|source| Error::Codec { operation: "read", source })
    }

    pub(super) fn remove_sealed(&mut self, part: u32, seqs: &[u64]) -> Result<(), Error> {
        if seqs.is_empty() {
            return Ok(());
        }
        self.write("drop", |batch, keys| {
            for seq in seqs {
                batch.remove(keys, sealed_key(part, *seq));
            }
        })
    }

    pub(super) fn sync(&mut self) -> Result<(), Error> {
        let synced = self.store()?.database.persist(PersistMode::SyncData).map_err(|e| failed("fsync", &e));
        self.checked(synced)
    }

    fn write(
        &mut self,
        operation: &'static str,
        fill: impl FnOnce(&mut fjall::OwnedWriteBatch, &Keyspace),
    ) -> Result<(), Error> {
        let store = self.store()?;
        let mut batch = store.database.batch().durability(Some(PersistMode::Buffer));
        fill(&mut batch, &store.keys);
        let written = batch.commit().map_err(|e| failed(operation, &e));
        self.checked(written)
    }

    fn checked(&mut self, done: Result<(), Error>) -> Result<(), Error> {
        if done.is_err() {
            self.store = None;
        }
        done
    }

    fn get(&self, key: &[u8]) -> Result<Option<fjall::Slice>, Error> {
        self.store()?.keys.get(key).map_err(|e| failed("read", &e))
    }

    fn store(&self) -> Result<&Store, Error> {
        self.store.as_ref().ok_or_else(|| Error::Disk {
            operation: "access",
            message: "the store is closed after a failed write and will be opened again".to_owned(),
        })
    }
}

impl Store {
    fn open(dir: &Path) -> Result<Self, Error> {
        let open = |e: fjall::Error| {
            if is_damage(&e) {
                failed("open", &e)
            } else {
                Error::Open { dir: dir.to_owned(), message: e.to_string() }
            }
        };
        let database = Database::builder(dir.join("store"))
            .worker_threads(1)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .open()
            .map_err(open)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let keys = database.keyspace("spool", options).map_err(open)?;
        Ok(Self { database, keys })
    }
}

fn failed(operation: &'static str, error: &fjall::Error) -> Error {
    let message = error.to_string();
    if is_damage(error) { Error::Damaged { operation, message } } else { Error::Disk { operation, message } }
}

/// Whether what is on disk is wrong, and not the disk that is full, away or not ours.
fn is_damage(error: &fjall::Error) -> bool {
    use fjall::Error as E;
    let broken = |error: &std::io::Error| {
        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
    };
    match error {
        E::Io(error) | E::Storage(fjall::LsmError::Io(error)) => broken(error),
        E::Poisoned | E::KeyspaceDeleted | E::Locked => false,
        _ => true,
    }
}

fn read_floor(dir: &Path) -> Option<i64> {
    let bytes = fs::read(dir.join("floor")).ok()?;
    let (floor, check) = (number(&bytes, 0)?, number(&bytes, 8)?);
    (floor == !check).then_some(floor as i64)
}

fn stream_key(part: u32) -> [u8; 5] {
    let mut key = [b'e'; 5];
    key[1..].copy_from_slice(&part.to_be_bytes());
    key
}

fn stream_value(epoch: u64, committed: u64) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&epoch.to_be_bytes());
    value[8..].copy_from_slice(&committed.to_be_bytes());
    value
}

fn chunk_key(id: u64) -> [u8; 9] {
    let mut key = [b'c'; 9];
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

fn sealed_key(part: u32, seq: u64) -> [u8; 13] {
    let mut key = [b's'; 13];
    key[1..5].copy_from_slice(&part.to_be_bytes());
    key[5..].copy_from_slice(&seq.to_be_bytes());
    key
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes)
}

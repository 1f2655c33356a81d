//! The spool of a module instance: rounds that the server has not committed yet, on disk.
//!
//! Rounds are appended in small chunks, which survive the death of the process at once and the death of the host
//! within a second. About once a second the open rounds of each partition are sealed into a batch with the next
//! sequence number of that partition's epoch; a batch is published only after it is fsynced, so that a sequence
//! number never stands for two contents. A sealed batch is dropped when the server has committed it *and* the
//! progress mark has passed its rounds: what is still there at the next start tells exactly which rounds were made.

mod disk;
mod error;
mod past;
mod ship;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use imn_contract::{
    AgentId, InstanceId, ModuleType, TargetId,
    latest::{Batch, Gap, Round, SpoolState},
    partition,
};

pub use error::Error;
pub use past::{Past, gap, reason};
pub use ship::Shipper;

use crate::{clock::now_us, file};
use disk::{Disk, Header};

/// Rounds wait at most this long before they are sealed.
const SEAL_AFTER: Duration = Duration::from_secs(1);
/// The progress mark is written with what is sealed, and after this time without anything, in microseconds.
const PROGRESS_AFTER_US: i64 = 10_000_000;
/// A batch is sealed when its compressed chunks reach this size, in bytes.
const SEAL_BYTES: usize = 128 * 1024;
/// A batch is sealed when its estimated plain size reaches this, in bytes: well below what a decoder takes.
const SEAL_PLAIN_BYTES: usize = 400 * 1024;
/// Below this much free space on its file system a spool counts as full, in bytes.
const FREE_RESERVE: u64 = 64 * 1024 * 1024;

/// Rounds of one gap that are told apart at opening; longer gaps past the progress mark do not occur.
const GAP_ROUNDS: usize = 100_000;

/// What a spool needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory, created if missing; one process at a time may have it open.
    pub dir: PathBuf,
    /// The agent.
    pub agent: AgentId,
    /// The instance.
    pub instance: InstanceId,
    /// Module type of its rounds.
    pub kind: ModuleType,
    /// Number of ingest partitions, at least 1; those that the spool has already stay.
    pub partitions: u32,
    /// Size on disk from which on the spool counts as full, in bytes.
    pub max_bytes: u64,
}

impl Config {
    /// The default size limit: 2 GiB, about two days of 4,000 rounds a second.
    pub const MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;
}

/// What an earlier process left behind.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Every round due before this time was settled, made or recorded as a gap. Absent in a fresh spool.
    pub progress_us: Option<i64>,
    /// When the spool was closed in order; absent after a crash.
    pub stopped_us: Option<i64>,
    /// Rounds made, or recorded as gaps, that were due at or after the progress mark.
    pub done: HashSet<(TargetId, i64)>,
    /// What an earlier process had spooled was damaged and is set aside. All that was due from `progress_us` on, which
    /// then is the earliest round that may not have been committed, is to be recorded as lost.
    pub damaged: bool,
}

/// A sealed batch, ready to be sent.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its partition.
    pub partition: u32,
    /// The partition's epoch.
    pub epoch: u64,
    /// First sequence covered.
    pub first_seq: u64,
    /// Last sequence covered.
    pub last_seq: u64,
    /// What to publish.
    pub bytes: Bytes,
}

/// The spool of one instance. All methods block for as long as the disk does; only [`Spool::tick`] waits for an
/// fsync.
pub struct Spool {
    config: Config,
    inner: Mutex<Inner>,
    recovered: Recovered,
}

struct Inner {
    disk: Disk,
    parts: Vec<Part>,
    progress_us: Option<i64>,
    progress_written: Option<i64>,
    dirty: bool,
    /// Why it is full, if it is.
    full: Option<String>,
    free_checked: Option<Instant>,
    /// Why batches do not leave, if they do not.
    stuck: Option<String>,
}

/// One partition: a stream of batches with an epoch of its own.
struct Part {
    epoch: u64,
    committed: u64,
    next_seq: u64,
    synced: u64,
    open: Open,
    sealed: VecDeque<(u64, Header)>,
    /// Least due time within each sealed batch.
    dues: BTreeMap<u64, i64>,
}

#[derive(Default)]
struct Open {
    rounds: Vec<Round>,
    gaps: Vec<Gap>,
    chunks: Vec<u64>,
    bytes: usize,
    plain: usize,
    since: Option<Instant>,
}

impl Spool {
    /// Opens the spool of an instance and reads what an earlier process left. What is damaged is set aside.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it open, [`Error::Open`] when the directory cannot be used.
    pub fn open(config: Config) -> Result<Self, Error> {
        let mut disk = Disk::open(&config.dir)?;
        let (parts, recovered) = match Self::read(&mut disk, &config) {
            Err(damage @ (Error::Damaged { .. } | Error::Codec { .. })) => {
                disk.set_aside(&damage)?;
                Self::read(&mut disk, &config)?
            }
            read => read?,
        };
        let progress_us = recovered.progress_us;
        let inner = Inner {
            disk,
            parts,
            progress_us,
            progress_written: progress_us,
            dirty: true,
            full: None,
            free_checked: None,
            stuck: None,
        };
        Ok(Self { config, inner: Mutex::new(inner), recovered })
    }

    fn read(disk: &mut Disk, config: &Config) -> Result<(Vec<Part>, Recovered), Error> {
        // Whoever opens it for another may not know yet how many there are.
        let partitions = config.partitions.max(disk.partitions()?).max(1);
        let mut parts = Vec::with_capacity(partitions as usize);
        for number in 0..partitions {
            let (epoch, committed) = disk.stream(number)?;
            let sealed: VecDeque<_> = disk.sealed(number)?.into();
            let next_seq = sealed.back().map_or(committed, |(seq, _)| *seq).max(committed) + 1;
            // What was read back may have been in the page cache only.
            let dues = BTreeMap::new();
            parts.push(Part { epoch, committed, next_seq, synced: 0, open: Open::default(), sealed, dues });
        }
        let mut recovered = Recovered {
            progress_us: disk.progress()?,
            stopped_us: disk.take_stopped()?,
            damaged: disk.is_damaged()?,
            ..Recovered::default()
        };
        let from_us = recovered.progress_us.unwrap_or(i64::MIN);
        for (number, part) in parts.iter_mut().enumerate() {
            for (seq, header) in &part.sealed {
                let waits = *seq > part.committed;
                if waits || header.max_due_us >= from_us {
                    let batch = disk.batch(number as u32, *seq)?;
                    note(&mut recovered.done, &batch, from_us);
                    if waits {
                        part.dues.insert(*seq, least_due(&batch.rounds, &batch.gaps));
                    }
                }
            }
        }
        let now = Instant::now();
        for (number, chunk, batch, bytes) in disk.chunks()? {
            note(&mut recovered.done, &batch, from_us);
            if let Some(part) = parts.get_mut(number as usize) {
                part.open.plain += plain_size(&batch.rounds, &batch.gaps);
                part.open.rounds.extend(batch.rounds);
                part.open.gaps.extend(batch.gaps);
                part.open.chunks.push(chunk);
                part.open.bytes += bytes;
                part.open.since.get_or_insert(now);
            }
        }
        Ok((parts, recovered))
    }

    /// What the spool was opened with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What an earlier process left behind, as found at opening.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Appends rounds and gaps: they survive the death of this process from now on, and that of the host after the
    /// next [`Spool::tick`].
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Codec`]: nothing was appended.
    pub fn append(&self, rounds: &[Round], gaps: &[Gap]) -> Result<(), Error> {
        let mut inner = self.lock();
        let partitions = inner.parts.len() as u32;
        if partitions == 1 {
            return inner.append(&self.config, 0, rounds.to_vec(), gaps.to_vec());
        }
        for number in 0..partitions {
            let of = |target: &TargetId| partition(target, partitions) == number;
            let rounds: Vec<_> =
                rounds.iter().filter(|r| r.target.as_ref().is_some_and(of)).cloned().collect();
            let gaps: Vec<_> = gaps.iter().filter(|g| of(&g.target)).cloned().collect();
            inner.append(&self.config, number, rounds, gaps)?;
        }
        Ok(())
    }

    /// Says that every round due before `due_us` is settled. The mark never goes back.
    pub fn set_progress(&self, due_us: i64) {
        let mut inner = self.lock();
        if inner.progress_us.is_none_or(|mark| mark < due_us) {
            inner.progress_us = Some(due_us);
        }
    }

    /// Seals what is due, and fsyncs. To be called every 50 to 100 ms, from where blocking is allowed.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Codec`]; what was appended before stays.
    pub fn tick(&self) -> Result<(), Error> {
        self.seal(false)
    }

    /// Whether new rounds are to be skipped as recorded gaps: the spool has reached its size, or the disk is nearly
    /// full.
    pub fn is_full(&self) -> bool {
        self.lock().full.is_some()
    }

    /// What waits to be committed, and why it does where that is not as it should be.
    pub fn state(&self) -> SpoolState {
        let inner = self.lock();
        let now_us = now_us();
        let mut state = SpoolState::default();
        let mut oldest = i64::MAX;
        for part in &inner.parts {
            for (_, header) in part.sealed.iter().filter(|(seq, _)| *seq > part.committed) {
                state.bytes += u64::from(header.bytes);
                state.rows += u64::from(header.rows);
                oldest = oldest.min(header.sealed_us);
            }
            state.bytes += part.open.bytes as u64;
            state.rows += part.open.rounds.len() as u64;
        }
        if oldest < i64::MAX {
            state.oldest_s = u64::try_from((now_us - oldest) / 1_000_000).unwrap_or(0);
        }
        state.trouble = inner.full.clone().or_else(|| inner.stuck.clone());
        state
    }

    /// Takes note of why batches do not leave, or that they do.
    pub(super) fn set_stuck(&self, why: Option<String>) {
        self.lock().stuck = why;
    }

    /// Whether everything appended is committed.
    pub fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.parts.iter().all(|part| {
            part.open.chunks.is_empty() && part.sealed.back().is_none_or(|(seq, _)| *seq <= part.committed)
        })
    }

    /// Seals everything, fsyncs, and notes that this was an orderly end.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Codec`].
    pub fn close(&self) -> Result<(), Error> {
        self.seal(true)?;
        let mut inner = self.lock();
        inner.disk.put_stopped(now_us())?;
        inner.disk.sync()
    }

    /// The epoch of each partition, by number.
    pub(super) fn epochs(&self) -> Vec<u64> {
        self.lock().parts.iter().map(|part| part.epoch).collect()
    }

    /// The highest committed sequence of a partition.
    pub(super) fn committed(&self, number: u32) -> u64 {
        self.lock().parts[number as usize].committed
    }

    /// The batch that covers `seq`, if it is sealed and on disk. Where the spool holds nothing of a hole, an empty
    /// batch over the whole hole, so that the stream can go on.
    pub(super) fn sealed(&self, number: u32, seq: u64) -> Result<Option<Sealed>, Error> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let part = &inner.parts[number as usize];
        if seq > part.synced {
            return Ok(None);
        }
        let Some((first, _)) = part.sealed.iter().find(|(s, _)| *s >= seq) else { return Ok(None) };
        let (epoch, first) = (part.epoch, *first);
        let sealed =
            |first_seq, last_seq, bytes| Sealed { partition: number, epoch, first_seq, last_seq, bytes };
        if first == seq {
            return Ok(Some(sealed(seq, seq, inner.disk.bytes(number, seq)?)));
        }
        // Committed once, dropped here, and lost by the server since: nobody has these rounds any more.
        tracing::error!(
            first = seq,
            last = first - 1,
            "the server asks for batches that are gone; it must go on without"
        );
        let hole = self.config.batch(epoch, seq, first - 1, Vec::new(), Vec::new());
        let bytes = hole.seal().map_err(|source| Error::Codec { operation: "seal", source })?;
        Ok(Some(sealed(seq, first - 1, bytes)))
    }

    /// Takes note of a watermark and drops what is no longer needed. A watermark below an earlier one is believed:
    /// the server has lost what it had, and gets again what is still here.
    pub(super) fn commit(&self, epoch: u64, committed: u64) -> Result<(), Error> {
        let mut inner = self.lock();
        let Some(number) = inner.parts.iter().position(|part| part.epoch == epoch) else { return Ok(()) };
        let part = &mut inner.parts[number];
        let known = committed.min(part.next_seq - 1);
        if part.committed != known {
            part.committed = known;
            inner.disk.put_committed(number as u32, known)?;
        }
        inner.prune(number)
    }

    fn seal(&self, all: bool) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.measure(&self.config);
        inner.disk.reopen_if_broken(&self.config.dir)?;
        for number in 0..inner.parts.len() {
            let open = &inner.parts[number].open;
            let due = open.since.is_some_and(|since| since.elapsed() >= SEAL_AFTER);
            if !open.chunks.is_empty() && (all || due) {
                inner.seal_part(&self.config, number as u32)?;
            }
        }
        let (mark, written) = (inner.progress_us.unwrap_or(0), inner.progress_written.unwrap_or(0));
        inner.dirty |= mark.saturating_sub(written) > PROGRESS_AFTER_US;
        if inner.progress_us != inner.progress_written
            && let Some(mark) = inner.progress_us
            && (inner.dirty || all)
        {
            inner.disk.put_progress(mark)?;
            inner.progress_written = Some(mark);
        }
        if inner.dirty || all {
            inner.disk.sync()?;
            inner.dirty = false;
            for number in 0..inner.parts.len() {
                inner.parts[number].synced = inner.parts[number].next_seq - 1;
                inner.prune(number)?;
            }
        }
        inner.note_floor();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the counters as they were between two writes, which is consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn append(
        &mut self,
        config: &Config,
        number: u32,
        rounds: Vec<Round>,
        gaps: Vec<Gap>,
    ) -> Result<(), Error> {
        let (mut rounds, mut gaps) = (rounds.into_iter(), gaps.into_iter());
        loop {
            let (mut plain, mut rounds_now, mut gaps_now) = (0, Vec::new(), Vec::new());
            while plain < SEAL_PLAIN_BYTES {
                if let Some(round) = rounds.next() {
                    plain += round_size(&round);
                    rounds_now.push(round);
                } else if let Some(gap) = gaps.next() {
                    plain += gap_size(&gap);
                    gaps_now.push(gap);
                } else {
                    break;
                }
            }
            if rounds_now.is_empty() && gaps_now.is_empty() {
                return Ok(());
            }
            if self.parts[number as usize].open.plain + plain > SEAL_PLAIN_BYTES + SEAL_PLAIN_BYTES / 4 {
                self.seal_part(config, number)?;
            }
            let batch = config.batch(0, 1, 1, rounds_now, gaps_now);
            let chunk = batch.seal().map_err(|source| Error::Codec { operation: "append", source })?;
            let bytes = chunk.len();
            let id = self.disk.put_chunk(number, &chunk)?;
            let open = &mut self.parts[number as usize].open;
            open.rounds.extend(batch.rounds);
            open.gaps.extend(batch.gaps);
            open.chunks.push(id);
            open.bytes += bytes;
            open.plain += plain;
            open.since.get_or_insert_with(Instant::now);
            if open.bytes >= SEAL_BYTES || open.plain >= SEAL_PLAIN_BYTES {
                self.seal_part(config, number)?;
            }
        }
    }

    fn seal_part(&mut self, config: &Config, number: u32) -> Result<(), Error> {
        let part = &mut self.parts[number as usize];
        if part.open.chunks.is_empty() {
            return Ok(());
        }
        let seq = part.next_seq;
        let open = std::mem::take(&mut part.open);
        let dues = open.rounds.iter().map(|r| r.due_us).chain(open.gaps.iter().map(|g| g.last_due_us));
        let max_due_us = dues.max().unwrap_or(i64::MIN);
        let min_due_us = least_due(&open.rounds, &open.gaps);
        let rows = open.rounds.len() as u32;
        let batch = config.batch(part.epoch, seq, seq, open.rounds, open.gaps);
        let sealed = batch.seal().map_err(|source| Error::Codec { operation: "seal", source });
        let written = sealed.and_then(|bytes| {
            let header = Header { max_due_us, sealed_us: now_us(), rows, bytes: bytes.len() as u32 };
            self.disk.put_sealed(number, seq, header, &bytes, &open.chunks)?;
            Ok(header)
        });
        match written {
            Ok(header) => {
                part.sealed.push_back((seq, header));
                part.dues.insert(seq, min_due_us);
                part.next_seq += 1;
                self.dirty = true;
                Ok(())
            }
            Err(error) => {
                // The chunks are still on disk; sealing is tried again.
                part.open = Open { rounds: batch.rounds, gaps: batch.gaps, ..open };
                Err(error)
            }
        }
    }

    /// Takes note, beside the store, of the time before which nothing waits to be committed.
    fn note_floor(&mut self) {
        let Some(mut floor_us) = self.progress_written else { return };
        for part in &mut self.parts {
            let committed = part.committed;
            part.dues.retain(|seq, _| *seq > committed);
            let open = least_due(&part.open.rounds, &part.open.gaps);
            floor_us = part.dues.values().copied().chain([open]).fold(floor_us, i64::min);
        }
        self.disk.put_floor(floor_us);
    }

    fn prune(&mut self, number: usize) -> Result<(), Error> {
        let mark = self.progress_written.unwrap_or(i64::MIN);
        let part = &mut self.parts[number];
        let mut dropped = Vec::new();
        while let Some((seq, header)) = part.sealed.front() {
            // The last one stays: it carries the sequence on over a restart.
            let settled = *seq <= part.committed && header.max_due_us < mark && part.sealed.len() > 1;
            if !settled {
                break;
            }
            dropped.push(*seq);
            part.sealed.pop_front();
        }
        self.disk.remove_sealed(number as u32, &dropped)
    }

    /// Looks at sizes once a second: both questions ask the file system.
    fn measure(&mut self, config: &Config) {
        if self.free_checked.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
            return;
        }
        self.free_checked = Some(Instant::now());
        let held: u64 =
            self.parts.iter().flat_map(|part| &part.sealed).map(|(_, header)| u64::from(header.bytes)).sum();
        let dir = config.dir.display();
        let why = if held >= config.max_bytes {
            Some(format!("it holds {} MB that the server has not committed", held >> 20))
        } else {
            let scarce = file::free_bytes(&config.dir).ok().filter(|free| *free < FREE_RESERVE);
            scarce.map(|free| {
                format!("{} MB are free for {dir}; free more than {}", free >> 20, FREE_RESERVE >> 20)
            })
        };
        let full = why.map(|why| format!("spool full, new rounds become gaps: {why}"));
        match (&self.full, &full) {
            (None, Some(why)) => tracing::error!(%dir, held, "{why}"),
            (Some(_), None) => tracing::info!(%dir, held, "spool takes rounds again"),
            _ => {}
        }
        self.full = full;
    }
}

impl Config {
    fn batch(&self, epoch: u64, first_seq: u64, last_seq: u64, rounds: Vec<Round>, gaps: Vec<Gap>) -> Batch {
        Batch {
            agent: self.agent.clone(),
            instance: self.instance.clone(),
            kind: self.kind.clone(),
            epoch,
            first_seq,
            last_seq,
            rounds,
            gaps,
        }
    }
}

/// The least due time, or none at all.
fn least_due(rounds: &[Round], gaps: &[Gap]) -> i64 {
    rounds
        .iter()
        .map(|round| round.due_us)
        .chain(gaps.iter().map(|gap| gap.first_due_us))
        .min()
        .unwrap_or(i64::MAX)
}

/// Notes which rounds of a batch, due at or after `from_us`, were made or are told as gaps.
fn note(done: &mut HashSet<(TargetId, i64)>, batch: &Batch, from_us: i64) {
    for round in batch.rounds.iter().filter(|round| round.due_us >= from_us) {
        if let Some(target) = &round.target {
            done.insert((target.clone(), round.due_us));
        }
    }
    for gap in batch.gaps.iter().filter(|gap| gap.last_due_us >= from_us) {
        let between = gap.rounds.saturating_sub(1).max(1) as i64;
        let interval_us = ((gap.last_due_us - gap.first_due_us) / between).max(1);
        let skipped = (from_us.max(gap.first_due_us) - gap.first_due_us + interval_us - 1) / interval_us;
        let dues = (skipped..gap.rounds as i64).map(|n| gap.first_due_us + n * interval_us);
        done.extend(dues.take(GAP_ROUNDS).map(|due_us| (gap.target.clone(), due_us)));
    }
}

/// About what a round takes in CBOR, in bytes, rather more than less.
fn round_size(round: &Round) -> usize {
    let text = |t: &Option<String>| t.as_ref().map_or(1, |t| t.len() + 5);
    130 + round.address.len() + 9 * round.rtts_ns.len() + text(&round.error) + text(&round.outcome)
}

fn gap_size(gap: &Gap) -> usize {
    130 + gap.reason.len()
}

fn plain_size(rounds: &[Round], gaps: &[Gap]) -> usize {
    rounds.iter().map(round_size).sum::<usize>() + gaps.iter().map(gap_size).sum::<usize>()
}

//! Results on the local disk: a commit log, a memory tier and sorted Parquet.
//!
//! A commit appends the sealed batches and their watermarks to the log, in one fsynced write, and opens them into a
//! sorted chunk in memory. About once a minute the chunks become Parquet files: written and fsynced under another
//! name, entered into the manifest together with the position of the log that they cover, then renamed; the log up
//! to there is ignored from that transaction on and removed when convenient. So after a crash between any two steps
//! a row is in the log or in a live file, never in both and never in neither. Small files are merged into greater
//! ones by the same transaction.

mod error;
mod log;
mod maintenance;
mod manifest;
mod merge;
mod plan;
mod row;
mod segment;
mod table;
mod typed;
mod view;

use std::{
    collections::BTreeMap,
    fs::File,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use imn_contract::{AgentId, ModuleType, latest::Batch};
use rustix::fs::FlockOperation;
use tokio::{runtime::Handle, sync::mpsc, task::spawn_blocking};

use crate::{
    model::{GapRow, IngestBatch, RoundRow},
    results::{Committed, GapQuery, Results, ResultsError, RoundQuery, SegmentFile},
    sql::Database,
    sql_catalog::SqlCatalog,
};
use error::Error;
use log::{Log, Watermarks};
use maintenance::Maintenance;
use table::{Bounds, Table};
use view::{Chunk, View};

/// Settings of [`EmbeddedResults`].
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Rows in memory that are enough for a file; about 200 bytes each.
    pub flush_rows: usize,
    /// Bytes in memory that are enough for a file: rows of types with lists are larger.
    pub flush_bytes: usize,
    /// Age of the oldest row in memory at which a file is written however few there are.
    pub flush_after: Duration,
    /// How long rounds and gaps are kept, by due time.
    pub retention: Duration,
    /// Space that a commit leaves free on the device, for the files that its rows go to.
    pub reserve_bytes: u64,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            flush_rows: 80_000,
            flush_bytes: 64 << 20,
            flush_after: Duration::from_mins(1),
            retention: Duration::from_hours(30 * 24),
            reserve_bytes: 64 << 20,
        }
    }
}

/// Results in a directory, their manifest in the catalog's database.
///
/// One process at a time has the directory open; it is free again when the value and all its running calls are gone.
#[derive(Clone)]
pub struct EmbeddedResults {
    store: Arc<Store>,
}

struct Store {
    root: PathBuf,
    config: EmbeddedConfig,
    database: Database,
    /// Writers take it for the whole of a commit.
    log: Mutex<Writer>,
    watermarks: RwLock<Watermarks>,
    /// Replaced as a whole: who reads keeps what it has.
    view: RwLock<Arc<View>>,
    maintenance: Mutex<Maintenance>,
    /// Locked as long as it is open.
    _lock: File,
}

struct Writer {
    log: Log,
    /// Last position given.
    position: i64,
}

impl EmbeddedResults {
    /// Opens the results in `directory`, made if it is missing; what a crash left half done is finished or undone.
    ///
    /// # Errors
    /// [`ResultsError::InUse`] when another process has it open; [`ResultsError::Backend`] when it belongs to another
    /// catalog or cannot be read.
    pub async fn open(
        directory: &Path,
        catalog: &SqlCatalog,
        config: EmbeddedConfig,
    ) -> Result<Self, ResultsError> {
        let (root, database) = (directory.to_owned(), catalog.database().clone());
        let store = blocking("open", move |runtime| Store::open(root, database, config, runtime)).await?;
        Ok(Self { store: Arc::new(store) })
    }

    /// Does `work` where it may block. It runs to its end even if the caller goes away.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Store, &Handle) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, ResultsError> {
        let store = Arc::clone(&self.store);
        blocking(operation, move |runtime| Ok(work(&store, runtime)?)).await
    }
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce(&Handle) -> Result<T, ResultsError> + Send + 'static,
) -> Result<T, ResultsError> {
    let runtime = Handle::current();
    let done = spawn_blocking(move || work(&runtime)).await;
    done.unwrap_or_else(|error| Err(ResultsError::Backend { operation, message: error.to_string() }))
}

#[async_trait]
impl Results for EmbeddedResults {
    async fn commit(&self, batches: Vec<IngestBatch>) -> Result<Vec<Committed>, ResultsError> {
        self.blocking("commit", move |store, _| store.commit(&batches)).await
    }

    async fn watermark(&self, agent: &AgentId, epoch: u64) -> Result<u64, ResultsError> {
        let watermarks = self.store.watermarks.read().unwrap_or_else(PoisonError::into_inner);
        Ok(watermarks.get(&(agent.clone(), epoch)).copied().unwrap_or_default())
    }

    async fn rounds(&self, query: &RoundQuery) -> Result<Vec<RoundRow>, ResultsError> {
        let query = query.clone();
        self.blocking("read rounds", move |store, _| store.view().rounds(&store.root, &query)).await
    }

    async fn scan(
        &self,
        query: &RoundQuery,
        visit: &mut (dyn FnMut(RoundRow) -> ControlFlow<()> + Send),
    ) -> Result<(), ResultsError> {
        let (sender, mut receiver) = mpsc::channel::<Vec<RoundRow>>(2);
        let query = query.clone();
        let reading = self.blocking("scan", move |store, _| {
            // Fails when nobody listens any more.
            let send = |rows| match sender.blocking_send(rows) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            store.view().scan(&store.root, &query, send)
        });
        let visiting = async {
            while let Some(rows) = receiver.recv().await {
                if rows.into_iter().try_for_each(&mut *visit).is_break() {
                    break;
                }
            }
            drop(receiver);
        };
        let (read, ()) = futures::join!(reading, visiting);
        read
    }

    async fn gaps(&self, query: &GapQuery) -> Result<Vec<GapRow>, ResultsError> {
        let query = query.clone();
        self.blocking("read gaps", move |store, _| store.view().gaps(&store.root, &query)).await
    }

    async fn maintain(&self, now_us: i64) -> Result<(), ResultsError> {
        self.blocking("maintain", move |store, runtime| store.maintain(runtime, now_us)).await
    }

    async fn compact(&self) -> Result<(), ResultsError> {
        self.blocking("compact", Store::compact).await
    }

    async fn files(&self, from_us: i64, to_us: i64) -> Result<Vec<SegmentFile>, ResultsError> {
        let view = self.store.view();
        let within = |bounds: &Bounds| bounds.max_due_us >= from_us && bounds.min_due_us < to_us;
        let files =
            view.segments.iter().filter(|segment| within(&segment.bounds)).map(|segment| SegmentFile {
                path: self.store.root.join(&segment.path),
                table: segment.table.name().to_owned(),
                min_due_us: segment.bounds.min_due_us,
                max_due_us: segment.bounds.max_due_us,
                rows: segment.rows,
                bytes: segment.bytes,
            });
        Ok(files.collect())
    }
}

impl Store {
    fn open(
        root: PathBuf,
        database: Database,
        config: EmbeddedConfig,
        runtime: &Handle,
    ) -> Result<Self, ResultsError> {
        std::fs::create_dir_all(&root).map_err(Error::io("open", &root))?;
        let path = root.join("lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(Error::io("open", &path))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(ResultsError::InUse { path: root.display().to_string() });
        }
        let (maintenance, segments) = Maintenance::open(&root, &database, runtime)?;
        let log = Log::open(root.join("log"))?;
        let store = Self {
            root,
            config,
            database,
            log: Mutex::new(Writer { log, position: maintenance.covered }),
            watermarks: RwLock::default(),
            view: RwLock::new(Arc::new(View { chunks: Vec::new(), segments })),
            maintenance: Mutex::new(maintenance),
            _lock: lock,
        };
        store.load(&mut lock_of(&store.log))?;
        Ok(store)
    }

    /// Takes over what is in the log and not yet in the view: all of it after the start, and after a failed write
    /// that which did reach the disk.
    fn load(&self, writer: &mut Writer) -> Result<(), Error> {
        let mut chunks = Vec::new();
        let mut last = writer.position;
        writer.log.read(writer.position, |position, sealed| {
            match Batch::open(sealed) {
                Ok(batch) => chunks.extend(chunks_of(&[(position, &batch)])?),
                Err(error) => self.set_aside(position, sealed, &error)?,
            }
            last = position;
            Ok(())
        })?;
        let watermarks = writer.log.watermarks()?;
        *self.watermarks.write().unwrap_or_else(PoisonError::into_inner) = watermarks;
        writer.position = last;
        self.publish(|view| view.chunks.extend(chunks));
        Ok(())
    }

    /// Keeps a log entry that cannot be read, where a person finds it: it was readable when it was committed.
    fn set_aside(&self, position: i64, sealed: &[u8], error: &dyn std::fmt::Display) -> Result<(), Error> {
        let path = self.root.join(format!("unreadable-{position}.batch"));
        tracing::error!(%error, position, path = %path.display(), "set a batch aside that cannot be read");
        std::fs::write(&path, sealed).map_err(Error::io("open", &path))
    }

    fn commit(&self, batches: &[IngestBatch]) -> Result<Vec<Committed>, Error> {
        let mut writer = lock_of(&self.log);
        if writer.log.reopen()?
            && let Err(error) = self.load(&mut writer)
        {
            // What did reach the disk is still unknown: the next commit must not write over it.
            writer.log.close();
            return Err(error);
        }
        let mut verdicts = Vec::with_capacity(batches.len());
        let mut watermarks = Watermarks::new();
        let mut entries: Vec<(i64, Bytes)> = Vec::new();
        let mut opened = Vec::new();
        {
            let before = self.watermarks.read().unwrap_or_else(PoisonError::into_inner);
            for IngestBatch { batch, sealed } in batches {
                let key = (batch.agent.clone(), batch.epoch);
                let watermark =
                    watermarks.get(&key).or_else(|| before.get(&key)).copied().unwrap_or_default();
                verdicts.push(if batch.last_seq <= watermark {
                    Committed::Before(watermark)
                } else if batch.first_seq > watermark + 1 {
                    Committed::Hole(watermark)
                } else {
                    let position = writer.position + 1 + entries.len() as i64;
                    entries.push((position, sealed.clone()));
                    opened.push((position, batch));
                    watermarks.insert(key, batch.last_seq);
                    Committed::Now(batch.last_seq)
                });
            }
        }
        if entries.is_empty() {
            return Ok(verdicts);
        }
        self.check_space(entries.iter().map(|(_, sealed)| sealed.len() as u64).sum())?;
        let chunks = chunks_of(&opened)?;
        writer.log.append(&entries, &watermarks)?;
        writer.position += entries.len() as i64;
        self.publish(|view| view.chunks.extend(chunks));
        self.watermarks.write().unwrap_or_else(PoisonError::into_inner).extend(watermarks);
        Ok(verdicts)
    }

    /// A log that met a full device must be opened again, so better not to meet it.
    fn check_space(&self, bytes: u64) -> Result<(), Error> {
        let path = &self.root;
        let stat = rustix::fs::statvfs(path).map_err(|errno| Error::io("commit", path)(errno.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < bytes.saturating_add(self.config.reserve_bytes) {
            return Err(Error::full("commit", path));
        }
        Ok(())
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the view.
    fn publish(&self, change: impl FnOnce(&mut View)) {
        let mut shared = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let mut view = View::clone(&shared);
        change(&mut view);
        *shared = Arc::new(view);
    }
}

/// The rows of batches in the order of their commit, by table.
fn chunks_of(batches: &[(i64, &Batch)]) -> Result<Vec<Arc<Chunk>>, Error> {
    let mut kinds: BTreeMap<&ModuleType, Vec<&Batch>> = BTreeMap::new();
    let mut position = 0;
    for (at, batch) in batches {
        kinds.entry(&batch.kind).or_default().push(batch);
        position = position.max(*at);
    }
    let all: Vec<&Batch> = batches.iter().map(|(_, batch)| *batch).collect();
    let mut tables = Vec::new();
    for (kind, batches) in kinds {
        tables.push((Table::Rounds(kind.clone()), row::rounds(kind, &batches)));
    }
    tables.push((Table::Gaps, row::gaps(&all)));
    let mut chunks = Vec::new();
    for (table, rows) in tables {
        let Some(rows) = rows.map_err(Error::arrow("commit"))? else { continue };
        let Some(bounds) = Bounds::of(&table, &rows) else { continue };
        let bytes = rows.get_array_memory_size();
        chunks.push(Arc::new(Chunk { table, rows, bounds, bytes, position, since: Instant::now() }));
    }
    Ok(chunks)
}

fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

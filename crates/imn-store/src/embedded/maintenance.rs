//! From memory to files, from small files to greater ones, and what retention ends.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use arrow::{array::AsArray, datatypes::TimestampMicrosecondType};
use tokio::runtime::Handle;

use super::{
    Store,
    error::Error,
    lock_of, manifest,
    merge::{Merge, Source},
    plan::{HOUR_US, hour_of, plan},
    segment::{self, MemorySource, Segment, SharedSegment, Width, unfinished},
    table::{Filter, Table},
    view::{Chunk, View},
};
use crate::sql::Database;

/// Rows of a batch that is written.
const WRITE_BATCH: usize = 4_096;
/// Hours that one flush gives files of their own; what is older shares one.
const MOST_HOURS: usize = 48;

/// State of the maintenance, which is done by one caller at a time.
pub(super) struct Maintenance {
    /// Position up to which the log is in files.
    pub(super) covered: i64,
    next_id: i64,
    /// Files that are dead in the manifest and may still be read.
    dead: Vec<SharedSegment>,
    /// Whether a change was begun and not ended: nobody knows how much of it is on the disk and in the manifest.
    doubtful: bool,
}

impl Maintenance {
    /// Reads the manifest and finishes or undoes what a crash left; the live files.
    pub(super) fn open(
        root: &Path,
        database: &Database,
        runtime: &Handle,
    ) -> Result<(Self, Vec<SharedSegment>), Error> {
        let identity = root.join("id");
        let known = match fs::read_to_string(&identity) {
            Ok(id) => Some(id.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("open", &identity)(error)),
        };
        let mut contents = runtime.block_on(manifest::load(database))?;
        if let Some(known) = known {
            if contents.directory.as_ref() != Some(&known) {
                let message = format!(
                    "{} belongs to another catalog: give the catalog that it was written with, or another directory",
                    root.display()
                );
                return Err(Error::new("open", message));
            }
        } else {
            if !contents.live.is_empty() {
                let root = root.display();
                tracing::warn!(%root, files = contents.live.len(), "the results are gone: begin with none");
            }
            // The manifest first: a directory with a name but without manifest could not be opened again.
            let fresh = ulid::Ulid::generate().to_string();
            runtime.block_on(manifest::reset(database, &fresh))?;
            write_durably(&identity, &fresh)?;
            contents = runtime.block_on(manifest::load(database))?;
        }
        let mut maintenance = Self { covered: 0, next_id: 1, dead: Vec::new(), doubtful: false };
        let segments = maintenance.take_over(root, database, runtime, contents)?;
        Ok((maintenance, segments))
    }

    fn take_over(
        &mut self,
        root: &Path,
        database: &Database,
        runtime: &Handle,
        contents: manifest::Contents,
    ) -> Result<Vec<SharedSegment>, Error> {
        self.covered = contents.covered;
        let all = contents.live.iter().chain(&contents.dead);
        self.next_id = all.map(|segment| segment.id + 1).max().unwrap_or(1).max(self.next_id);
        let mut live = Vec::new();
        for segment in contents.live {
            let path = root.join(&segment.path);
            if finish(&path)? {
                live.push(Arc::new(segment));
            } else {
                // Somebody removed it. It stays in the manifest, in case it comes back.
                tracing::error!(path = %path.display(), rows = segment.rows, "a file of results is missing");
            }
        }
        remove_unfinished(root)?;
        let in_use: HashSet<i64> = self.dead.iter().map(|segment| segment.id).collect();
        let gone: Vec<Segment> =
            contents.dead.into_iter().filter(|segment| !in_use.contains(&segment.id)).collect();
        remove(root, database, runtime, gone.iter())?;
        Ok(live)
    }

    fn take_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id - 1
    }
}

impl Store {
    pub(super) fn maintain(&self, runtime: &Handle, now_us: i64) -> Result<(), Error> {
        let mut maintenance = lock_of(&self.maintenance);
        self.settle(&mut maintenance, runtime)?;
        if self.is_flush_due() {
            self.flush(&mut maintenance, runtime)?;
        }
        self.retire(&mut maintenance, runtime, now_us)?;
        // One merge at a time, so that a flush never waits for long.
        if let Some(plan) = plan(&self.view().segments, now_us, false) {
            self.merge(&mut maintenance, runtime, &plan.inputs, plan.level)?;
        }
        self.bury(&mut maintenance, runtime)
    }

    fn is_flush_due(&self) -> bool {
        let view = self.view();
        let oldest = view.chunks.first().map(|chunk| chunk.since);
        view.memory_rows() >= self.config.flush_rows
            || view.memory_bytes() >= self.config.flush_bytes
            || oldest.is_some_and(|since| since.elapsed() >= self.config.flush_after)
    }

    pub(super) fn compact(&self, runtime: &Handle) -> Result<(), Error> {
        let mut maintenance = lock_of(&self.maintenance);
        self.settle(&mut maintenance, runtime)?;
        self.flush(&mut maintenance, runtime)?;
        while let Some(plan) = plan(&self.view().segments, i64::MIN, true) {
            self.merge(&mut maintenance, runtime, &plan.inputs, plan.level)?;
        }
        self.bury(&mut maintenance, runtime)
    }

    /// After a change that failed half way, goes by what the manifest says.
    fn settle(&self, maintenance: &mut Maintenance, runtime: &Handle) -> Result<(), Error> {
        if !maintenance.doubtful {
            return Ok(());
        }
        let contents = runtime.block_on(manifest::load(&self.database))?;
        let live = maintenance.take_over(&self.root, &self.database, runtime, contents)?;
        let covered = maintenance.covered;
        self.publish(|view| {
            view.segments = live;
            view.chunks.retain(|chunk| chunk.position > covered);
        });
        maintenance.doubtful = false;
        Ok(())
    }

    /// Moves all chunks to files.
    fn flush(&self, maintenance: &mut Maintenance, runtime: &Handle) -> Result<(), Error> {
        let view = self.view();
        let Some(covered) = view.chunks.iter().map(|chunk| chunk.position).max() else { return Ok(()) };
        let begin = Instant::now();
        let mut tables: BTreeMap<&Table, Vec<&Chunk>> = BTreeMap::new();
        for chunk in &view.chunks {
            tables.entry(&chunk.table).or_default().push(chunk);
        }
        let mut segments = Vec::new();
        for (table, chunks) in tables {
            for (from_us, to_us) in hours(table, &chunks) {
                let filter = Filter { from_us, to_us, ..Filter::ALL };
                let mut sources: Vec<Box<dyn Source>> = Vec::new();
                for chunk in chunks.iter().filter(|chunk| chunk.bounds.min_due_us < to_us) {
                    let rows = rows_due(table, chunk, &filter)?;
                    sources.extend(rows.map(|rows| Box::new(rows) as Box<dyn Source>));
                }
                let mut merged = Merge::new(table, sources, WRITE_BATCH)?;
                segments.extend(self.write(maintenance, table, 0, maintenance.covered + 1, &mut merged)?);
            }
        }
        self.change(maintenance, runtime, segments, &[], Some(covered))?;
        let rows = view.memory_rows();
        tracing::debug!(rows, elapsed_ms = begin.elapsed().as_millis() as u64, "wrote rows to files");
        // The rows are in files for good: what is left in the log is only ignored until it can be removed.
        if let Err(error) = lock_of(&self.log).log.trim(covered) {
            tracing::warn!(%error, "the log could not be trimmed");
        }
        Ok(())
    }

    fn merge(
        &self,
        maintenance: &mut Maintenance,
        runtime: &Handle,
        inputs: &[SharedSegment],
        level: i64,
    ) -> Result<(), Error> {
        let Some(first) = inputs.first() else { return Ok(()) };
        let begin = Instant::now();
        let sources: Result<Vec<_>, _> =
            inputs.iter().map(|input| segment::read(input, &self.root, &Filter::ALL, Width::Whole)).collect();
        let mut merged = Merge::new(&first.table, sources?, WRITE_BATCH)?;
        let output = self.write(maintenance, &first.table, level, first.first_position, &mut merged)?;
        let rows = output.as_ref().map_or(0, |segment| segment.rows);
        self.change(maintenance, runtime, output.into_iter().collect(), inputs, None)?;
        let elapsed_ms = begin.elapsed().as_millis() as u64;
        tracing::debug!(
            table = first.table.name(),
            level,
            files = inputs.len(),
            rows,
            elapsed_ms,
            "merged files"
        );
        Ok(())
    }

    /// Drops what is older than the retention.
    fn retire(&self, maintenance: &mut Maintenance, runtime: &Handle, now_us: i64) -> Result<(), Error> {
        let retention_us = i64::try_from(self.config.retention.as_micros()).unwrap_or(i64::MAX);
        let before_us = now_us.saturating_sub(retention_us);
        let view = self.view();
        let old = view.segments.iter().filter(|segment| segment.bounds.max_due_us < before_us);
        let old: Vec<_> = old.cloned().collect();
        drop(view);
        if old.is_empty() {
            return Ok(());
        }
        tracing::info!(files = old.len(), "retention ends files of results");
        self.change(maintenance, runtime, Vec::new(), &old, None)
    }

    /// Removes dead files that nobody reads any more.
    fn bury(&self, maintenance: &mut Maintenance, runtime: &Handle) -> Result<(), Error> {
        let dead = std::mem::take(&mut maintenance.dead);
        let (unread, read): (Vec<_>, Vec<_>) =
            dead.into_iter().partition(|segment| Arc::strong_count(segment) == 1);
        maintenance.dead = read;
        remove(&self.root, &self.database, runtime, unread.iter().map(Arc::as_ref))
    }

    /// Writes a file that is not live yet.
    fn write(
        &self,
        maintenance: &mut Maintenance,
        table: &Table,
        level: i64,
        first_position: i64,
        source: &mut Merge,
    ) -> Result<Option<Segment>, Error> {
        // Until the manifest is changed: a failure leaves files to be removed.
        maintenance.doubtful = true;
        let id = maintenance.take_id();
        let directory = table.directory();
        let absolute = self.root.join(&directory);
        if !absolute.exists() {
            fs::create_dir_all(&absolute).map_err(Error::io("write segment", &absolute))?;
            segment::sync_directory(absolute.parent().unwrap_or(&self.root))?;
            segment::sync_directory(&self.root)?;
        }
        let path = directory.join(format!("{id:010}.parquet"));
        let written = segment::write(table, &unfinished(&self.root.join(&path)), source)?;
        Ok(written.map(|(bounds, rows, bytes)| Segment {
            id,
            table: table.clone(),
            level,
            path,
            first_position,
            bounds,
            rows,
            bytes,
        }))
    }

    /// Makes files live and others dead, in the manifest, on the disk and in the view.
    fn change(
        &self,
        maintenance: &mut Maintenance,
        runtime: &Handle,
        add: Vec<Segment>,
        dead: &[SharedSegment],
        covered: Option<i64>,
    ) -> Result<(), Error> {
        let directories: BTreeSet<PathBuf> =
            add.iter().map(|segment| self.root.join(segment.table.directory())).collect();
        for directory in &directories {
            segment::sync_directory(directory)?;
        }
        let ids: Vec<i64> = dead.iter().map(|segment| segment.id).collect();
        maintenance.doubtful = true;
        runtime.block_on(manifest::replace(&self.database, &add, &ids, covered))?;
        for segment in &add {
            finish(&self.root.join(&segment.path))?;
        }
        for directory in &directories {
            segment::sync_directory(directory)?;
        }
        let ids: HashSet<i64> = ids.into_iter().collect();
        self.publish(|view: &mut View| {
            view.segments.retain(|segment| !ids.contains(&segment.id));
            view.segments.extend(add.into_iter().map(Arc::new));
            view.segments.sort_by_key(|segment| (segment.first_position, segment.id));
            if let Some(covered) = covered {
                view.chunks.retain(|chunk| chunk.position > covered);
            }
        });
        maintenance.dead.extend(dead.iter().cloned());
        maintenance.covered = covered.unwrap_or(maintenance.covered);
        maintenance.doubtful = false;
        Ok(())
    }
}

/// The rows of a chunk whose (first) due time is in the filter's range: unlike for a query, a gap belongs to the one
/// hour in which it begins.
fn rows_due(table: &Table, chunk: &Chunk, filter: &Filter) -> Result<Option<MemorySource>, Error> {
    let dues = chunk.rows.column(table.due_columns().0).as_primitive::<TimestampMicrosecondType>().values();
    let within = |due: &i64| (filter.from_us..filter.to_us).contains(due);
    if dues.iter().all(within) {
        return MemorySource::new(table, &chunk.rows, &Filter::ALL, Width::Whole).map(Some);
    }
    let mask = dues.iter().map(|due| Some(within(due))).collect();
    let rows =
        arrow::compute::filter_record_batch(&chunk.rows, &mask).map_err(Error::arrow("write segment"))?;
    if rows.num_rows() == 0 {
        return Ok(None);
    }
    MemorySource::new(table, &rows, &Filter::ALL, Width::Whole).map(Some)
}

/// The hours in which rows of chunks are due (begin, end), the oldest together if they are too many: times come from
/// other hosts, and must not make us write any number of files.
fn hours(table: &Table, chunks: &[&Chunk]) -> Vec<(i64, i64)> {
    let column = table.due_columns().0;
    let mut hours = BTreeSet::new();
    for chunk in chunks {
        let dues = chunk.rows.column(column).as_primitive::<TimestampMicrosecondType>().values();
        let mut last = None;
        for due_us in dues {
            let hour = hour_of(*due_us);
            if last != Some(hour) {
                hours.insert(hour);
                last = Some(hour);
            }
        }
    }
    let bound = |hour: i64| hour.saturating_mul(HOUR_US);
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for (number, hour) in hours.iter().rev().enumerate() {
        if number < MOST_HOURS {
            ranges.push((bound(*hour), bound(hour + 1)));
        } else if let Some(oldest) = ranges.last_mut() {
            oldest.0 = bound(*hour);
        }
    }
    ranges
}

/// Gives a file its final name, if it has it not yet; whether it is there.
fn finish(path: &Path) -> Result<bool, Error> {
    if path.exists() {
        return Ok(true);
    }
    match fs::rename(unfinished(path), path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("finish segment", path)(error)),
    }
}

/// Removes files that were begun and never entered into the manifest.
fn remove_unfinished(root: &Path) -> Result<(), Error> {
    let mut directories = vec![root.join("gap")];
    if let Ok(entries) = fs::read_dir(root.join("rounds")) {
        directories.extend(entries.flatten().map(|entry| entry.path()));
    }
    for directory in directories {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "unfinished") {
                fs::remove_file(&path).map_err(Error::io("remove segment", &path))?;
            }
        }
    }
    Ok(())
}

/// Removes dead files, then forgets them.
fn remove<'a>(
    root: &Path,
    database: &Database,
    runtime: &Handle,
    segments: impl Iterator<Item = &'a Segment>,
) -> Result<(), Error> {
    let mut ids = Vec::new();
    for segment in segments {
        for path in [root.join(&segment.path), unfinished(&root.join(&segment.path))] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove segment", &path)(error));
                }
                _ => {}
            }
        }
        ids.push(segment.id);
    }
    if ids.is_empty() {
        return Ok(());
    }
    runtime.block_on(manifest::forget(database, &ids))
}

fn write_durably(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write;
    let write = || {
        let mut file = fs::File::create(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(Error::io("open", path))?;
    segment::sync_directory(path.parent().unwrap_or(path))
}

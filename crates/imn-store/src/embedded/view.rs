//! What readers see: chunks in memory and files, taken together, and the queries over them.

use std::{ops::ControlFlow, path::Path, sync::Arc, time::Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use imn_contract::{AgentId, ModuleType, TargetId};

use super::{
    error::Error,
    merge::{Merge, Source},
    row,
    segment::{self, MemorySource, SharedSegment, Width},
    table::{Bounds, Filter, Table, round},
};
use crate::{
    model::{GapRow, RoundRow},
    results::{GapQuery, Order, RoundQuery},
};

/// Rows of a batch of a scan.
const SCAN_BATCH: usize = 1_024;

/// Rows of one commit, in memory: sorted and unique by their table's key.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) table: Table,
    pub(super) rows: RecordBatch,
    pub(super) bounds: Bounds,
    /// Space that the rows take.
    pub(super) bytes: usize,
    /// Last position in the log of its rows.
    pub(super) position: i64,
    pub(super) since: Instant,
}

/// A consistent state: no row is missing, none is seen twice.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Oldest first.
    pub(super) chunks: Vec<Arc<Chunk>>,
    /// Oldest first, all older than the chunks.
    pub(super) segments: Vec<SharedSegment>,
}

/// A part of a view that may hold rows that match.
struct Part<'a> {
    rows: Rows<'a>,
    table: &'a Table,
    bounds: &'a Bounds,
    /// Of two rows with one key, that of the lower rank was committed first.
    rank: usize,
}

enum Rows<'a> {
    Memory(&'a RecordBatch),
    File(&'a SharedSegment),
}

impl Part<'_> {
    fn open(&self, root: &Path, filter: &Filter, width: Width) -> Result<Box<dyn Source>, Error> {
        match self.rows {
            Rows::Memory(rows) => Ok(Box::new(MemorySource::new(self.table, rows, filter, width)?)),
            Rows::File(segment) => segment::read(segment, root, filter, width),
        }
    }
}

impl View {
    pub(super) fn memory_rows(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.rows.num_rows()).sum()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes).sum()
    }

    /// The tables that have rows.
    fn tables(&self) -> Vec<&Table> {
        let chunks = self.chunks.iter().map(|chunk| &chunk.table);
        let mut tables: Vec<_> = chunks.chain(self.segments.iter().map(|segment| &segment.table)).collect();
        tables.sort_unstable();
        tables.dedup();
        tables
    }

    fn parts(&self, filter: &Filter, wanted: impl Fn(&Table) -> bool) -> Vec<Part<'_>> {
        let files =
            self.segments.iter().map(|segment| (Rows::File(segment), &segment.table, &segment.bounds));
        let chunks = self.chunks.iter().map(|chunk| (Rows::Memory(&chunk.rows), &chunk.table, &chunk.bounds));
        files
            .chain(chunks)
            .enumerate()
            .filter(|(_, (_, table, bounds))| wanted(table) && filter.overlaps(bounds))
            .map(|(rank, (rows, table, bounds))| Part { rows, table, bounds, rank })
            .collect()
    }

    /// A merged stream of the rows of one table that match, sorted by its key.
    fn stream(&self, root: &Path, table: &Table, filter: &Filter, width: Width) -> Result<Merge, Error> {
        let parts = self.parts(filter, |of| of == table);
        let sources: Result<Vec<_>, _> = parts.iter().map(|part| part.open(root, filter, width)).collect();
        Merge::new(table, sources?, SCAN_BATCH)
    }

    /// Rounds that match, in the order of the query.
    pub(super) fn rounds(&self, root: &Path, query: &RoundQuery) -> Result<Vec<RoundRow>, Error> {
        let filter = round_filter(query);
        let wanted = |table: &Table| match table {
            Table::Rounds(kind) => query.kind.as_ref().is_none_or(|wanted| wanted == kind),
            Table::Gaps => false,
        };
        let mut parts = self.parts(&filter, wanted);
        // From the end at which the result begins, so that a limit spares what is farther away.
        match query.order {
            Order::Ascending => parts.sort_by_key(|part| part.bounds.min_due_us),
            Order::Descending => parts.sort_by_key(|part| std::cmp::Reverse(part.bounds.max_due_us)),
        }
        let mut best = Best::new(query.order, query.limit.unwrap_or(usize::MAX));
        for part in parts {
            let nearest = match query.order {
                Order::Ascending => part.bounds.min_due_us,
                Order::Descending => part.bounds.max_due_us,
            };
            if best.is_beyond(nearest) {
                break;
            }
            let mut source = part.open(root, &filter, Width::of(query))?;
            while let Some(batch) = source.next_batch()? {
                best.add(part.table, &batch, part.rank)?;
            }
            if query.limit.is_some() {
                best.settle();
            }
        }
        Ok(best.finish())
    }

    /// Gives the rounds that match to `visit`, by type, target, due time and agent.
    pub(super) fn scan(
        &self,
        root: &Path,
        query: &RoundQuery,
        mut visit: impl FnMut(Vec<RoundRow>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let filter = round_filter(query);
        let mut left = query.limit.unwrap_or(usize::MAX);
        for table in self.tables() {
            let Table::Rounds(kind) = table else { continue };
            if query.kind.as_ref().is_some_and(|wanted| wanted != kind) {
                continue;
            }
            let mut stream = self.stream(root, table, &filter, Width::of(query))?;
            while left > 0
                && let Some(batch) = stream.next_batch()?
            {
                let count = batch.num_rows().min(left);
                left -= count;
                let rows: Result<Vec<_>, _> =
                    (0..count).map(|number| row::round(table, &batch, number)).collect();
                if visit(rows.map_err(unreadable)?).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Gaps that match, oldest first.
    pub(super) fn gaps(&self, root: &Path, query: &GapQuery) -> Result<Vec<GapRow>, Error> {
        let filter = Filter {
            target: query.target.as_ref().map(ToString::to_string),
            agent: query.agent.as_ref().map(ToString::to_string),
            from_us: query.from_us.unwrap_or(i64::MIN),
            to_us: query.to_us.unwrap_or(i64::MAX),
        };
        let mut stream = self.stream(root, &Table::Gaps, &filter, Width::Whole)?;
        let mut gaps = Vec::new();
        while let Some(batch) = stream.next_batch()? {
            for number in 0..batch.num_rows() {
                gaps.push(row::gap(&batch, number).map_err(unreadable)?);
            }
        }
        gaps.sort_by(|a, b| {
            (a.first_due_us, &a.agent, &a.target, &a.kind).cmp(&(
                b.first_due_us,
                &b.agent,
                &b.target,
                &b.kind,
            ))
        });
        gaps.truncate(query.limit.unwrap_or(usize::MAX));
        Ok(gaps)
    }
}

fn round_filter(query: &RoundQuery) -> Filter {
    Filter {
        target: query.target.as_ref().map(ToString::to_string),
        agent: query.agent.as_ref().map(ToString::to_string),
        from_us: query.from_us.unwrap_or(i64::MIN),
        to_us: query.to_us.unwrap_or(i64::MAX),
    }
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::new("read rows", error.to_string())
}

/// The first rows of an order, as many as wanted, each key once.
struct Best {
    order: Order,
    limit: usize,
    /// With the rank of where they come from.
    rows: Vec<(RoundRow, usize)>,
    /// Rows at the beginning of `rows` that are sorted and unique.
    settled: usize,
}

impl Best {
    const fn new(order: Order, limit: usize) -> Self {
        Self { order, limit, rows: Vec::new(), settled: 0 }
    }

    /// Whether a row due then cannot be among the first any more.
    fn is_beyond(&self, due_us: i64) -> bool {
        if self.limit == 0 {
            return true;
        }
        self.settled >= self.limit
            && match self.order {
                Order::Ascending => due_us > self.rows[self.limit - 1].0.due_us,
                Order::Descending => due_us < self.rows[self.limit - 1].0.due_us,
            }
    }

    fn add(&mut self, table: &Table, batch: &RecordBatch, rank: usize) -> Result<(), Error> {
        let dues = batch.column(round::DUE).as_primitive::<TimestampMicrosecondType>().values();
        for (number, due_us) in dues.iter().enumerate() {
            if !self.is_beyond(*due_us) {
                self.rows.push((row::round(table, batch, number).map_err(unreadable)?, rank));
            }
        }
        if self.rows.len() - self.settled > self.limit.max(SCAN_BATCH) {
            self.settle();
        }
        Ok(())
    }

    fn settle(&mut self) {
        let order = self.order;
        if self.settled < self.rows.len() {
            self.rows.sort_by(|(a, rank_a), (b, rank_b)| {
                let due = match order {
                    Order::Ascending => a.due_us.cmp(&b.due_us),
                    Order::Descending => b.due_us.cmp(&a.due_us),
                };
                due.then_with(|| key(a).cmp(&key(b))).then(rank_a.cmp(rank_b))
            });
            self.rows.dedup_by(|(a, _), (b, _)| a.due_us == b.due_us && key(a) == key(b));
            self.rows.truncate(self.limit);
        }
        self.settled = self.rows.len();
    }

    fn finish(mut self) -> Vec<RoundRow> {
        self.settle();
        self.rows.into_iter().map(|(row, _)| row).collect()
    }
}

fn key(row: &RoundRow) -> (&AgentId, &ModuleType, &TargetId) {
    (&row.agent, &row.kind, &row.target)
}

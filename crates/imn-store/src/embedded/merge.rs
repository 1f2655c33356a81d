//! Merging sorted sources into one sorted stream in which no key is twice.

use std::{cmp::Reverse, collections::BinaryHeap};

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::interleave_record_batch,
    row::{RowConverter, Rows, SortField},
};

use super::{error::Error, table::Table};

/// Bytes of a batch of output that are enough, and rows that it has all the same.
const OUT_BYTES: usize = 8 << 20;
const LEAST_OUT: usize = 64;

/// Batches sorted by the table's key, one after the other.
pub(super) trait Source: Send {
    /// The next batch, never empty; `None` at the end.
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, Error>;
}

/// A merge of sources. Of rows with the same key the one of the first source stays: sources are given oldest first.
pub(super) struct Merge {
    table: Table,
    converter: RowConverter,
    sources: Vec<Box<dyn Source>>,
    cursors: Vec<Option<Cursor>>,
    /// Next key of each source that has one. The buffers go round.
    heap: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
    /// Batches that rows of the present output come from.
    batches: Vec<RecordBatch>,
    last: Option<Vec<u8>>,
    rows_out: usize,
}

struct Cursor {
    /// Where its batch is in `batches`.
    batch: usize,
    keys: Rows,
    row: usize,
}

impl Merge {
    /// A merge that gives batches of up to `rows_out` rows.
    pub(super) fn new(table: &Table, sources: Vec<Box<dyn Source>>, rows_out: usize) -> Result<Self, Error> {
        let schema = table.schema();
        let fields =
            table.key().iter().map(|column| SortField::new(schema.field(*column).data_type().clone()));
        let mut merge = Self {
            table: table.clone(),
            converter: RowConverter::new(fields.collect()).map_err(Error::arrow("merge"))?,
            cursors: sources.iter().map(|_| None).collect(),
            heap: BinaryHeap::with_capacity(sources.len()),
            sources,
            batches: Vec::new(),
            last: None,
            rows_out,
        };
        for source in 0..merge.sources.len() {
            merge.refill(source, Vec::new())?;
        }
        Ok(merge)
    }

    /// Takes the next batch of a source and puts its first key into the heap.
    fn refill(&mut self, source: usize, mut key: Vec<u8>) -> Result<(), Error> {
        self.cursors[source] = None;
        let Some(batch) = self.sources[source].next_batch()? else { return Ok(()) };
        let columns: Vec<ArrayRef> =
            self.table.key().iter().map(|column| batch.column(*column).clone()).collect();
        let keys = self.converter.convert_columns(&columns).map_err(Error::arrow("merge"))?;
        key.clear();
        key.extend_from_slice(keys.row(0).data());
        self.heap.push(Reverse((key, source)));
        let row_bytes = batch.get_array_memory_size() / batch.num_rows().max(1);
        self.rows_out = self.rows_out.min((OUT_BYTES / row_bytes.max(1)).max(LEAST_OUT));
        self.cursors[source] = Some(Cursor { batch: self.batches.len(), keys, row: 0 });
        self.batches.push(batch);
        Ok(())
    }

    /// Forgets batches that no cursor is in.
    fn drop_spent(&mut self) {
        let mut kept = Vec::with_capacity(self.cursors.len());
        for cursor in self.cursors.iter_mut().flatten() {
            kept.push(self.batches[cursor.batch].clone());
            cursor.batch = kept.len() - 1;
        }
        self.batches = kept;
    }
}

impl Source for Merge {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, Error> {
        // A lone source is sorted and unique by itself.
        if self.sources.len() == 1 && self.last.is_none() {
            if let Some(batch) = self.batches.pop() {
                self.heap.clear();
                self.cursors[0] = None;
                return Ok(Some(batch));
            }
            return self.sources[0].next_batch();
        }
        self.drop_spent();
        let mut picked = Vec::with_capacity(self.rows_out);
        while picked.len() < self.rows_out {
            let Some(Reverse((mut key, source))) = self.heap.pop() else { break };
            let Some(cursor) = &mut self.cursors[source] else { continue };
            if self.last.as_ref() != Some(&key) {
                picked.push((cursor.batch, cursor.row));
                let last = self.last.get_or_insert_default();
                last.clear();
                last.extend_from_slice(&key);
            }
            cursor.row += 1;
            if cursor.row < cursor.keys.num_rows() {
                key.clear();
                key.extend_from_slice(cursor.keys.row(cursor.row).data());
                self.heap.push(Reverse((key, source)));
            } else {
                self.refill(source, key)?;
            }
        }
        if picked.is_empty() {
            return Ok(None);
        }
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        interleave_record_batch(&batches, &picked).map(Some).map_err(Error::arrow("merge"))
    }
}

//! Parquet files: how they are written and read.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{array::RecordBatch, compute::filter_record_batch, datatypes::SchemaRef};
use parquet::{
    arrow::{
        ArrowWriter, ProjectionMask,
        arrow_reader::{
            ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
            ParquetRecordBatchReaderBuilder, RowFilter, RowSelection,
        },
    },
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::{PageIndexPolicy, ParquetMetaData, SortingColumn},
        page_index::column_index::ColumnIndexMetaData,
        properties::{EnabledStatistics, WriterProperties, WriterVersion},
    },
    schema::types::ColumnPath,
};

use super::{
    error::Error,
    merge::Source,
    table::{Bounds, Filter, Table, check_schema, round, rows_of_target},
    typed,
};
use crate::results::RoundQuery;

/// Rows of a row group: few enough to buffer while they are written, many enough to keep the footer small.
const ROW_GROUP: usize = 128 * 1024;
/// Encoded bytes of a row group that are enough, of rows that are large.
const ROW_GROUP_BYTES: usize = 32 << 20;
/// Rows of a page, which is the least that is read and decompressed.
const PAGE: usize = 2_048;
/// Rows decoded at a time.
const READ_BATCH: usize = 2_048;
/// Bytes of a batch that is decoded, as far as the file's footer tells: rows take several times what they take encoded.
const READ_BYTES: u64 = 4 << 20;
const DECODED: u64 = 8;
const ZSTD_LEVEL: i32 = 3;

/// A live file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Segment {
    /// Counts files, from 1.
    pub(super) id: i64,
    pub(super) table: Table,
    /// How often its rows were merged: 0 as they came from the log, 1 minutes, 2 an hour, 3 a day.
    pub(super) level: i64,
    pub(super) path: PathBuf,
    /// Least position in the log of its rows: says which of two files is older.
    pub(super) first_position: i64,
    pub(super) bounds: Bounds,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Which columns of rounds are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Whole,
    /// Those that all types share, without the outcome.
    Brief,
}

impl Width {
    pub(super) const fn of(query: &RoundQuery) -> Self {
        if query.brief { Self::Brief } else { Self::Whole }
    }
}

/// The name under which a file is written, until the manifest has it.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("unfinished")
}

/// Writes a sorted stream to `path`, fsynced; what it holds, or `None` if it is empty, when there is no file.
pub(super) fn write(
    table: &Table,
    path: &Path,
    source: &mut dyn Source,
) -> Result<Option<(Bounds, u64, u64)>, Error> {
    let Some(first) = source.next_batch()? else { return Ok(None) };
    let written = write_from(table, path, first, source);
    if written.is_err() {
        // What is left would only take space; a leftover is removed at the next start as well.
        let _ = std::fs::remove_file(path);
    }
    written.map(Some)
}

fn write_from(
    table: &Table,
    path: &Path,
    first: RecordBatch,
    source: &mut dyn Source,
) -> Result<(Bounds, u64, u64), Error> {
    let file = File::create(path).map_err(Error::io("write segment", path))?;
    let error = Error::parquet("write segment", path);
    let mut writer = ArrowWriter::try_new(file, table.schema(), Some(properties(table))).map_err(&error)?;
    let mut bounds: Option<Bounds> = None;
    let mut next = Some(first);
    while let Some(batch) = next {
        writer.write(&batch).map_err(&error)?;
        if let Some(of_batch) = Bounds::of(table, &batch) {
            match &mut bounds {
                Some(bounds) => bounds.extend(of_batch),
                None => bounds = Some(of_batch),
            }
        }
        next = source.next_batch()?;
    }
    let metadata = writer.finish().map_err(&error)?;
    let file = writer.inner();
    file.sync_all().map_err(Error::io("write segment", path))?;
    let bytes = file.metadata().map_err(Error::io("write segment", path))?.len();
    let bounds = bounds.ok_or_else(|| Error::new("write segment", "no rows"))?;
    Ok((bounds, metadata.file_metadata().num_rows() as u64, bytes))
}

fn properties(table: &Table) -> WriterProperties {
    let sorting = table.key().iter().map(|column| SortingColumn {
        column_idx: *column as i32,
        descending: false,
        nulls_first: false,
    });
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(concat!("imn ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).unwrap_or_default()))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_data_page_row_count_limit(PAGE)
        .set_write_batch_size(PAGE)
        .set_sorting_columns(Some(sorting.collect()))
        .set_statistics_enabled(EnabledStatistics::Chunk);
    let schema = table.schema();
    for (column, field) in schema.fields().iter().enumerate() {
        let path = ColumnPath::from(field.name().as_str());
        if table.key().contains(&column) {
            properties = properties.set_column_statistics_enabled(path.clone(), EnabledStatistics::Page);
        }
        // Times and delays hardly repeat: a dictionary would be built for nothing.
        match field.name().as_str() {
            "time" | "due" | "first_due" | "last_due" => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            "rtt_min_us" | "rtt_avg_us" | "rtt_max_us" => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::BYTE_STREAM_SPLIT);
            }
            _ => {}
        }
    }
    properties.build()
}

/// Reads the rows of a file that match.
pub(super) fn read(
    segment: &Segment,
    root: &Path,
    filter: &Filter,
    width: Width,
) -> Result<Box<dyn Source>, Error> {
    let path = root.join(&segment.path);
    let file = File::open(&path).map_err(Error::io("read segment", &path))?;
    let error = Error::parquet("read segment", &path);
    let policy = if filter.target.is_some() { PageIndexPolicy::Optional } else { PageIndexPolicy::Skip };
    let options = ArrowReaderOptions::new().with_page_index_policy(policy);
    let metadata = ArrowReaderMetadata::load(&file, options).map_err(&error)?;
    let table = &segment.table;
    check_schema(table, metadata.schema()).map_err(Error::arrow("read segment"))?;
    let selected = filter.target.as_ref().map(|target| select(table, metadata.metadata(), target));
    let mut schema = table.schema();
    let rows = match width {
        Width::Whole => batch_rows(metadata.metadata()),
        Width::Brief => READ_BATCH,
    };
    let mut builder =
        ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata).with_batch_size(rows);
    if width == Width::Brief {
        let columns: Vec<usize> = (0..round::BRIEF).collect();
        schema = Arc::new(schema.project(&columns).map_err(Error::arrow("read segment"))?);
        let columns = ProjectionMask::roots(builder.parquet_schema(), columns);
        builder = builder.with_projection(columns);
    }
    if let Some((groups, rows)) = selected {
        builder = builder.with_row_groups(groups).with_row_selection(rows);
    }
    if *filter != Filter::ALL {
        let columns = ProjectionMask::roots(builder.parquet_schema(), Filter::columns(table));
        let (filter, table) = (filter.clone(), table.clone());
        let predicate = ArrowPredicateFn::new(columns, move |batch| Ok(filter.matches(&table, &batch)));
        builder = builder.with_row_filter(RowFilter::new(vec![Box::new(predicate)]));
    }
    let reader = builder.build().map_err(&error)?;
    Ok(Box::new(SegmentSource { reader, path, schema }))
}

/// Rows to decode at a time: fewer of those that hold long lists.
fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let of_group = metadata.row_groups().iter().map(|group| {
        let bytes = group.total_byte_size().max(0) as u64;
        bytes / (group.num_rows().max(1) as u64)
    });
    let row_bytes = (of_group.max().unwrap_or_default() * DECODED).max(1);
    (READ_BYTES / row_bytes).clamp(16, READ_BATCH as u64) as usize
}

/// The row groups that may hold the target, and which of their rows may be its.
fn select(table: &Table, metadata: &ParquetMetaData, target: &str) -> (Vec<usize>, RowSelection) {
    let column = table.target_column();
    let wanted = target.as_bytes();
    let mut groups = Vec::new();
    let mut ranges = Vec::new();
    let mut before = 0;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let rows = group.num_rows() as usize;
        if let Some(statistics) = group.column(column).statistics() {
            // Bounds may be cut short, but then they are wider, never narrower.
            let (min, max) = (statistics.min_bytes_opt(), statistics.max_bytes_opt());
            if min.is_some_and(|min| min > wanted) || max.is_some_and(|max| max < wanted) {
                continue;
            }
        }
        groups.push(number);
        let index = metadata.page_index_for_row_group(number);
        let pages = match (index.column_index(column), index.page_locations(column)) {
            (Some(ColumnIndexMetaData::BYTE_ARRAY(index)), Some(pages)) => Some((index, pages)),
            _ => None,
        };
        match pages {
            None => ranges.push(before..before + rows),
            Some((index, pages)) => {
                for page in 0..pages.len() {
                    if index.min_value(page).is_some_and(|min| min > wanted)
                        || index.max_value(page).is_some_and(|max| max < wanted)
                    {
                        continue;
                    }
                    let begin = pages[page].first_row_index as usize;
                    let end = pages.get(page + 1).map_or(rows, |next| next.first_row_index as usize);
                    ranges.push(before + begin..before + end);
                }
            }
        }
        before += rows;
    }
    (groups, RowSelection::from_consecutive_ranges(ranges.into_iter(), before))
}

struct SegmentSource {
    reader: ParquetRecordBatchReader,
    path: PathBuf,
    /// What its batches are to have.
    schema: SchemaRef,
}

impl Source for SegmentSource {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, Error> {
        loop {
            let batch = self
                .reader
                .next()
                .transpose()
                .and_then(|batch| batch.map(|batch| typed::conform(&batch, &self.schema)).transpose());
            match batch {
                Ok(Some(batch)) if batch.num_rows() == 0 => {}
                Ok(batch) => return Ok(batch),
                Err(error) => {
                    return Err(Error::new("read segment", format!("{}: {error}", self.path.display())));
                }
            }
        }
    }
}

/// Rows in memory, sorted and unique by the table's key.
pub(super) struct MemorySource(Option<RecordBatch>);

impl MemorySource {
    pub(super) fn new(
        table: &Table,
        batch: &RecordBatch,
        filter: &Filter,
        width: Width,
    ) -> Result<Self, Error> {
        let mut batch = match &filter.target {
            Some(target) => rows_of_target(table, batch, target),
            None => batch.clone(),
        };
        if width == Width::Brief {
            let columns: Vec<usize> = (0..round::BRIEF).collect();
            batch = batch.project(&columns).map_err(Error::arrow("read memory"))?;
        }
        if *filter != Filter::ALL && batch.num_rows() > 0 {
            let matching = filter.matches_full(table, &batch);
            batch = filter_record_batch(&batch, &matching).map_err(Error::arrow("read memory"))?;
        }
        Ok(Self((batch.num_rows() > 0).then_some(batch)))
    }
}

impl Source for MemorySource {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, Error> {
        Ok(self.0.take())
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), Error> {
    let directory = File::open(path).map_err(Error::io("sync directory", path))?;
    directory.sync_all().map_err(Error::io("sync directory", path))
}

/// A live file, shared by readers; it is removed once nobody reads it.
pub(super) type SharedSegment = Arc<Segment>;

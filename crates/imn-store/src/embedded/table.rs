//! Tables and their columns: one per module type for rounds, one for gaps.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use arrow::{
    array::{Array, AsArray, BooleanArray, RecordBatch},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
    error::ArrowError,
};
use imn_contract::ModuleType;

use super::typed;
use crate::column::{Column, columns, typed as typed_kinds};

/// What a file or a chunk holds rows of. Ordered: rounds by type, then gaps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Table {
    Rounds(ModuleType),
    Gaps,
}

/// Positions of columns in [`ROUNDS`].
pub(super) mod round {
    pub(in super::super) const DUE: usize = 1;
    pub(in super::super) const AGENT: usize = 2;
    pub(in super::super) const TARGET: usize = 3;
    /// Columns of a round without its outcome, which is next, and the columns of its type, which follow.
    pub(in super::super) const BRIEF: usize = 25;
    pub(in super::super) const OUTCOME: usize = BRIEF;
    pub(in super::super) const TYPED: usize = OUTCOME + 1;
}

/// Positions of columns in [`GAPS`].
pub(super) mod gap {
    pub(in super::super) const AGENT: usize = 0;
    pub(in super::super) const TARGET: usize = 1;
    pub(in super::super) const FIRST_DUE: usize = 3;
    pub(in super::super) const LAST_DUE: usize = 4;
}

/// Columns of rounds: those of the result row, in its order. Those of the type follow, so that the positions of these
/// are the same for all types.
static ROUNDS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let optional = |name: &str, kind: DataType| Field::new(name, kind, true);
    let rtt = |name: &str| optional(name, DataType::Float64);
    let rtts = DataType::List(Arc::new(Field::new("element", DataType::Float64, true)));
    Arc::new(Schema::new(vec![
        time("time"),
        time("due"),
        text("agent"),
        text("target"),
        text("address"),
        text("type"),
        count("sent"),
        count("received"),
        count("unknown"),
        count("duplicates"),
        count("late"),
        count("reordered"),
        Field::new("success", DataType::Boolean, false),
        optional("error", DataType::Utf8),
        rtt("rtt_min_us"),
        rtt("rtt_avg_us"),
        rtt("rtt_max_us"),
        rtt("rtt_stddev_us"),
        rtt("ipdv_us"),
        rtt("loss_pct"),
        count("late_us"),
        Field::new("tmax_us", DataType::UInt64, false),
        text("ts_source"),
        Field::new("error_us", DataType::Float64, false),
        optional("rtts_us", rtts),
        optional("outcome", DataType::Utf8),
    ]))
});

/// Columns of rounds of the types that have more.
static TYPED_ROUNDS: LazyLock<HashMap<&'static str, SchemaRef>> = LazyLock::new(|| {
    let schema = |kind| {
        let typed = columns(kind).iter().map(|column| Arc::new(typed::field(column)));
        Arc::new(Schema::new(ROUNDS.fields().iter().cloned().chain(typed).collect::<Vec<_>>()))
    };
    typed_kinds().map(|kind| (kind, schema(kind))).collect()
});

/// Columns of gaps.
static GAPS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        text("agent"),
        text("target"),
        text("type"),
        time("first_due"),
        time("last_due"),
        Field::new("rounds", DataType::UInt64, false),
        text("reason"),
    ]))
});

fn time(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false)
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn count(name: &str) -> Field {
    Field::new(name, DataType::UInt32, false)
}

impl Table {
    pub(super) fn schema(&self) -> SchemaRef {
        match self {
            Self::Rounds(kind) => Arc::clone(TYPED_ROUNDS.get(kind.as_str()).unwrap_or(&ROUNDS)),
            Self::Gaps => Arc::clone(&GAPS),
        }
    }

    /// The columns that its type has beyond those of all rounds.
    pub(super) fn typed(&self) -> &'static [Column] {
        match self {
            Self::Rounds(kind) => columns(kind.as_str()),
            Self::Gaps => &[],
        }
    }

    /// The columns by which rows are sorted and unique. Of gaps it is all of them: a gap told twice is one.
    pub(super) const fn key(&self) -> &'static [usize] {
        match self {
            Self::Rounds(_) => &[round::TARGET, round::DUE, round::AGENT],
            Self::Gaps => &[gap::TARGET, gap::FIRST_DUE, gap::AGENT, 2, gap::LAST_DUE, 5, 6],
        }
    }

    pub(super) const fn target_column(&self) -> usize {
        match self {
            Self::Rounds(_) => round::TARGET,
            Self::Gaps => gap::TARGET,
        }
    }

    /// The columns of least and greatest due time.
    pub(super) const fn due_columns(&self) -> (usize, usize) {
        match self {
            Self::Rounds(_) => (round::DUE, round::DUE),
            Self::Gaps => (gap::FIRST_DUE, gap::LAST_DUE),
        }
    }

    const fn agent_column(&self) -> usize {
        match self {
            Self::Rounds(_) => round::AGENT,
            Self::Gaps => gap::AGENT,
        }
    }

    /// Its directory, below that of the store.
    pub(super) fn directory(&self) -> PathBuf {
        match self {
            Self::Rounds(kind) => ["rounds", kind.as_str()].iter().collect(),
            Self::Gaps => "gap".into(),
        }
    }

    /// Its name to readers.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Rounds(kind) => kind.as_str(),
            Self::Gaps => "gap",
        }
    }
}

/// Which rows of a table are wanted: those whose due time, or part of whose gap, is in `[from_us, to_us)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) target: Option<String>,
    pub(super) agent: Option<String>,
    pub(super) from_us: i64,
    pub(super) to_us: i64,
}

impl Filter {
    pub(super) const ALL: Self = Self { target: None, agent: None, from_us: i64::MIN, to_us: i64::MAX };

    /// Whether rows of these bounds can match.
    pub(super) fn overlaps(&self, bounds: &Bounds) -> bool {
        bounds.max_due_us >= self.from_us
            && bounds.min_due_us < self.to_us
            && self
                .target
                .as_ref()
                .is_none_or(|target| (&bounds.min_target..=&bounds.max_target).contains(&target))
    }

    /// Which rows match, given the columns [`Self::columns`].
    pub(super) fn matches(&self, table: &Table, batch: &RecordBatch) -> BooleanArray {
        let columns = Self::columns(table);
        let column = |wanted: usize| {
            let position = columns.iter().position(|column| *column == wanted).unwrap_or_default();
            batch.column(position)
        };
        self.matching(table, batch.num_rows(), column)
    }

    /// Which rows match, given all columns.
    pub(super) fn matches_full(&self, table: &Table, batch: &RecordBatch) -> BooleanArray {
        self.matching(table, batch.num_rows(), |wanted| batch.column(wanted))
    }

    /// The columns needed, in the order of the schema.
    pub(super) fn columns(table: &Table) -> Vec<usize> {
        let (first, last) = table.due_columns();
        let mut columns = vec![table.target_column(), first, last, table.agent_column()];
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    fn matching<'a>(
        &self,
        table: &Table,
        rows: usize,
        column: impl Fn(usize) -> &'a Arc<dyn Array>,
    ) -> BooleanArray {
        let (first, last) = table.due_columns();
        let target = column(table.target_column()).as_string::<i32>();
        let agent = column(table.agent_column()).as_string::<i32>();
        let first = column(first).as_primitive::<TimestampMicrosecondType>().values();
        let last = column(last).as_primitive::<TimestampMicrosecondType>().values();
        (0..rows)
            .map(|row| {
                Some(
                    last[row] >= self.from_us
                        && first[row] < self.to_us
                        && self.target.as_ref().is_none_or(|wanted| target.value(row) == wanted)
                        && self.agent.as_ref().is_none_or(|wanted| agent.value(row) == wanted),
                )
            })
            .collect()
    }
}

/// Least and greatest of what rows hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) min_due_us: i64,
    pub(super) max_due_us: i64,
    pub(super) min_target: String,
    pub(super) max_target: String,
}

impl Bounds {
    /// Of a batch sorted by the table's key; `None` of an empty one.
    pub(super) fn of(table: &Table, batch: &RecordBatch) -> Option<Self> {
        let (first, last) = table.due_columns();
        let target = batch.column(table.target_column()).as_string::<i32>();
        let first = batch.column(first).as_primitive::<TimestampMicrosecondType>().values();
        let last = batch.column(last).as_primitive::<TimestampMicrosecondType>().values();
        Some(Self {
            min_due_us: *first.iter().min()?,
            max_due_us: *last.iter().max()?,
            min_target: target.value(0).to_owned(),
            max_target: target.value(batch.num_rows() - 1).to_owned(),
        })
    }

    /// Widens these to hold `other`, too.
    pub(super) fn extend(&mut self, other: Self) {
        self.min_due_us = self.min_due_us.min(other.min_due_us);
        self.max_due_us = self.max_due_us.max(other.max_due_us);
        if other.min_target < self.min_target {
            self.min_target = other.min_target;
        }
        if other.max_target > self.max_target {
            self.max_target = other.max_target;
        }
    }
}

/// The rows of `target` in a batch sorted by it.
pub(super) fn rows_of_target(table: &Table, batch: &RecordBatch, target: &str) -> RecordBatch {
    let column = batch.column(table.target_column()).as_string::<i32>();
    let bound = |before: &dyn Fn(&str) -> bool| {
        let (mut low, mut high) = (0, batch.num_rows());
        while low < high {
            let middle = usize::midpoint(low, high);
            if before(column.value(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    };
    let begin = bound(&|value| value < target);
    let end = bound(&|value| value <= target);
    batch.slice(begin, end - begin)
}

/// Whether a file's rows can be given the columns of this program: older ones lack some that were added since.
pub(super) fn check_schema(table: &Table, schema: &SchemaRef) -> Result<(), ArrowError> {
    let ours = table.schema();
    // What is looked for by position is where it always was.
    let fixed = match table {
        Table::Rounds(_) => round::TYPED,
        Table::Gaps => ours.fields().len(),
    };
    let names = |schema: &SchemaRef| {
        schema.fields().iter().take(fixed).map(|field| field.name().clone()).collect::<Vec<_>>()
    };
    if names(schema) != names(&ours) {
        return Err(ArrowError::SchemaError("the file's columns are not those that imn writes".into()));
    }
    typed::check(schema.fields(), ours.fields())
}

//! Rows to columns and back.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanBuilder, Float64Builder, ListBuilder, RecordBatch, StringBuilder,
        TimestampMicrosecondBuilder, UInt32Builder, UInt64Builder,
    },
    datatypes::{DataType, Field, Float64Type, TimestampMicrosecondType, UInt32Type, UInt64Type},
    error::ArrowError,
};
use imn_contract::{
    AgentId, IdError, ModuleType, TargetId,
    latest::{Batch, Gap, Round, TimestampSource},
};

use super::{
    table::{Table, round as column},
    typed::{self, Filler},
};
use crate::{
    column::{Columns, loss_pct},
    model::{GapRow, RoundRow, micros},
};

/// The rounds of batches of one type, sorted and unique by the table's key: of rounds told twice the first stays.
pub(super) fn rounds(kind: &ModuleType, batches: &[&Batch]) -> Result<Option<RecordBatch>, ArrowError> {
    let mut rows: Vec<(&str, &Batch, &Round)> = batches
        .iter()
        .flat_map(|batch| batch.rounds.iter().map(move |round| (*batch, round)))
        .filter_map(|(batch, round)| Some((round.target.as_ref()?.as_str(), batch, round)))
        .collect();
    rows.sort_by(|(a, batch_a, round_a), (b, batch_b, round_b)| {
        (a, round_a.due_us, &batch_a.agent).cmp(&(b, round_b.due_us, &batch_b.agent))
    });
    rows.dedup_by(|(a, batch_a, round_a), (b, batch_b, round_b)| {
        a == b && round_a.due_us == round_b.due_us && batch_a.agent == batch_b.agent
    });
    if rows.is_empty() {
        return Ok(None);
    }
    let count = rows.len();
    let table = Table::Rounds(kind.clone());
    let mut typed = Filler::new(table.typed());
    let mut time = times(count);
    let mut due = times(count);
    let [mut agent, mut target, mut address, mut kinds, mut error, mut ts_source, mut outcome] =
        std::array::from_fn(|_| StringBuilder::with_capacity(count, 0));
    let [mut sent, mut received, mut unknown, mut duplicates, mut late, mut reordered, mut late_us] =
        std::array::from_fn(|_| UInt32Builder::with_capacity(count));
    let mut success = BooleanBuilder::with_capacity(count);
    let [mut min, mut avg, mut max, mut stddev, mut ipdv, mut loss, mut error_us] =
        std::array::from_fn(|_| Float64Builder::with_capacity(count));
    let mut tmax_us = UInt64Builder::with_capacity(count);
    let element = Arc::new(Field::new("element", DataType::Float64, true));
    let mut rtts = ListBuilder::new(Float64Builder::new()).with_field(element);
    for (name, batch, round) in rows {
        time.append_value(round.time_us);
        due.append_value(round.due_us);
        agent.append_value(batch.agent.as_str());
        target.append_value(name);
        address.append_value(&round.address);
        kinds.append_value(kind.as_str());
        sent.append_value(round.sent);
        received.append_value(round.received);
        unknown.append_value(round.unknown);
        duplicates.append_value(round.duplicates);
        late.append_value(round.late);
        reordered.append_value(round.reordered);
        success.append_value(round.success);
        error.append_option(round.error.as_deref());
        min.append_option(micros(round.rtt_min_ns));
        avg.append_option(micros(round.rtt_avg_ns));
        max.append_option(micros(round.rtt_max_ns));
        stddev.append_option(micros(round.rtt_stddev_ns));
        ipdv.append_option(micros(round.ipdv_ns));
        loss.append_option(loss_pct(round));
        late_us.append_value(round.late_us);
        tmax_us.append_value(round.tmax_us);
        ts_source.append_value(source_name(round.ts_source));
        error_us.append_value(round.error_ns as f64 / 1_000.0);
        for rtt in &round.rtts_ns {
            rtts.values().append_option(micros(*rtt));
        }
        rtts.append(!round.rtts_ns.is_empty());
        outcome.append_option(typed.take(round)?);
    }
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(time.finish()),
        Arc::new(due.finish()),
        Arc::new(agent.finish()),
        Arc::new(target.finish()),
        Arc::new(address.finish()),
        Arc::new(kinds.finish()),
        Arc::new(sent.finish()),
        Arc::new(received.finish()),
        Arc::new(unknown.finish()),
        Arc::new(duplicates.finish()),
        Arc::new(late.finish()),
        Arc::new(reordered.finish()),
        Arc::new(success.finish()),
        Arc::new(error.finish()),
        Arc::new(min.finish()),
        Arc::new(avg.finish()),
        Arc::new(max.finish()),
        Arc::new(stddev.finish()),
        Arc::new(ipdv.finish()),
        Arc::new(loss.finish()),
        Arc::new(late_us.finish()),
        Arc::new(tmax_us.finish()),
        Arc::new(ts_source.finish()),
        Arc::new(error_us.finish()),
        Arc::new(rtts.finish()),
        Arc::new(outcome.finish()),
    ];
    columns.extend(typed.finish()?);
    RecordBatch::try_new(table.schema(), columns).map(Some)
}

/// The gaps of batches, sorted and unique by the table's key.
pub(super) fn gaps(batches: &[&Batch]) -> Result<Option<RecordBatch>, ArrowError> {
    let mut rows: Vec<(&Batch, &Gap)> =
        batches.iter().flat_map(|batch| batch.gaps.iter().map(move |gap| (*batch, gap))).collect();
    let key = |(batch, gap): &(&Batch, &Gap)| {
        let due = (gap.first_due_us, gap.last_due_us);
        (
            gap.target.clone(),
            due.0,
            batch.agent.clone(),
            batch.kind.clone(),
            due.1,
            gap.rounds,
            gap.reason.clone(),
        )
    };
    rows.sort_by_cached_key(key);
    rows.dedup_by_key(|row| key(row));
    if rows.is_empty() {
        return Ok(None);
    }
    let count = rows.len();
    let [mut agent, mut target, mut kind, mut reason] =
        std::array::from_fn(|_| StringBuilder::with_capacity(count, 0));
    let mut first = times(count);
    let mut last = times(count);
    let mut rounds = UInt64Builder::with_capacity(count);
    for (batch, gap) in rows {
        agent.append_value(batch.agent.as_str());
        target.append_value(gap.target.as_str());
        kind.append_value(batch.kind.as_str());
        first.append_value(gap.first_due_us);
        last.append_value(gap.last_due_us);
        rounds.append_value(gap.rounds);
        reason.append_value(&gap.reason);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(agent.finish()),
        Arc::new(target.finish()),
        Arc::new(kind.finish()),
        Arc::new(first.finish()),
        Arc::new(last.finish()),
        Arc::new(rounds.finish()),
        Arc::new(reason.finish()),
    ];
    RecordBatch::try_new(Table::Gaps.schema(), columns).map(Some)
}

/// Reads a round of a table, of whose columns the batch may have the first ones only.
pub(super) fn round(table: &Table, batch: &RecordBatch, row: usize) -> Result<RoundRow, IdError> {
    let text = |column: usize| batch.column(column).as_string::<i32>().value(row);
    let optional_text = |column: usize| {
        let array = batch.column(column).as_string::<i32>();
        array.is_valid(row).then(|| array.value(row).to_owned())
    };
    let time = |column: usize| batch.column(column).as_primitive::<TimestampMicrosecondType>().value(row);
    let count = |column: usize| batch.column(column).as_primitive::<UInt32Type>().value(row);
    let float = |column: usize| {
        let array = batch.column(column).as_primitive::<Float64Type>();
        array.is_valid(row).then(|| array.value(row))
    };
    let rtts = batch.column(24).as_list::<i32>();
    let whole = batch.num_columns() > column::BRIEF;
    Ok(RoundRow {
        time_us: time(0),
        due_us: time(1),
        agent: AgentId::new(text(2))?,
        target: TargetId::new(text(3))?,
        address: text(4).to_owned(),
        kind: ModuleType::new(text(5))?,
        sent: count(6),
        received: count(7),
        unknown: count(8),
        duplicates: count(9),
        late: count(10),
        reordered: count(11),
        success: batch.column(12).as_boolean().value(row),
        error: optional_text(13),
        rtt_min_us: float(14),
        rtt_avg_us: float(15),
        rtt_max_us: float(16),
        rtt_stddev_us: float(17),
        ipdv_us: float(18),
        loss_pct: float(19),
        late_us: count(20),
        tmax_us: batch.column(21).as_primitive::<UInt64Type>().value(row),
        ts_source: source_of(text(22)),
        error_us: float(23).unwrap_or_default(),
        rtts_us: if rtts.is_valid(row) {
            rtts.value(row).as_primitive::<Float64Type>().iter().collect()
        } else {
            Vec::new()
        },
        columns: if whole {
            typed::read(table.typed(), batch, column::TYPED, row)
        } else {
            Columns::default()
        },
        outcome: if whole { optional_text(column::OUTCOME) } else { None },
    })
}

/// Reads a gap.
pub(super) fn gap(batch: &RecordBatch, row: usize) -> Result<GapRow, IdError> {
    let text = |column: usize| batch.column(column).as_string::<i32>().value(row);
    let time = |column: usize| batch.column(column).as_primitive::<TimestampMicrosecondType>().value(row);
    Ok(GapRow {
        agent: AgentId::new(text(0))?,
        target: TargetId::new(text(1))?,
        kind: ModuleType::new(text(2))?,
        first_due_us: time(3),
        last_due_us: time(4),
        rounds: batch.column(5).as_primitive::<UInt64Type>().value(row),
        reason: text(6).to_owned(),
    })
}

fn times(count: usize) -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::with_capacity(count).with_timezone("UTC")
}

const fn source_name(source: TimestampSource) -> &'static str {
    match source {
        TimestampSource::Kernel => "kernel",
        TimestampSource::Mixed => "mixed",
        TimestampSource::User => "user",
    }
}

fn source_of(name: &str) -> TimestampSource {
    match name {
        "kernel" => TimestampSource::Kernel,
        "mixed" => TimestampSource::Mixed,
        _ => TimestampSource::User,
    }
}

//! The columns of types: from JSON to Arrow and back, and from the columns of an older file to those of today.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch,
        StringArray, StructArray, TimestampMicrosecondArray, UInt32Array, UInt64Array, new_null_array,
    },
    buffer::{NullBuffer, OffsetBuffer},
    compute::concat,
    datatypes::{
        DataType, Field, Fields, Float64Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
        UInt32Type, UInt64Type,
    },
    error::ArrowError,
};
use imn_contract::latest::Round;
use serde_json::{Map, Value};

use crate::column::{Column, ColumnType, Columns, micros, split, time};

/// Bytes of JSON that are in memory as values at a time: there they take about thirty times the space.
const BLOCK_BYTES: usize = 1 << 20;

static NULL: Value = Value::Null;

/// The field of a column.
pub(super) fn field(column: &Column) -> Field {
    Field::new(column.name, data_type(column.kind), true)
}

fn data_type(kind: ColumnType) -> DataType {
    match kind {
        ColumnType::Bool => DataType::Boolean,
        ColumnType::U32 => DataType::UInt32,
        ColumnType::U64 => DataType::UInt64,
        ColumnType::I64 => DataType::Int64,
        ColumnType::F64 => DataType::Float64,
        ColumnType::Text => DataType::Utf8,
        ColumnType::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ColumnType::List(of) => DataType::List(element(*of)),
        ColumnType::Struct(columns) => DataType::Struct(fields(columns)),
    }
}

fn element(of: ColumnType) -> Arc<Field> {
    Arc::new(Field::new("element", data_type(of), true))
}

fn fields(columns: &[Column]) -> Fields {
    columns.iter().map(field).collect()
}

/// Fills the columns of a type, round by round, with memory for one block of outcomes at a time.
pub(super) struct Filler {
    columns: &'static [Column],
    block: Vec<Vec<Value>>,
    block_bytes: usize,
    done: Vec<Vec<ArrayRef>>,
}

impl Filler {
    pub(super) fn new(columns: &'static [Column]) -> Self {
        Self { columns, block: Vec::new(), block_bytes: 0, done: vec![Vec::new(); columns.len()] }
    }

    /// Takes the next round; what its `outcome` is.
    pub(super) fn take(&mut self, round: &Round) -> Result<Option<String>, ArrowError> {
        let split = split(self.columns, round);
        if !self.columns.is_empty() {
            self.block.push(split.values);
            self.block_bytes += round.outcome.as_ref().map_or(0, String::len) + self.columns.len();
            if self.block_bytes >= BLOCK_BYTES {
                self.settle()?;
            }
        }
        Ok(split.rest)
    }

    fn settle(&mut self) -> Result<(), ArrowError> {
        for (number, column) in self.columns.iter().enumerate() {
            let values: Vec<&Value> = self.block.iter().map(|row| &row[number]).collect();
            self.done[number].push(array(column.kind, &values)?);
        }
        self.block.clear();
        self.block_bytes = 0;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.settle()?;
        let whole = self.done.iter().map(|parts| match parts.as_slice() {
            [one] => Ok(Arc::clone(one)),
            parts => concat(&parts.iter().map(|part| &**part).collect::<Vec<_>>()),
        });
        whole.collect()
    }
}

/// Values that fit, as an array.
fn array(kind: ColumnType, values: &[&Value]) -> Result<ArrayRef, ArrowError> {
    Ok(match kind {
        ColumnType::Bool => Arc::new(values.iter().map(|value| value.as_bool()).collect::<BooleanArray>()),
        ColumnType::U32 => {
            let numbers = values.iter().map(|value| value.as_u64().and_then(|n| u32::try_from(n).ok()));
            Arc::new(numbers.collect::<UInt32Array>())
        }
        ColumnType::U64 => Arc::new(values.iter().map(|value| value.as_u64()).collect::<UInt64Array>()),
        ColumnType::I64 => Arc::new(values.iter().map(|value| value.as_i64()).collect::<Int64Array>()),
        ColumnType::F64 => Arc::new(values.iter().map(|value| value.as_f64()).collect::<Float64Array>()),
        ColumnType::Text => Arc::new(values.iter().map(|value| value.as_str()).collect::<StringArray>()),
        ColumnType::Time => {
            let times = values.iter().map(|value| value.as_str().and_then(micros).map(|(us, _)| us));
            Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        ColumnType::List(of) => {
            let lists: Vec<Option<&Vec<Value>>> = values.iter().map(|value| value.as_array()).collect();
            let nulls: NullBuffer = lists.iter().map(Option::is_some).collect();
            let lengths = lists.iter().map(|list| list.map_or(0, Vec::len));
            let offsets = OffsetBuffer::from_lengths(lengths);
            let elements: Vec<&Value> = lists.iter().flatten().flat_map(|list| list.iter()).collect();
            Arc::new(ListArray::try_new(element(*of), offsets, array(*of, &elements)?, Some(nulls))?)
        }
        ColumnType::Struct(columns) => {
            let nulls: NullBuffer = values.iter().map(|value| value.is_object()).collect();
            let children = columns.iter().map(|column| {
                let of: Vec<&Value> =
                    values.iter().map(|value| value.get(column.name).unwrap_or(&NULL)).collect();
                array(column.kind, &of)
            });
            let children: Result<Vec<_>, _> = children.collect();
            Arc::new(StructArray::try_new_with_length(fields(columns), children?, Some(nulls), values.len())?)
        }
    })
}

/// The columns of a row, which begin at `first`.
pub(super) fn read(columns: &'static [Column], batch: &RecordBatch, first: usize, row: usize) -> Columns {
    let mut read = Columns::default();
    for (number, column) in columns.iter().enumerate() {
        read.push(column.name, &value(column.kind, batch.column(first + number), row));
    }
    read
}

fn value(kind: ColumnType, array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match kind {
        ColumnType::Bool => array.as_boolean().value(row).into(),
        ColumnType::U32 => array.as_primitive::<UInt32Type>().value(row).into(),
        ColumnType::U64 => array.as_primitive::<UInt64Type>().value(row).into(),
        ColumnType::I64 => array.as_primitive::<Int64Type>().value(row).into(),
        ColumnType::F64 => array.as_primitive::<Float64Type>().value(row).into(),
        ColumnType::Text => array.as_string::<i32>().value(row).into(),
        ColumnType::Time => time(array.as_primitive::<TimestampMicrosecondType>().value(row)).into(),
        ColumnType::List(of) => {
            let list = array.as_list::<i32>().value(row);
            (0..list.len()).map(|row| value(*of, &list, row)).collect()
        }
        ColumnType::Struct(columns) => {
            let children = array.as_struct();
            let fields = columns.iter().zip(children.columns());
            let fields =
                fields.map(|(column, child)| (column.name.to_owned(), value(column.kind, child, row)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
    }
}

/// Whether rows of the columns `from` can be given those of `to`: each that both have is of one type, and what `to`
/// has more may be null.
pub(super) fn check(from: &Fields, to: &Fields) -> Result<(), ArrowError> {
    for field in from {
        let Some((_, known)) = to.find(field.name()) else {
            return Err(ArrowError::SchemaError(format!(
                "its column {} is not known to this imn: a newer one wrote it",
                field.name()
            )));
        };
        match (field.data_type(), known.data_type()) {
            (DataType::Struct(from), DataType::Struct(to)) => check(from, to)?,
            (DataType::List(from), DataType::List(to)) => {
                check(&vec![Arc::clone(from)].into(), &vec![Arc::clone(to)].into())?;
            }
            (from, to) if from == to => {}
            (from, to) => {
                let name = field.name();
                return Err(ArrowError::SchemaError(format!("its column {name} is {from}, not {to}")));
            }
        }
    }
    match to.iter().find(|field| !field.is_nullable() && from.find(field.name()).is_none()) {
        Some(field) => Err(ArrowError::SchemaError(format!("it has no column {}", field.name()))),
        None => Ok(()),
    }
}

/// Gives a batch, whose columns passed [`check`], the columns of `schema`; what it does not have is null.
pub(super) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.schema_ref().fields() == schema.fields() {
        return Ok(batch.clone());
    }
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => widen(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    });
    let columns: Result<Vec<_>, _> = columns.collect();
    RecordBatch::try_new(Arc::clone(schema), columns?)
}

fn widen(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    match to {
        same if array.data_type() == same => Ok(Arc::clone(array)),
        DataType::Struct(fields) => {
            let from = array.as_struct();
            let children = fields.iter().map(|field| match from.column_by_name(field.name()) {
                Some(child) => widen(child, field.data_type()),
                None => Ok(new_null_array(field.data_type(), from.len())),
            });
            let children: Result<Vec<_>, _> = children.collect();
            let nulls = from.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), children?, nulls, from.len())?))
        }
        DataType::List(field) => {
            let from = array.as_list::<i32>();
            let values = widen(from.values(), field.data_type())?;
            let list =
                ListArray::try_new(Arc::clone(field), from.offsets().clone(), values, from.nulls().cloned())?;
            Ok(Arc::new(list))
        }
        other => Err(ArrowError::SchemaError(format!("{} is not {other}", array.data_type()))),
    }
}

#[cfg(test)]
mod tests;

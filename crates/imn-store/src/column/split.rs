//! An outcome into the columns of its type, and what is left of it.

use imn_contract::latest::Round;
use imn_metric::Counts;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::{Column, ColumnType};

/// Elements of a list at most: one that is longer stays in `outcome`, where it takes no more space than it came in.
const MOST_ELEMENTS: usize = 4_096;

/// An outcome by columns.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Split {
    /// A value for each column, which it can hold.
    pub(crate) values: Vec<Value>,
    /// What no column holds, as JSON text.
    pub(crate) rest: Option<String>,
}

/// Splits the outcome of a round. A field that its column cannot hold as a whole stays in the rest, whatever part
/// of it the column does hold.
pub(crate) fn split(columns: &[Column], round: &Round) -> Split {
    let none =
        |rest: Option<&String>| Split { values: vec![Value::Null; columns.len()], rest: rest.cloned() };
    let Some(text) = &round.outcome else { return none(None) };
    if columns.is_empty() {
        return none(Some(text));
    }
    let Ok(mut fields) = serde_json::from_str::<Map<String, Value>>(text) else { return none(Some(text)) };
    let mut kept = Vec::new();
    let values = columns.iter().map(|column| {
        let mut value = fields.remove(column.field()).unwrap_or_default();
        if !column.kind.fit(&mut value) {
            kept.push(column.field());
        }
        value
    });
    let values = values.collect();
    fields.retain(|name, value| !value.is_null() && !is_said(round, name, value));
    if !kept.is_empty()
        && let Ok(mut whole) = serde_json::from_str::<Map<String, Value>>(text)
    {
        fields.extend(kept.into_iter().filter_map(|name| Some((name.to_owned(), whole.remove(name)?))));
    }
    let rest = (!fields.is_empty()).then(|| Value::Object(fields).to_string());
    Split { values, rest }
}

impl ColumnType {
    /// Makes of `value` what the column can hold of it; whether that is all of it.
    fn fit(self, value: &mut Value) -> bool {
        let fits = match (self, &mut *value) {
            (_, Value::Null) | (Self::Bool, Value::Bool(_)) | (Self::Text, Value::String(_)) => true,
            (Self::U32, Value::Number(number)) => number.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
            (Self::U64, Value::Number(number)) => number.is_u64(),
            (Self::I64, Value::Number(number)) => number.is_i64(),
            (Self::F64, Value::Number(number)) => match number.as_f64().and_then(Number::from_f64) {
                Some(float) => {
                    let whole = number.is_f64() || is_exact(number, float.as_f64().unwrap_or_default());
                    *value = Value::Number(float);
                    return whole;
                }
                None => false,
            },
            (Self::Time, Value::String(text)) => match micros(text) {
                Some((us, whole)) => {
                    *text = time(us);
                    return whole;
                }
                None => false,
            },
            (Self::List(of), Value::Array(items)) if items.len() <= MOST_ELEMENTS => {
                let mut whole = true;
                for item in items {
                    whole &= of.fit(item);
                }
                return whole;
            }
            (Self::Struct(columns), Value::Object(fields)) => {
                let before = fields.values().filter(|value| !value.is_null()).count();
                let mut known = Map::new();
                let mut whole = true;
                let mut after = 0;
                for column in columns {
                    let Some(mut field) = fields.remove(column.name) else { continue };
                    after += usize::from(!field.is_null());
                    whole &= column.kind.fit(&mut field);
                    known.insert(column.name.to_owned(), field);
                }
                *fields = known;
                return whole && before == after;
            }
            _ => false,
        };
        if !fits {
            *value = Value::Null;
        }
        fits
    }
}

/// Whether an integer survives as a float.
fn is_exact(number: &Number, float: f64) -> bool {
    // 2^53: every integer up to there is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    !number.is_f64() && float.abs() <= EXACT
}

/// Whether the row itself says what this field of the outcome says.
fn is_said(round: &Round, name: &str, value: &Value) -> bool {
    let count = |count: u32| value.as_u64() == Some(count.into());
    let near = |known: f64, by: f64| value.as_f64().is_some_and(|value| (value - known).abs() <= by);
    match name {
        "address" => value.as_str() == Some(&round.address),
        "time" => value.as_str().and_then(micros) == Some((round.time_us, true)),
        "sent" => count(round.sent),
        "received" => count(round.received),
        "unknown" => count(round.unknown),
        "duplicates" => count(round.duplicates),
        "late" => count(round.late),
        "reordered" => count(round.reordered),
        "success" => value.as_bool() == Some(round.success),
        "error" => value.as_str().is_some_and(|error| round.error.as_deref() == Some(error)),
        "tmax_ms" => near(round.tmax_us as f64 / 1e3, 1e-9),
        // Nanoseconds are whole.
        "error_us" => near(round.error_ns as f64 / 1e3, 1e-3),
        "timestamp_source" => serde_json::to_value(round.ts_source).is_ok_and(|source| source == *value),
        "loss_pct" => loss_pct(round).is_some_and(|known| near(known, 1e-9)),
        "rtts_ms" | "latencies_ms" | "times_ms" => are_delays(round, value),
        _ => false,
    }
}

/// Whether these are the delays of the round, in milliseconds; a round of one packet has it as its mean.
fn are_delays(round: &Round, value: &Value) -> bool {
    let Some(values) = value.as_array() else { return false };
    let known = if round.rtts_ns.is_empty() { &[round.rtt_avg_ns] } else { round.rtts_ns.as_slice() };
    if round.sent == 0 {
        return values.is_empty();
    }
    values.len() == known.len()
        && values.iter().zip(known).all(|(value, known)| match known {
            Some(ns) => value.as_f64().is_some_and(|ms| (ms - *ns as f64 / 1e6).abs() <= 1e-6),
            None => value.is_null(),
        })
}

/// lost / (sent − unknown), in percent; `None` when nothing is known.
pub(crate) fn loss_pct(round: &Round) -> Option<f64> {
    let counts =
        Counts { sent: round.sent.into(), received: round.received.into(), unknown: round.unknown.into() };
    counts.loss_pct()
}

/// Microseconds since the Unix epoch of an RFC 3339 time, and whether they are all that it says.
pub(crate) fn micros(text: &str) -> Option<(i64, bool)> {
    let time: Timestamp = text.parse().ok()?;
    Some((time.as_microsecond(), time.subsec_nanosecond() % 1_000 == 0))
}

/// RFC 3339 in UTC with microseconds.
pub(crate) fn time(us: i64) -> String {
    let nearest = if us < 0 { Timestamp::MIN } else { Timestamp::MAX };
    format!("{:.6}", Timestamp::from_microsecond(us).unwrap_or(nearest))
}

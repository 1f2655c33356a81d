//! The columns that rounds of a built-in type have beyond those that all rounds share.
//!
//! They are declared here once and filled from the round's outcome: a field whose value fits its column goes there,
//! and whatever else the outcome says stays in `outcome`, so that nothing is lost when a module is newer than the
//! server, or wrong. Types that are not built in have no columns, and keep their outcome as it is.

mod builtin;
mod split;

use std::borrow::Cow;

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, value::RawValue};

pub(crate) use split::{loss_pct, micros, split, time};

/// What a column holds. Every value may be null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// True or false.
    Bool,
    /// 0 to 2^32 − 1.
    U32,
    /// 0 to 2^64 − 1.
    U64,
    /// −2^63 to 2^63 − 1.
    I64,
    /// IEEE 754, 64 bits.
    F64,
    /// UTF-8 text.
    Text,
    /// A time in UTC, to the microsecond; RFC 3339 in JSON.
    Time,
    /// Values of one type, in order.
    List(&'static Self),
    /// Named fields.
    Struct(&'static [Column]),
}

/// A column, or a field of a structure within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, which is also that of the outcome's field; `target_name` is filled from `target`.
    pub name: &'static str,
    /// What it holds.
    pub kind: ColumnType,
    /// What it means, with its unit.
    pub about: &'static str,
}

impl Column {
    /// The field of the outcome that it is filled from: `target` is the target's id to a row, and its name to an outcome.
    pub(crate) fn field(&self) -> &'static str {
        if self.name == "target_name" { "target" } else { self.name }
    }
}

/// The columns of a built-in type, in their order; none for every other type.
pub fn columns(kind: &str) -> &'static [Column] {
    builtin::TYPES.iter().find(|(name, _)| *name == kind).map_or(&[], |(_, columns)| columns)
}

/// The built-in types that have columns of their own.
pub fn typed() -> impl Iterator<Item = &'static str> {
    builtin::TYPES.iter().map(|(name, _)| *name)
}

/// What a round holds in the columns of its type, each as JSON: all of them in their order, null where there is
/// nothing. Serializes as a map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns(Vec<(&'static str, Cow<'static, str>)>);

impl Columns {
    /// The value of a column; null where there is none.
    pub fn get(&self, name: &str) -> Value {
        let found = self.0.iter().find(|(column, _)| *column == name);
        found.and_then(|(_, text)| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    pub(crate) fn push(&mut self, name: &'static str, value: &Value) {
        let text = if value.is_null() { Cow::Borrowed("null") } else { Cow::Owned(value.to_string()) };
        self.0.push((name, text));
    }
}

impl Serialize for Columns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, text) in &self.0 {
            let value: &RawValue = serde_json::from_str(text).map_err(serde::ser::Error::custom)?;
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;

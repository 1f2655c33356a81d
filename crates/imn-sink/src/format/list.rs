//! Lists and single objects of management, from the JSON that the API gives.

use std::{
    fmt,
    io::{self, Write},
    str::FromStr,
};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use super::{UnknownFormat, csv};

/// How a list is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The most important columns, for people.
    #[default]
    Table,
    /// All columns, for people.
    Wide,
    /// One JSON array of whole objects.
    Json,
    /// One whole object per line.
    Ndjson,
    /// All columns, comma separated, under a header.
    Csv,
    /// One YAML sequence of whole objects.
    Yaml,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 6] = [Self::Table, Self::Wide, Self::Json, Self::Ndjson, Self::Csv, Self::Yaml];

    /// The name by which it is chosen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Wide => "wide",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Yaml => "yaml",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| UnknownFormat::new(text, &Self::ALL.map(Self::name)))
    }
}

/// A column: its title and the path of its value, such as `telemetry.cpu_pct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    title: &'static str,
    path: &'static str,
    wide: bool,
}

impl Column {
    /// A column that is always there.
    pub const fn new(title: &'static str, path: &'static str) -> Self {
        Self { title, path, wide: false }
    }

    /// A column of [`Format::Wide`] and [`Format::Csv`] only.
    pub const fn wide(title: &'static str, path: &'static str) -> Self {
        Self { title, path, wide: true }
    }

    fn value<'a>(&self, row: &'a Value) -> &'a Value {
        self.path.split('.').fold(row, |value, name| &value[name])
    }
}

/// Writes a list. An empty one is `[]` in JSON and YAML, nothing but the header in tables and CSV.
///
/// # Errors
/// When the output cannot be written to.
pub fn write(out: &mut impl Write, format: Format, columns: &[Column], rows: &[Value]) -> io::Result<()> {
    match format {
        Format::Table | Format::Wide => {
            let columns: Vec<&Column> =
                columns.iter().filter(|column| format == Format::Wide || !column.wide).collect();
            table(out, &columns, rows)
        }
        Format::Json if rows.is_empty() => writeln!(out, "[]"),
        Format::Json => {
            for (n, row) in rows.iter().enumerate() {
                write!(out, "{}{row}", if n == 0 { "[\n" } else { ",\n" })?;
            }
            writeln!(out, "\n]")
        }
        Format::Ndjson => rows.iter().try_for_each(|row| writeln!(out, "{row}")),
        Format::Csv => {
            csv::record(out, columns.iter().map(|column| column.path.to_owned()))?;
            rows.iter()
                .try_for_each(|row| csv::record(out, columns.iter().map(|column| cell(column.value(row)))))
        }
        Format::Yaml => yaml(out, &Value::Array(rows.to_vec())),
    }
}

/// Writes one object: for people a line per field, else as [`write()`] would write it, without the list around it.
///
/// # Errors
/// When the output cannot be written to.
pub fn write_one(out: &mut impl Write, format: Format, columns: &[Column], object: &Value) -> io::Result<()> {
    match format {
        Format::Table | Format::Wide => {
            let mut lines = Vec::new();
            fields("", object, &mut lines);
            let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
            lines.iter().try_for_each(|(name, value)| {
                writeln!(out, "{}", format!("{name:<width$}  {value}").trim_end())
            })
        }
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(object)?),
        Format::Yaml => yaml(out, object),
        Format::Ndjson | Format::Csv => write(out, format, columns, std::slice::from_ref(object)),
    }
}

fn table(out: &mut impl Write, columns: &[&Column], rows: &[Value]) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|column| column.title));
    for row in rows {
        table.add_row(columns.iter().map(|column| shown(column.value(row))));
    }
    for (n, column) in columns.iter().enumerate() {
        if let Some(layout) = table.column_mut(n) {
            layout.set_padding((0, 2));
            let numbers = rows.iter().any(|row| column.value(row).is_number());
            if numbers && rows.iter().all(|row| matches!(column.value(row), Value::Number(_) | Value::Null)) {
                layout.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
}

/// Names and values of an object, objects within it by dotted names.
fn fields(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                fields(&name, value, lines);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (n, item) in items.iter().enumerate() {
                fields(&format!("{prefix}[{n}]"), item, lines);
            }
        }
        value => lines.push((prefix.to_owned(), shown(value))),
    }
}

/// A value for people: `-` for none, `k=v` for tags. Texts of others do not steer the terminal.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => format!("{float:.3}"),
            None => number.to_string(),
        },
        Value::Array(items) if !items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().map(shown).collect::<Vec<_>>().join(",")
        }
        value => text(value),
    };
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A value for programs: of an object its JSON, which is read back as it was.
fn cell(value: &Value) -> String {
    match value {
        Value::Object(map) if map.is_empty() => String::new(),
        Value::Object(_) => value.to_string(),
        value => text(value),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if !items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().map(text).collect::<Vec<_>>().join(",")
        }
        Value::Object(map) if !map.values().any(|value| value.is_object() || value.is_array()) => {
            map.iter().map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(",")
        }
        value => value.to_string(),
    }
}

fn yaml(out: &mut impl Write, value: &Value) -> io::Result<()> {
    let text = serde_saphyr::to_string(value).map_err(io::Error::other)?;
    writeln!(out, "{}", text.trim_end())
}

#[cfg(test)]
mod tests;

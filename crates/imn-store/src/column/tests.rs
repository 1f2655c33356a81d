use std::collections::BTreeSet;

use imn_contract::schemas;
use serde_json::Value;

use super::*;

/// What the columns of all rounds say, or say of a column that is named otherwise.
const SAID: [&str; 17] = [
    "address",
    "time",
    "sent",
    "received",
    "unknown",
    "duplicates",
    "late",
    "reordered",
    "success",
    "error",
    "tmax_ms",
    "error_us",
    "timestamp_source",
    "loss_pct",
    "rtts_ms",
    "latencies_ms",
    "times_ms",
];
/// What stays in `outcome`: names that are not fixed.
const FREE: [(&str, &str); 1] = [("bgp", "faults")];

/// The schema that a reference, or an optional value, stands for.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(path) = schema["$ref"].as_str() {
        return resolved(root, root.pointer(path.strip_prefix('#').unwrap()).unwrap());
    }
    if let Some(of) = schema["anyOf"].as_array() {
        return resolved(root, of.iter().find(|of| of["type"] != "null").unwrap());
    }
    schema
}

/// The types of JSON that a schema allows, without null.
fn types(schema: &Value) -> BTreeSet<&str> {
    if schema["enum"].is_array() || schema["oneOf"].is_array() {
        return BTreeSet::from(["string"]);
    }
    let types =
        schema["type"].as_array().map_or_else(|| vec![&schema["type"]], |types| types.iter().collect());
    types.into_iter().filter_map(Value::as_str).filter(|name| *name != "null").collect()
}

fn compare(path: &str, root: &Value, schema: &Value, kind: ColumnType) {
    let schema = resolved(root, schema);
    let expected = match kind {
        ColumnType::Bool => "boolean",
        ColumnType::U32 | ColumnType::U64 | ColumnType::I64 => "integer",
        ColumnType::F64 => "number",
        ColumnType::Text | ColumnType::Time => "string",
        ColumnType::List(_) => "array",
        ColumnType::Struct(_) => "object",
    };
    assert_eq!(types(schema), BTreeSet::from([expected]), "{path}: {schema}");
    match kind {
        ColumnType::U32 => assert_ne!(schema["format"], "uint64", "{path}"),
        ColumnType::List(of) => compare(&format!("{path}[]"), root, &schema["items"], *of),
        ColumnType::Struct(columns) => {
            let named: Vec<_> = columns.iter().map(|column| (column.name, column.kind)).collect();
            fields(path, root, schema, &named, &[]);
        }
        _ => {}
    }
}

fn fields(path: &str, root: &Value, schema: &Value, columns: &[(&str, ColumnType)], said: &[&str]) {
    let properties = schema["properties"].as_object().unwrap();
    for (name, kind) in columns {
        let property = properties.get(*name);
        let property = property.unwrap_or_else(|| panic!("{path} has a column {name}, its outcome has none"));
        compare(&format!("{path}.{name}"), root, property, *kind);
    }
    for name in properties.keys().map(String::as_str).filter(|name| !said.contains(name)) {
        let known = columns.iter().any(|(column, _)| *column == name);
        assert!(known, "{path}.{name} of the outcome has no column");
    }
}

#[test]
fn the_columns_of_a_type_are_the_fields_of_its_outcome() {
    let schemas = schemas();
    for (kind, columns) in builtin::TYPES {
        // Connects have the outcome of pings.
        let name = if *kind == "tcp" { "ping" } else { kind };
        let file = format!("outcome-{name}.v1.json");
        let schema = schemas.iter().find(|schema| schema.file == file).unwrap();
        let root = schema.schema.as_value();
        let named: Vec<_> = columns.iter().map(|column| (column.field(), column.kind)).collect();
        let free = FREE.iter().filter(|(of, _)| of == kind).map(|(_, name)| *name);
        let said: Vec<&str> = SAID.into_iter().chain(free).collect();
        fields(kind, root, root, &named, &said);
    }
}

#[test]
fn names_are_those_of_one_column() {
    let shared = "time due agent target address type sent received unknown duplicates late reordered success error \
                  rtt_min_us rtt_avg_us rtt_max_us rtt_stddev_us ipdv_us loss_pct late_us tmax_us ts_source \
                  error_us rtts_us outcome";
    for (kind, columns) in builtin::TYPES {
        let mut seen: BTreeSet<&str> = shared.split_whitespace().collect();
        for column in *columns {
            assert!(seen.insert(column.name), "{kind}: {} is there twice", column.name);
            assert!(!column.about.is_empty(), "{kind}.{}", column.name);
        }
    }
}

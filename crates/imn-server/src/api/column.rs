//! The columns of types in rounds, and their description in the OpenAPI document: made from the store's declaration,
//! so that it cannot say anything else.

use std::borrow::Cow;

use imn_store::{Column, ColumnType, Columns, columns, typed};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

/// The columns of a round's type, in the round itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct RoundColumns(pub(crate) Columns);

impl ToSchema for RoundColumns {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("RoundColumns")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.extend(typed().map(|kind| {
            let about = format!("The columns of {kind} rounds.");
            (component(kind), schema(object(columns(kind), &about, false)))
        }));
    }
}

impl PartialSchema for RoundColumns {
    fn schema() -> RefOr<Schema> {
        let of_type = |kind| json!({ "$ref": format!("#/components/schemas/{}", component(kind)) });
        let none = json!({ "type": "object", "description": "None, of any other type." });
        schema(json!({
            "description": "The columns of its type, as `type` says.",
            "anyOf": typed().map(of_type).chain([none]).collect::<Vec<_>>(),
        }))
    }
}

/// The name of a type's columns, such as `TraceColumns`.
fn component(kind: &str) -> String {
    let (first, rest) = kind.split_at(kind.len().min(1));
    format!("{}{rest}Columns", first.to_uppercase())
}

fn schema(described: Value) -> RefOr<Schema> {
    // What is written here is a schema; anything else would be seen by the test of the document.
    serde_json::from_value(described).map(RefOr::T).unwrap_or_default()
}

/// An object with all of these fields.
fn object(columns: &[Column], about: &str, nullable: bool) -> Value {
    let properties =
        columns.iter().map(|column| (column.name.to_owned(), property(column.kind, column.about)));
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    json!({
        "type": if nullable { json!(["object", "null"]) } else { json!("object") },
        "description": about,
        "required": names,
        "properties": properties.collect::<Map<_, _>>(),
    })
}

fn property(kind: ColumnType, about: &str) -> Value {
    let plain = |name: &str| json!({ "type": [name, "null"], "description": about });
    let whole = |format: &str, least: Value| {
        let mut described = plain("integer");
        described["format"] = format.into();
        if !least.is_null() {
            described["minimum"] = least;
        }
        described
    };
    match kind {
        ColumnType::Bool => plain("boolean"),
        ColumnType::U32 => whole("int64", 0.into()),
        ColumnType::U64 => whole("uint64", 0.into()),
        ColumnType::I64 => whole("int64", Value::Null),
        ColumnType::F64 => {
            let mut described = plain("number");
            described["format"] = "double".into();
            described
        }
        ColumnType::Text => plain("string"),
        ColumnType::Time => {
            let mut described = plain("string");
            described["format"] = "date-time".into();
            described
        }
        ColumnType::List(of) => {
            let mut described = plain("array");
            described["items"] = property(*of, "");
            described
        }
        ColumnType::Struct(fields) => object(fields, about, true),
    }
}

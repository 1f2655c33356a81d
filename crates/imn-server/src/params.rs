//! Parameters, held against what the modules themselves say of them: their JSON Schemas, as announced.

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::{Map, Value};

/// Faults told of one set of parameters.
const MOST: usize = 16;

/// What a module takes.
pub(crate) struct Schema(Validator);

/// What is wrong with one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Its path below the parameters, such as `count` or `headers.Host`; empty for all of them.
    pub(crate) path: String,
    /// Why.
    pub(crate) message: String,
    /// It is missing.
    pub(crate) missing: bool,
}

impl Schema {
    /// Reads a schema; `None` for one that says nothing, or cannot be read: the module then judges alone.
    pub(crate) fn read(schema: &Value) -> Option<Self> {
        if schema.is_null() {
            return None;
        }
        jsonschema::validator_for(schema).ok().map(Self)
    }

    /// What is wrong with parameters.
    pub(crate) fn check(&self, params: &Map<String, Value>) -> Vec<Wrong> {
        let value = Value::Object(params.clone());
        self.0.iter_errors(&value).take(MOST).flat_map(|error| wrong(&error)).collect()
    }
}

fn wrong(error: &ValidationError<'_>) -> Vec<Wrong> {
    let path = error.instance_path().as_str().trim_start_matches('/').replace('/', ".");
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => unexpected
            .iter()
            .map(|name| Wrong {
                path: below(name),
                message: "the type has no such parameter".to_owned(),
                missing: false,
            })
            .collect(),
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            vec![Wrong { path: below(name), message: "is missing".to_owned(), missing: true }]
        }
        _ => vec![Wrong { path, message: error.to_string(), missing: false }],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_fault_names_its_field() {
        let schema = Schema::read(&json!({
            "type": "object",
            "properties": {"count": {"type": ["integer", "null"], "minimum": 1}, "source": {"type": "string"}},
            "required": ["source"],
            "additionalProperties": false,
        }))
        .unwrap();
        let check = |params: Value| {
            let mut found: Vec<_> = schema.check(params.as_object().unwrap());
            found.sort_by(|a, b| a.path.cmp(&b.path));
            found.into_iter().map(|wrong| (wrong.path, wrong.missing)).collect::<Vec<_>>()
        };
        assert_eq!(check(json!({"source": "x", "count": 3})), []);
        let path = |name: &str, missing| (name.to_owned(), missing);
        assert_eq!(check(json!({"source": "x", "cuont": 3})), [path("cuont", false)]);
        assert_eq!(check(json!({"count": 0})), [path("count", false), path("source", true)]);
        assert!(Schema::read(&Value::Null).is_none());
    }
}

//! A type without names of its own: whether it succeeded, and its numbers.

use imn_contract::latest::Outcome;
use serde_json::Value;

use super::{Line, Row, escaped};

pub(super) fn line(row: &Row, outcome: &Outcome) -> Line {
    let head = outcome.head();
    let mut line = Line::new("imn_outcome")
        .tag("target", head.target)
        .tag("agent", row.agent.as_deref().unwrap_or_default())
        .tag("ip", head.address.unwrap_or_default())
        .flag("success", head.success)
        .words("error", head.error.unwrap_or_default());
    if let Outcome::Other(Value::Object(fields)) = outcome {
        for (name, value) in fields {
            if !name.is_empty() && name != "success" {
                line = line.float(&escaped(name), value.as_f64());
            }
        }
    }
    line
}

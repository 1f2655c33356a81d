//! By what module instances are filtered and ordered.

use imn_contract::latest::ModuleState;
use imn_domain::{FieldValue, Fields, LiteralError};

use super::{Literal, names, time_value};
use crate::api::modules::ModuleInstance;

const STATES: [&str; ModuleState::ALL.len()] = {
    let mut states = [""; ModuleState::ALL.len()];
    let mut at = 0;
    while at < states.len() {
        states[at] = ModuleState::ALL[at].name();
        at += 1;
    }
    states
};

impl Fields for ModuleInstance {
    fn literal(path: &[String], text: &str) -> Result<FieldValue, LiteralError> {
        let literal = match names(path).as_slice() {
            ["instance" | "agent" | "type" | "version" | "reason"] => Literal::Text,
            ["state"] => Literal::OneOf(&STATES),
            ["standing"] => Literal::OneOf(&["true", "false"]),
            ["inflight" | "slots" | "restarts"]
            | ["health", "queued" | "ewma_ms" | "done" | "errors" | "circuits_open" | "late_p99_us"] => {
                Literal::Number
            }
            ["last_seen"] => Literal::Time,
            _ => return Err(LiteralError::UnknownField),
        };
        literal.read(text)
    }

    fn value(&self, path: &[String]) -> Option<FieldValue> {
        let number = |number: f64| Some(FieldValue::Number(number));
        let text = match names(path).as_slice() {
            ["instance"] => &self.instance,
            ["agent"] => &self.agent,
            ["type"] => &self.kind,
            ["version"] => &self.version,
            ["reason"] => self.reason.as_deref()?,
            ["state"] => self.state.name(),
            ["standing"] => {
                if self.standing {
                    "true"
                } else {
                    "false"
                }
            }
            ["inflight"] => return number(self.inflight.into()),
            ["slots"] => return number(self.slots.into()),
            ["restarts"] => return number(self.restarts.into()),
            ["last_seen"] => return time_value(&self.last_seen),
            ["health", figure] => {
                let health = self.health.as_ref()?;
                return number(match *figure {
                    "queued" => health.queued.into(),
                    "ewma_ms" => health.ewma_ms,
                    "done" => health.done as f64,
                    "errors" => health.errors as f64,
                    "circuits_open" => health.circuits_open.into(),
                    "late_p99_us" => health.late_p99_us as f64,
                    _ => return None,
                });
            }
            _ => return None,
        };
        Some(FieldValue::Text(text.to_owned()))
    }

    fn is_sortable(path: &[String]) -> bool {
        Self::literal(path, "*") != Err(LiteralError::UnknownField)
    }
}

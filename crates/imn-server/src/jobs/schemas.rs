//! Schemas of parameters, read once and kept as long as the modules say the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use imn_contract::ModuleType;
use serde_json::Value;

use crate::params::Schema;

/// The latest schema of each type; there are no more types than the registry knows.
#[derive(Default)]
pub(super) struct Schemas {
    by_type: Mutex<HashMap<ModuleType, (Value, Arc<Schema>)>>,
}

impl Schemas {
    /// The schema of a type, given its text; `None` for one that says nothing, or cannot be read.
    pub(super) fn of(&self, kind: &ModuleType, text: &Value) -> Option<Arc<Schema>> {
        let mut by_type = self.by_type.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, schema)) = by_type.get(kind)
            && known == text
        {
            return Some(Arc::clone(schema));
        }
        by_type.remove(kind);
        let schema = Arc::new(Schema::read(text)?);
        by_type.insert(kind.clone(), (text.clone(), Arc::clone(&schema)));
        Some(schema)
    }
}

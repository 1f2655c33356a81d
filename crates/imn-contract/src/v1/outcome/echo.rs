//! Outcome of `echo`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Outcome of `echo`: its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EchoOutcome {
    /// What came in.
    pub echo: EchoInput,
}

/// What came in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EchoInput {
    /// The target.
    pub target: String,
    /// The parameters.
    pub params: Map<String, Value>,
}

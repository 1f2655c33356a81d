//! What a module is: one kind of measurement, done as jobs.

use std::sync::Arc;

use async_trait::async_trait;
use imn_contract::{AgentId, Fault, JobId};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{context::JobContext, standing::Standing};

/// One kind of measurement.
///
/// The SDK does everything else: it connects, announces, keeps the slots, answers duplicates, counts down the
/// deadline, reports what [`run`](Module::run) returns until it is acknowledged, and drains. A panic in `run` fails
/// that one job.
#[async_trait]
pub trait Module: Send + Sync + 'static {
    /// The module's type, for example `icmp`. The agent may start it under another name.
    fn kind(&self) -> &'static str;

    /// The module's version, semantic; that of the SDK unless it says its own.
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// JSON Schema of the job parameters; null when they are free.
    fn params_schema(&self) -> Value {
        Value::Null
    }

    /// Jobs done at once, unless the agent says otherwise; at least 1.
    fn slots(&self) -> u32 {
        8
    }

    /// Looks at a job before it is accepted.
    ///
    /// # Errors
    /// A fault that names the field that is wrong; the job is then refused with it.
    fn check(&self, job: &Job) -> Result<(), Fault> {
        let _ = job;
        Ok(())
    }

    /// Takes a new configuration: at the start, and whenever it changes.
    ///
    /// # Errors
    /// A fault that names the field that is wrong; the configuration before stays in force.
    fn configure(&self, config: &Map<String, Value>) -> Result<(), Fault> {
        let _ = config;
        Ok(())
    }

    /// Does a job. The future is dropped when the job is cancelled or its deadline passes.
    ///
    /// # Errors
    /// A fault makes the job fail.
    async fn run(&self, job: Job, ctx: &JobContext) -> Result<Value, Fault>;

    /// The standing work of this type, for a module that has such; called once.
    ///
    /// # Errors
    /// A fault says why it cannot be had, for example for want of a permission; the process then ends with it.
    fn standing(&self) -> Result<Option<Box<dyn Standing>>, Fault> {
        Ok(None)
    }
}

/// A module that is chosen at run time.
pub type SharedModule = Arc<dyn Module>;

/// One attempt at one job.
#[derive(Clone, Debug)]
pub struct Job {
    /// The job.
    pub id: JobId,
    /// The agent on whose behalf it is done.
    pub agent: AgentId,
    /// What to measure.
    pub target: String,
    /// Parameters of the type.
    pub params: Map<String, Value>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
}

impl Job {
    /// The parameters as a type of the module's own.
    ///
    /// # Errors
    /// A fault that names the field that does not fit, as `params.{field}`.
    pub fn params<P: DeserializeOwned>(&self) -> Result<P, Fault> {
        params(&self.params)
    }
}

/// Further names by which parameters are taken: a bare number of milliseconds says so, and a word of DNS's.
const ALIASES: [(&str, &str); 4] =
    [("interval", "interval_ms"), ("timeout", "timeout_ms"), ("grace", "grace_ms"), ("type", "record_type")];

/// The JSON Schema of a type's parameters, with their other names.
pub(crate) fn schema<P: JsonSchema>() -> Value {
    let mut schema = schemars::schema_for!(P).to_value();
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, alias) in ALIASES {
            if let Some(property) = properties.get(name).cloned() {
                properties.insert(alias.to_owned(), property);
            }
        }
    }
    schema
}

/// Reads parameters as a module's own type; a misfit is named as `params.{field}`.
pub(crate) fn params<P: DeserializeOwned>(map: &Map<String, Value>) -> Result<P, Fault> {
    let value = Value::Object(map.clone());
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().to_string();
        let field = match path.as_str() {
            "" | "." => unknown_field(&message).unwrap_or_default().to_owned(),
            path => path.to_owned(),
        };
        let field = if field.is_empty() { "params".to_owned() } else { format!("params.{field}") };
        Fault::invalid(field, message)
    })
}

/// The field in serde's own words, where its path stops above it.
fn unknown_field(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("missing field `"))?;
    rest.split('`').next()
}

//! A module's jobs done in this process, as an agent would have them done.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures::FutureExt;
use imn_contract::{AgentId, ErrorCode, Fault, JobId, ModuleType, latest::Outcome};
use imn_runtime::task::Shutdown;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::{
    Error,
    builtin::builtin,
    context::{JobContext, Outlet, Sign},
    module::{Job, SharedModule},
    perform::panicked,
};

/// The vantage point that this process is.
const AGENT: &str = "local";

/// A module in this process.
pub struct Worker {
    module: SharedModule,
    kind: ModuleType,
    agent: AgentId,
}

impl Worker {
    /// The built-in module of a type or alias.
    ///
    /// # Errors
    /// A 404 that names the types there are.
    pub fn new(kind: &str) -> Result<Self, Fault> {
        let unknown = || {
            let error = Error::UnknownType { kind: kind.chars().take(80).collect() };
            Fault::no_module(error.to_string()).at("type")
        };
        Self::of(builtin(kind).ok_or_else(unknown)?)
    }

    /// Any module.
    ///
    /// # Errors
    /// A fault when its type is no identifier.
    pub fn of(module: SharedModule) -> Result<Self, Fault> {
        let invalid = |error: imn_contract::IdError| Fault::invalid("type", error.to_string());
        let kind = ModuleType::new(module.kind()).map_err(invalid)?;
        let agent = AgentId::new(AGENT).map_err(invalid)?;
        Ok(Self { module, kind, agent })
    }

    /// The module's type.
    pub fn kind(&self) -> &ModuleType {
        &self.kind
    }

    /// Looks at a job without doing it.
    ///
    /// # Errors
    /// A fault that names the field that is wrong.
    pub fn check(&self, target: &str, params: &Map<String, Value>) -> Result<(), Fault> {
        self.module.check(&self.job(target, params))
    }

    /// Takes a configuration for the module.
    ///
    /// # Errors
    /// A fault that names the field that is wrong.
    pub fn configure(&self, config: &Map<String, Value>) -> Result<(), Fault> {
        self.module.configure(config)
    }

    /// Measures a target, telling what it does as `signs`; those for which there is no room are dropped. Dropping
    /// the future ends the measurement.
    ///
    /// # Errors
    /// The module's own fault; 504 when the deadline passes, 520 when the module panics.
    pub async fn run(
        &self,
        target: &str,
        params: &Map<String, Value>,
        deadline: Duration,
        signs: mpsc::Sender<Sign>,
    ) -> Result<Outcome, Fault> {
        let job = self.job(target, params);
        self.module.check(&job)?;
        // Nobody asks it to stop: it is dropped.
        let shutdown = Shutdown::new();
        let end = Instant::now() + deadline;
        let ctx = JobContext { outlet: Outlet::Local(signs), deadline: end, stop: shutdown.stop() };
        let work = AssertUnwindSafe(self.module.run(job, &ctx)).catch_unwind();
        let outcome = match tokio::time::timeout_at(end.into(), work).await {
            Ok(Ok(done)) => done?,
            Ok(Err(panic)) => return Err(panicked(panic.as_ref())),
            Err(_) => {
                let text = format!("not done within {} ms", deadline.as_millis());
                return Err(Fault::new(ErrorCode::Deadline, text));
            }
        };
        Ok(Outcome::read(&self.kind, outcome))
    }

    fn job(&self, target: &str, params: &Map<String, Value>) -> Job {
        Job {
            id: JobId::generate(),
            agent: self.agent.clone(),
            target: target.to_owned(),
            params: params.clone(),
            attempt: 1,
        }
    }
}

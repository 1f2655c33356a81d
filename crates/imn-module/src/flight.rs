//! Types whose measurement is one future: what drives them as jobs and as standing work.
//!
//! Whoever writes such a type implements [`Measure`]; [`Measurer`] makes a module of it. A type with an engine that
//! measures in batches (`icmp`, `tcp`) has no use for this.

mod plan;
mod rounds;

use std::{
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use imn_contract::{
    ErrorCode, Fault,
    latest::{Assignment, ProgressKind, Round},
};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    Addressing, Job, JobContext, Module, Standing,
    context::Sign,
    ping::{Target, target},
    standing::resolve,
};

pub use rounds::{Config, Rounds};

/// Signs of one job that wait to be told; more are dropped, as progress may be.
const SIGNS: usize = 1024;

/// A kind of measurement, of one target at a time.
#[async_trait]
pub trait Measure: Send + Sync + 'static {
    /// How a target is measured: its parameters, and the target as it was named if the outcome repeats it. Equal
    /// ones are kept once.
    type Spec: Eq + Hash + Send + Sync + 'static;
    /// What is found.
    type Outcome: Serialize + Send;

    /// The module's type, for example `dns`.
    fn kind(&self) -> &'static str;

    /// JSON Schema of the parameters.
    fn params_schema(&self) -> Value;

    /// Jobs done at once, unless the agent says otherwise; at least 1.
    fn slots(&self) -> u32 {
        16
    }

    /// Takes a new configuration, as [`Module::configure`].
    ///
    /// # Errors
    /// A fault that names the field that is wrong.
    fn configure(&self, config: &Map<String, Value>) -> Result<(), Fault> {
        let _ = config;
        Ok(())
    }

    /// How a job is to be measured.
    ///
    /// # Errors
    /// A fault that names the field that is wrong: `target`, or `params.{field}`.
    fn spec(&self, target: &str, params: &Map<String, Value>) -> Result<(Self::Spec, Addressing), Fault>;

    /// How standing work is to be measured: count and timeout are the assignment's, whatever its parameters say.
    ///
    /// # Errors
    /// As [`spec`](Self::spec).
    fn plan(&self, assignment: &Assignment) -> Result<(Self::Spec, Addressing), Fault>;

    /// The outcome where nothing could be measured, and why.
    fn unmeasured(&self, spec: &Self::Spec, error: String) -> Self::Outcome;

    /// Measures. Ends by its own timeouts; is dropped when the job is cancelled or its deadline passes. `address` is
    /// that of the target unless the addressing is opaque; `due` is now or has just been.
    async fn measure(
        &self,
        spec: &Self::Spec,
        address: Option<IpAddr>,
        due: Instant,
        signs: &Signs,
    ) -> Found<Self::Outcome>;
}

/// What a measurement found, in the two forms in which it is told.
#[derive(Clone, Debug)]
pub struct Found<O> {
    /// The headline: counts, latency, success. Target, due time, lateness, Tmax and the outcome's text are filled in
    /// by whoever drives the measurement.
    pub round: Round,
    /// All of it.
    pub outcome: O,
}

/// What a measurement has come to so far is told at most so often.
const TELL: Duration = Duration::from_millis(100);
/// In this process so few steps are told each with what they have come to, so that Ctrl-C finds it.
const FEW: u32 = 100;

/// Where a measurement tells what it is doing; nowhere in standing work.
#[derive(Debug)]
pub struct Signs {
    sender: Option<mpsc::Sender<Sign>>,
    told: Mutex<Told>,
}

/// What was told.
#[derive(Debug)]
struct Told {
    /// Steps still to be told each with what they have come to.
    few: u32,
    /// When it was last told what the steps have come to.
    at: Instant,
}

impl Signs {
    /// Nobody listens.
    pub fn none() -> Self {
        Self { sender: None, told: Mutex::new(Told { few: 0, at: Instant::now() }) }
    }

    fn to(sender: mpsc::Sender<Sign>, few: u32) -> Self {
        Self { sender: Some(sender), told: Mutex::new(Told { few, at: Instant::now() }) }
    }

    /// Whether somebody listens: a sign that is dear to make need not be made.
    pub fn wanted(&self) -> bool {
        self.sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Tells something. Lossy. A detail `outcome` that is a whole outcome so far is what a live view shows.
    pub fn tell(&self, kind: ProgressKind, detail: Map<String, Value>) {
        if let Some(sender) = &self.sender {
            // Full: progress is lossy.
            let _ = sender.try_send(Sign { kind, detail });
        }
    }

    /// Tells of a packet or hop that is settled, now and then with all that the measurement has come to so far.
    pub fn step<O: Serialize>(
        &self,
        kind: ProgressKind,
        mut detail: Map<String, Value>,
        so_far: impl FnOnce() -> O,
    ) {
        if !self.wanted() {
            return;
        }
        let due = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let due = told.few > 0 || told.at.elapsed() >= TELL;
            told.few = told.few.saturating_sub(1);
            if due {
                told.at = Instant::now();
            }
            due
        };
        if due && let Ok(outcome) = serde_json::to_value(so_far()) {
            detail.insert("outcome".to_owned(), outcome);
        }
        self.tell(kind, detail);
    }

    /// Tells something in words.
    pub fn text(&self, text: impl Into<String>) {
        self.tell(ProgressKind::Text, Map::from_iter([("text".to_owned(), Value::String(text.into()))]));
    }
}

/// A module made of a measurement.
pub struct Measurer<M>(Arc<M>);

impl<M: Measure> Measurer<M> {
    /// The module that measures so.
    pub fn new(measure: M) -> Self {
        Self(Arc::new(measure))
    }
}

#[async_trait]
impl<M: Measure> Module for Measurer<M> {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn params_schema(&self) -> Value {
        self.0.params_schema()
    }

    fn slots(&self) -> u32 {
        self.0.slots()
    }

    fn check(&self, job: &Job) -> Result<(), Fault> {
        let (_, addressing) = self.0.spec(&job.target, &job.params)?;
        match addressing {
            Addressing::Resolved(_) => target(&job.target).map(drop),
            Addressing::Opaque => Ok(()),
        }
    }

    fn configure(&self, config: &Map<String, Value>) -> Result<(), Fault> {
        self.0.configure(config)
    }

    async fn run(&self, job: Job, ctx: &JobContext) -> Result<Value, Fault> {
        let measure = self.0.as_ref();
        let (spec, addressing) = measure.spec(&job.target, &job.params)?;
        let address = match addressing {
            Addressing::Opaque => None,
            Addressing::Resolved(family) => match target(&job.target)? {
                Target::Address(address) if family.admits(address) => Some(address),
                Target::Address(_) => {
                    let text = "the target is an address of the other family";
                    return Err(Fault::invalid("params.family", text));
                }
                Target::Name(name) => match resolve(&name, family).await {
                    Ok(addresses) => addresses.first().copied(),
                    Err(error) => return value(&measure.unmeasured(&spec, error)),
                },
            },
        };
        let (sender, mut told) = mpsc::channel(SIGNS);
        let signs = Signs::to(sender, if ctx.is_local() { FEW } else { 0 });
        let mut work = std::pin::pin!(measure.measure(&spec, address, Instant::now(), &signs));
        let found = loop {
            tokio::select! {
                biased;
                Some(Sign { kind, detail }) = told.recv() => ctx.progress(kind, detail).await,
                found = &mut work => break found,
            }
        };
        while let Ok(Sign { kind, detail }) = told.try_recv() {
            ctx.progress(kind, detail).await;
        }
        value(&found.outcome)
    }

    fn standing(&self) -> Result<Option<Box<dyn Standing>>, Fault> {
        Ok(Some(Box::new(Rounds::start(Arc::clone(&self.0), Config::default())?)))
    }
}

fn value(outcome: &impl Serialize) -> Result<Value, Fault> {
    serde_json::to_value(outcome)
        .map_err(|error| Fault::new(ErrorCode::Invalid, format!("write the outcome: {error}")).at("outcome"))
}

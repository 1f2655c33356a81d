//! `faulty`: errs, delays, hangs, panics, exits or floods as its job says, to try how the rest takes it.

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use async_trait::async_trait;
use imn_contract::Fault;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use xxhash_rust::xxh3::Xxh3;

use crate::{Job, JobContext, Module, module};

/// Exit code of mode `exit`, to tell it from a crash.
const EXIT_CODE: i32 = 86;
/// Code of the fault of mode `error`.
const ERROR_CODE: u16 = 500;

pub(super) struct Faulty;

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// Fail with an error.
    Error,
    /// Take `delay_ms`, then succeed.
    Delay,
    /// Never end, until it is told to.
    Hang,
    /// Never end, and heed nothing: neither the deadline nor a cancellation.
    Stuck,
    /// Panic within the job.
    Panic,
    /// End the process.
    Exit,
    /// Publish progress and log lines as fast as possible for `delay_ms`.
    Flood,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    /// What to do.
    mode: Mode,
    /// How long; one second if absent.
    #[serde(default)]
    #[schemars(range(max = 3_600_000))]
    delay_ms: Option<u64>,
    /// What to say.
    #[serde(default)]
    message: Option<String>,
    /// How likely it happens at all, 0 to 1; always if absent.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    probability: Option<f64>,
    /// Makes the chance repeatable, together with job and attempt.
    #[serde(default)]
    seed: u64,
}

impl Params {
    fn of(job: &Job) -> Result<Self, Fault> {
        let params: Self = job.params()?;
        if params.probability.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            return Err(Fault::invalid("params.probability", "use 0 to 1"));
        }
        if params.delay_ms.is_some_and(|ms| ms > 3_600_000) {
            return Err(Fault::invalid("params.delay_ms", "use at most 3600000"));
        }
        Ok(params)
    }

    fn strikes(&self, job: &Job) -> bool {
        let mut hasher = Xxh3::with_seed(self.seed);
        (job.id.as_str(), job.attempt).hash(&mut hasher);
        let mut chance = StdRng::seed_from_u64(hasher.finish());
        self.probability.is_none_or(|p| chance.random_bool(p))
    }
}

#[async_trait]
impl Module for Faulty {
    fn kind(&self) -> &'static str {
        "faulty"
    }

    fn params_schema(&self) -> Value {
        module::schema::<Params>()
    }

    fn check(&self, job: &Job) -> Result<(), Fault> {
        Params::of(job).map(drop)
    }

    async fn run(&self, job: Job, ctx: &JobContext) -> Result<Value, Fault> {
        let params = Params::of(&job)?;
        let message = params.message.clone().unwrap_or_else(|| "as the job said".to_owned());
        let delay = Duration::from_millis(params.delay_ms.unwrap_or(1000));
        if !params.strikes(&job) {
            return Ok(json!({ "struck": false }));
        }
        match params.mode {
            Mode::Error => {
                return Err(Fault {
                    code: ERROR_CODE,
                    name: "faulty".to_owned(),
                    message,
                    field: None,
                    retryable: false,
                    retry_after_ms: None,
                });
            }
            Mode::Delay => tokio::time::sleep(delay).await,
            Mode::Hang => std::future::pending().await,
            // The rest of the process goes on without this thread.
            Mode::Stuck => tokio::task::block_in_place(|| {
                loop {
                    std::thread::sleep(delay);
                }
            }),
            #[expect(clippy::panic, reason = "to panic is what the job asks for")]
            Mode::Panic => panic!("{message}"),
            Mode::Exit => {
                tracing::error!(job = %job.id, message, "exiting");
                std::process::exit(EXIT_CODE);
            }
            Mode::Flood => {
                let end = tokio::time::Instant::now() + delay;
                while tokio::time::Instant::now() < end {
                    ctx.text(message.clone()).await;
                    ctx.log(tracing::Level::INFO, message.clone()).await;
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(json!({ "struck": true }))
    }
}

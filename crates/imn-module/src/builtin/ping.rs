//! `icmp` and `tcp`: the two types whose rounds are packets of an engine.

mod confirm;

mod mixed;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use imn_contract::{
    ErrorCode, Fault,
    latest::{Assignment, PingOutcome, ProgressKind},
};
use imn_probe::{Batch, Fate, SubmitError, Timestamp};
use serde_json::{Map, Value, json};

use confirm::Confirm;

use crate::{
    Addressing, Done, Due, Job, JobContext, Module, Pace, PingSpec, Plan, Standing, convert,
    engine::{Engine, Shot},
    flight::Measurer,
    live::Live,
    module,
    ping::{IcmpParams, Kind, Target, TcpParams, target},
    standing::resolve,
};

use super::secure::{Secure, asks_for_tls};
use mixed::Mixed;

/// One of the two types. Jobs and standing work have an engine each, so that neither delays the other.
pub(super) struct Ping {
    kind: Kind,
    state: Mutex<State>,
    /// Does the jobs of `tcp` that ask for TLS.
    secured: Measurer<Secure>,
}

#[derive(Default)]
struct State {
    pace: Pace,
    /// Started with the first job.
    live: Option<Arc<Live>>,
}

impl Ping {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, state: Mutex::default(), secured: Measurer::new(Secure::default()) }
    }

    fn is_secured(&self, params: &Map<String, Value>) -> bool {
        self.kind == Kind::Tcp && asks_for_tls(params)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> Result<Arc<Live>, Fault> {
        let mut state = self.state();
        if let Some(live) = &state.live {
            return Ok(Arc::clone(live));
        }
        let live = Arc::new(Live::start(self.kind, state.pace)?);
        state.live = Some(Arc::clone(&live));
        Ok(live)
    }
}

#[async_trait]
impl Module for Ping {
    fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Icmp => "icmp",
            Kind::Tcp => "tcp",
        }
    }

    fn params_schema(&self) -> Value {
        match self.kind {
            Kind::Icmp => module::schema::<IcmpParams>(),
            Kind::Tcp => module::schema::<TcpParams>(),
        }
    }

    fn slots(&self) -> u32 {
        64
    }

    fn check(&self, job: &Job) -> Result<(), Fault> {
        if self.is_secured(&job.params) {
            return self.secured.check(job);
        }
        target(&job.target)?;
        self.kind.spec(&job.params).map(drop)
    }

    /// `rate` and `prefix_rate`, in packets per second, 0 for unlimited; in force for engines started later.
    fn configure(&self, config: &Map<String, Value>) -> Result<(), Fault> {
        let pace = Pace::of(config)?;
        let mut state = self.state();
        if state.pace != pace {
            state.pace = pace;
            state.live = None;
        }
        Ok(())
    }

    async fn run(&self, job: Job, ctx: &JobContext) -> Result<Value, Fault> {
        if self.is_secured(&job.params) {
            return self.secured.run(job, ctx).await;
        }
        let spec = self.kind.spec(&job.params)?;
        let asked = Instant::now();
        let mut resolve_ms = None;
        let address = match target(&job.target)? {
            Target::Address(address) if spec.family.admits(address) => address,
            Target::Address(_) => {
                return Err(Fault::invalid("params.family", "the target is an address of the other family"));
            }
            Target::Name(name) => match resolve(&name, spec.family).await {
                Ok(addresses) => {
                    resolve_ms = Some(asked.elapsed().as_secs_f64() * 1e3);
                    addresses[0]
                }
                Err(error) => return Ok(json!(convert::unmeasured(&job.target, &spec, error))),
            },
        };
        let live = self.live()?;
        let mut flight = live.begin(address, &spec)?;
        let measured = loop {
            tokio::select! {
                biased;
                Some(event) = flight.events.recv() => {
                    ctx.progress(ProgressKind::Packet, convert::progress(&event)).await;
                }
                measured = &mut flight.done => {
                    break measured.map_err(|_| Fault::new(ErrorCode::Unavailable, "the engine has stopped"))?;
                }
            }
        };
        let outcome = convert::ping(&job.target, &spec, &measured.outcome, &measured.packets);
        Ok(json!(PingOutcome { resolve_ms, ..outcome }))
    }

    fn standing(&self) -> Result<Option<Box<dyn Standing>>, Fault> {
        let engine = Engine::start(self.kind, self.state().pace)?;
        let rounds = Rounds {
            kind: self.kind,
            confirms: engine.has_flows(),
            engine,
            specs: Vec::new(),
            known: HashMap::new(),
            confirm: Confirm::default(),
        };
        Ok(Some(match self.kind {
            Kind::Icmp => Box::new(rounds),
            Kind::Tcp => Box::new(Mixed::new(rounds)),
        }))
    }
}

/// Standing work of one type.
struct Rounds {
    kind: Kind,
    engine: Engine,
    /// By plan number. Plans are as few as tiers, so none is ever forgotten.
    specs: Vec<PingSpec>,
    known: HashMap<PingSpec, u32>,
    /// Whether another identifier can be chosen at all.
    confirms: bool,
    confirm: Confirm,
}

impl Standing for Rounds {
    fn plan(&mut self, assignment: &Assignment) -> Result<Plan, Fault> {
        let spec = self.kind.standing_spec(assignment)?;
        target(&assignment.address)?;
        let addressing = Addressing::Resolved(spec.family);
        let specs = &mut self.specs;
        let number = *self.known.entry(spec.clone()).or_insert_with(|| {
            specs.push(spec);
            (specs.len() - 1) as u32
        });
        Ok(Plan { number, addressing })
    }

    fn begin(&mut self, rounds: &[Due]) -> usize {
        let mut shots = Vec::with_capacity(rounds.len());
        let once: Vec<PingSpec> = if self.confirms {
            self.specs.iter().map(|spec| PingSpec { count: 1, ..spec.clone() }).collect()
        } else {
            Vec::new()
        };
        for round in rounds {
            let (Some(target), Ok(due_us)) = (round.address, u64::try_from(round.due_us)) else { continue };
            let Some(spec) = self.specs.get(round.plan as usize) else { continue };
            let due = Timestamp::from_nanos(due_us * 1000);
            shots.push(Shot { key: round.key, target, due, spec, flow: 0, progress: false });
            if let Some(spec) = once.get(round.plan as usize)
                && let Some((key, flow)) = self.confirm.begin(round.key, target, spec.retries)
            {
                shots.push(Shot { key, target, due, spec, flow, progress: false });
            }
        }
        let refused = match self.engine.submit(shots.into_iter()) {
            Ok(()) => return rounds.len(),
            Err(SubmitError::Full) => None,
            Err(error) => Some(error),
        };
        for round in rounds {
            self.confirm.forget(round.key);
        }
        if let Some(error) = refused {
            tracing::error!(%error, rounds = rounds.len(), "engine refuses rounds");
        }
        0
    }

    fn collect(&mut self, done: &mut Vec<Done>) {
        let batches: Vec<Batch> = self.engine.outcomes().try_iter().collect();
        for batch in &batches {
            for (outcome, packets) in batch.iter() {
                let key = outcome.key;
                let ended = if Confirm::is_confirmation(key) {
                    self.confirm.confirmed(key, packets.iter().any(|packet| packet.rtt().is_some()))
                } else {
                    let silent =
                        !packets.is_empty() && packets.iter().all(|packet| packet.fate == Fate::Lost);
                    let round = convert::round(outcome, packets);
                    if self.confirms {
                        self.confirm.ended(key, outcome.target, silent, round).map(|round| (key, round))
                    } else {
                        Some((key, round))
                    }
                };
                done.extend(ended.map(|(key, round)| Done { key, round }));
            }
        }
    }

    fn late_p99(&self) -> Duration {
        self.engine.late_p99()
    }
}

//! Measuring from this process alone: [`Run`], any number of targets by one engine, as `imn ping` does, and
//! [`Worker`], the jobs of any module.

mod worker;

use std::{
    collections::VecDeque,
    net::{IpAddr, ToSocketAddrs},
    num::NonZeroU32,
    sync::Mutex,
    time::Duration,
};

use crossbeam_channel::select;
use imn_contract::{ErrorCode, Fault, latest::PingOutcome};
use imn_metric::Counts;
use imn_probe::{Batch, Event, Packet, SubmitError, Timestamp};
use serde_json::{Map, Value};

use crate::{
    convert,
    engine::{Engine, Pace, Shot},
    ping::{Kind, PingSpec, Protocol, Target, target},
};

pub use worker::Worker;

/// Targets handed to the engine at once.
const CHUNK: usize = 4096;
/// They are handed over at most this long before they are due.
const AHEAD: Duration = Duration::from_secs(1);
/// How often it is looked whether more can be handed over.
const BEAT: Duration = Duration::from_millis(100);
/// Names asked for at once.
const RESOLVERS: usize = 32;

/// How to measure many targets.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How each is measured.
    pub spec: PingSpec,
    /// Targets begun per second, also toward loopback; `None` begins all at once, as fast as `pace` lets.
    pub rate: Option<NonZeroU32>,
    /// Packets per second beyond this host.
    pub pace: Pace,
    /// Tell every packet.
    pub progress: bool,
    /// Tell figures in place of outcomes: all that a summary needs, at a fraction of the cost.
    pub figures: bool,
}

/// What happens during a [`Run`].
#[derive(Clone, Debug)]
pub enum Step {
    /// A packet was answered or given up.
    Packet {
        /// Number of the target, from 0.
        target: usize,
        /// Details, such as `n`, `status`, `rtt_ms`.
        detail: Map<String, Value>,
    },
    /// A target is done.
    Done {
        /// Number of the target, from 0.
        target: usize,
        /// What was found.
        outcome: Box<PingOutcome>,
    },
    /// A target is done, of which only figures are wanted.
    Counted {
        /// Number of the target, from 0.
        target: usize,
        /// Its figures.
        figures: Figures,
    },
}

/// The figures of one target that add up over many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Packets sent, received and unknown.
    pub counts: Counts,
    /// Further answers to packets already answered.
    pub duplicates: u32,
    /// Round-trip times of the packets received, in nanoseconds.
    pub rtts_ns: Rtts,
}

/// Round-trip times; a single one, which is the usual case, needs no memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rtts {
    /// At most one.
    One(Option<u64>),
    /// Any number.
    Many(Vec<u64>),
}

impl Default for Rtts {
    fn default() -> Self {
        Self::One(None)
    }
}

impl Rtts {
    /// The times in order of sending, in nanoseconds.
    pub fn as_slice(&self) -> &[u64] {
        match self {
            Self::One(rtt) => rtt.as_slice(),
            Self::Many(rtts) => rtts,
        }
    }

    fn of(packets: &[Packet]) -> Self {
        let mut rtts = packets.iter().filter_map(Packet::rtt).map(|rtt| rtt.as_nanos() as u64);
        match packets {
            [] | [_] => Self::One(rtts.next()),
            _ => Self::Many(rtts.collect()),
        }
    }
}

/// Measurements in work: an iterator that blocks until something happens and ends when all targets are done.
/// Dropping it stops them.
pub struct Run {
    engine: Engine,
    plan: Plan,
    names: Vec<String>,
    /// Targets with their addresses, not yet handed over; by number.
    queue: VecDeque<(usize, IpAddr)>,
    started: Timestamp,
    begun: u64,
    left: usize,
    ready: VecDeque<Step>,
}

impl Run {
    /// Looks at the name or address of a target without measuring it.
    ///
    /// # Errors
    /// A fault that names the field `target`.
    pub fn check(name: &str) -> Result<(), Fault> {
        target(name).map(drop)
    }

    /// Starts an engine, resolves the names, and begins. Blocks while names are resolved; a name that cannot be is
    /// an outcome with an error.
    ///
    /// # Errors
    /// A fault that names the field: a spec out of range, a target that is no address or name (before anything is
    /// sent); 403 when ICMP sockets are not permitted.
    pub fn start(names: Vec<String>, plan: Plan) -> Result<Self, Fault> {
        plan.spec.check()?;
        let targets = names.iter().map(|name| target(name)).collect::<Result<Vec<_>, _>>()?;
        let kind = match plan.spec.protocol {
            Protocol::Icmp { .. } => Kind::Icmp,
            Protocol::Tcp { .. } => Kind::Tcp,
        };
        let engine = Engine::start(kind, plan.pace)?;
        let mut queue = VecDeque::with_capacity(targets.len());
        let mut ready = VecDeque::new();
        for (number, address) in resolve(targets, &plan.spec).into_iter().enumerate() {
            match address {
                Ok(address) => queue.push_back((number, address)),
                Err(error) => {
                    let outcome = Box::new(convert::unmeasured(&names[number], &plan.spec, error));
                    ready.push_back(Step::Done { target: number, outcome });
                }
            }
        }
        let left = queue.len();
        Ok(Self { engine, plan, names, queue, started: Timestamp::now(), begun: 0, left, ready })
    }

    /// Number of targets.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no targets.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Hands over what is due soon.
    fn hand_over(&mut self) -> Result<(), Fault> {
        let horizon = Timestamp::now() + AHEAD;
        loop {
            let mut shots = Vec::new();
            for (key, address) in self.queue.iter().take(CHUNK) {
                let due = self.due(self.begun + shots.len() as u64);
                if due > horizon {
                    break;
                }
                shots.push(Shot {
                    key: *key as u64,
                    target: *address,
                    due,
                    spec: &self.plan.spec,
                    flow: 0,
                    progress: self.plan.progress,
                });
            }
            if shots.is_empty() {
                return Ok(());
            }
            let count = shots.len();
            match self.engine.submit(shots.into_iter()) {
                Ok(()) => {
                    self.queue.drain(..count);
                    self.begun += count as u64;
                }
                Err(SubmitError::Full) => return Ok(()),
                Err(error) => return Err(Fault::new(ErrorCode::Unavailable, error.to_string())),
            }
        }
    }

    /// When the n-th target is due.
    fn due(&self, number: u64) -> Timestamp {
        match self.plan.rate {
            None => self.started,
            Some(rate) => {
                self.started + Duration::from_secs(1).mul_f64(number as f64 / f64::from(rate.get()))
            }
        }
    }

    fn take(&mut self, batch: &Batch) {
        for (outcome, packets) in batch.iter() {
            let number = outcome.key as usize;
            let Some(name) = self.names.get(number) else { continue };
            if self.plan.figures {
                let figures = Figures {
                    counts: Packet::counts(packets),
                    duplicates: outcome.duplicates,
                    rtts_ns: Rtts::of(packets),
                };
                self.ready.push_back(Step::Counted { target: number, figures });
                self.left -= 1;
                continue;
            }
            let outcome = Box::new(convert::ping(name, &self.plan.spec, outcome, packets));
            self.ready.push_back(Step::Done { target: number, outcome });
            self.left -= 1;
        }
    }

    fn tell(&mut self, event: &Event) {
        let detail = convert::progress(event);
        self.ready.push_back(Step::Packet { target: event.key as usize, detail });
    }

    /// What can no longer be measured is done as well.
    fn give_up(&mut self, fault: &Fault) {
        for (number, _) in std::mem::take(&mut self.queue) {
            let outcome = convert::unmeasured(&self.names[number], &self.plan.spec, fault.to_string());
            self.ready.push_back(Step::Done { target: number, outcome: Box::new(outcome) });
            self.left -= 1;
        }
    }
}

impl Iterator for Run {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.ready.pop_front() {
                return Some(step);
            }
            if self.left == 0 {
                return None;
            }
            if let Err(fault) = self.hand_over() {
                self.give_up(&fault);
                continue;
            }
            let (outcomes, events) = (self.engine.outcomes().clone(), self.engine.events().clone());
            select! {
                recv(events) -> event => {
                    for event in event.iter().chain(events.try_iter().collect::<Vec<_>>().iter()) {
                        self.tell(event);
                    }
                }
                recv(outcomes) -> batch => {
                    // Events of these targets were sent before their outcomes.
                    for event in events.try_iter() {
                        self.tell(&event);
                    }
                    match batch {
                        Ok(batch) => self.take(&batch),
                        Err(_) => return None,
                    }
                }
                default(BEAT) => {}
            }
        }
    }
}

/// The address of each target, names in parallel.
fn resolve(targets: Vec<Target>, spec: &PingSpec) -> Vec<Result<IpAddr, String>> {
    let mut answers = Vec::with_capacity(targets.len());
    let mut questions = Vec::new();
    for (number, target) in targets.into_iter().enumerate() {
        answers.push(match target {
            Target::Address(address) if spec.family.admits(address) => Ok(address),
            Target::Address(address) => Err(format!("{address} is of the other address family")),
            Target::Name(name) => {
                questions.push((number, name));
                Err(String::new())
            }
        });
    }
    let threads = RESOLVERS.min(questions.len());
    let questions = Mutex::new(questions.into_iter());
    let answers = Mutex::new(answers);
    let work = || {
        while let Some((number, name)) = lock(&questions).next() {
            lock(&answers)[number] = ask(&name, spec);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    answers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn ask(name: &str, spec: &PingSpec) -> Result<IpAddr, String> {
    let mut found = (name, 0).to_socket_addrs().map_err(|error| format!("resolve {name}: {error}"))?;
    found
        .find_map(|address| Some(address.ip()).filter(|ip| spec.family.admits(*ip)))
        .ok_or_else(|| format!("resolve {name}: no address of the family asked for"))
}

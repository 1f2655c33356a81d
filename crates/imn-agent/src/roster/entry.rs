//! One instance of the roster.

use std::{collections::HashMap, time::Instant};

use imn_contract::{
    InstanceId, JobId, ModuleType,
    latest::{Health, ModuleState, ModuleSummary},
};
use tokio::sync::watch;

use super::{DEGRADED_AFTER, LOST_AFTER, stall::Progress, standing::Duty, trial::Tally};

/// What the supervisor knows of an instance's process. Announced instances are always `Running`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No process; the first start is under way.
    Down,
    /// The process runs.
    Running,
    /// The process was told to end.
    Draining,
    /// The process has ended and is started again after a pause.
    Backoff,
    /// The process has ended too often.
    Quarantined,
    /// An operator wants it down.
    Disabled,
}

#[derive(Debug)]
pub(super) struct Heard(pub(super) Health);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: ModuleType,
    pub(super) version: String,
    pub(super) supervised: bool,
    pub(super) standing: bool,
    pub(super) duty: Duty,
    pub(super) phase: Phase,
    pub(super) pid: Option<u32>,
    pub(super) restarts: u32,
    pub(super) reason: Option<String>,
    /// How its last process ended that nobody had asked to.
    pub(super) last_end: Option<String>,
    /// Why its process before was killed by this agent.
    pub(super) killed: Option<String>,
    pub(super) word: Word,
    pub(super) slots: u32,
    /// Jobs that this agent has handed to it, and when.
    pub(super) jobs: HashMap<JobId, Instant>,
    /// How much of the jobs it gets, when it is of a version that is being tried: from 0 to 1.
    pub(super) trial: Option<f64>,
    pub(super) tally: Tally,
    pub(super) progress: Progress,
    pub(super) health: Option<Heard>,
    pub(super) heard_at: Instant,
    /// Since when it has been ready.
    pub(super) ready_at: Option<Instant>,
    /// How its processes have ended.
    pub(super) life: watch::Sender<Life>,
}

/// What an instance has said of itself since its process began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Nothing, or no more than hello.
    Silent,
    /// It has announced itself ready or sent health.
    Ready,
    /// It drains.
    Leaving,
}

/// The processes of an instance that have ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Life {
    ended: u64,
    /// The last of them was draining.
    pub(super) orderly: bool,
}

impl Entry {
    pub(super) fn new(kind: ModuleType) -> Self {
        Self {
            kind,
            version: String::new(),
            supervised: false,
            standing: false,
            duty: Duty::default(),
            phase: Phase::Down,
            pid: None,
            restarts: 0,
            reason: None,
            last_end: None,
            killed: None,
            word: Word::Silent,
            slots: 0,
            jobs: HashMap::new(),
            trial: None,
            tally: Tally::default(),
            progress: Progress::default(),
            health: None,
            heard_at: Instant::now(),
            ready_at: None,
            life: watch::Sender::new(Life::default()),
        }
    }

    /// A new phase, of which nothing has been heard yet.
    pub(super) fn begin(&mut self, phase: Phase, reason: Option<String>) {
        self.phase = phase;
        self.duty.been_ready &= !self.out_of_service();
        self.reason = reason;
        self.pid = None;
        self.word = Word::Silent;
        self.ready_at = None;
        self.health = None;
        self.progress = Progress::default();
        self.heard_at = Instant::now();
    }

    /// It has said something of itself just now.
    pub(super) fn said(&mut self, word: Word) {
        self.word = word;
        self.ready_at = (word == Word::Ready).then(|| self.ready_at.unwrap_or_else(Instant::now));
        self.duty.been_ready |= word == Word::Ready && !self.out_of_service();
        self.heard_at = Instant::now();
    }

    pub(super) fn end_life(&mut self, orderly: bool) {
        self.jobs.clear();
        self.life.send_modify(|life| *life = Life { ended: life.ended + 1, orderly });
    }

    pub(super) fn state(&self, now: Instant) -> ModuleState {
        if self.supervised {
            match self.phase {
                Phase::Down => return ModuleState::Starting,
                Phase::Draining => return ModuleState::Draining,
                Phase::Backoff => return ModuleState::Backoff,
                Phase::Quarantined => return ModuleState::Quarantined,
                Phase::Disabled => return ModuleState::Disabled,
                Phase::Running => {}
            }
        }
        match now.duration_since(self.heard_at) {
            silence if silence >= LOST_AFTER => ModuleState::Lost,
            silence if silence >= DEGRADED_AFTER => ModuleState::Degraded,
            _ if self.word == Word::Silent => ModuleState::Starting,
            _ if self.word == Word::Leaving => ModuleState::Draining,
            _ if self.jobs.len() >= self.slots as usize => ModuleState::Saturated,
            _ => ModuleState::Ready,
        }
    }

    /// Whether a job may be handed to it. A degraded one still has its subscriptions.
    pub(super) fn takes_jobs(&self, now: Instant) -> bool {
        self.word == Word::Ready
            && matches!(self.state(now), ModuleState::Ready | ModuleState::Saturated | ModuleState::Degraded)
    }

    /// Free slots, by what this agent has handed out: health is up to five seconds old.
    pub(super) fn free(&self, now: Instant) -> u32 {
        if self.state(now) == ModuleState::Ready {
            let slots = self.trial.map_or(self.slots, |share| (f64::from(self.slots) * share).ceil() as u32);
            slots.saturating_sub(self.jobs.len() as u32)
        } else {
            0
        }
    }

    /// Whether there may be a process that has a job, although nothing was heard of it yet.
    pub(super) fn may_live(&self) -> bool {
        !self.supervised || self.pid.is_some()
    }

    pub(super) fn out_of_service(&self) -> bool {
        matches!(self.phase, Phase::Quarantined | Phase::Disabled)
    }

    fn on_trial(&self) -> Option<String> {
        let percent = (self.trial? * 100.0).round();
        self.pid.map(|_| format!("on trial, with {percent} % of the jobs"))
    }

    pub(super) fn summary(&self, instance: &InstanceId, now: Instant) -> ModuleSummary {
        let said = self.health.as_ref().map_or(0, |heard| heard.0.inflight);
        let state = self.state(now);
        let silent = || {
            let seconds = now.duration_since(self.heard_at).as_secs();
            matches!(state, ModuleState::Degraded | ModuleState::Lost)
                .then(|| format!("nothing heard of it for {seconds} s"))
        };
        let trouble = || self.health.as_ref().and_then(|heard| heard.0.spool.trouble.clone());
        ModuleSummary {
            instance: instance.clone(),
            kind: self.kind.clone(),
            version: self.version.clone(),
            state,
            inflight: said.max(self.jobs.len() as u32),
            slots: self.slots,
            pid: self.pid,
            restarts: self.restarts,
            standing: self.standing,
            reason: self
                .reason
                .clone()
                .or_else(silent)
                .or_else(trouble)
                .or_else(|| self.on_trial())
                .or_else(|| self.killed.clone()),
        }
    }
}

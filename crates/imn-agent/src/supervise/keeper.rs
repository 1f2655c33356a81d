//! The keeper of one instance: one process at a time, started, watched, replaced, drained.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use imn_contract::{
    InstanceId,
    latest::{AssignmentFile, ModuleConfig, ModuleState},
};
use imn_runtime::{clock, credential::Credentials, file};
use tokio::sync::watch;

use super::{
    Supervisor,
    backoff::{Exits, Verdict},
    catalog::Spec,
    launch::Launched,
    record::Record,
    vouch,
};
use crate::{
    Error, Result,
    roster::{Mark, Phase},
};

/// How long a module may take to drain before it is killed. `imn up` gives the agent 8 s in all.
pub(super) const DRAIN_WITHIN: Duration = Duration::from_secs(7);
/// How long one that ends for good is let make the rounds that others do not make yet.
pub(super) const HAND_OVER_WITHIN: Duration = Duration::from_secs(90);
/// How often an instance is looked at that is still to be told how to run.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// How an exit of 0 is told.
const EXIT_SUCCESS: &str = "exit status: 0";
/// The end of one that has drained on another's word than its agent's.
const IN_ORDER: &str = "ended in order, on somebody else's word";
/// How often what a start waits for is looked for.
const VOUCH_EVERY: Duration = Duration::from_secs(1);
/// Without so much space on its disk an agent starts no module: it would end over it, again and again.
const LEAST_SPACE: u64 = 16 * 1024 * 1024;
/// How long the next instance waits for a replaced one to be ready.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Why modules drain with their agent.
const ENDS: &str = "the agent ends";

/// What is to be done with an instance.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Order {
    /// Keep a process of this module running.
    Run(Arc<Spec>),
    /// Keep it down, in this phase and for this reason.
    Hold(Arc<Spec>, Phase, String),
    /// Drain it, it is no longer wanted.
    Remove,
    /// Drain it, the agent ends.
    Stop,
    /// Let it run, the agent ends.
    Leave,
}

impl Order {
    /// What it is an order about, when it is about one that stays.
    pub(super) fn spec(&self) -> Option<&Arc<Spec>> {
        match self {
            Self::Run(spec) | Self::Hold(spec, ..) => Some(spec),
            Self::Remove | Self::Stop | Self::Leave => None,
        }
    }
}

pub(super) struct Keeper {
    instance: InstanceId,
    supervisor: Arc<Supervisor>,
    orders: watch::Receiver<Order>,
    process: Option<Launched>,
    exits: Exits,
    started_before: bool,
}

impl Keeper {
    /// `found` is the living process that the agent before has left.
    pub(super) fn new(
        instance: InstanceId,
        supervisor: Arc<Supervisor>,
        orders: watch::Receiver<Order>,
        found: Option<Record>,
    ) -> Self {
        let process = found.map(|record| {
            tracing::info!(%instance, pid = record.process.pid, "module taken over");
            Launched::adopt(&record)
        });
        Self { instance, supervisor, orders, process, exits: Exits::default(), started_before: false }
    }

    pub(super) async fn run(mut self) {
        if let Some(process) = &self.process {
            let roster = &self.supervisor.roster;
            if let Some(spec) = self.orders.borrow().spec() {
                roster.declare(&self.instance, &spec.kind, &spec.version, spec.shares());
            }
            roster.running(&self.instance, process.identity.pid, false);
            self.started_before = true;
        }
        loop {
            let order = self.orders.borrow_and_update().clone();
            if order.spec().is_some() {
                // It may have been on its way out.
                self.supervisor.roster.leave(&self.instance, false);
            }
            match order {
                Order::Run(spec) => self.keep_running(&spec).await,
                Order::Hold(spec, phase, reason) => {
                    // What was turned down still makes the rounds of others, until they do so themselves.
                    if spec.stands_in {
                        if !self.leave().await {
                            continue;
                        }
                        self.stop_process(Phase::Down, &reason).await;
                        self.settle().await;
                    }
                    self.stop_process(phase, &reason).await;
                    let roster = &self.supervisor.roster;
                    roster.declare(&self.instance, &spec.kind, &spec.version, spec.shares());
                    roster.down(&self.instance, phase, Some(reason));
                    if self.orders.changed().await.is_err() {
                        return;
                    }
                }
                Order::Stop => {
                    // It stays on the roster: the agent still has the type, and is told to have it when it is back.
                    self.stop_process(Phase::Draining, ENDS).await;
                    self.forget_record();
                    self.supervisor.roster.down(&self.instance, Phase::Draining, Some(ENDS.to_owned()));
                    return;
                }
                Order::Remove => {
                    if !self.leave().await {
                        continue;
                    }
                    self.stop_process(Phase::Down, "stopped").await;
                    self.settle().await;
                    // Wanted again meanwhile?
                    if self.orders.has_changed().unwrap_or(false) {
                        continue;
                    }
                    self.forget_record();
                    self.supervisor.roster.forget(&self.instance);
                    // What is of this name next does not find what this one had to do; most have no such file.
                    let config = &self.supervisor.config;
                    let _ = std::fs::remove_file(Supervisor::assignment_path(config, &self.instance));
                    // The spool may now be somebody else's to empty.
                    self.supervisor.poke.notify_one();
                    return;
                }
                Order::Leave => return,
            }
        }
    }

    /// Lets others take over the standing work before the process ends for good; those of one that has none do so at once.
    /// `false`: something else is wanted meanwhile.
    async fn leave(&mut self) -> bool {
        let roster = Arc::clone(&self.supervisor.roster);
        roster.leave(&self.instance, true);
        let end = Instant::now() + HAND_OVER_WITHIN;
        while roster.has_heir(&self.instance)
            && roster.has_rounds(&self.instance, clock::now_us(), self.process.is_some())
            && Instant::now() < end
        {
            let ended = async {
                match &mut self.process {
                    Some(process) => process.exited().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(TELL_EVERY) => {}
                how = ended => {
                    tracing::warn!(instance = %self.instance, how, "module ended before it was relieved");
                    if let Some(process) = self.process.take() {
                        process.sweep_group();
                    }
                    roster.down(&self.instance, Phase::Down, Some(how));
                }
                _ = self.orders.changed() => {
                    self.orders.mark_changed();
                    return false;
                }
            }
        }
        true
    }

    /// Records the rounds that it owed until others took them over, and has not made: no process of its own will.
    async fn settle(&self) {
        let supervisor = &self.supervisor;
        let file = Supervisor::assignment_file(&supervisor.config, &self.instance);
        let Some(AssignmentFile { mut assignments, .. }) = file else { return };
        assignments.retain(|assignment| assignment.until_us.is_some());
        if assignments.is_empty() {
            return;
        }
        // As at a start: its spool is in use again.
        if supervisor.roster.is_out_of_service(&self.instance) {
            supervisor.roster.down(&self.instance, Phase::Down, None);
        }
        let spool = supervisor.spool_path(&self.instance);
        let partitions = supervisor.partitions.load(Relaxed);
        supervisor.orphans.settle(&self.instance, spool, partitions, assignments).await;
    }

    /// One turn: start it if it is down, replace it if it is another version, else wait for its end or a new order.
    async fn keep_running(&mut self, spec: &Arc<Spec>) {
        let supervisor = Arc::clone(&self.supervisor);
        match &mut self.process {
            None => {
                supervisor.roster.declare(&self.instance, &spec.kind, &spec.version, spec.shares());
                if let Err(error) = self.start(spec).await {
                    self.not_started(&error).await;
                }
            }
            Some(process) if process.fingerprint != spec.fingerprint => {
                let _turn = supervisor.replacing.lock().await;
                tracing::info!(instance = %self.instance, "module is replaced");
                self.stop_process(Phase::Down, "replaced by a new version").await;
                supervisor.roster.declare(&self.instance, &spec.kind, &spec.version, spec.shares());
                if let Err(error) = self.start(spec).await {
                    self.not_started(&error).await;
                } else {
                    self.wait_ready().await;
                }
            }
            Some(process) => {
                // An order that came while it was being started, or before it listened, is told as soon as it does.
                let differs = process.told.as_ref().is_some_and(|told| {
                    (&told.slots, &told.log_level, &told.config)
                        != (&spec.slots, &spec.log_level, &spec.config)
                });
                let listens = matches!(
                    supervisor.roster.state(&self.instance),
                    Some(ModuleState::Ready | ModuleState::Saturated)
                );
                if differs && listens {
                    match supervisor.catch_up(&self.instance, spec).await {
                        Ok(()) => process.told = Some(Arc::clone(spec)),
                        Err(fault) => {
                            tracing::warn!(instance = %self.instance, %fault, "module not tuned yet");
                        }
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(TELL_EVERY), if differs => {}
                    how = process.exited() => {
                        let ran = process.since.elapsed();
                        process.sweep_group();
                        self.process = None;
                        let drained = supervisor.roster.state(&self.instance) == Some(ModuleState::Draining);
                        let sentence = supervisor.sentence(&self.instance);
                        let how = match &sentence {
                            Some(reason) => reason.clone(),
                            // One that always ends soon is no better for doing it in order.
                            None if drained && how == EXIT_SUCCESS => IN_ORDER.to_owned(),
                            None => how,
                        };
                        let pause = self.ended(how, ran);
                        if let Some(reason) = sentence {
                            supervisor.roster.killed(&self.instance, reason);
                        }
                        self.wait(pause).await;
                    }
                    _ = self.orders.changed() => {}
                }
            }
        }
    }

    async fn start(&mut self, spec: &Spec) -> Result<()> {
        let supervisor = Arc::clone(&self.supervisor);
        file::require_free(&supervisor.config.state_dir, LEAST_SPACE)
            .map_err(|source| Error::NoSpace { instance: self.instance.to_string(), source })?;
        let config = self.config(spec).await?;
        // From here on its spool is in use again.
        if supervisor.roster.is_out_of_service(&self.instance) {
            supervisor.roster.down(&self.instance, Phase::Down, None);
        }
        supervisor.orphans.release(&self.instance).await;
        // What the process before was killed for says nothing of this one.
        supervisor.sentence(&self.instance);
        let log = supervisor.log_path(&self.instance);
        let environment = &supervisor.config.environment;
        let mut process = Launched::start(spec, &self.instance, &log, environment)?;
        // Written down before it can begin: if this agent dies here, the module ends for want of a configuration.
        let record = Record {
            instance: self.instance.clone(),
            kind: spec.kind.clone(),
            process: process.identity.clone(),
            version: spec.version.clone(),
            fingerprint: spec.fingerprint.clone(),
            assignments: config.assignments.clone().map(Into::into),
        };
        let configured = match supervisor.records.put(record) {
            Ok(()) => process.configure(spec, &config).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = configured {
            process.kill().await;
            process.sweep_group();
            return Err(error);
        }
        let pid = process.identity.pid;
        tracing::info!(instance = %self.instance, pid, "module started");
        supervisor.roster.running(&self.instance, pid, self.started_before);
        self.started_before = true;
        self.process = Some(process);
        Ok(())
    }

    /// What the module is told on its standard input.
    async fn config(&self, spec: &Spec) -> Result<ModuleConfig> {
        let supervisor = &self.supervisor;
        let config = &supervisor.config;
        let assignments = Supervisor::assignment_path(config, &self.instance);
        if spec.standing && !assignments.exists() {
            let empty = AssignmentFile {
                v: 1,
                generation: 0,
                instance: self.instance.clone(),
                assignments: Vec::new(),
            };
            file::write_atomic(&assignments, &serde_json::to_vec(&empty).unwrap_or_default())?;
        }
        let own = (&spec.kind, &self.instance);
        let creds = vouch::credentials(&config.credentials, &supervisor.client, &config.id, own).await?;
        let parsed = creds.as_deref().map(Credentials::parse).transpose().map_err(|error| {
            Error::UnfitCredentials { instance: self.instance.to_string(), message: error.to_string() }
        })?;
        let inbox_prefix = parsed
            .map_or_else(|| format!("_INBOX_{}", self.instance), |found| found.inbox_prefix().to_owned());
        let path = |path: std::path::PathBuf| spec.standing.then(|| path.to_string_lossy().into_owned());
        Ok(ModuleConfig {
            v: 1,
            agent: config.id.clone(),
            kind: spec.kind.clone(),
            instance: self.instance.clone(),
            nats_url: config.nats.url.clone(),
            creds,
            nats_ca: config.nats.authority.clone(),
            inbox_prefix,
            config: spec.config.clone(),
            slots: spec.slots,
            assignments: path(assignments),
            spool: path(supervisor.spool_path(&self.instance)),
            partitions: supervisor.partitions.load(Relaxed),
        })
    }

    /// What it waits for is not its fault; all else counts as an end.
    async fn not_started(&mut self, error: &Error) {
        let waits =
            matches!(error, Error::NotVouched { .. } | Error::NoCredentials { .. } | Error::NoSpace { .. });
        if !waits {
            let pause = self.ended(error.to_string(), Duration::ZERO);
            return self.wait(pause).await;
        }
        tracing::warn!(instance = %self.instance, %error, "module waits");
        self.supervisor.roster.down(&self.instance, Phase::Backoff, Some(error.to_string()));
        self.wait(VOUCH_EVERY).await;
    }

    /// The process has ended by itself, or could not be started; for how long it is not to be started again.
    fn ended(&mut self, how: String, ran: Duration) -> Duration {
        self.forget_record();
        let supervisor = &self.supervisor;
        let rule = &supervisor.config.restart;
        let (phase, pause, reason) = match self.exits.judge(rule, Instant::now(), ran, rand::random()) {
            Verdict::Wait(pause) => (Phase::Backoff, pause, how),
            Verdict::Quarantine(pause) => {
                let reason = format!(
                    "ended {} times within {} s, tried again after {} s; last: {how}",
                    rule.exits,
                    rule.window.as_secs(),
                    pause.as_secs()
                );
                (Phase::Quarantined, pause, reason)
            }
        };
        tracing::warn!(
            instance = %self.instance, ?phase, reason, ran_ms = ran.as_millis(), pause_ms = pause.as_millis(),
            "module ended"
        );
        supervisor.roster.down(&self.instance, phase, Some(reason));
        supervisor.roster.note(&self.instance, Mark::Crashed);
        if phase == Phase::Quarantined {
            supervisor.poke.notify_one();
        }
        pause
    }

    /// Waits so long, unless the order changes.
    async fn wait(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = self.orders.changed() => self.orders.mark_changed(),
        }
    }

    async fn stop_process(&mut self, phase: Phase, why: &str) {
        let Some(process) = self.process.take() else { return };
        let roster = &self.supervisor.roster;
        roster.draining(&self.instance);
        tracing::info!(instance = %self.instance, pid = process.identity.pid, why, "module drains");
        process.stop(DRAIN_WITHIN).await;
        roster.down(&self.instance, phase, Some(why.to_owned()));
        self.forget_record();
    }

    async fn wait_ready(&self) {
        let roster = &self.supervisor.roster;
        let mut changes = roster.changes();
        let ready = async {
            while !matches!(
                roster.state(&self.instance),
                Some(ModuleState::Ready | ModuleState::Saturated) | None
            ) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // One that does not become ready holds the others up for so long and no longer.
        let _ = tokio::time::timeout(READY_WITHIN, ready).await;
    }

    fn forget_record(&self) {
        if let Err(error) = self.supervisor.records.remove(&self.instance) {
            tracing::error!(instance = %self.instance, %error, "instance record cannot be removed");
        }
    }
}

//! Signs of life: every two seconds, how the agent and its modules are.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use imn_contract::{
    InstanceId,
    latest::{AgentStatus, Heartbeat, ModuleState, ModuleSummary, Roll},
    subject,
};
use imn_runtime::{clock, nats::Client, process, task::Stop};

use crate::{Config, assignment::Assignments, registry::Registry, roster::Roster, supervise::Supervisor};

const EVERY: Duration = Duration::from_secs(2);
/// A change waits this long for others to come with it.
const SETTLE: Duration = Duration::from_millis(100);
/// Rounds per second are told over this time.
const RATE_OVER: Duration = Duration::from_secs(10);

/// Problems told at once, and characters of each: a heartbeat stays small.
const MOST_PROBLEMS: usize = 32;
const LONGEST_PROBLEM: usize = 400;

/// Makes heartbeats.
#[derive(Debug)]
pub(crate) struct Heart {
    config: Config,
    client: Client,
    roster: Arc<Roster>,
    assignments: Arc<Assignments>,
    supervisor: Arc<Supervisor>,
    registry: Option<Arc<Registry>>,
    started: Instant,
    draining: AtomicBool,
    measured: Mutex<Measured>,
}

/// What needs two looks to be known.
#[derive(Debug, Default)]
struct Measured {
    at: Option<Instant>,
    cpu_seconds: HashMap<u32, f64>,
    cpu_pct: f64,
    rss_mb: f64,
    rounds: VecDeque<(Instant, u64)>,
    rounds_per_s: f64,
}

impl Heart {
    pub(crate) fn new(
        config: &Config,
        client: Client,
        roster: Arc<Roster>,
        assignments: Arc<Assignments>,
        supervisor: Arc<Supervisor>,
        registry: Option<Arc<Registry>>,
    ) -> Self {
        Self {
            config: config.clone(),
            client,
            roster,
            assignments,
            supervisor,
            registry,
            started: Instant::now(),
            draining: AtomicBool::new(false),
            measured: Mutex::default(),
        }
    }

    /// Beats until the end: regularly, and at once when the connection is there or a module's state has changed.
    pub(crate) async fn run(self: Arc<Self>, stop: Stop) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut connected, mut roster) = (self.client.events().connected(), self.roster.changes());
        let mut told = (Vec::new(), Vec::new());
        loop {
            tokio::select! {
                () = stop.requested() => return,
                _ = ticks.tick() => {
                    self.roster.sweep();
                    self.measure();
                }
                Ok(()) = connected.changed() => {}
                Ok(()) = roster.changed() => {
                    // What changes together is told together.
                    if self.states() == told || !stop.sleep(SETTLE).await {
                        continue;
                    }
                }
            }
            told = self.states();
            self.publish().await;
        }
    }

    /// What is told at once when it changes.
    fn states(&self) -> (Vec<(InstanceId, ModuleState)>, Vec<Roll>) {
        let state = |module: ModuleSummary| match module.state {
            // It comes and goes with every job.
            ModuleState::Saturated => (module.instance, ModuleState::Ready),
            state => (module.instance, state),
        };
        (self.roster.summaries().into_iter().map(state).collect(), self.supervisor.rolls())
    }

    /// Tells from now on that the agent is going down.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Relaxed);
        self.publish().await;
    }

    /// Publishes one heartbeat now. What cannot be sent is told by the next.
    pub(crate) async fn publish(&self) {
        if !self.client.events().is_connected() {
            return;
        }
        let beat = self.beat();
        for subject in [subject::heartbeat(&self.config.id), subject::simple_heartbeat(&self.config.id)] {
            if let Err(error) = self.client.publish(&subject, &beat).await {
                tracing::warn!(%error, "heartbeat not sent");
            }
        }
    }

    /// How everything is now.
    pub(crate) fn beat(&self) -> Heartbeat {
        let identity = &self.config.identity;
        let modules = self.roster.summaries();
        let amiss = |state: ModuleState| {
            matches!(
                state,
                ModuleState::Backoff | ModuleState::Quarantined | ModuleState::Degraded | ModuleState::Lost
            )
        };
        let spool = self.roster.totals().spool;
        let problems = self.problems();
        let status = if self.draining.load(Relaxed) {
            AgentStatus::Draining
        } else if modules.iter().any(|module| amiss(module.state))
            || spool.trouble.is_some()
            || !problems.is_empty()
        {
            AgentStatus::Degraded
        } else {
            AgentStatus::Active
        };
        let in_force = self.assignments.in_force();
        let (cpu_pct, rss_mb, rounds_per_s) = {
            let measured = self.measured();
            (measured.cpu_pct, measured.rss_mb, measured.rounds_per_s)
        };
        Heartbeat {
            v: 1,
            agent: self.config.id.clone(),
            time: clock::now_rfc3339(),
            status,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            modules,
            targets: in_force.targets,
            rounds_per_s,
            spool,
            assignment: in_force.mark,
            clock: clock::state(),
            cpu_pct,
            rss_mb,
            name: identity.name.clone(),
            region: identity.region.clone(),
            location: identity.location.clone(),
            provider: identity.provider.clone(),
            tags: identity.tags.clone(),
            problems,
            rolls: self.supervisor.rolls(),
        }
    }

    /// What is wrong with modules that should run: in the directories, and of what is published.
    pub(crate) fn problems(&self) -> Vec<String> {
        let refused = self.registry.as_ref().map(|registry| registry.problems()).unwrap_or_default();
        let all = self.supervisor.problems().into_iter().chain(refused);
        all.take(MOST_PROBLEMS).map(|problem| problem.chars().take(LONGEST_PROBLEM).collect()).collect()
    }

    fn measure(&self) {
        let now = Instant::now();
        let pids: Vec<u32> = self.roster.pids().into_iter().chain([std::process::id()]).collect();
        let rounds = self.roster.totals().rounds_done;
        let mut measured = self.measured();
        let mut cpu_seconds = HashMap::new();
        let (mut spent, mut rss) = (0.0, 0);
        for pid in pids {
            let Some(usage) = process::usage(pid) else { continue };
            // A process not seen before has done its start since, which is not a rate.
            let before = measured.cpu_seconds.get(&pid).copied().unwrap_or(usage.cpu_seconds);
            spent += (usage.cpu_seconds - before).max(0.0);
            rss += usage.rss_bytes;
            cpu_seconds.insert(pid, usage.cpu_seconds);
        }
        if let Some(at) = measured.at {
            measured.cpu_pct = spent / now.duration_since(at).as_secs_f64().max(0.001) * 100.0;
        }
        measured.at = Some(now);
        measured.cpu_seconds = cpu_seconds;
        measured.rss_mb = rss as f64 / 1e6;
        measured.rounds.push_back((now, rounds));
        // The last look before the window is its beginning.
        while measured.rounds.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_OVER) {
            measured.rounds.pop_front();
        }
        if let Some((at, before)) = measured.rounds.front().copied() {
            // A module that starts anew counts from zero again.
            let made = rounds.saturating_sub(before) as f64;
            measured.rounds_per_s = made / now.duration_since(at).as_secs_f64().max(1.0);
        }
    }

    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

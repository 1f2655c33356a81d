//! Who is there: every instance of this agent, what it does, and how much more it can take.

mod entry;
mod room;
mod stall;
mod standing;
mod trial;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use imn_contract::{
    AgentId, InstanceId, JobId, ModuleType,
    latest::{Announce, AnnounceEvent, Health, ModuleState, ModuleSummary, SpoolState},
};
use tokio::sync::watch;

use entry::{Entry, Heard, Word};
pub(crate) use entry::{Life, Phase};
pub(crate) use room::Claim;
use room::Rooms;
pub(crate) use standing::{Member, Service};
pub(crate) use trial::{Mark, Tally};

/// Silence after which an instance counts as degraded.
const DEGRADED_AFTER: Duration = Duration::from_secs(15);
/// Silence after which an instance counts as lost.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(30);

/// The instances of one agent, supervised and announced. Every change can be waited for.
#[derive(Debug)]
pub(crate) struct Roster {
    agent: AgentId,
    entries: Mutex<BTreeMap<InstanceId, Entry>>,
    changed: watch::Sender<u64>,
    rooms: Rooms,
    /// Whether any instance is of a version that is being tried.
    trying: AtomicBool,
    /// How long the longest round of each type may take.
    longest: Mutex<BTreeMap<ModuleType, Duration>>,
    /// Until when each instance has rounds to make; see `owes`.
    owed: Mutex<BTreeMap<InstanceId, Option<i64>>>,
    /// Those that are no more, until whoever deals out standing work has asked; what has their name since is another.
    forgotten: Mutex<BTreeSet<InstanceId>>,
}

/// A slot of an instance, taken for a job until it is dropped.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    roster: &'a Roster,
    pub(crate) instance: InstanceId,
    kind: ModuleType,
    job: JobId,
    /// Changes when the process that took the job has ended.
    life: watch::Receiver<Life>,
}

/// A sum over the health of all instances.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) rounds_done: u64,
    pub(crate) spool: SpoolState,
}

impl Lease<'_> {
    /// Waits until the instance's process has ended; tells whether it went in order, so that its last reports are on
    /// their way. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> bool {
        // An error says that the instance is forgotten, which is an end too.
        let _ = self.life.changed().await;
        self.life.borrow().orderly
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // A free slot is of no interest to anybody but who has jobs of the type.
        if let Some(entry) = self.roster.lock().get_mut(&self.instance) {
            entry.jobs.remove(&self.job);
        }
        self.roster.rooms.tell(&self.kind);
    }
}

impl Roster {
    pub(crate) fn new(agent: AgentId) -> Self {
        Self {
            agent,
            entries: Mutex::default(),
            changed: watch::Sender::new(0),
            rooms: Rooms::default(),
            trying: AtomicBool::new(false),
            longest: Mutex::default(),
            owed: Mutex::default(),
            forgotten: Mutex::default(),
        }
    }

    /// Follows changes of the roster.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A supervised instance is wanted; its process is another matter.
    pub(crate) fn declare(&self, instance: &InstanceId, kind: &ModuleType, version: &str, standing: bool) {
        self.update(|entries| {
            let entry = entries.entry(instance.clone()).or_insert_with(|| Entry::new(kind.clone()));
            entry.kind = kind.clone();
            version.clone_into(&mut entry.version);
            entry.supervised = true;
            entry.standing = standing;
        });
    }

    /// The process of a supervised instance runs.
    pub(crate) fn running(&self, instance: &InstanceId, pid: u32, again: bool) {
        self.with(instance, |entry| {
            entry.begin(Phase::Running, None);
            entry.pid = Some(pid);
            entry.restarts += u32::from(again);
        });
    }

    /// A supervised instance is being drained by its agent.
    pub(crate) fn draining(&self, instance: &InstanceId) {
        self.with(instance, |entry| entry.phase = Phase::Draining);
    }

    /// The process of a supervised instance has ended; its jobs learn it through their leases.
    pub(crate) fn down(&self, instance: &InstanceId, phase: Phase, reason: Option<String>) {
        self.with(instance, |entry| {
            let orderly = entry.phase == Phase::Draining || entry.word == Word::Leaving;
            entry.begin(phase, reason);
            entry.killed = None;
            entry.end_life(orderly);
        });
    }

    /// The process of an instance was killed for this reason, which is told until its next one has ended.
    pub(crate) fn killed(&self, instance: &InstanceId, reason: String) {
        self.with(instance, |entry| entry.killed = Some(reason));
    }

    /// An instance is no more.
    pub(crate) fn forget(&self, instance: &InstanceId) {
        self.lock_owed().remove(instance);
        self.lock_forgotten().insert(instance.clone());
        self.update(|entries| {
            entries.remove(instance);
        });
    }

    /// Takes an announcement for what it is worth; foreign ones are ignored.
    pub(crate) fn announce(&self, announce: &Announce) {
        if announce.agent != self.agent {
            return;
        }
        self.update(|entries| {
            let known = entries.get_mut(&announce.instance);
            let entry = match (known, announce.event) {
                (Some(entry), _) if entry.kind != announce.kind => return,
                (Some(entry), _) => entry,
                (None, AnnounceEvent::Bye | AnnounceEvent::Draining) => return,
                (None, _) => entries
                    .entry(announce.instance.clone())
                    .or_insert_with(|| Entry::new(announce.kind.clone())),
            };
            announce.version.clone_into(&mut entry.version);
            entry.slots = announce.slots;
            match announce.event {
                AnnounceEvent::Hello => entry.word = Word::Silent,
                AnnounceEvent::Ready => entry.said(Word::Ready),
                AnnounceEvent::Draining => entry.word = Word::Leaving,
                AnnounceEvent::Bye if entry.supervised => entry.word = Word::Leaving,
                AnnounceEvent::Bye => {
                    entry.end_life(true);
                    entries.remove(&announce.instance);
                }
            }
        });
    }

    /// Takes a health message; foreign ones are ignored.
    pub(crate) fn health(&self, health: Health) {
        if health.agent != self.agent {
            return;
        }
        self.update(|entries| {
            // The last word of one that is gone already does not bring it back.
            if health.state == ModuleState::Draining && !entries.contains_key(&health.instance) {
                return;
            }
            let entry =
                entries.entry(health.instance.clone()).or_insert_with(|| Entry::new(health.kind.clone()));
            // What a process said last may arrive after its end.
            if entry.kind != health.kind || (entry.supervised && entry.pid.is_none()) {
                return;
            }
            let reborn = entry.health.as_ref().is_some_and(|heard| heard.0.epoch != health.epoch);
            if reborn && !entry.supervised {
                entry.end_life(false);
            }
            health.version.clone_into(&mut entry.version);
            entry.slots = health.slots;
            let is_draining = health.state == ModuleState::Draining;
            entry.said(if is_draining { Word::Leaving } else { Word::Ready });
            entry.progress.heard(&health, entry.heard_at);
            entry.health = Some(Heard(health));
        });
    }

    /// Announced instances that have been silent for too long are gone; their jobs learn it.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let stale = |entry: &Entry| !entry.supervised && now.duration_since(entry.heard_at) >= LOST_AFTER;
        if self.lock().values().any(stale) {
            self.update(|entries| entries.retain(|_, entry| !stale(entry)));
        }
    }

    /// How many more jobs of a type can be taken from the queue now: as many as there are slots, free and not claimed.
    pub(crate) fn credit(&self, kind: &ModuleType) -> u32 {
        self.free(kind).saturating_sub(self.rooms.claims(kind))
    }

    /// The free slots of a type.
    pub(crate) fn free(&self, kind: &ModuleType) -> u32 {
        let now = Instant::now();
        self.lock().values().filter(|entry| entry.kind == *kind).map(|entry| entry.free(now)).sum()
    }

    /// Claims room for a job that has no slot yet.
    pub(crate) fn claim(&self, kind: &ModuleType) -> Claim {
        self.rooms.claim(kind)
    }

    /// Changes whenever there may be more room for jobs of a type.
    pub(crate) fn room(&self, kind: &ModuleType) -> watch::Receiver<()> {
        self.rooms.changes(kind)
    }

    /// The instances of a type that live, the ready ones with most room first.
    pub(crate) fn candidates(&self, kind: &ModuleType) -> Vec<InstanceId> {
        let now = Instant::now();
        let entries = self.lock();
        let mut found: Vec<_> = entries
            .iter()
            .filter(|(_, entry)| entry.kind == *kind && entry.takes_jobs(now))
            .map(|(instance, entry)| (std::cmp::Reverse(entry.free(now)), instance.clone()))
            .collect();
        found.sort();
        found.into_iter().map(|(_, instance)| instance).collect()
    }

    /// The instances of a type that may have a process, heard of or not.
    pub(crate) fn living(&self, kind: &ModuleType) -> Vec<InstanceId> {
        let entries = self.lock();
        let of_type = entries.iter().filter(|(_, entry)| entry.kind == *kind);
        of_type.filter(|(_, entry)| entry.may_live()).map(|(instance, _)| instance.clone()).collect()
    }

    /// Whether any instance of the type is here, in whatever state.
    pub(crate) fn has_type(&self, kind: &ModuleType) -> bool {
        self.lock().values().any(|entry| entry.kind == *kind)
    }

    /// The module types that are here.
    pub(crate) fn types(&self) -> Vec<ModuleType> {
        let mut types: Vec<ModuleType> = self.lock().values().map(|entry| entry.kind.clone()).collect();
        types.sort();
        types.dedup();
        types
    }

    /// Notes that an instance has a job, until the lease is dropped; `None` when the instance is not here.
    pub(crate) fn lease(&self, instance: &InstanceId, job: &JobId) -> Option<Lease<'_>> {
        let mut entries = self.lock();
        let entry = entries.get_mut(instance)?;
        entry.jobs.insert(job.clone(), Instant::now());
        let mut life = entry.life.subscribe();
        // The process that took it may have ended before this.
        if entry.may_live() {
            life.mark_unchanged();
        } else {
            life.mark_changed();
        }
        let kind = entry.kind.clone();
        Some(Lease { roster: self, instance: instance.clone(), kind, job: job.clone(), life })
    }

    /// All instances as a heartbeat tells of them.
    pub(crate) fn summaries(&self) -> Vec<ModuleSummary> {
        let now = Instant::now();
        self.lock().iter().map(|(instance, entry)| entry.summary(instance, now)).collect()
    }

    /// Whether an instance is in this state; for a look without a copy of all.
    pub(crate) fn state(&self, instance: &InstanceId) -> Option<ModuleState> {
        self.lock().get(instance).map(|entry| entry.state(Instant::now()))
    }

    /// How long an instance has been ready without a break, if it is.
    pub(crate) fn ready_for(&self, instance: &InstanceId) -> Option<Duration> {
        let (now, entries) = (Instant::now(), self.lock());
        let entry = entries.get(instance)?;
        let is_ready = matches!(entry.state(now), ModuleState::Ready | ModuleState::Saturated);
        entry.ready_at.filter(|_| is_ready).map(|at| now.duration_since(at))
    }

    /// Whether an instance has a process.
    pub(crate) fn has_process(&self, instance: &InstanceId) -> bool {
        self.lock().get(instance).is_some_and(|entry| entry.pid.is_some())
    }

    /// Changes when the process that an instance has now has ended; `None` when the instance is not here.
    pub(crate) fn life(&self, instance: &InstanceId) -> Option<watch::Receiver<Life>> {
        let mut life = self.lock().get(instance)?.life.subscribe();
        life.mark_unchanged();
        Some(life)
    }

    /// Whether an instance is quarantined or disabled.
    pub(crate) fn is_out_of_service(&self, instance: &InstanceId) -> bool {
        self.lock().get(instance).is_some_and(Entry::out_of_service)
    }

    /// The processes of the supervised instances.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.lock().values().filter_map(|entry| entry.pid).collect()
    }

    /// Sums over the health of all instances.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for heard in self.lock().values().filter_map(|entry| entry.health.as_ref()) {
            totals.rounds_done += heard.0.rounds_done;
            let (all, one) = (&mut totals.spool, &heard.0.spool);
            all.bytes += one.bytes;
            all.rows += one.rows;
            all.oldest_s = all.oldest_s.max(one.oldest_s);
            all.trouble = all.trouble.take().or_else(|| one.trouble.clone());
        }
        totals
    }

    fn with(&self, instance: &InstanceId, change: impl FnOnce(&mut Entry)) {
        self.update(|entries| {
            if let Some(entry) = entries.get_mut(instance) {
                change(entry);
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut BTreeMap<InstanceId, Entry>)) {
        change(&mut self.lock());
        self.changed.send_modify(|version| *version += 1);
        self.rooms.tell_all();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use imn_contract::latest::SpoolState;

    fn names() -> (AgentId, ModuleType, InstanceId, JobId) {
        let agent = AgentId::new("lon1").unwrap();
        let kind = ModuleType::new("echo").unwrap();
        let instance = InstanceId::slot(&agent, &kind, 0).unwrap();
        (agent, kind, instance, JobId::generate())
    }

    fn health(epoch: u64, slots: u32) -> Health {
        let (agent, kind, instance, _) = names();
        Health {
            v: 1,
            instance,
            agent,
            kind,
            version: "1".into(),
            state: ModuleState::Ready,
            inflight: 0,
            queued: 0,
            slots,
            oldest_ms: 0,
            ewma_ms: 0.0,
            done: 0,
            errors: 0,
            circuits_open: 0,
            rounds_due: 0,
            rounds_done: 7,
            rounds_skipped: 0,
            late_p99_us: 0,
            seq: 1,
            epoch,
            time: String::new(),
            spool: SpoolState { bytes: 10, rows: 2, oldest_s: 3, trouble: None },
        }
    }

    #[tokio::test]
    async fn credit_is_what_ready_instances_have_free() {
        let (agent, kind, instance, job) = names();
        let roster = Roster::new(agent);
        roster.declare(&instance, &kind, "", true);
        assert_eq!(roster.credit(&kind), 0);
        roster.running(&instance, 1, false);
        assert_eq!(roster.credit(&kind), 0, "not ready yet");
        roster.health(health(1, 2));
        assert_eq!(roster.credit(&kind), 2);
        let room = roster.room(&kind);
        let claim = roster.claim(&kind);
        assert_eq!((roster.credit(&kind), roster.free(&kind)), (1, 2), "one is spoken for");
        let mut lease = roster.lease(&instance, &job).unwrap();
        drop(claim);
        assert!(room.has_changed().unwrap());
        assert_eq!(roster.credit(&kind), 1);
        assert_eq!(roster.totals().rounds_done, 7);
        roster.down(&instance, Phase::Backoff, Some("exit status 3".into()));
        lease.ended().await;
        drop(lease);
        assert_eq!(roster.credit(&kind), 0);
        assert_eq!(roster.state(&instance), Some(ModuleState::Backoff));
        assert_eq!(roster.standing()[&kind][0].service, Service::In);
        roster.down(&instance, Phase::Quarantined, None);
        assert_eq!(roster.standing()[&kind][0].service, Service::Out);
    }

    #[tokio::test]
    async fn an_announced_instance_that_is_born_again_has_lost_its_jobs() {
        let (agent, kind, instance, job) = names();
        let roster = Roster::new(agent);
        roster.health(health(1, 4));
        let mut lease = roster.lease(&instance, &job).unwrap();
        roster.health(health(1, 4));
        assert!(tokio::time::timeout(Duration::from_millis(20), lease.ended()).await.is_err());
        roster.health(health(2, 4));
        lease.ended().await;
        assert!(roster.standing().is_empty(), "announced instances have no standing work");
        assert_eq!(roster.candidates(&kind), std::slice::from_ref(&instance));
        // Its last word may come after its end.
        roster.forget(&instance);
        roster.health(Health { state: ModuleState::Draining, ..health(2, 4) });
        assert!(!roster.has_type(&kind));
    }
}

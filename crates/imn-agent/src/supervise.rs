//! Supervision: a reconciler between the modules that are wanted and the processes that run.

mod artifact;
mod backoff;
mod catalog;
mod keeper;
mod launch;
mod orphan;
mod record;
mod roll;
mod tune;
mod version;
mod vouch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use imn_contract::{
    ErrorCode, Fault, InstanceId, ModuleType,
    latest::{AssignmentFile, Roll as RollTold, Tuning},
};
use imn_runtime::{
    file,
    nats::Client,
    process::Signal,
    task::{Stop, Tasks},
};
use tokio::sync::{Notify, watch};

use crate::{
    Config, Error, Result,
    config::Hang,
    job::Jobs,
    output,
    roster::{Phase, Roster},
};
use catalog::{Catalog, Spec};
use keeper::{Keeper, Order};
use orphan::{Claim, Orphans};
use record::{Record, Records};
use roll::{CANARY, Roll};
use version::Versions;

/// How often the modules directory is looked at: a handful of system calls.
const RESCAN: Duration = Duration::from_millis(250);
/// How often the logs of modules are kept within bounds.
const BOUND_LOGS: Duration = Duration::from_secs(10);

/// Where in the state directory what modules write is.
pub(crate) const LOGS: &str = "log";

/// What the reconciler and the keepers of all instances share.
#[derive(Debug)]
pub(crate) struct Supervisor {
    config: Config,
    client: Client,
    roster: Arc<Roster>,
    records: Records,
    orphans: Orphans,
    partitions: AtomicU32,
    catalog: Mutex<Catalog>,
    versions: Versions,
    rolls: Mutex<Rolls>,
    /// Why instances have been killed by this agent, until their keepers have seen it.
    condemned: Mutex<BTreeMap<InstanceId, String>>,
    poke: Notify,
    /// Held while one instance is replaced by a new version of itself, so that they do not all go at once.
    replacing: tokio::sync::Mutex<()>,
}

/// The replacements of module types.
#[derive(Debug, Default)]
struct Rolls {
    /// Whose tasks run.
    under_way: BTreeSet<ModuleType>,
    told: BTreeMap<ModuleType, RollTold>,
}

/// How supervision ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Modules are drained.
    Drain,
    /// Modules are left running, for the next agent.
    Leave,
}

impl Supervisor {
    /// Reads what the agent before has left, and declares the instances that are wanted.
    pub(crate) fn open(config: &Config, roster: Arc<Roster>, nats: Client) -> Result<Self> {
        for directory in [LOGS, "assignments", "spool"] {
            file::create_private_dir(&config.state_dir.join(directory))?;
        }
        let records = Records::open(&config.state_dir)?;
        let supervisor = Self {
            versions: Versions::open(&config.state_dir, records.versions())?,
            rolls: Mutex::default(),
            condemned: Mutex::default(),
            records,
            orphans: Orphans::new(nats.clone(), config.id.clone()),
            client: nats,
            config: config.clone(),
            roster,
            partitions: AtomicU32::new(1),
            catalog: Mutex::new(Catalog::read(config, None)),
            poke: Notify::new(),
            replacing: tokio::sync::Mutex::new(()),
        };
        for problem in &supervisor.catalog().problems {
            tracing::error!(problem, "module cannot be used");
        }
        supervisor.take_versions();
        let wanted = supervisor.wanted()?;
        for (instance, order) in &wanted {
            if let Some(spec) = order.spec() {
                supervisor.roster.declare(instance, &spec.kind, &spec.version, spec.shares());
            }
        }
        let records = supervisor.records.all();
        for (instance, kind) in supervisor.left_over(&wanted) {
            let record = records.iter().find(|record| record.instance == instance);
            let version = record.map(|record| record.version.as_str()).unwrap_or_default();
            supervisor.roster.declare(&instance, &kind, version, true);
        }
        Ok(supervisor)
    }

    /// Those whom nobody wants and with whom the agent before was not done, by the files of their standing work: they have
    /// it until others have taken it over.
    fn left_over(&self, wanted: &BTreeMap<InstanceId, Order>) -> Vec<(InstanceId, ModuleType)> {
        let files = std::fs::read_dir(self.config.state_dir.join("assignments"));
        let paths = files.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let instance = |path: PathBuf| {
            path.extension().filter(|extension| *extension == "json")?;
            let instance = InstanceId::new(path.file_stem()?.to_string_lossy()).ok()?;
            let kind = self.orphans.kind_of(&instance)?;
            (!wanted.contains_key(&instance)).then_some((instance, kind))
        };
        paths.filter_map(instance).collect()
    }

    /// Keeps the wanted instances running, until it is told how to end.
    pub(crate) async fn run(self: Arc<Self>, jobs: Arc<Jobs>, mut ending: watch::Receiver<Option<Ending>>) {
        let mut keepers: BTreeMap<InstanceId, watch::Sender<Order>> = BTreeMap::new();
        let mut tasks = Tasks::new();
        let own_stop = imn_runtime::task::Shutdown::new();
        let mut bounded = Instant::now();
        let left_over = self.wanted().map(|wanted| self.left_over(&wanted));
        for (instance, _) in left_over.into_iter().flatten() {
            self.give(&instance, Order::Remove, &mut keepers, &mut tasks);
        }
        loop {
            self.begin_rolls(&jobs, &mut tasks, &own_stop.stop());
            self.reconcile(&mut keepers, &mut tasks, &own_stop.stop());
            let rescan = tokio::select! {
                _ = ending.wait_for(Option::is_some) => break,
                () = self.poke.notified() => false,
                () = tokio::time::sleep(RESCAN) => true,
            };
            if rescan {
                self.rescan().await;
                self.condemn_stalled();
                if bounded.elapsed() >= BOUND_LOGS {
                    bounded = Instant::now();
                    self.bound_logs();
                }
            }
        }
        let order = match *ending.borrow() {
            Some(Ending::Leave) => Order::Leave,
            _ => Order::Stop,
        };
        for keeper in keepers.values() {
            keeper.send_replace(order.clone());
        }
        own_stop.request();
        let longest = keeper::DRAIN_WITHIN + Duration::from_secs(1);
        tasks.drain(longest).await;
    }

    /// Takes a type out of service or back into it; remembered over restarts.
    ///
    /// # Errors
    /// When the type is not here, or the decision cannot be written down.
    pub(crate) fn set_disabled(&self, kind: &ModuleType, disabled: bool) -> Result<(), Fault> {
        if !self.catalog().specs.contains_key(kind) {
            return Err(
                Fault::no_module(format!("this agent supervises no module of type {kind}")).at("type")
            );
        }
        self.records
            .set_disabled(kind, disabled)
            .map_err(|error| Fault::new(ErrorCode::Unavailable, error.to_string()))?;
        tracing::info!(%kind, disabled, "module switched by an operator");
        self.poke.notify_one();
        Ok(())
    }

    /// Replaces a type's instances by the version that is there now, in waves; one that was turned down is tried again.
    ///
    /// # Errors
    /// 404 when the type is not here, 409 when it is being replaced already, 423 when it is disabled.
    pub(crate) fn roll(&self, kind: &ModuleType) -> Result<(), Fault> {
        if self.is_disabled(kind) {
            let message = format!("the module {kind} is disabled here; enable it first");
            return Err(Fault::new(ErrorCode::Disabled, message).at("type"));
        }
        self.versions.ask(kind)?;
        tracing::info!(%kind, "module is to be rolled out, an operator says");
        self.poke.notify_one();
        Ok(())
    }

    /// The replacements of module types that are under way, and the last of each other type.
    pub(crate) fn rolls(&self) -> Vec<RollTold> {
        self.lock_rolls().told.values().cloned().collect()
    }

    /// When an instance counts as hung.
    pub(crate) fn hang(&self) -> &Hang {
        &self.config.hang
    }

    /// Kills the process of an instance that does not get on; its keeper starts it again, with this as the reason.
    pub(crate) fn condemn(&self, instance: &InstanceId, reason: String) {
        let Some(record) = self.records.of(instance) else { return };
        tracing::error!(%instance, pid = record.process.pid, reason, "module is killed");
        self.condemned.lock().unwrap_or_else(PoisonError::into_inner).insert(instance.clone(), reason);
        if let Err(error) = record.process.signal(Signal::SIGKILL) {
            tracing::error!(%instance, %error, "module cannot be killed");
        }
    }

    /// What is wrong with modules that should run.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.catalog().problems.clone();
        problems.extend(self.versions.problems());
        problems
    }

    /// The instances that have a process, whether or not its keeper knows it yet.
    pub(crate) fn running(&self) -> BTreeSet<InstanceId> {
        let records = self.records.all().into_iter();
        records.filter(Record::lives).map(|record| record.instance).collect()
    }

    /// The number of ingest partitions, for modules that are started from now on.
    pub(crate) fn set_partitions(&self, partitions: u32) {
        self.partitions.store(partitions.max(1), Relaxed);
    }

    /// Where an instance finds its standing work.
    pub(crate) fn assignment_path(config: &Config, instance: &InstanceId) -> PathBuf {
        config.state_dir.join("assignments").join(format!("{instance}.json"))
    }

    /// The standing work that an instance was told of last, if there is any. A file that cannot be read is logged and counts
    /// as none: what the instance owed by it is then accounted for by nobody.
    pub(crate) fn assignment_file(config: &Config, instance: &InstanceId) -> Option<AssignmentFile> {
        let path = Self::assignment_path(config, instance);
        let unreadable = |error: &dyn std::fmt::Display| {
            tracing::error!(%instance, path = %path.display(), %error, "standing work cannot be read back");
        };
        let text = file::read_optional(&path).inspect_err(|error| unreadable(error)).ok()??;
        serde_json::from_str(&text).inspect_err(|error| unreadable(error)).ok()
    }

    fn spool_path(&self, instance: &InstanceId) -> PathBuf {
        self.config.state_dir.join("spool").join(instance.as_str())
    }

    fn log_path(&self, instance: &InstanceId) -> PathBuf {
        output::error_file(&self.config.state_dir.join(LOGS), instance)
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what modules there are, and copies the programs of those that are new.
    async fn rescan(self: &Arc<Self>) {
        let is_news = {
            let mut catalog = self.catalog();
            let found = Catalog::read(&self.config, Some(&catalog));
            for problem in found.problems.iter().filter(|problem| !catalog.problems.contains(problem)) {
                tracing::error!(problem, "module cannot be used");
            }
            *catalog = found;
            self.versions.is_news(&catalog.specs)
        };
        if is_news {
            let this = Arc::clone(self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.take_versions()).await {
                tracing::error!(%error, "modules stay as they are");
            }
        }
    }

    fn take_versions(&self) {
        let specs = self.catalog().specs.clone();
        self.versions.take(&specs, &self.config.program);
        self.keep_versions();
    }

    /// Writes down which versions are in force, and removes copies of others.
    fn keep_versions(&self) {
        let kept = self.versions.kept();
        if kept != self.records.versions()
            && let Err(error) = self.records.set_versions(kept)
        {
            tracing::error!(%error, "versions of modules cannot be written down");
        }
        self.versions.sweep();
    }

    fn begin_rolls(self: &Arc<Self>, jobs: &Arc<Jobs>, tasks: &mut Tasks, stop: &Stop) {
        for kind in self.versions.due() {
            if self.is_disabled(&kind) || !self.lock_rolls().under_way.insert(kind.clone()) {
                continue;
            }
            let (Ok(canary), Some(versions)) = (self.slot(&kind, CANARY), self.versions.begin(&kind)) else {
                self.lock_rolls().under_way.remove(&kind);
                continue;
            };
            let roll = Roll::begin(self, jobs, (kind.clone(), canary), versions);
            let (this, stop) = (Arc::clone(self), stop.clone());
            tasks.spawn(format!("roll {kind}"), async move {
                roll.run(stop).await;
                this.lock_rolls().under_way.remove(&kind);
                this.poke.notify_one();
            });
        }
    }

    fn tell_roll(&self, roll: RollTold) {
        self.lock_rolls().told.insert(roll.kind.clone(), roll);
    }

    fn lock_rolls(&self) -> MutexGuard<'_, Rolls> {
        self.rolls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills instances whose rounds fall due and are not made.
    fn condemn_stalled(&self) {
        for (instance, stalled) in self.roster.stalled(self.config.hang.stalled) {
            let seconds = stalled.as_secs();
            let reason = format!("hung: its rounds fell due for {seconds} s, and none was made");
            self.condemn(&instance, reason);
        }
    }

    /// Why an instance was killed by this agent, if it was.
    fn sentence(&self, instance: &InstanceId) -> Option<String> {
        self.condemned.lock().unwrap_or_else(PoisonError::into_inner).remove(instance)
    }

    fn is_disabled(&self, kind: &ModuleType) -> bool {
        self.records.disabled().contains(kind)
    }

    /// Whether an instance has a process of just this version.
    fn runs(&self, instance: &InstanceId, spec: &Spec) -> bool {
        self.records.of(instance).is_some_and(|record| record.fingerprint == spec.fingerprint)
    }

    fn slot(&self, kind: &ModuleType, slot: u32) -> Result<InstanceId> {
        InstanceId::slot(&self.config.id, kind, slot)
            .map_err(|source| Error::Name { kind: kind.to_string(), source })
    }

    /// How many instances of a type there are to be.
    fn instances(&self, kind: &ModuleType) -> u32 {
        let tuned = self.records.tuned().get(kind).and_then(|tuning: &Tuning| tuning.instances);
        tuned.or_else(|| Some(self.versions.of(kind)?.in_force.instances)).unwrap_or(0)
    }

    fn bound_logs(&self) {
        for instance in self.records.all().iter().map(|record| &record.instance) {
            let errors = self.log_path(instance);
            launch::bound_log(&output::output_file(&errors));
            launch::bound_log(&errors);
        }
    }

    /// Every instance that there should be, and how.
    fn wanted(&self) -> Result<BTreeMap<InstanceId, Order>> {
        let mut wanted = BTreeMap::new();
        let (tuned, disabled) = (self.records.tuned(), self.records.disabled());
        let kinds: Vec<ModuleType> = self.catalog().specs.keys().cloned().collect();
        for (kind, version) in kinds.iter().filter_map(|kind| Some((kind, self.versions.of(kind)?))) {
            let as_tuned = |spec: &Spec| {
                let mut spec = spec.clone();
                if let Some(tuning) = tuned.get(kind) {
                    tune::apply(tuning, &mut spec);
                }
                spec
            };
            let run = |spec: Arc<Spec>| {
                if disabled.contains(kind) {
                    return Order::Hold(spec, Phase::Disabled, "disabled by an operator".to_owned());
                }
                Order::Run(spec)
            };
            // What is tried has no standing work of its own: a round is made by one instance.
            let alone = |spec: &Spec| Arc::new(Spec { instances: 1, stands_in: true, ..as_tuned(spec) });
            let in_force = Arc::new(as_tuned(&version.in_force));
            let mut replaced = 0;
            let mut next = Arc::clone(&in_force);
            if let Some((to, slots)) = &version.rolling {
                (next, replaced) = (Arc::new(as_tuned(to)), *slots);
                wanted.insert(self.slot(kind, CANARY)?, run(alone(to)));
            } else if let Some(refused) = &version.refused {
                let reason = format!("version {} was turned down: {}", refused.spec.label(), refused.reason);
                let order = Order::Hold(alone(&refused.spec), Phase::Quarantined, reason);
                wanted.insert(self.slot(kind, CANARY)?, order);
            }
            for slot in 0..in_force.instances {
                let spec = if slot < replaced { &next } else { &in_force };
                wanted.insert(self.slot(kind, slot)?, run(Arc::clone(spec)));
            }
        }
        Ok(wanted)
    }

    fn reconcile(
        self: &Arc<Self>,
        keepers: &mut BTreeMap<InstanceId, watch::Sender<Order>>,
        tasks: &mut Tasks,
        stop: &Stop,
    ) {
        let wanted = match self.wanted() {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::error!(%error, "modules stay as they are");
                return;
            }
        };
        keepers.retain(|_, keeper| !keeper.is_closed());
        for (instance, order) in &wanted {
            self.give(instance, order.clone(), keepers, tasks);
        }
        let gone: Vec<InstanceId> =
            keepers.keys().filter(|instance| !wanted.contains_key(*instance)).cloned().collect();
        for instance in gone {
            self.give(&instance, Order::Remove, keepers, tasks);
        }
        for record in self.records.all() {
            if !wanted.contains_key(&record.instance) && !keepers.contains_key(&record.instance) {
                // Its process may run on; its keeper takes it over in order to end it.
                let standing = record.assignments.is_some();
                self.roster.declare(&record.instance, &record.kind, &record.version, standing);
                self.give(&record.instance, Order::Remove, keepers, tasks);
            }
        }
        let spools = self.config.state_dir.join("spool");
        let partitions = self.partitions.load(Relaxed);
        self.orphans.reconcile(&spools, partitions, tasks, stop, |instance| {
            match (keepers.contains_key(instance), wanted.contains_key(instance)) {
                (true, true) if self.roster.is_out_of_service(instance) => Claim::Wanted,
                // That of one that is no longer wanted is its keeper's until it has settled what was owed.
                (true, _) => Claim::InUse,
                (false, true) => Claim::Wanted,
                (false, false) => Claim::Nobody,
            }
        });
    }

    fn give(
        self: &Arc<Self>,
        instance: &InstanceId,
        order: Order,
        keepers: &mut BTreeMap<InstanceId, watch::Sender<Order>>,
        tasks: &mut Tasks,
    ) {
        if let Some(keeper) = keepers.get(instance) {
            keeper.send_if_modified(|current| {
                let differs = *current != order;
                if differs {
                    *current = order;
                }
                differs
            });
            return;
        }
        let found = self.records.all().into_iter().find(|record| record.instance == *instance);
        let (sender, orders) = watch::channel(order);
        let keeper = Keeper::new(instance.clone(), Arc::clone(self), orders, found.filter(Record::lives));
        tasks.spawn(format!("keeper {instance}"), keeper.run());
        keepers.insert(instance.clone(), sender);
    }
}

//! Supervision: a reconciler between the modules that are wanted and the processes that run.

mod backoff;
mod catalog;
mod keeper;
mod launch;
mod orphan;
mod record;
mod tune;
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

use imn_contract::{AgentId, InstanceId, ModuleType};
use imn_runtime::{
    file,
    nats::Client,
    task::{Stop, Tasks},
};
use tokio::sync::{Notify, watch};

use crate::{Config, Error, Result, output, roster::Roster};
use catalog::{Catalog, Spec};
use keeper::{Keeper, Order};
use orphan::{Claim, Orphans};
use record::{Record, Records};

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
    poke: Notify,
    /// Held while one instance is replaced by a new version of itself, so that they do not all go at once.
    replacing: tokio::sync::Mutex<()>,
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
        let supervisor = Self {
            records: Records::open(&config.state_dir)?,
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
        for (instance, spec) in supervisor.wanted()? {
            supervisor.roster.declare(&instance, &spec.kind, &spec.version, spec.standing);
        }
        Ok(supervisor)
    }

    /// Keeps the wanted instances running, until it is told how to end.
    pub(crate) async fn run(self: Arc<Self>, mut ending: watch::Receiver<Option<Ending>>) {
        let mut keepers: BTreeMap<InstanceId, watch::Sender<Order>> = BTreeMap::new();
        let mut tasks = Tasks::new();
        let orphans_stop = imn_runtime::task::Shutdown::new();
        let mut bounded = Instant::now();
        loop {
            self.reconcile(&mut keepers, &mut tasks, &orphans_stop.stop());
            tokio::select! {
                _ = ending.wait_for(Option::is_some) => break,
                () = self.poke.notified() => {}
                () = tokio::time::sleep(RESCAN) => {
                    self.rescan();
                    if bounded.elapsed() >= BOUND_LOGS {
                        bounded = Instant::now();
                        self.bound_logs();
                    }
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
        orphans_stop.request();
        let longest = keeper::DRAIN_WITHIN + Duration::from_secs(1);
        tasks.drain(longest).await;
    }

    /// Takes a type out of service or back into it; remembered over restarts.
    ///
    /// # Errors
    /// When the type is not here, or the decision cannot be written down.
    pub(crate) fn set_disabled(&self, kind: &ModuleType, disabled: bool) -> Result<(), imn_contract::Fault> {
        use imn_contract::{ErrorCode, Fault};
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

    /// What is wrong in the modules directory.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.catalog().problems.clone()
    }

    /// The number of ingest partitions, for modules that are started from now on.
    pub(crate) fn set_partitions(&self, partitions: u32) {
        self.partitions.store(partitions.max(1), Relaxed);
    }

    /// Where an instance finds its standing work.
    pub(crate) fn assignment_path(config: &Config, instance: &InstanceId) -> PathBuf {
        config.state_dir.join("assignments").join(format!("{instance}.json"))
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

    fn rescan(&self) {
        let mut catalog = self.catalog();
        let found = Catalog::read(&self.config, Some(&catalog));
        for problem in found.problems.iter().filter(|problem| !catalog.problems.contains(problem)) {
            tracing::error!(problem, "module cannot be used");
        }
        *catalog = found;
    }

    fn bound_logs(&self) {
        for instance in self.records.all().iter().map(|record| &record.instance) {
            let errors = self.log_path(instance);
            launch::bound_log(&output::output_file(&errors));
            launch::bound_log(&errors);
        }
    }

    /// Every instance that there should be.
    fn wanted(&self) -> Result<BTreeMap<InstanceId, Arc<Spec>>> {
        let agent: &AgentId = &self.config.id;
        let mut wanted = BTreeMap::new();
        let tuned = self.records.tuned();
        for spec in self.catalog().specs.values() {
            let mut spec = spec.clone();
            if let Some(tuning) = tuned.get(&spec.kind) {
                tune::apply(tuning, &mut spec);
            }
            let shared = Arc::new(spec);
            for slot in 0..shared.instances {
                let instance = InstanceId::slot(agent, &shared.kind, slot)
                    .map_err(|source| Error::Name { kind: shared.kind.to_string(), source })?;
                wanted.insert(instance, Arc::clone(&shared));
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
        let disabled: BTreeSet<ModuleType> = self.records.disabled().into_iter().collect();
        keepers.retain(|_, keeper| !keeper.is_closed());
        for (instance, spec) in &wanted {
            let order = if disabled.contains(&spec.kind) {
                Order::Disable(Arc::clone(spec))
            } else {
                Order::Run(Arc::clone(spec))
            };
            self.give(instance, order, keepers, tasks);
        }
        let gone: Vec<InstanceId> =
            keepers.keys().filter(|instance| !wanted.contains_key(*instance)).cloned().collect();
        for instance in gone {
            self.give(&instance, Order::Remove, keepers, tasks);
        }
        for record in self.records.all() {
            if !wanted.contains_key(&record.instance) && !keepers.contains_key(&record.instance) {
                // Its process may run on; its keeper takes it over in order to end it.
                self.roster.declare(&record.instance, &record.kind, &record.version, false);
                self.give(&record.instance, Order::Remove, keepers, tasks);
            }
        }
        let spools = self.config.state_dir.join("spool");
        let partitions = self.partitions.load(Relaxed);
        self.orphans.reconcile(&spools, partitions, tasks, stop, |instance| {
            if keepers.contains_key(instance) && !self.roster.is_out_of_service(instance) {
                Claim::InUse
            } else if wanted.contains_key(instance) {
                Claim::Wanted
            } else {
                Claim::Nobody
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

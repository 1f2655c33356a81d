//! Spools whose instance is gone, or down for long: opened and shipped by the agent until they are empty.
//!
//! That of an instance which will come back stays when it is empty: it tells the next process of the instance which
//! rounds were made, and thereby which are missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use imn_contract::{
    AgentId, InstanceId, ModuleType,
    latest::{Assignment, Gap},
};
use imn_runtime::{
    nats::Client,
    spool::{self, Past, Shipper, Spool},
    task::{Shutdown, Stop, Tasks},
};
use tokio::sync::watch;

/// How long it is tried to record what an instance owed, and how often.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// The spools that this agent ships.
#[derive(Debug)]
pub(super) struct Orphans {
    client: Client,
    agent: AgentId,
    active: Arc<Mutex<Spools>>,
}

/// Whose a spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Its instance runs, or is about to.
    InUse,
    /// Its instance is down, and will run again.
    Wanted,
    /// Its instance is gone for good.
    Nobody,
}

#[derive(Debug, Default)]
struct Spools {
    open: BTreeMap<InstanceId, Active>,
    /// Empty, and kept for their instance.
    kept: BTreeSet<InstanceId>,
}

#[derive(Debug)]
struct Active {
    shutdown: Shutdown,
    closed: watch::Receiver<bool>,
}

impl Orphans {
    pub(super) fn new(client: Client, agent: AgentId) -> Self {
        Self { client, agent, active: Arc::default() }
    }

    /// Takes up every spool below `directory` that nobody has in use. To be repeated: one that cannot be opened yet
    /// is tried again. Those that will be used again are kept.
    pub(super) fn reconcile(
        &self,
        directory: &Path,
        partitions: u32,
        tasks: &mut Tasks,
        stop: &Stop,
        claim: impl Fn(&InstanceId) -> Claim,
    ) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        // Held over the question and the answer, so that no instance begins between them.
        let mut spools = self.lock();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Ok(instance) = InstanceId::new(name) else { continue };
            let Some(config) = self.config(&instance, path, partitions) else { continue };
            let keep = match claim(&instance) {
                Claim::InUse => continue,
                Claim::Wanted => true,
                Claim::Nobody => false,
            };
            if spools.open.contains_key(&instance) || keep && spools.kept.contains(&instance) {
                continue;
            }
            let (closed, receiver) = watch::channel(false);
            let shutdown = Shutdown::new();
            let own_stop = shutdown.stop();
            spools.open.insert(instance.clone(), Active { shutdown, closed: receiver });
            let (client, stop, held) = (self.client.clone(), stop.clone(), Arc::clone(&self.active));
            tasks.spawn(format!("orphaned spool {instance}"), async move {
                let emptied = ship(config, client, &stop, &own_stop, keep).await;
                let mut spools = held.lock().unwrap_or_else(PoisonError::into_inner);
                // Asked for before what it is asked by is dropped.
                let given_back = own_stop.is_requested();
                spools.open.remove(&instance);
                if emptied && keep && !given_back {
                    spools.kept.insert(instance);
                }
                closed.send_replace(true);
            });
        }
    }

    /// Gives an instance its spool back; returns when it is closed here.
    pub(super) async fn release(&self, instance: &InstanceId) {
        let mut closed = {
            let mut spools = self.lock();
            spools.kept.remove(instance);
            let Some(found) = spools.open.get(instance) else { return };
            found.shutdown.request();
            found.closed.clone()
        };
        // An error says that its task is gone, and the spool with it.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Records in the spool of an instance, which has no process, those of its rounds that are missing; `owed` is what it
    /// was to make until others do. Said twice, they are recorded once.
    pub(super) async fn settle(
        &self,
        instance: &InstanceId,
        dir: PathBuf,
        partitions: u32,
        owed: Vec<Assignment>,
    ) {
        let Some(config) = self.config(instance, dir, partitions) else { return };
        if !config.dir.exists() {
            return;
        }
        let owed: Arc<[Assignment]> = owed.into();
        let end = Instant::now() + SETTLE_WITHIN;
        loop {
            self.release(instance).await;
            let (config, owed) = (config.clone(), Arc::clone(&owed));
            let recorded = tokio::task::spawn_blocking(move || record_missing(config, &owed)).await;
            let error = match recorded {
                Ok(Ok(rounds)) => {
                    if rounds > 0 {
                        tracing::warn!(%instance, rounds, "rounds that it owed are recorded as missing");
                    }
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            // Who had it open last may still be closing it; a disk may have room again.
            if Instant::now() >= end {
                tracing::error!(%instance, error, "rounds that it owed are not recorded");
                return;
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }

    /// How a spool of this agent is opened; `None`: its name is no slot's.
    fn config(&self, instance: &InstanceId, dir: PathBuf, partitions: u32) -> Option<spool::Config> {
        Some(spool::Config {
            dir,
            agent: self.agent.clone(),
            instance: instance.clone(),
            kind: self.kind_of(instance)?,
            partitions,
            max_bytes: spool::Config::MAX_BYTES,
        })
    }

    /// The type in a slot's name, `{agent}-{type}-{slot}`.
    pub(super) fn kind_of(&self, instance: &InstanceId) -> Option<ModuleType> {
        let rest = instance.as_str().strip_prefix(self.agent.as_str())?.strip_prefix('-')?;
        ModuleType::new(rest.rsplit_once('-')?.0).ok()
    }

    fn lock(&self) -> MutexGuard<'_, Spools> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many rounds are missing, and now recorded.
fn record_missing(config: spool::Config, owed: &[Assignment]) -> Result<u64, spool::Error> {
    let spool = Spool::open(config)?;
    let past = Past::of(spool.recovered());
    let gaps: Vec<Gap> = owed.iter().flat_map(|one| past.missing(one, one.end_us())).collect();
    spool.append(&[], &gaps)?;
    // Opening it took the note of an orderly end away.
    if spool.recovered().stopped_us.is_some() {
        spool.close()?;
    } else {
        spool.tick()?;
    }
    Ok(gaps.iter().map(|gap| gap.rounds).sum())
}

/// Ships a spool until it is empty or one of the stops is requested; whether it is empty.
async fn ship(config: spool::Config, client: Client, stop: &Stop, own_stop: &Stop, keep: bool) -> bool {
    let instance = config.instance.clone();
    let dir: PathBuf = config.dir.clone();
    let opened = tokio::task::spawn_blocking(move || Spool::open(config)).await;
    let spool = match opened {
        Ok(Ok(spool)) => Arc::new(spool),
        Ok(Err(error)) => {
            tracing::warn!(%instance, %error, "orphaned spool cannot be opened yet");
            return false;
        }
        Err(error) => {
            tracing::error!(%instance, %error, "orphaned spool cannot be opened");
            return false;
        }
    };
    let waiting = spool.state();
    tracing::info!(%instance, rows = waiting.rows, bytes = waiting.bytes, "orphaned spool is shipped by the agent");
    let shipped = tokio::select! {
        () = own_stop.requested() => Ok(()),
        shipped = Shipper::new(Arc::clone(&spool), client).run(stop.clone(), true) => shipped,
    };
    if let Err(error) = shipped {
        tracing::warn!(%instance, %error, "orphaned spool is not shipped yet");
    }
    let empty = spool.is_empty();
    if empty && !keep {
        drop(spool);
        match std::fs::remove_dir_all(&dir) {
            Ok(()) => tracing::info!(%instance, "orphaned spool is empty and removed"),
            Err(error) => tracing::warn!(%instance, %error, "empty spool cannot be removed"),
        }
        return true;
    }
    // Opening it took the note of an orderly end away, which is the instance's own.
    if spool.recovered().stopped_us.is_some() {
        let closed = tokio::task::spawn_blocking(move || spool.close()).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(%instance, %error, "orphaned spool not closed in order");
        }
    }
    empty
}

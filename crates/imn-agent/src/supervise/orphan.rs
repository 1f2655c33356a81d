//! Spools whose instance is gone: opened and shipped by the agent until they are empty.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imn_contract::{AgentId, InstanceId, ModuleType};
use imn_runtime::{
    nats::Client,
    spool::{self, Shipper, Spool},
    task::{Shutdown, Stop, Tasks},
};
use tokio::sync::watch;

/// The spools that this agent ships.
#[derive(Debug)]
pub(super) struct Orphans {
    client: Client,
    agent: AgentId,
    active: Arc<Mutex<BTreeMap<InstanceId, Active>>>,
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
    /// is tried again.
    pub(super) fn reconcile(
        &self,
        directory: &Path,
        partitions: u32,
        tasks: &mut Tasks,
        stop: &Stop,
        in_use: impl Fn(&InstanceId) -> bool,
    ) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        // Held over the question and the answer, so that no instance begins between them.
        let mut active = self.lock();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Ok(instance) = InstanceId::new(name) else { continue };
            let Some(kind) = self.kind_of(&instance) else { continue };
            if active.contains_key(&instance) || in_use(&instance) {
                continue;
            }
            let (closed, receiver) = watch::channel(false);
            let shutdown = Shutdown::new();
            let own_stop = shutdown.stop();
            active.insert(instance.clone(), Active { shutdown, closed: receiver });
            let config = spool::Config {
                dir: path,
                agent: self.agent.clone(),
                instance: instance.clone(),
                kind,
                partitions,
                max_bytes: spool::Config::MAX_BYTES,
            };
            let (client, stop, held) = (self.client.clone(), stop.clone(), Arc::clone(&self.active));
            tasks.spawn(format!("orphaned spool {instance}"), async move {
                tokio::select! {
                    () = stop.requested() => {}
                    () = own_stop.requested() => {}
                    () = ship(config, client, stop.clone()) => {}
                }
                held.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
                closed.send_replace(true);
            });
        }
    }

    /// Gives an instance its spool back; returns when it is closed here.
    pub(super) async fn release(&self, instance: &InstanceId) {
        let mut closed = {
            let active = self.lock();
            let Some(found) = active.get(instance) else { return };
            found.shutdown.request();
            found.closed.clone()
        };
        // An error says that its task is gone, and the spool with it.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// The type in a slot's name, `{agent}-{type}-{slot}`.
    fn kind_of(&self, instance: &InstanceId) -> Option<ModuleType> {
        let rest = instance.as_str().strip_prefix(self.agent.as_str())?.strip_prefix('-')?;
        ModuleType::new(rest.rsplit_once('-')?.0).ok()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ship(config: spool::Config, client: Client, stop: Stop) {
    let instance = config.instance.clone();
    let dir: PathBuf = config.dir.clone();
    let opened = tokio::task::spawn_blocking(move || Spool::open(config)).await;
    let spool = match opened {
        Ok(Ok(spool)) => Arc::new(spool),
        Ok(Err(error)) => {
            tracing::warn!(%instance, %error, "orphaned spool cannot be opened yet");
            return;
        }
        Err(error) => {
            tracing::error!(%instance, %error, "orphaned spool cannot be opened");
            return;
        }
    };
    let waiting = spool.state();
    tracing::info!(%instance, rows = waiting.rows, bytes = waiting.bytes, "orphaned spool is shipped by the agent");
    if let Err(error) = Shipper::new(Arc::clone(&spool), client).run(stop, true).await {
        tracing::warn!(%instance, %error, "orphaned spool is not shipped yet");
        return;
    }
    if !spool.is_empty() {
        return;
    }
    drop(spool);
    match std::fs::remove_dir_all(&dir) {
        Ok(()) => tracing::info!(%instance, "orphaned spool is empty and removed"),
        Err(error) => tracing::warn!(%instance, %error, "empty spool cannot be removed"),
    }
}

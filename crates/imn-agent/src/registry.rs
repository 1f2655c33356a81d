//! The registry: modules that the server has published for this agent, fetched, verified, and put where the supervisor
//! looks for executables. What is in force stays in force until its successor is whole and verified.

mod error;
mod fetch;
mod install;
mod record;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use imn_contract::{
    AgentId, ModuleType, decode, header,
    latest::{ModuleManifest, Registry as Published},
    stream,
};
use imn_runtime::{
    credential,
    nats::{self, Client, Kept},
    task::Stop,
};
use tokio::sync::Notify;

use crate::{Config, Result, metrics::Counters};
use error::Refusal;
use install::Directory;
use record::Record;

/// How often the registry is looked at without being poked.
const RESYNC: Duration = Duration::from_secs(30);

/// Keeps the modules of the registry as the server has published them.
#[derive(Debug)]
pub(crate) struct Registry {
    agent: AgentId,
    client: Client,
    /// Whose signature counts.
    key: String,
    directory: Directory,
    counters: Arc<Counters>,
    poke: Notify,
    record: tokio::sync::Mutex<Record>,
    problems: Mutex<Vec<String>>,
}

impl Registry {
    /// Opens what was fetched before, and takes out what is not as it was verified; `None` where the agent was given no
    /// key, and so follows no registry.
    ///
    /// # Errors
    /// When its directory cannot be used.
    pub(crate) fn open(config: &Config, client: Client, counters: Arc<Counters>) -> Result<Option<Self>> {
        let Some(key) = config.registry_key.clone() else { return Ok(None) };
        let directory = Directory::open(config.registry_dir())?;
        let mut record = Record::open(&config.state_dir)?;
        directory.take_out_altered(&mut record)?;
        Ok(Some(Self {
            agent: config.id.clone(),
            client,
            key,
            directory,
            counters,
            poke: Notify::new(),
            record: tokio::sync::Mutex::new(record),
            problems: Mutex::default(),
        }))
    }

    /// Looks at the registry soon.
    pub(crate) fn poke(&self) {
        self.poke.notify_one();
    }

    /// What was refused and why, until it is mended.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the registry until the end.
    pub(crate) async fn run(self: Arc<Self>, stop: Stop) {
        let mut connected = self.client.events().connected();
        loop {
            if *connected.borrow_and_update() {
                match stop.until(self.sync()).await {
                    None => return,
                    Some(Ok(problems)) => self.tell(problems),
                    // Whether there is anything amiss with what is published is not known.
                    Some(Err(Refusal::Nats(error))) => tracing::warn!(%error, "registry not read"),
                    Some(Err(refusal)) => {
                        self.counters.registry_refused();
                        self.tell(vec![format!("{refusal}; modules stay as they are")]);
                    }
                }
            }
            tokio::select! {
                () = stop.requested() => return,
                () = self.poke.notified() => {}
                () = tokio::time::sleep(RESYNC) => {}
                Ok(()) = connected.changed() => {}
            }
        }
    }

    fn tell(&self, problems: Vec<String>) {
        let mut told = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in problems.iter().filter(|problem| !told.contains(problem)) {
            tracing::error!(problem, "refused from the registry");
        }
        *told = problems;
    }

    /// Makes the directory be as is published; gives what was refused of it.
    async fn sync(&self) -> Result<Vec<String>, Refusal> {
        let Some(kept) = self.list().await? else { return Ok(Vec::new()) };
        let published = self.verified(&kept)?;
        let mut record = self.record.lock().await;
        if published.revision < record.revision {
            return Err(Refusal::Older { found: published.revision, in_force: record.revision });
        }
        let mut problems = Vec::new();
        for manifest in &published.modules {
            let before = record.modules.get(&manifest.kind);
            if before == Some(manifest) {
                continue;
            }
            match self.take(manifest, before).await {
                Ok(()) => {
                    record.modules.insert(manifest.kind.clone(), manifest.clone());
                    record.save()?;
                }
                Err(Refusal::Nats(error)) => return Err(Refusal::Nats(error)),
                Err(refusal) => {
                    self.counters.registry_refused();
                    let goes_on =
                        before.map_or_else(String::new, |before| format!("; {} goes on", before.version));
                    problems.push(format!(
                        "{} {} of the registry: {refusal}{goes_on}",
                        manifest.kind, manifest.version
                    ));
                }
            }
        }
        let gone: Vec<ModuleType> =
            record.modules.keys().filter(|kind| !is_there(&published, kind)).cloned().collect();
        for kind in gone {
            self.directory.remove(&kind)?;
            record.modules.remove(&kind);
            tracing::info!(%kind, "module is no longer published for this agent");
        }
        if record.revision != published.revision {
            record.revision = published.revision;
            record.save()?;
        }
        Ok(problems)
    }

    async fn list(&self) -> Result<Option<Kept>, Refusal> {
        let key = stream::kv_subject(stream::REGISTRY_BUCKET, &stream::registry_key(&self.agent));
        match self.client.direct_get(stream::REGISTRY, &key).await {
            Ok(kept) => Ok(kept),
            // The bucket is made by the server, which may never have been there.
            Err(nats::Error::NoResponders { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What is published, if the key of the registry vouches for it and it is for this agent.
    fn verified(&self, kept: &Kept) -> Result<Published, Refusal> {
        let header = |name: &str| kept.headers.get(name).map(async_nats::HeaderValue::as_str);
        let (Some(key), Some(signature)) = (header(header::NKEY), header(header::SIGNATURE)) else {
            return Err(Refusal::Unsigned);
        };
        if key != self.key {
            return Err(Refusal::OtherKey { found: key.to_owned(), wanted: self.key.clone() });
        }
        if !credential::verify(key, &kept.payload, signature) {
            return Err(Refusal::Forged);
        }
        let published: Published = decode(&kept.payload, nats::encoding(Some(&kept.headers)))?;
        match &published.agent {
            Some(agent) if *agent == self.agent => Ok(published),
            other => Err(Refusal::OtherAgent { found: other.clone() }),
        }
    }

    /// Fetches a module if need be, and puts it into the directory.
    async fn take(&self, manifest: &ModuleManifest, before: Option<&ModuleManifest>) -> Result<(), Refusal> {
        install::check(manifest)?;
        let settings = install::settings(manifest)?;
        let is_same =
            |before: &ModuleManifest| (&before.sha256, before.size) == (&manifest.sha256, manifest.size);
        if before.is_some_and(is_same) {
            self.directory.put_settings(&manifest.kind, &settings)?;
        } else {
            let part = fetch::fetch(&self.client, manifest, &self.directory).await?;
            self.directory.put(&manifest.kind, &settings, &part)?;
        }
        let (kind, version, revision) = (&manifest.kind, &manifest.version, manifest.revision);
        tracing::info!(%kind, version, revision, "module taken from the registry");
        Ok(())
    }
}

fn is_there(published: &Published, kind: &ModuleType) -> bool {
    published.modules.iter().any(|manifest| manifest.kind == *kind)
}

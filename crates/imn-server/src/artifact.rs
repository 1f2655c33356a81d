//! The registry of modules: executables in an object store bucket, and signed lists of what each agent is to run.
//!
//! The truth is one signed list of all that is published, changed by compare-and-set. From it follows a list for each
//! agent, under the only key that this agent may read.

mod distribute;
mod error;
mod upload;

use std::sync::Arc;

use async_nats::HeaderMap;
use imn_contract::{
    ModuleType, decode, header,
    latest::{ModuleManifest, Registry as Published},
    stream as names,
};
use imn_runtime::{
    credential::{Signer, verify},
    nats::{self, Client},
};
use tokio::sync::{Notify, Semaphore};

use crate::clock::now_us;
pub(crate) use distribute::{for_agent, run};
pub(crate) use error::Error;
pub(crate) use upload::Upload;

/// Types that are published at most; a list of so many fits a message.
const MOST_TYPES: usize = 64;
/// Executables that are taken in at once; others wait.
const AT_ONCE: usize = 2;
/// How often a change is tried anew that another server has overtaken.
const TRIES: u32 = 5;
/// The stream has had a later message on this subject.
const WRONG_LAST_SEQUENCE: u64 = 10_071;

/// The registry; cheap to clone.
#[derive(Clone)]
pub(crate) struct Artifacts {
    client: Client,
    signer: Option<Arc<Signer>>,
    changed: Arc<Notify>,
    uploads: Arc<Semaphore>,
}

/// What stands under a key.
struct Found {
    /// The list, if there is one that the registry's own key has signed.
    list: Option<Published>,
    /// Its place in the stream; 0 where there is nothing.
    sequence: u64,
    /// Somebody has deleted the key.
    deleted: bool,
}

impl Artifacts {
    pub(crate) fn new(client: Client, signer: Option<Arc<Signer>>) -> Self {
        Self { client, signer, changed: Arc::default(), uploads: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// All that is published, by type.
    pub(crate) async fn published(&self) -> Result<Vec<ModuleManifest>, Error> {
        Ok(self.index().await?.0.modules)
    }

    /// Begins to take an executable in, when it is its turn.
    pub(crate) async fn upload(&self, kind: &ModuleType) -> Result<Upload, Error> {
        self.signer()?;
        let turn = Arc::clone(&self.uploads).acquire_owned().await.map_err(|_| Error::Ends)?;
        Ok(Upload::new(self.client.clone(), kind, turn))
    }

    /// Publishes a module whose executable is stored, in place of what was published under its type.
    pub(crate) async fn publish(&self, manifest: &ModuleManifest) -> Result<ModuleManifest, Error> {
        self.change(|list| {
            let before = list.iter().position(|known| known.kind == manifest.kind);
            let revision = before.map_or(0, |at| list[at].revision) + 1;
            let new = ModuleManifest { revision, ..manifest.clone() };
            match before {
                Some(at) => list[at] = new.clone(),
                None if list.len() >= MOST_TYPES => return Err(Error::TooMany { most: MOST_TYPES }),
                None => list.push(new.clone()),
            }
            list.sort_by(|a, b| a.kind.cmp(&b.kind));
            Ok(new)
        })
        .await
    }

    /// Takes a type out of the registry.
    pub(crate) async fn withdraw(&self, kind: &ModuleType) -> Result<ModuleManifest, Error> {
        self.change(|list| {
            let at = list.iter().position(|known| known.kind == *kind);
            at.map(|at| list.remove(at)).ok_or_else(|| Error::NotPublished { kind: kind.clone() })
        })
        .await
    }

    async fn change<T>(
        &self,
        change: impl Fn(&mut Vec<ModuleManifest>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let subject = index_subject();
        for _ in 0..TRIES {
            let (mut list, sequence) = self.index().await?;
            let changed = change(&mut list.modules)?;
            match self.write(&subject, list, sequence).await {
                Ok(_) => {
                    self.changed.notify_one();
                    return Ok(changed);
                }
                Err(Error::Nats(nats::Error::JetStream { code: WRONG_LAST_SEQUENCE, .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Overtaken)
    }

    /// The list of all that is published, and its place.
    async fn index(&self) -> Result<(Published, u64), Error> {
        let subject = index_subject();
        match self.find(&subject).await? {
            Found { list: Some(list), sequence, .. } => Ok((list, sequence)),
            Found { sequence, deleted, .. } if sequence == 0 || deleted => Ok((nothing(), sequence)),
            Found { .. } => Err(Error::NotOurs { subject }),
        }
    }

    async fn find(&self, subject: &str) -> Result<Found, Error> {
        let key = self.signer()?.public_key();
        let Some(kept) = self.client.direct_last(names::REGISTRY, subject).await? else {
            return Ok(Found { list: None, sequence: 0, deleted: false });
        };
        let header = |name: &str| kept.headers.get(name).map_or("", async_nats::HeaderValue::as_str);
        let is_ours = header(header::NKEY) == key && verify(&key, &kept.payload, header(header::SIGNATURE));
        let list =
            if is_ours { Some(decode(&kept.payload, nats::encoding(Some(&kept.headers)))?) } else { None };
        Ok(Found { list, sequence: kept.sequence, deleted: kept.is_deleted() })
    }

    /// Writes a list under a revision of its own, in place of the one at `sequence`.
    async fn write(&self, subject: &str, list: Published, sequence: u64) -> Result<u64, Error> {
        // By the clock, so that a store that was lost does not begin with revisions that agents have seen.
        let revision = (list.revision + 1).max(now_us().unsigned_abs());
        let list = Published { revision, ..list };
        let payload = imn_contract::encode(&list, imn_contract::Encoding::Json)?;
        let signer = self.signer()?;
        let mut headers = HeaderMap::new();
        headers.insert(header::SCHEMA, <Published as imn_contract::Message>::schema());
        headers.insert(header::CONTENT_TYPE, imn_contract::Encoding::Json.content_type());
        headers.insert(header::NKEY, signer.public_key());
        headers.insert(header::SIGNATURE, signer.sign(&payload)?);
        headers.insert("Nats-Expected-Last-Subject-Sequence", sequence.to_string());
        self.client.publish_bytes_acked(subject, payload, None, headers, self.client.timeout()).await?;
        Ok(revision)
    }

    fn signer(&self) -> Result<&Signer, Error> {
        self.signer.as_deref().ok_or(Error::Off)
    }
}

fn index_subject() -> String {
    names::kv_subject(names::REGISTRY_BUCKET, names::REGISTRY_INDEX)
}

fn nothing() -> Published {
    Published { v: 1, revision: 0, agent: None, modules: Vec::new() }
}

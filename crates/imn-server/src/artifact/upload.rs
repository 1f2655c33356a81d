//! An executable on its way into the object store: as it comes, chunk by chunk, in the form that every NATS client
//! reads.

use async_nats::HeaderMap;
use base64::{Engine, engine::general_purpose::URL_SAFE};
use bytes::{Bytes, BytesMut};
use imn_contract::{ModuleType, stream as names};
use imn_runtime::nats::{self, Client};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use ulid::Ulid;

use super::Error;
use crate::{api::hex, clock};

/// Bytes of a chunk, as object stores have them.
const CHUNK: usize = 128 * 1024;
/// What JetStream answers when a stream, or the whole store, has no room.
const NO_ROOM: [u64; 3] = [10_023, 10_047, 10_077];

/// An executable that is being taken in. What is dropped before its end is removed later, as nobody names it.
pub(crate) struct Upload {
    client: Client,
    /// What names it: by the time in it one sees that it is not abandoned yet.
    object: String,
    name: String,
    waiting: BytesMut,
    digest: Sha256,
    size: u64,
    chunks: u64,
    _turn: OwnedSemaphorePermit,
}

/// An executable as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) object: String,
    pub(crate) sha256: String,
    pub(crate) size: u64,
}

impl Upload {
    pub(super) fn new(client: Client, kind: &ModuleType, turn: OwnedSemaphorePermit) -> Self {
        let object = Ulid::generate().to_string();
        let name = format!("{kind}.{object}");
        let (waiting, digest) = (BytesMut::with_capacity(CHUNK), Sha256::new());
        Self { client, object, name, waiting, digest, size: 0, chunks: 0, _turn: turn }
    }

    /// Takes the next piece.
    pub(crate) async fn push(&mut self, mut piece: Bytes) -> Result<(), Error> {
        while !piece.is_empty() {
            let room = (CHUNK - self.waiting.len()).min(piece.len());
            self.waiting.extend_from_slice(&piece.split_to(room));
            if self.waiting.len() == CHUNK {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Stores what is left, and what describes it.
    pub(crate) async fn finish(mut self) -> Result<Stored, Error> {
        if !self.waiting.is_empty() {
            self.flush().await?;
        }
        let digest = self.digest.clone().finalize();
        let info = json!({
            "name": self.name,
            "bucket": names::ARTIFACTS_BUCKET,
            "nuid": self.object,
            "size": self.size,
            "chunks": self.chunks,
            "digest": format!("SHA-256={}", URL_SAFE.encode(digest)),
            "mtime": clock::rfc3339(clock::now_us()),
            "options": { "max_chunk_size": CHUNK },
        });
        let subject = names::artifact_info(&URL_SAFE.encode(&self.name));
        self.store(&subject, info.to_string().into()).await?;
        Ok(Stored { object: self.object, sha256: hex(&digest), size: self.size })
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let chunk = self.waiting.split().freeze();
        self.digest.update(&chunk);
        self.size += chunk.len() as u64;
        self.chunks += 1;
        self.store(&names::artifact_chunks(&self.object), chunk).await
    }

    async fn store(&self, subject: &str, payload: Bytes) -> Result<(), Error> {
        let acked =
            self.client.publish_bytes_acked(subject, payload, None, HeaderMap::new(), self.client.timeout());
        match acked.await {
            Ok(_) => Ok(()),
            Err(nats::Error::JetStream { code, .. }) if NO_ROOM.contains(&code) => {
                Err(Error::Full { bucket: names::ARTIFACTS_BUCKET })
            }
            Err(error) => Err(error.into()),
        }
    }
}

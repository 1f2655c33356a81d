//! Why the registry of modules does not do something.

use imn_contract::{DecodeError, ModuleType};
use imn_runtime::{credential, nats};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("use the registry: this server has no keys; start it with --keys-dir DIR, as `imn up` does")]
    Off,
    #[error("use the registry: the server ends")]
    Ends,
    #[error("use the registry: {0}")]
    Nats(#[from] nats::Error),
    #[error("use the registry: {subject} is not signed by this network's key; remove it, and publish anew")]
    NotOurs { subject: String },
    #[error("read the registry: {0}")]
    Decode(#[from] DecodeError),
    #[error("sign for the registry: {0}")]
    Key(#[from] credential::Error),
    #[error("publish: {most} types are published already; unpublish one that nobody needs")]
    TooMany { most: usize },
    #[error("publish: somebody else publishes at the same time; try again")]
    Overtaken,
    #[error("no module of type {kind} is published")]
    NotPublished { kind: ModuleType },
    #[error("store the executable: the bucket {bucket} is full; unpublish what nobody needs")]
    Full { bucket: &'static str },
}

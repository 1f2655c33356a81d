//! Why something of the registry is not taken.

use std::io;

use imn_contract::{AgentId, DecodeError};
use imn_runtime::{file, nats};

/// Why what is published, or a module of it, is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("read the registry: {0}")]
    Nats(#[from] nats::Error),
    #[error("read the registry: its list carries no signature")]
    Unsigned,
    #[error(
        "read the registry: its list is signed by {found} and this agent trusts {wanted}; correct --registry-key"
    )]
    OtherKey { found: String, wanted: String },
    #[error("read the registry: the signature is not that of its list")]
    Forged,
    #[error("read the registry: its list is for {}", found.as_ref().map_or("no agent", |agent| agent.as_str()))]
    OtherAgent { found: Option<AgentId> },
    #[error("read the registry: its list has revision {found}, which is older than {in_force} in force")]
    Older { found: u64, in_force: u64 },
    #[error("read the registry: {0}")]
    Decode(#[from] DecodeError),
    #[error("its manifest: {0}")]
    Manifest(String),
    #[error("{0}")]
    File(#[from] file::Error),
    #[error("write {path}: {source}")]
    Write { path: String, source: io::Error },
    #[error("its executable ends after {found} of {wanted} bytes")]
    Short { found: u64, wanted: u64 },
    #[error("its executable is longer than the {wanted} bytes of its manifest")]
    Long { wanted: u64 },
    #[error("its executable has the sha256 {found}, its manifest says {wanted}")]
    Altered { found: String, wanted: String },
    #[error("fetch its executable: not there within {} s", after.as_secs())]
    Late { after: std::time::Duration },
}

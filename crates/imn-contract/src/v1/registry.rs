//! The registry: modules that the server has published, for agents to fetch and run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Selector, one};
use crate::id::{AgentId, ModuleType};

/// Largest executable that the registry takes, in bytes.
pub const MAX_ARTIFACT_BYTES: u64 = 256 << 20;

/// What a process of a module may use; what is absent is not limited further than its agent itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleLimits {
    /// Data and anonymous memory, in MiB, at least 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Open files, at least 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// How far it stands back for others, 0 to 19.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,
}

/// One published module: its executable, and how it is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleManifest {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ModuleType,
    /// Its version, as its publisher calls it.
    pub version: String,
    /// Counts what was published under this type.
    pub revision: u64,
    /// SHA-256 of the executable, in hexadecimal.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    /// Names its chunks, `$O.modules.C.{object}` in the stream `OBJ_modules`.
    pub object: String,
    /// Arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Processes, 1 to 64; absent: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
    /// Jobs that each does at once; absent: the module's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Whether it takes standing assignments.
    #[serde(default)]
    pub standing: bool,
    /// Its configuration.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
    /// What each process may use.
    #[serde(default, skip_serializing_if = "no_limits")]
    pub limits: ModuleLimits,
    /// The agents that are to run it; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Selector>,
    /// When it was published, RFC 3339 UTC.
    pub published: String,
}

/// The modules that are published: all of them under the key `index`, those of one agent under `agent.{vp}` of the
/// bucket `registry`. The headers `MMN-Nkey` and `MMN-Signature` sign its bytes with the registry's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Registry {
    /// Major of the schema.
    #[serde(default = "one")]
    pub v: u32,
    /// Grows with each change of this document: one that is older than that in force is refused.
    pub revision: u64,
    /// The agent that it is for; absent in the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// The modules, by type.
    pub modules: Vec<ModuleManifest>,
}

fn no_limits(limits: &ModuleLimits) -> bool {
    *limits == ModuleLimits::default()
}

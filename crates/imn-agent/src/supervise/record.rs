//! `instances.json`: which processes are whose, so that the next agent can take them over.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use imn_contract::{InstanceId, ModuleType, latest::Tuning};
use imn_runtime::{file, process};
use serde::{Deserialize, Serialize};

use super::version::Kept;

/// One process of a module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) instance: InstanceId,
    #[serde(rename = "type")]
    pub(super) kind: ModuleType,
    #[serde(flatten)]
    pub(super) process: process::Identity,
    pub(super) version: String,
    pub(super) fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) assignments: Option<PathBuf>,
}

impl Record {
    /// Whether the process still runs and is this instance's.
    pub(super) fn lives(&self) -> bool {
        let mark = format!("{INSTANCE_VARIABLE}={}", self.instance);
        let environ = std::fs::read(format!("/proc/{}/environ", self.process.pid)).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()) && self.process.is_alive()
    }
}

/// The environment variable that names a module process's instance, for people and for adoption.
pub(super) const INSTANCE_VARIABLE: &str = "IMN_INSTANCE";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    v: u32,
    instances: Vec<Record>,
    /// Types that an operator has disabled.
    #[serde(default)]
    disabled: Vec<ModuleType>,
    /// What an operator has set for each type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tuned: BTreeMap<ModuleType, Tuning>,
    /// Which version of each type is in force.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    versions: BTreeMap<ModuleType, Kept>,
}

/// The file, written anew as a whole at each change.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    instances: BTreeMap<InstanceId, Record>,
    disabled: Vec<ModuleType>,
    tuned: BTreeMap<ModuleType, Tuning>,
    versions: BTreeMap<ModuleType, Kept>,
}

impl Records {
    /// Reads the file. One that cannot be read is moved aside: nothing is lost by starting afresh but the adoption.
    pub(super) fn open(state_dir: &Path) -> crate::Result<Self> {
        let path = state_dir.join("instances.json");
        let content = match file::read_optional(&path)? {
            None => Content::default(),
            Some(text) => serde_json::from_str(&text).unwrap_or_else(|error| {
                let aside = path.with_extension("json.bad");
                tracing::error!(path = %path.display(), %error, aside = %aside.display(), "instance records unreadable");
                let _ = std::fs::rename(&path, &aside);
                Content::default()
            }),
        };
        let instances =
            content.instances.into_iter().map(|record| (record.instance.clone(), record)).collect();
        let Content { disabled, tuned, versions, .. } = content;
        let state = State { instances, disabled, tuned, versions };
        Ok(Self { path, state: Mutex::new(state) })
    }

    pub(super) fn all(&self) -> Vec<Record> {
        self.lock().instances.values().cloned().collect()
    }

    pub(super) fn of(&self, instance: &InstanceId) -> Option<Record> {
        self.lock().instances.get(instance).cloned()
    }

    pub(super) fn put(&self, record: Record) -> Result<(), file::Error> {
        self.change(|state| {
            state.instances.insert(record.instance.clone(), record);
        })
    }

    pub(super) fn remove(&self, instance: &InstanceId) -> Result<(), file::Error> {
        self.change(|state| {
            state.instances.remove(instance);
        })
    }

    pub(super) fn disabled(&self) -> Vec<ModuleType> {
        self.lock().disabled.clone()
    }

    pub(super) fn set_disabled(&self, kind: &ModuleType, disabled: bool) -> Result<(), file::Error> {
        self.change(|state| {
            state.disabled.retain(|known| known != kind);
            if disabled {
                state.disabled.push(kind.clone());
            }
        })
    }

    /// What an operator has set for each type.
    pub(super) fn tuned(&self) -> BTreeMap<ModuleType, Tuning> {
        self.lock().tuned.clone()
    }

    pub(super) fn set_tuned(&self, kind: &ModuleType, tuning: Tuning) -> Result<(), file::Error> {
        self.change(|state| {
            state.tuned.insert(kind.clone(), tuning);
        })
    }

    /// Which version of each type is in force.
    pub(super) fn versions(&self) -> BTreeMap<ModuleType, Kept> {
        self.lock().versions.clone()
    }

    pub(super) fn set_versions(&self, versions: BTreeMap<ModuleType, Kept>) -> Result<(), file::Error> {
        self.change(|state| state.versions = versions)
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> Result<(), file::Error> {
        // The lock is held over the write, so that an older version never replaces a newer one.
        let mut state = self.lock();
        change(&mut state);
        let content = Content {
            v: 1,
            instances: state.instances.values().cloned().collect(),
            disabled: state.disabled.clone(),
            tuned: state.tuned.clone(),
            versions: state.versions.clone(),
        };
        let text = serde_json::to_vec_pretty(&content).unwrap_or_default();
        file::write_atomic(&self.path, &text)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

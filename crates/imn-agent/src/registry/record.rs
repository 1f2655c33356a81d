//! `registry.json`: what was taken from the registry, so that it is known again and nothing older is taken after it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use imn_contract::{ModuleType, latest::ModuleManifest};
use imn_runtime::file;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    v: u32,
    /// Revision of the list that was last taken.
    pub(super) revision: u64,
    /// What was verified and put into the directory.
    pub(super) modules: BTreeMap<ModuleType, ModuleManifest>,
    #[serde(skip)]
    path: PathBuf,
}

impl Record {
    /// Reads the file. One that cannot be read is moved aside: what it vouched for is fetched again.
    pub(super) fn open(state_dir: &Path) -> Result<Self, file::Error> {
        let path = state_dir.join("registry.json");
        let read = file::read_optional(&path)?.map(|text| serde_json::from_str::<Self>(&text));
        let record = match read {
            None => Self::default(),
            Some(Ok(record)) => record,
            Some(Err(error)) => {
                let aside = path.with_extension("json.bad");
                tracing::error!(path = %path.display(), %error, aside = %aside.display(), "registry record unreadable");
                let _ = std::fs::rename(&path, &aside);
                Self::default()
            }
        };
        Ok(Self { v: 1, path, ..record })
    }

    pub(super) fn save(&self) -> Result<(), file::Error> {
        file::write_atomic(&self.path, &serde_json::to_vec_pretty(self).unwrap_or_default())
    }
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

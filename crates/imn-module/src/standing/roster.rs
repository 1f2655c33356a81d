//! The assignment file: read whenever it is replaced.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use imn_contract::{InstanceId, latest::AssignmentFile};

/// What tells one version of the file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Follows the assignment file of one instance.
#[derive(Debug)]
pub(super) struct Roster {
    path: PathBuf,
    instance: InstanceId,
    seen: Option<Mark>,
}

impl Roster {
    pub(super) fn new(path: PathBuf, instance: InstanceId) -> Self {
        Self { path, instance, seen: None }
    }

    /// The file's content if it is new. A file that is missing or unreadable leaves everything as it is; the reason
    /// is logged once per version.
    pub(super) fn poll(&mut self) -> Option<AssignmentFile> {
        let mark = match fs::metadata(&self.path) {
            Ok(data) => {
                Mark { inode: data.ino(), size: data.size(), modified: (data.mtime(), data.mtime_nsec()) }
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound || self.seen.take().is_some() {
                    tracing::warn!(path = %self.path.display(), %error, "assignments unreadable");
                }
                return None;
            }
        };
        if self.seen == Some(mark) {
            return None;
        }
        self.seen = Some(mark);
        match read(&self.path, &self.instance) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::error!(path = %self.path.display(), error, "assignments refused; the ones before stay");
                None
            }
        }
    }
}

/// The file may be longer than a message, so it does not go through the contract's decoder.
fn read(path: &Path, instance: &InstanceId) -> Result<AssignmentFile, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let file: AssignmentFile = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if file.v != 1 {
        return Err(format!("schema major {} is not accepted; v = 1 is", file.v));
    }
    if file.instance != *instance {
        return Err(format!("it is for instance {}, not {instance}", file.instance));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_read_once_and_nonsense_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let replace = |text: &str| {
            fs::write(dir.path().join("new"), text).unwrap();
            fs::rename(dir.path().join("new"), &path).unwrap();
        };
        let mut roster = Roster::new(path.clone(), InstanceId::new("i").unwrap());
        assert!(roster.poll().is_none());
        replace(r#"{"generation":1,"instance":"i","assignments":[]}"#);
        assert_eq!(roster.poll().unwrap().generation, 1);
        assert!(roster.poll().is_none());
        for text in [
            "{",
            r#"{"v":2,"generation":2,"instance":"i","assignments":[]}"#,
            r#"{"generation":2,"instance":"j","assignments":[]}"#,
        ] {
            replace(text);
            assert!(roster.poll().is_none());
        }
        replace(r#"{"generation":3,"instance":"i","assignments":[]}"#);
        assert_eq!(roster.poll().unwrap().generation, 3);
    }
}

//! Private copies of the programs of third-party modules, by their content: what runs is still there to go back to when
//! the file that it came from has been written over.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use imn_runtime::file;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const CHUNK: usize = 128 * 1024;
/// How a copy that is being made is called.
const PART: &str = ".part-";

/// A copy of a program, under the program's own name in a directory named after its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Artifact {
    pub(crate) sha256: String,
    pub(crate) path: PathBuf,
}

impl Artifact {
    /// The beginning of the hash, as people compare it.
    pub(crate) fn short(&self) -> &str {
        self.sha256.get(..12).unwrap_or(&self.sha256)
    }
}

/// The directory of the copies.
#[derive(Debug)]
pub(super) struct Artifacts(PathBuf);

impl Artifacts {
    /// Opens the directory; copies that were never finished are removed.
    pub(super) fn open(state_dir: &Path) -> Result<Self, file::Error> {
        let directory = state_dir.join("artifacts");
        file::create_private_dir(&directory)?;
        for path in entries(&directory) {
            if name(&path).starts_with(PART) {
                // One that stays takes room and is never run.
                let _ = fs::remove_file(path);
            }
        }
        Ok(Self(directory))
    }

    /// Copies a program, unless it is changed meanwhile: then it is to be looked at again.
    pub(super) fn keep(&self, program: &Path) -> io::Result<Artifact> {
        let part = self.0.join(format!("{PART}{}", ulid::Ulid::generate()));
        let kept = copy(program, &part).and_then(|sha256| {
            let directory = self.0.join(&sha256);
            file::create_private_dir(&directory).map_err(io::Error::other)?;
            let path = directory.join(program.file_name().unwrap_or_default());
            fs::rename(&part, &path)?;
            file::sync_dir(&directory).and_then(|()| file::sync_dir(&self.0)).map_err(io::Error::other)?;
            Ok(Artifact { sha256, path })
        });
        if kept.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&part);
        }
        kept
    }

    /// Removes the copies that nobody uses any more. A process that still runs from one is not disturbed.
    pub(super) fn sweep(&self, used: &BTreeSet<String>) {
        for path in entries(&self.0) {
            if path.is_dir() && !used.contains(&name(&path)) {
                match fs::remove_dir_all(&path) {
                    Ok(()) => tracing::info!(path = %path.display(), "copy of a program removed, unused"),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "unused copy of a program cannot be removed");
                    }
                }
            }
        }
    }
}

/// Copies and hashes at once.
fn copy(program: &Path, part: &Path) -> io::Result<String> {
    let mut from = File::open(program)?;
    let before = mark(&from.metadata()?);
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o700).open(part)?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&chunk[..read]);
        to.write_all(&chunk[..read])?;
    }
    to.sync_all()?;
    if mark(&from.metadata()?) != before || mark(&fs::metadata(program)?) != before {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "it is just being written"));
    }
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

fn mark(meta: &Metadata) -> (u64, Option<SystemTime>) {
    (meta.len(), meta.modified().ok())
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_copy_outlives_its_source_and_goes_when_it_is_unused() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("hello.sh");
        fs::write(&program, "#!/bin/sh\necho one\n").unwrap();
        let artifacts = Artifacts::open(directory.path()).unwrap();
        let one = artifacts.keep(&program).unwrap();
        // As sha256sum has it.
        assert_eq!(one.sha256, "f5dd87fa1cf3d592ff0ba84641abfe39bacecaad5e003c74aa181ccb54c2cc9a");
        assert_eq!(artifacts.keep(&program).unwrap(), one, "the same content is the same copy");
        fs::write(&program, "#!/bin/sh\necho two\n").unwrap();
        let two = artifacts.keep(&program).unwrap();
        assert_ne!(one.sha256, two.sha256);
        for (copy, says) in [(&one, "one\n"), (&two, "two\n")] {
            assert_eq!(fs::metadata(&copy.path).unwrap().permissions().mode() & 0o777, 0o700);
            let out = std::process::Command::new(&copy.path).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), says);
        }
        fs::write(directory.path().join("artifacts").join(format!("{PART}1")), "half").unwrap();
        let artifacts = Artifacts::open(directory.path()).unwrap();
        artifacts.sweep(&BTreeSet::from([two.sha256.clone()]));
        assert!(!one.path.exists() && two.path.exists());
        assert_eq!(entries(&directory.path().join("artifacts")).len(), 1);
        assert!(artifacts.keep(&directory.path().join("nothing")).is_err());
    }
}

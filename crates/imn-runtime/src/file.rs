//! Files that are whole or absent, and the lock of a state directory.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// Why a file of the state directory could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The state directory cannot be used.
    #[error(
        "the state directory {} cannot be used: {source}; make it a directory that this user may write to, or choose \
         another with --state-dir",
        directory.display()
    )]
    Unusable {
        /// The directory.
        directory: PathBuf,
        /// What was refused, and where.
        source: Box<Error>,
    },
    /// The device is full, or nearly so.
    #[error(
        "no space left for {}: {} MB are free and {} MB are needed; free some, or choose another place with --state-dir",
        path.display(), free >> 20, needed >> 20
    )]
    NoSpace {
        /// What is to be kept there.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// Another process has the state directory.
    #[error("the state directory {} is already in use by {holder}; stop it, or choose another with --state-dir", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// Who has it, such as `pid 4711`.
        holder: String,
    },
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}

/// Makes a directory and its parents, readable by its owner alone (0700). An existing one is made so as well.
///
/// # Errors
/// [`Error::Io`].
pub fn create_private_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("create directory", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(Error::io("make private", path))
}

/// Replaces a file as a whole, readable by its owner alone (0600): after a crash there is the old one or the new.
///
/// # Errors
/// [`Error::Io`]; then the old file stands.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Two writers of one file do not share a temporary.
    let temporary = directory.join(format!(".{name}.{}.tmp", ulid::Ulid::generate()));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(Error::io("create", &temporary))?;
        file.write_all(bytes).map_err(Error::io("write", &temporary))?;
        file.sync_all().map_err(Error::io("fsync", &temporary))?;
        fs::rename(&temporary, path).map_err(Error::io("rename to", path))?;
        sync_dir(directory)
    })();
    if written.is_err() {
        // It may never have been made; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes creations, renames and removals in a directory durable.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(Error::io("fsync directory", path))
}

/// The text of a file; `None` when there is none. What is no UTF-8 becomes U+FFFD, so that whoever reads the text
/// finds it to be none of theirs, and decides what that means.
///
/// # Errors
/// [`Error::Io`].
pub fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Bytes free for this user on the device of a path.
///
/// # Errors
/// [`Error::Io`].
pub fn free_bytes(path: &Path) -> Result<u64, Error> {
    let stat =
        rustix::fs::statvfs(path).map_err(|errno| Error::io("look at the device of", path)(errno.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes sure that a device has room.
///
/// # Errors
/// [`Error::NoSpace`], [`Error::Io`].
pub fn require_free(path: &Path, needed: u64) -> Result<(), Error> {
    let free = free_bytes(path)?;
    if free < needed {
        return Err(Error::NoSpace { path: path.to_owned(), free, needed });
    }
    Ok(())
}

/// Sole use of a state directory, until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    _file: Flock<File>,
}

impl StateLock {
    /// Takes the directory (made if need be) by a lock on its file `lock`.
    ///
    /// # Errors
    /// [`Error::InUse`] at once when another process has it; [`Error::Unusable`].
    pub fn acquire(directory: &Path) -> Result<Self, Error> {
        Self::lock(directory).map_err(|error| match error {
            Error::Io { .. } => Error::Unusable { directory: directory.to_owned(), source: Box::new(error) },
            other => other,
        })
    }

    fn lock(directory: &Path) -> Result<Self, Error> {
        create_private_dir(directory)?;
        let path = directory.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, errno)) if errno == nix::errno::Errno::EWOULDBLOCK => {
                let mut text = String::new();
                let holder = match file.read_to_string(&mut text) {
                    Ok(_) if !text.trim().is_empty() => format!("pid {}", text.trim()),
                    _ => "another process".to_owned(),
                };
                return Err(Error::InUse { directory: directory.to_owned(), holder });
            }
            Err((_, errno)) => return Err(Error::io("lock", path)(errno.into())),
        };
        file.set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
            .map_err(Error::io("write", &path))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_whole_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        write_atomic(&path, b"a long first version").unwrap();
        write_atomic(&path, b"short").unwrap();
        assert_eq!(read_optional(&path).unwrap().as_deref(), Some("short"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let missing = write_atomic(&directory.path().join("no/such"), b"").unwrap_err();
        assert!(missing.to_string().starts_with("create "), "{missing}");
    }

    #[test]
    fn a_directory_is_locked_once_and_the_holder_named() {
        let directory = tempfile::tempdir().unwrap();
        let held = StateLock::acquire(directory.path()).unwrap();
        let refused = StateLock::acquire(directory.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("in use by pid {}", std::process::id())), "{refused}");
        drop(held);
        StateLock::acquire(directory.path()).unwrap();
    }
}

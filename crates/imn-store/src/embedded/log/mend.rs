//! A log that a power failure left damaged.
//!
//! fjall drops a last batch that is cut short, but refuses a journal with a batch whose bytes are all there and wrong:
//! what remains when the device wrote the pages of the last, never acknowledged batch in another order. The journal is
//! then cut before that batch. It is found by trying, so that nothing here depends on the journal's format.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::Open;
use crate::embedded::error::Error;

const OPERATION: &str = "mend log";

/// Cuts the newest journal of the log at `path` where it can be read no further; the damaged one is kept beside.
pub(super) fn cut_damage(path: &Path, damage: &fjall::Error) -> Result<(), Error> {
    let Some(journal) = newest_journal(path)? else { return Ok(()) };
    let bytes = fs::read(&journal).map_err(Error::io(OPERATION, &journal))?;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let kept = path.with_extension(format!("damaged-{}", ulid::Ulid::generate()));
    fs::write(&kept, &bytes[..end]).map_err(Error::io(OPERATION, &kept))?;

    let scratch = path.with_extension("mending");
    let name = journal.file_name().unwrap_or_default();
    let readable = |length: usize| -> Result<bool, Error> {
        let _ = fs::remove_dir_all(&scratch);
        copy(path, &scratch)?;
        let trial = scratch.join(name);
        fs::write(&trial, &bytes[..length]).map_err(Error::io(OPERATION, &trial))?;
        Ok(Open::new(&scratch).is_ok())
    };
    // Up to `good` it can be read, up to `bad` it cannot.
    let (mut good, mut bad) = (0, end);
    while bad - good > 1 {
        let middle = usize::midpoint(good, bad);
        if readable(middle)? { good = middle } else { bad = middle }
    }
    fs::remove_dir_all(&scratch).map_err(Error::io(OPERATION, &scratch))?;
    let file = File::options().write(true).open(&journal).map_err(Error::io(OPERATION, &journal))?;
    file.set_len(good as u64).and_then(|()| file.sync_all()).map_err(Error::io(OPERATION, &journal))?;
    let (journal, kept) = (journal.display(), kept.display());
    tracing::error!(%damage, %journal, %kept, from = good, lost_bytes = end - good, "cut a damaged log");
    Ok(())
}

fn newest_journal(path: &Path) -> Result<Option<PathBuf>, Error> {
    let number = |path: &Path| {
        let journal = path.extension().is_some_and(|extension| extension == "jnl");
        journal.then(|| path.file_stem()?.to_str()?.parse::<u64>().ok()).flatten()
    };
    let entries = fs::read_dir(path).map_err(Error::io(OPERATION, path))?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter_map(|path| Some((number(&path)?, path))).max().map(|(_, path)| path))
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(Error::io(OPERATION, to))?;
    for entry in fs::read_dir(from).map_err(Error::io(OPERATION, from))?.flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(Error::io(OPERATION, &path))?;
        }
    }
    Ok(())
}

//! What can go wrong with a spool.

use std::path::PathBuf;

use imn_contract::DecodeError;

/// Why a spool operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be used.
    #[error("open spool {}: {message}", dir.display())]
    Open {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Another process has it open.
    #[error("open spool {}: another process has it open", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// Reading or writing failed; what was to be written is not in the spool.
    #[error("spool {operation}: {message}")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// What is wrong.
        message: String,
    },
    /// What is on disk contradicts itself. At the next opening it is set aside.
    #[error("spool {operation}: damaged: {message}")]
    Damaged {
        /// What was tried.
        operation: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A batch could not be encoded or decoded.
    #[error("spool {operation}: {source}")]
    Codec {
        /// What was tried.
        operation: &'static str,
        /// What is wrong.
        source: DecodeError,
    },
}

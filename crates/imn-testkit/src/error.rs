//! What can go wrong while test machinery is set up, named by the operation that failed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a server, a process or a laboratory could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program that the kit starts is not installed.
    #[error("{program} was not found: install the Debian package {package} (apt-get install {package})")]
    MissingProgram {
        /// The program looked for, a name on `PATH` or an absolute path.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program could not be started.
    #[error("start {program}: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ended when it should have gone on, or failed.
    #[error("{program} ended with {status}; the end of its output:\n{output}")]
    Ended {
        /// The program.
        program: String,
        /// Its exit status in words.
        status: String,
        /// The last lines that it wrote.
        output: String,
    },
    /// A condition was not met within its deadline.
    #[error("timed out after {after:?}: {what}{detail}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long it was waited for.
        after: Duration,
        /// What is known about the cause; empty when nothing is.
        detail: String,
    },
    /// A file or directory of the kit could not be read or written.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A system call of the kit failed.
    #[error("{operation}: {source}")]
    System {
        /// What was tried.
        operation: String,
        /// What the system said.
        source: io::Error,
    },
    /// The text of a laboratory is not a valid topology.
    #[error("laboratory: {0}")]
    Topology(String),
    /// A name that the laboratory does not have.
    #[error("laboratory {lab} has no {kind} {name}")]
    Unknown {
        /// The laboratory.
        lab: String,
        /// `node` or `link`.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
    },
}

/// The result of an operation of the kit.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn system(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::System { operation, source }
    }

    pub(crate) fn errno<E: Into<io::Error>>(operation: impl Into<String>) -> impl FnOnce(E) -> Self {
        let operation = operation.into();
        move |source| Self::System { operation, source: source.into() }
    }

    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}

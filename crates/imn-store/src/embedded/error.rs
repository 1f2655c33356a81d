//! Errors of the parts, and what they are to the caller.

use std::{
    io,
    path::{Path, PathBuf},
};

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

use crate::{catalog::CatalogError, results::ResultsError};

/// A part failed; `path` is where, when that is known.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {message}")]
pub(super) struct Error {
    operation: &'static str,
    path: Option<PathBuf>,
    message: String,
    no_space: bool,
}

impl Error {
    pub(super) fn new(operation: &'static str, message: impl Into<String>) -> Self {
        Self { operation, path: None, message: message.into(), no_space: false }
    }

    pub(super) fn arrow(operation: &'static str) -> impl Fn(ArrowError) -> Self + use<> {
        move |error| Self::new(operation, error.to_string())
    }

    pub(super) fn io(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self {
            operation,
            message: error.to_string(),
            no_space: is_no_space(&error),
            path: Some(path.clone()),
        }
    }

    pub(super) fn parquet(operation: &'static str, path: &Path) -> impl Fn(ParquetError) -> Self + use<> {
        let path = path.to_owned();
        move |error| {
            let no_space = match &error {
                ParquetError::External(inner) => inner.downcast_ref().is_some_and(is_no_space),
                _ => false,
            };
            Self { operation, message: error.to_string(), no_space, path: Some(path.clone()) }
        }
    }

    pub(super) fn log(operation: &'static str, path: &Path) -> impl Fn(fjall::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| {
            let no_space = match &error {
                fjall::Error::Io(inner) | fjall::Error::Storage(fjall::LsmError::Io(inner)) => {
                    is_no_space(inner)
                }
                _ => false,
            };
            Self { operation, message: format!("log: {error}"), no_space, path: Some(path.clone()) }
        }
    }

    /// A device that is known to be full.
    pub(super) fn full(operation: &'static str, path: &Path) -> Self {
        let message = "no space left".to_owned();
        Self { operation, path: Some(path.to_owned()), message, no_space: true }
    }
}

impl From<CatalogError> for Error {
    fn from(error: CatalogError) -> Self {
        let no_space = matches!(error, CatalogError::NoSpace { .. });
        Self { operation: "manifest", path: None, message: error.to_string(), no_space }
    }
}

impl From<Error> for ResultsError {
    fn from(error: Error) -> Self {
        let path = error.path.map(|path| path.display().to_string());
        if error.no_space {
            let path = path.unwrap_or_else(|| "the catalog's device".to_owned());
            return Self::NoSpace { operation: error.operation, path };
        }
        let message = match path {
            Some(path) => format!("{path}: {}", error.message),
            None => error.message,
        };
        Self::Backend { operation: error.operation, message }
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

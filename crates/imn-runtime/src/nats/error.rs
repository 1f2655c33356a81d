//! What can go wrong with NATS, named by the operation and its subject.

use std::time::Duration;

use imn_contract::{DecodeError, ErrorCode, Fault};

use super::event::Violation;

/// JetStream's number for storage that is used up.
const NO_STORAGE: u64 = 10_047;
/// What JetStream, and the system through it, say of a full disk.
const NO_SPACE: [&str; 2] = ["no space left on device", "insufficient storage resources"];

/// Why an operation on NATS failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The credentials are no credentials.
    #[error("connect to nats: the credentials are unreadable: {message}")]
    Credentials {
        /// What is wrong with them.
        message: String,
    },
    /// The connection could not be set up: a bad address or unreadable TLS files. A server that is down is no
    /// error, it is retried.
    #[error("connect to {url}: {message}")]
    Connect {
        /// The URLs given.
        url: String,
        /// What is wrong.
        message: String,
    },
    /// The server refused an operation, in its own words.
    #[error("{operation} {subject}: {violation}")]
    Denied {
        /// What was tried.
        operation: &'static str,
        /// On which subject or stream.
        subject: String,
        /// What the server said.
        violation: Violation,
    },
    /// No answer in time.
    #[error("{operation} {subject}: no answer within {} ms", after.as_millis())]
    Timeout {
        /// What was tried.
        operation: &'static str,
        /// On which subject or stream.
        subject: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Nobody listens on the subject; of JetStream: no stream takes it, or JetStream is not up.
    #[error("{operation} {subject}: nobody answers there")]
    NoResponders {
        /// What was tried.
        operation: &'static str,
        /// On which subject or stream.
        subject: String,
    },
    /// The message has no wire form.
    #[error("{operation} {subject}: {source}")]
    Encode {
        /// What was tried.
        operation: &'static str,
        /// On which subject.
        subject: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// The answer is not of the wanted type.
    #[error("{operation} {subject}: the answer: {source}")]
    Decode {
        /// What was tried.
        operation: &'static str,
        /// On which subject.
        subject: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// JetStream answered with an error of its own.
    #[error("{operation} {subject}: jetstream error {code}: {message}")]
    JetStream {
        /// What was tried.
        operation: &'static str,
        /// On which subject or stream.
        subject: String,
        /// JetStream's own error number, such as 10059 for a stream that does not exist.
        code: u64,
        /// Its description.
        message: String,
    },
    /// Anything else that the client said.
    #[error("{operation} {subject}: {message}")]
    Client {
        /// What was tried.
        operation: &'static str,
        /// On which subject or stream.
        subject: String,
        /// What the client said.
        message: String,
    },
}

impl Error {
    /// Whether the same operation may succeed later without anything being changed.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::NoResponders { .. } | Self::Client { .. })
    }

    /// Whether the disk of nats-server, or what it may use of it, is full, as far as its words tell.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::JetStream { code: NO_STORAGE, .. } => true,
            Self::JetStream { message, .. } | Self::Client { message, .. } => {
                NO_SPACE.iter().any(|words| message.contains(words))
            }
            _ => false,
        }
    }

    pub(crate) fn client(operation: &'static str, subject: &str, error: &dyn std::error::Error) -> Self {
        // The client's errors name their kind; what happened stands in their sources.
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let text = inner.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = inner.source();
        }
        Self::Client { operation, subject: subject.to_owned(), message }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Denied { .. } => ErrorCode::Denied,
            Error::Timeout { .. } => ErrorCode::Deadline,
            Error::Encode { .. } => ErrorCode::Invalid,
            _ => ErrorCode::Unavailable,
        };
        Fault::new(code, error.to_string())
    }
}

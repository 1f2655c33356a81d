//! Exit codes, and how an error reaches the terminal.

use std::{io, process::ExitCode};

/// What the exit code tells a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// Done.
    Ok = 0,
    /// Any other error.
    Error = 1,
    /// The command line or a value in it is wrong.
    Usage = 2,
    /// No measurement was a success: nothing answered, or nothing as expected.
    Measurement = 3,
    /// The server does not know the key, or the key may not do this.
    Authentication = 4,
    /// There is no such thing.
    NotFound = 5,
    /// Too many requests.
    RateLimited = 6,
    /// It took too long, or only a part was done.
    Partial = 7,
    /// Ended by Ctrl-C or SIGTERM.
    Interrupted = 130,
}

/// An error that asks for a particular exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Exit {
    code: Code,
    message: String,
}

impl Exit {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    pub(crate) fn code(&self) -> Code {
        self.code
    }
}

impl Code {
    pub(crate) fn from_usage(error: &clap::Error) -> Self {
        if error.use_stderr() { Self::Usage } else { Self::Ok }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Prints an error, if it is one, and gives the exit code.
pub(crate) fn report(done: anyhow::Result<Code>) -> ExitCode {
    match done {
        Ok(code) => code.into(),
        // Whoever read our output has seen enough: no error, and nobody to tell.
        Err(error) if is_closed_pipe(&error) => Code::Ok.into(),
        Err(error) => {
            eprintln!("error: {}", worded(&error));
            error.downcast_ref::<Exit>().map_or(Code::Error, Exit::code).into()
        }
    }
}

/// The error and its causes, each said once: many an error words its cause itself.
pub(crate) fn worded(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let pipe = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(pipe))
}

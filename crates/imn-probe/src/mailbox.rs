//! How callers reach an engine thread: a bounded channel and an eventfd to wake it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::sys::Waker;

/// Why rounds were not accepted. Nothing of the submission was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The engine holds as many rounds as it may; submit again later.
    #[error("submit rounds: the engine is full")]
    Full,
    /// A round is not valid.
    #[error("submit rounds: round {key}: {reason}")]
    Invalid {
        /// Key of the round.
        key: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The engine has stopped.
    #[error("submit rounds: the engine has stopped")]
    Stopped,
}

pub(crate) enum Command<R> {
    Submit(Vec<R>),
    Cancel(Vec<u64>),
    Calibrate,
    Stop,
}

/// The callers' end.
pub(crate) struct Mailbox<R> {
    commands: Sender<Command<R>>,
    waker: Arc<Waker>,
    held: Arc<AtomicUsize>,
    max_rounds: usize,
}

/// The engine's end.
pub(crate) struct Inbox<R> {
    pub commands: Receiver<Command<R>>,
    pub waker: Arc<Waker>,
    /// Rounds submitted and not yet forgotten.
    pub held: Arc<AtomicUsize>,
}

/// Commands that wait at most; each may carry many rounds.
const COMMANDS: usize = 1024;

pub(crate) fn mailbox<R>(max_rounds: usize) -> io::Result<(Mailbox<R>, Inbox<R>)> {
    let (sender, receiver) = crossbeam_channel::bounded(COMMANDS);
    let waker = Arc::new(Waker::new()?);
    let held = Arc::new(AtomicUsize::new(0));
    let inbox = Inbox { commands: receiver, waker: Arc::clone(&waker), held: Arc::clone(&held) };
    Ok((Mailbox { commands: sender, waker, held, max_rounds }, inbox))
}

impl<R> Mailbox<R> {
    pub(crate) fn submit(&self, rounds: Vec<R>) -> Result<(), SubmitError> {
        let count = rounds.len();
        if count == 0 {
            return Ok(());
        }
        if self.held.fetch_add(count, Ordering::Relaxed) + count > self.max_rounds {
            self.held.fetch_sub(count, Ordering::Relaxed);
            return Err(SubmitError::Full);
        }
        self.send(Command::Submit(rounds)).inspect_err(|_| {
            self.held.fetch_sub(count, Ordering::Relaxed);
        })
    }

    pub(crate) fn send(&self, command: Command<R>) -> Result<(), SubmitError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::Full,
            TrySendError::Disconnected(_) => SubmitError::Stopped,
        })?;
        self.waker.wake();
        Ok(())
    }

    /// Tells the engine to stop, even if its channel is full.
    pub(crate) fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
        self.waker.wake();
    }
}

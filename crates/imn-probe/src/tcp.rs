//! The TCP connect engine: how long from SYN to SYN-ACK, for many targets at once.
//!
//! A connection is reset as soon as it stands (linger 0), so that neither side keeps state. Duplicates, reordering
//! and late answers are the kernel's business here and are not reported.

mod config;
mod connect;
mod engine;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::Receiver;

pub use config::{Config, Round, StartError};
pub(crate) use connect::{conclude, open, own_fault};
pub use engine::Stats;

use crate::mailbox::{Command, Mailbox, SubmitError, mailbox};
use crate::outbox::outbox;
use crate::outcome::{Batch, Event};
use crate::thread;
use engine::Machine;

/// A running engine. Dropping it stops its thread; rounds not finished are forgotten.
pub struct Engine {
    mailbox: Mailbox<Round>,
    outcomes: Receiver<Batch>,
    events: Receiver<Event>,
    stats: Arc<Mutex<Stats>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the engine's thread, which opens its sockets in the calling thread's network namespace.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let system = |operation| move |source| StartError { operation, source };
        let (mailbox, inbox) = mailbox(config.max_rounds).map_err(system("create eventfd"))?;
        let (outbox, outcomes, events) = outbox(config.result_queue, config.event_queue);
        let stats = Arc::new(Mutex::new(Stats::default()));
        let machine = Machine::new(config, inbox, outbox, Arc::clone(&stats))
            .map_err(system("create epoll instance"))?;
        let thread = thread::spawn("imn-tcp", move || machine.run()).map_err(system("start tcp thread"))?;
        Ok(Self { mailbox, outcomes, events, stats, thread: Some(thread) })
    }

    /// Hands over rounds: all of them, or none and an error. Hand over what is due in the next second or so.
    pub fn submit(&self, rounds: Vec<Round>) -> Result<(), SubmitError> {
        for round in &rounds {
            round.check().map_err(|reason| SubmitError::Invalid { key: round.key, reason })?;
        }
        self.mailbox.submit(rounds)
    }

    /// Ends all rounds with these keys: their outcomes come at once, marked as cancelled.
    pub fn cancel(&self, keys: Vec<u64>) -> Result<(), SubmitError> {
        self.mailbox.send(Command::Cancel(keys))
    }

    /// Where outcomes arrive; disconnected when the engine has ended.
    pub fn outcomes(&self) -> &Receiver<Batch> {
        &self.outcomes
    }

    /// Where events of rounds that ask for progress arrive.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Counters, at most a tick old.
    pub fn stats(&self) -> Stats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! The ICMP echo engine: one thread and a few sockets measure any number of targets.

mod config;
mod engine;
mod filter;
mod packet;
mod receive;
mod report;
mod send;
mod socket;
mod table;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::Receiver;

pub use config::{Config, Round, SocketKind, StartError};
pub use packet::Family;
pub use report::Stats;

pub(crate) use packet::{Cookie, HEADER, TAGGED, fold, split_ip, sum, write_cookie, write_request};
pub(crate) use socket::{Overflow, Stamps, prepare};

use crate::mailbox::{Command, Mailbox, SubmitError, mailbox};
use crate::outbox::outbox;
use crate::outcome::{Batch, Event};
use crate::thread;
use engine::Machine;
use report::Report;
use socket::IcmpSocket;

/// Parsers of received bytes, for fuzzing only.
#[doc(hidden)]
pub mod wire {
    pub use super::packet::{Cookie, Message, Quoted, parse, parse_quoted, split_ipv4};
}

/// A running engine. Dropping it stops its thread; rounds not finished are forgotten.
///
/// ```no_run
/// use imn_probe::icmp::{Config, Engine, Round};
///
/// let engine = Engine::start(&Config::default())?;
/// engine.submit(vec![Round::new(1, "127.0.0.1".parse()?)])?;
/// for (outcome, packets) in engine.outcomes().recv()?.iter() {
///     println!("{} {:?}", outcome.target, packets[0].rtt());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Engine {
    mailbox: Mailbox<Round>,
    outcomes: Receiver<Batch>,
    events: Receiver<Event>,
    stats: Arc<Mutex<Stats>>,
    raw: bool,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Opens the sockets, in the calling thread's network namespace, and starts the engine's thread.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let system = |operation| move |source| StartError::System { operation, source };
        let id: u16 = rand::random();
        let mut sockets = Vec::new();
        for family in [Family::V4, Family::V6] {
            sockets.extend(IcmpSocket::open(family, config.sockets, config.receive_buffer, id)?);
        }
        let raw = sockets.iter().all(|socket| socket.raw);
        let (mailbox, inbox) = mailbox(config.max_rounds).map_err(system("create eventfd"))?;
        let (outbox, outcomes, events) = outbox(config.result_queue, config.event_queue);
        let stats = Arc::new(Mutex::new(Stats::default()));
        let report = Report::new(outbox, Arc::clone(&stats));
        let config = config.clone();
        let thread = thread::spawn("imn-icmp", move || Machine::new(sockets, &config, inbox, report).run())
            .map_err(system("start icmp thread"))?;
        Ok(Self { mailbox, outcomes, events, stats, raw, thread: Some(thread) })
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

    /// Measures the loopback floor anew.
    pub fn calibrate(&self) -> Result<(), SubmitError> {
        self.mailbox.send(Command::Calibrate)
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

    /// True when raw sockets are in use, false for datagram sockets.
    pub fn is_raw(&self) -> bool {
        self.raw
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

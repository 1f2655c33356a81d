//! The trace engine: one thread and a few raw sockets find the path to any number of targets, once or in cycles as MTR
//! does.
//!
//! Probes of one trace carry one flow identifier (Paris traceroute: Augustin et al., 2006), so that load balancers keep
//! them on one path; with [`Multipath`] many flows are traced, and each path that they take is told apart. All hops are
//! probed in parallel.
//!
//! What is deliberately absent: names and AS numbers of hops (the caller may add them), path MTU, and UDP ports that
//! answer (what an open port sends back does not say which probe it answers).

mod config;
mod course;
mod engine;
mod extension;
mod filter;
mod multipath;
mod outcome;
mod packet;
mod receive;
mod report;
mod send;
mod socket;
mod tally;
mod verdict;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::Receiver;

pub use config::{Config, Multipath, Protocol, Spec, StartError};
pub use extension::{Extension, Label, Object};
pub use outcome::{Event, Hop, Outcome, Path, Probe, Responder};
pub use packet::Answer;
pub use report::Stats;
pub use tally::Tally;
pub use verdict::{LossKind, judge_loss};

use crate::icmp::Family;
use crate::mailbox::{Command, Mailbox, SubmitError, mailbox};
use crate::thread;
use engine::Machine;
use report::Report;
use socket::{Range, RawSocket};

/// Parsers of received bytes, for fuzzing only.
#[doc(hidden)]
pub mod wire {
    pub use super::extension::split_extension;
    pub use super::packet::{Mark, Message, Quoted, parse_icmp, parse_quoted, parse_tcp};
}

/// A running engine. Dropping it stops its thread; traces not finished are forgotten.
///
/// ```no_run
/// use imn_probe::trace::{Config, Engine, Spec};
///
/// let engine = Engine::start(&Config::default())?;
/// engine.submit(vec![Spec::new(1, "192.0.2.1".parse()?)])?;
/// for hop in engine.outcomes().recv()?.hops {
///     println!("{} {:?} {:?}", hop.ttl, hop.main().map(|node| node.address), hop.last());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Engine {
    mailbox: Mailbox<Spec>,
    outcomes: Receiver<Outcome>,
    events: Receiver<Event>,
    stats: Arc<Mutex<Stats>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Opens the sockets, in the calling thread's network namespace, and starts the engine's thread.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let system = |operation| move |source| StartError::System { operation, source };
        let range = Range::claim();
        let mut sockets = Vec::new();
        for family in [Family::V4, Family::V6] {
            let icmp = packet::number(Protocol::Icmp, family);
            for protocol in [icmp, packet::UDP, packet::TCP] {
                sockets.extend(RawSocket::open(family, protocol, config.receive_buffer, range.base)?);
            }
        }
        // One more for the calibration of either family.
        let (mailbox, inbox) = mailbox(config.max_traces + 2).map_err(system("create eventfd"))?;
        let (outcome_sender, outcomes) = crossbeam_channel::bounded(config.result_queue.max(1));
        let (event_sender, events) = crossbeam_channel::bounded(config.event_queue.max(1));
        let stats = Arc::new(Mutex::new(Stats::default()));
        let report = Report::new(outcome_sender, event_sender, Arc::clone(&stats));
        let config = config.clone();
        let thread =
            thread::spawn("imn-trace", move || Machine::new(sockets, range, &config, inbox, report).run())
                .map_err(system("start trace thread"))?;
        Ok(Self { mailbox, outcomes, events, stats, thread: Some(thread) })
    }

    /// Hands over traces: all of them, or none and an error. Hand over what is due in the next second or so.
    pub fn submit(&self, specs: Vec<Spec>) -> Result<(), SubmitError> {
        for spec in &specs {
            spec.check().map_err(|reason| SubmitError::Invalid { key: spec.key, reason })?;
        }
        self.mailbox.submit(specs)
    }

    /// Ends all traces with these keys: their outcomes come at once, marked as cancelled.
    pub fn cancel(&self, keys: Vec<u64>) -> Result<(), SubmitError> {
        self.mailbox.send(Command::Cancel(keys))
    }

    /// Measures the loopback floor anew.
    pub fn calibrate(&self) -> Result<(), SubmitError> {
        self.mailbox.send(Command::Calibrate)
    }

    /// Where outcomes arrive; disconnected when the engine has ended.
    pub fn outcomes(&self) -> &Receiver<Outcome> {
        &self.outcomes
    }

    /// Where events of traces that ask for progress arrive.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Counters, at most a moment old.
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

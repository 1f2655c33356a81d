//! Measurement engines: ICMP echo and TCP connect in batches.
//!
//! An engine is one thread and a few system objects. Callers hand it [rounds](icmp::Round), each with the time it is
//! due, and read [batches of outcomes](Batch) from a bounded channel. All classification happens here: answered,
//! lost, unknown (this host may have lost it), unreachable (and who said so), late, duplicate, reordered, from the
//! wrong source, corrupted.
//!
//! What is deliberately absent: name resolution (addresses only), schedules (the caller knows what is due), retries
//! (a probe that is repeated is a second probe), NATS, wire forms, and tokio. Statistics over round-trip times are
//! `imn-metric`'s.

mod clock;
mod lateness;
mod mailbox;
mod outbox;
mod outcome;
mod pace;
mod sys;
mod wheel;

pub mod icmp;
pub mod tcp;

pub use lateness::Lateness;
pub use mailbox::SubmitError;
pub use outcome::{Batch, Event, EventKind, Fate, Outcome, Packet, Timestamp, TsSource};
pub use pace::Rate;

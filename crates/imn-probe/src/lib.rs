//! Measurement engines: ICMP echo, TCP connect and traces in batches; DNS, TLS, HTTP and
//! STAMP sessions one by one; BGP updates as they come.
//!
//! A batching engine is one thread and a few system objects. Callers hand it [rounds](icmp::Round), each with the time it is
//! due, and read [batches of outcomes](Batch) from a bounded channel. All classification happens here: answered,
//! lost, unknown (this host may have lost it), unreachable (and who said so), late, duplicate, reordered, from the
//! wrong source, corrupted.
//!
//! [`bgp`] reads what routers tell each other. [`dial`], [`tls`], [`dns`] and [`http`] speak over a connection: one
//! measurement is one future, which its caller owns and polls; nothing is spawned.
//!
//! What is deliberately absent: schedules (the caller knows what is due), retries (a probe that is repeated is a
//! second probe), NATS and wire forms. Statistics over round-trip times are `imn-metric`'s.

mod clock;
mod lateness;
mod mailbox;
mod outbox;
mod outcome;
mod pace;
mod stamping;
mod sys;
mod thread;
mod wheel;

pub mod bgp;
pub mod dial;
pub mod dns;
pub mod http;
pub mod icmp;
pub mod stamp;
pub mod tcp;
pub mod tls;
pub mod trace;

pub use lateness::{Histogram as LatenessHistogram, Lateness};
pub use mailbox::SubmitError;
pub use outcome::{Batch, Event, EventKind, Fate, Outcome, Packet, Timestamp, TsSource};
pub use pace::Rate;

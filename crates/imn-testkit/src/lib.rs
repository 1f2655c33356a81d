//! Test machinery: real servers on private ports and laboratories of network namespaces.

mod error;
mod lab;
mod nats;
mod postgres;
mod process;
mod session;
mod sys;
mod wait;

pub use error::{Error, Result};
pub use lab::{Class, Counts, Delays, Distribution, EchoFate, EchoTrip, Histogram, Lab, Node, Shape, Stats};
pub use nats::NatsServer;
pub use nix::sys::signal::Signal;
pub use postgres::Postgres;
pub use process::{Outcome, Process, Program};
pub use wait::{require_root, skip, wait_until};

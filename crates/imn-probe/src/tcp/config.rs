use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::outcome::Timestamp;
use crate::pace::Rate;

/// Settings of a TCP engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Connections open at once; further attempts are deferred, in order, and counted. Default 8,192.
    /// It is lowered to what the process's limit of open files leaves.
    pub max_open: usize,
    /// Attempts per second to anywhere but loopback; `None` is unlimited. Default 20,000.
    pub rate: Option<Rate>,
    /// Attempts per second to one /24 or /48 other than loopback; `None` is unlimited. Default 200.
    pub prefix_rate: Option<Rate>,
    /// Rounds the engine holds at once. Default 400,000.
    pub max_rounds: usize,
    /// Batches of outcomes that wait for their reader; what comes beyond is gathered, then dropped and counted.
    pub result_queue: usize,
    /// Events that wait for their reader; what comes beyond is dropped and counted.
    pub event_queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_open: 8192,
            rate: NonZeroU32::new(20_000),
            prefix_rate: NonZeroU32::new(200),
            max_rounds: 400_000,
            result_queue: 256,
            event_queue: 16_384,
        }
    }
}

/// One execution of a measurement: `count` connection attempts to one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Comes back with the outcome; the caller's own, need not be unique.
    pub key: u64,
    /// Address to measure.
    pub target: IpAddr,
    /// Port, 1..=65,535.
    pub port: u16,
    /// When the first attempt is due. What is due in the past is made at once, and its lateness told.
    pub due: Timestamp,
    /// Attempts, at least 1.
    pub count: u16,
    /// Time between attempts of the round.
    pub interval: Duration,
    /// Time to wait for each attempt, from its own SYN (Tmax). The kernel repeats the SYN within it.
    pub timeout: Duration,
    /// Differentiated services code point, 0..=63.
    pub dscp: u8,
    /// Source address; `None` for the host's choice.
    pub source: Option<IpAddr>,
    /// Send an [`Event`](crate::Event) for every attempt.
    pub progress: bool,
}

impl Round {
    /// One attempt, now, with a timeout of one second.
    pub fn new(key: u64, target: IpAddr, port: u16) -> Self {
        Self {
            key,
            target,
            port,
            due: Timestamp::now(),
            count: 1,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            dscp: 0,
            source: None,
            progress: false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.count == 0 {
            return Err("count must be at least 1");
        }
        if self.port == 0 {
            return Err("port must be at least 1");
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_hours(1) {
            return Err("timeout must be above zero and at most one hour");
        }
        if self.interval > Duration::from_hours(24) {
            return Err("interval must be at most one day");
        }
        if self.dscp > 63 {
            return Err("dscp must be at most 63");
        }
        if self.source.is_some_and(|source| source.is_ipv4() != self.target.is_ipv4()) {
            return Err("source and target must be of one address family");
        }
        Ok(())
    }
}

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}")]
pub struct StartError {
    /// What was tried.
    pub operation: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

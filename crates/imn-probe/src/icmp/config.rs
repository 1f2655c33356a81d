use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::outcome::Timestamp;
use crate::pace::Rate;

use super::packet::TAGGED;

/// Which kind of socket to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SocketKind {
    /// Raw if permitted, else datagram.
    #[default]
    Auto,
    /// Raw sockets: need `CAP_NET_RAW`; every error is seen, flows can be chosen.
    Raw,
    /// Unprivileged ping sockets: need a group within `net.ipv4.ping_group_range`; the kernel chooses the flow.
    Datagram,
}

/// Settings of an ICMP engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Kind of socket.
    pub sockets: SocketKind,
    /// Packets per second to anywhere but loopback; `None` is unlimited. Default 20,000.
    pub rate: Option<Rate>,
    /// Packets per second to one /24 or /48 other than loopback; `None` is unlimited. Default 200.
    pub prefix_rate: Option<Rate>,
    /// Rounds the engine holds at once, from submission until twice their timeout. Default 400,000.
    pub max_rounds: usize,
    /// Batches of outcomes that wait for their reader; what comes beyond is gathered, then dropped and counted.
    pub result_queue: usize,
    /// Events that wait for their reader; what comes beyond is dropped and counted.
    pub event_queue: usize,
    /// Resolution of the timer wheel. Default 1 ms.
    pub tick: Duration,
    /// Receive buffer per socket in bytes; what the kernel's limit allows of it is taken. Default 8 MiB.
    pub receive_buffer: usize,
    /// How often the loopback floor is measured anew; it always is at the start. `None`: never, not even then.
    pub calibration: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sockets: SocketKind::Auto,
            rate: NonZeroU32::new(20_000),
            prefix_rate: NonZeroU32::new(200),
            max_rounds: 400_000,
            result_queue: 256,
            event_queue: 16_384,
            tick: Duration::from_millis(1),
            receive_buffer: 8 << 20,
            calibration: Some(Duration::from_mins(10)),
        }
    }
}

/// One execution of a measurement: `count` echo requests to one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Comes back with the outcome; the caller's own, need not be unique.
    pub key: u64,
    /// Address to measure.
    pub target: IpAddr,
    /// When the first packet is due. What is due in the past is sent at once, and its lateness told.
    pub due: Timestamp,
    /// Packets, 1..=65,535.
    pub count: u16,
    /// Time between packets of the round.
    pub interval: Duration,
    /// Time to wait for each packet's answer, from its own sending (Tmax); may exceed the interval.
    pub timeout: Duration,
    /// Bytes of ICMP payload, [`MIN_SIZE`](Self::MIN_SIZE)..=[`MAX_SIZE`](Self::MAX_SIZE).
    pub size: u16,
    /// Differentiated services code point, 0..=63.
    pub dscp: u8,
    /// TTL or hop limit; `None` for the host's default.
    pub ttl: Option<u8>,
    /// Which of sixteen flow identifiers to use, 0..=15. Constant per target unless a fresh path is wanted.
    /// Without effect on datagram sockets.
    pub flow: u8,
    /// Source address; `None` for the host's choice.
    pub source: Option<IpAddr>,
    /// Send an [`Event`](crate::Event) for every packet.
    pub progress: bool,
}

impl Round {
    /// Smallest payload: the cookie, its tag, and the checksum balance.
    pub const MIN_SIZE: u16 = TAGGED as u16;
    /// Largest payload of an IPv4 datagram.
    pub const MAX_SIZE: u16 = 65_507;

    /// One packet of 56 bytes, now, with a timeout of one second.
    pub fn new(key: u64, target: IpAddr) -> Self {
        Self {
            key,
            target,
            due: Timestamp::now(),
            count: 1,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            size: 56,
            dscp: 0,
            ttl: None,
            flow: 0,
            source: None,
            progress: false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.count == 0 {
            return Err("count must be at least 1");
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_hours(1) {
            return Err("timeout must be above zero and at most one hour");
        }
        if self.interval > Duration::from_hours(24) {
            return Err("interval must be at most one day");
        }
        if !(Self::MIN_SIZE..=Self::MAX_SIZE).contains(&self.size) {
            return Err("size must be 20 to 65507 bytes");
        }
        if self.dscp > 63 {
            return Err("dscp must be at most 63");
        }
        if self.flow > 15 {
            return Err("flow must be at most 15");
        }
        if self.ttl == Some(0) {
            return Err("ttl must be at least 1");
        }
        if self.source.is_some_and(|source| source.is_ipv4() != self.target.is_ipv4()) {
            return Err("source and target must be of one address family");
        }
        Ok(())
    }
}

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No kind of ICMP socket is permitted.
    #[error(
        "open icmp socket: not permitted; grant raw sockets with `setcap cap_net_raw+ep <imn binary>`, or ping \
         sockets with `sysctl net.ipv4.ping_group_range=\"0 2147483647\"`"
    )]
    NotPermitted(#[source] io::Error),
    /// Another system call failed.
    #[error("{operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

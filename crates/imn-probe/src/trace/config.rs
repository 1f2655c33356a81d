use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::icmp;
use crate::outcome::Timestamp;
use crate::pace::Rate;

/// Flow identifiers of an engine: source ports of UDP and TCP, identifiers of ICMP.
pub(crate) const FLOWS: u16 = 256;

/// What a probe is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// ICMP or ICMPv6 echo requests.
    Icmp,
    /// UDP datagrams to one port, which should be closed: what an open port answers does not say to which probe.
    Udp {
        /// Destination port, at least 1.
        port: u16,
    },
    /// TCP segments with the SYN flag; a connection is never completed.
    Tcp {
        /// Destination port, at least 1.
        port: u16,
    },
}

impl Protocol {
    /// UDP to the port that traceroutes have always used.
    pub const UDP: Self = Self::Udp { port: 33_434 };
    /// TCP to the port that is most often let through.
    pub const TCP: Self = Self::Tcp { port: 80 };
}

/// How far to look for parallel paths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Multipath {
    /// Probability, over the whole path, of having found every branch where branches are equally likely; 0.5..1.
    /// Default 0.95.
    pub confidence: f64,
    /// Flows tried at most, 2..=256. Default 128.
    pub max_flows: u16,
}

impl Default for Multipath {
    fn default() -> Self {
        Self { confidence: 0.95, max_flows: 128 }
    }
}

/// Settings of a trace engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Packets per second to anywhere but loopback; `None` is unlimited. Default 20,000.
    pub rate: Option<Rate>,
    /// Traces the engine holds at once. Default 4,096.
    pub max_traces: usize,
    /// Outcomes that wait for their reader; what comes beyond is dropped and counted.
    pub result_queue: usize,
    /// Events that wait for their reader; what comes beyond is dropped and counted.
    pub event_queue: usize,
    /// Receive buffer per socket in bytes; what the kernel's limit allows of it is taken. Default 4 MiB.
    pub receive_buffer: usize,
    /// Measure at the start what this host adds to a sample.
    pub calibrate: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rate: NonZeroU32::new(20_000),
            max_traces: 4096,
            result_queue: 4096,
            event_queue: 16_384,
            receive_buffer: 4 << 20,
            calibrate: true,
        }
    }
}

/// One trace: `cycles` probes to every hop of the path to one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Comes back with the outcome; the caller's own, need not be unique.
    pub key: u64,
    /// Address to trace.
    pub target: IpAddr,
    /// What to send.
    pub protocol: Protocol,
    /// When the first cycle is due. What is due in the past begins at once, and its lateness told; further cycles
    /// follow at the interval.
    pub due: Timestamp,
    /// Cycles, 1..=65,535. Not with `multipath`.
    pub cycles: u16,
    /// Time from the start of a cycle to that of the next; may be shorter than the round trip.
    pub interval: Duration,
    /// Time to wait for each answer, from its probe's own sending.
    pub timeout: Duration,
    /// Once the path's end has answered and nothing is left to send, stragglers are given up after three times the
    /// longest round trip of the trace, but not before this time, and not after `timeout`. The outcome says how long
    /// each lost probe was waited for at least.
    pub grace: Duration,
    /// First TTL or hop limit, 1..=`max_hops`.
    pub first_hop: u8,
    /// Last TTL or hop limit, at most 64.
    pub max_hops: u8,
    /// Bytes of ICMP or UDP payload, 20..=1,472. TCP probes have none.
    pub size: u16,
    /// Differentiated services code point, 0..=63.
    pub dscp: u8,
    /// Which flow identifier to use. Constant per target unless another of several parallel paths is wanted.
    pub flow: u8,
    /// Source address; `None` for the host's choice.
    pub source: Option<IpAddr>,
    /// Find all parallel paths, instead of following one for `cycles` cycles.
    pub multipath: Option<Multipath>,
    /// Send an [`Event`](super::Event) for every probe.
    pub progress: bool,
}

impl Spec {
    /// Smallest payload: the cookie, its tag, and the checksum balance.
    pub const MIN_SIZE: u16 = icmp::TAGGED as u16;
    /// Largest payload of an Ethernet frame.
    pub const MAX_SIZE: u16 = 1472;
    /// Hops at most.
    pub const MAX_HOPS: u8 = 64;
    /// Cycles times hops at most: all probes are kept until the trace ends.
    pub const MAX_PROBES: u32 = 500_000;

    /// One cycle of ICMP probes to thirty hops at most, now, with a timeout of one second.
    pub fn new(key: u64, target: IpAddr) -> Self {
        Self {
            key,
            target,
            protocol: Protocol::Icmp,
            due: Timestamp::now(),
            cycles: 1,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            grace: Duration::from_millis(250),
            first_hop: 1,
            max_hops: 30,
            size: 32,
            dscp: 0,
            flow: 0,
            source: None,
            multipath: None,
            progress: false,
        }
    }

    /// Whether all numbers are in their ranges; if not, which is not.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.cycles == 0 {
            return Err("cycles must be at least 1");
        }
        if self.multipath.is_some() && self.cycles != 1 {
            return Err("cycles must be 1 when all paths are looked for");
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_mins(1) {
            return Err("timeout must be above zero and at most one minute");
        }
        if self.interval > Duration::from_hours(1) {
            return Err("interval must be at most one hour");
        }
        if self.first_hop == 0 || self.first_hop > self.max_hops || self.max_hops > Self::MAX_HOPS {
            return Err("hops must be 1 to 64, the first not after the last");
        }
        if u32::from(self.cycles) * u32::from(self.max_hops - self.first_hop + 1) > Self::MAX_PROBES {
            return Err("cycles times hops must be at most 500000");
        }
        if !(Self::MIN_SIZE..=Self::MAX_SIZE).contains(&self.size) {
            return Err("size must be 20 to 1472 bytes");
        }
        if self.dscp > 63 {
            return Err("dscp must be at most 63");
        }
        if matches!(self.protocol, Protocol::Udp { port: 0 } | Protocol::Tcp { port: 0 }) {
            return Err("port must be at least 1");
        }
        if self.source.is_some_and(|source| source.is_ipv4() != self.target.is_ipv4()) {
            return Err("source and target must be of one address family");
        }
        if let Some(multipath) = self.multipath {
            if !(0.5..1.0).contains(&multipath.confidence) {
                return Err("confidence must be at least 0.5 and below 1");
            }
            if !(2..=FLOWS).contains(&multipath.max_flows) {
                return Err("flows must be 2 to 256");
            }
        }
        Ok(())
    }
}

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Raw sockets are not permitted.
    #[error("open raw socket: not permitted; grant it with `setcap cap_net_raw+ep <imn binary>`")]
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

use std::net::SocketAddr;
use std::time::Duration;

use super::estimate::ClockQuality;
use super::key::Key;
use super::packet::base;
use super::time::Format;

/// How a reflector numbers its answers (RFC 8762 §4.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Peer {
    /// By what it does: one whose numbers differ from ours is stateful; of others nothing is supposed.
    #[default]
    Auto,
    /// With its own count: losses are told per direction.
    Stateful,
    /// With the sender's number.
    Stateless,
}

/// One session: `count` packets to one reflector.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The reflector.
    pub target: SocketAddr,
    /// Packets, 1..=65,535.
    pub count: u16,
    /// Time between them.
    pub interval: Duration,
    /// How long each answer is waited for, from the packet's own sending (Tmax); may exceed the interval.
    pub timeout: Duration,
    /// Octets of UDP payload: 44 (112 with a key), or at least four more, and at most 65,507.
    pub size: u16,
    /// Differentiated services code point, 0..=63.
    pub dscp: u8,
    /// Session identifier (RFC 8972 §3), not 0; a random one if none is given.
    pub ssid: Option<u16>,
    /// How our time stamps are written.
    pub format: Format,
    /// Secret of authenticated mode; none for unauthenticated packets.
    pub key: Option<Key>,
    /// How the reflector numbers its answers.
    pub peer: Peer,
    /// Address and port to send from; the host's choice if none. The port may be 0.
    pub source: Option<SocketAddr>,
    /// What this host knows of its clock.
    pub clock: ClockQuality,
    /// Tell each packet's fate.
    pub progress: bool,
}

impl Spec {
    /// Ten packets of the least size, 100 ms apart, each waited for a second.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            count: 10,
            interval: Duration::from_millis(100),
            timeout: Duration::from_secs(1),
            size: base(false) as u16,
            dscp: 0,
            ssid: None,
            format: Format::Ntp,
            key: None,
            peer: Peer::Auto,
            source: None,
            clock: ClockQuality::default(),
            progress: false,
        }
    }

    /// What is out of range, if anything is.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let least = base(self.key.is_some());
        let size = usize::from(self.size);
        if self.count == 0 {
            return Err("count must be at least 1");
        }
        if self.target.port() == 0 {
            return Err("port must be at least 1");
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_hours(1) {
            return Err("timeout must be above zero and at most one hour");
        }
        if self.interval > Duration::from_hours(24) {
            return Err("interval must be at most one day");
        }
        if size != least && !(least + 4..=65_507).contains(&size) {
            return Err("size must be 44 (112 with a key), or at least four more and at most 65507");
        }
        if self.dscp > 63 {
            return Err("dscp must be at most 63");
        }
        if self.ssid == Some(0) {
            return Err("ssid must be at least 1");
        }
        if self.source.is_some_and(|source| source.is_ipv4() != self.target.is_ipv4()) {
            return Err("source and target must be of one address family");
        }
        Ok(())
    }
}

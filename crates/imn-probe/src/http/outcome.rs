use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::StatusCode;
use url::Url;

use super::error::Error;
use crate::outcome::Timestamp;
use crate::tls::Handshake;

/// A step of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// From the host's name to addresses.
    #[default]
    Resolve,
    /// From the SYN to the connection.
    Connect,
    /// The TLS handshake.
    Tls,
    /// From the connection, secured, to the first byte of the answer.
    Processing,
    /// From there to the last byte.
    Transfer,
}

impl Phase {
    /// All, in their order.
    pub const ALL: [Self; 5] = [Self::Resolve, Self::Connect, Self::Tls, Self::Processing, Self::Transfer];

    /// Its name, such as `connect`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Processing => "processing",
            Self::Transfer => "transfer",
        }
    }
}

/// How long each phase took; `None` for one that was not needed or did not come to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases([Option<Duration>; 5]);

impl Phases {
    /// The time of a phase.
    pub fn get(&self, phase: Phase) -> Option<Duration> {
        self.0[phase as usize]
    }

    pub(super) fn set(&mut self, phase: Phase, span: Duration) {
        self.0[phase as usize] = Some(span);
    }

    /// Adds those of another request, as of a redirect.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = *self;
        for (mine, theirs) in sum.0.iter_mut().zip(other.0) {
            if let Some(theirs) = theirs {
                *mine = Some(mine.unwrap_or_default() + theirs);
            }
        }
        sum
    }
}

/// One request, and what came of it.
#[derive(Debug, Clone)]
pub struct Hop {
    /// What was asked for.
    pub url: Url,
    /// Every address of the host, in the resolver's order.
    pub addresses: Vec<IpAddr>,
    /// The address chosen, with the port.
    pub peer: Option<SocketAddr>,
    /// The address that the connection was made from.
    pub local: Option<SocketAddr>,
    /// The phases.
    pub phases: Phases,
    /// Round trip of the connection's handshake as the kernel took it; `None` if its SYN was repeated.
    pub connect_rtt: Option<Duration>,
    /// The TLS handshake, also of a certificate that is not believed.
    pub tls: Option<Handshake>,
    /// The answer, once its head was there.
    pub answer: Option<Answer>,
    /// The phase that was begun last.
    pub phase: Phase,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Version, such as `1.1` or `2`.
    pub version: &'static str,
    /// Size of the head in bytes, interim answers included. HTTP/2, whose heads are compressed: as it would be in
    /// HTTP/1.1.
    pub head_bytes: u64,
    /// Size of the body in bytes, without the framing of its transfer; so much of it as came.
    pub body_bytes: u64,
    /// Size of the body as the answer states it.
    pub content_length: Option<u64>,
    /// Where a redirect points.
    pub location: Option<String>,
}

impl Hop {
    pub(super) fn new(url: Url) -> Self {
        Self {
            url,
            addresses: Vec::new(),
            peer: None,
            local: None,
            phases: Phases::default(),
            connect_rtt: None,
            tls: None,
            answer: None,
            phase: Phase::Resolve,
        }
    }
}

/// The result of one measurement.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// When it began.
    pub began: Timestamp,
    /// From there to the last byte, or to where it failed.
    pub elapsed: Duration,
    /// Each request in turn, at least one: the last is the one that counts, those before it were redirects.
    pub hops: Vec<Hop>,
    /// Every expectation that was not met.
    pub unmet: Vec<String>,
    /// Why it is no success.
    pub error: Option<Error>,
    /// What this host adds to each phase: its own connections to loopback. `None` while uncalibrated.
    pub floor: Option<Duration>,
}

impl Outcome {
    /// The last request.
    pub fn last(&self) -> Option<&Hop> {
        self.hops.last()
    }

    /// The answer that counts.
    pub fn answer(&self) -> Option<&Answer> {
        self.last()?.answer.as_ref()
    }

    /// The phases of all requests together.
    pub fn phases(&self) -> Phases {
        self.hops.iter().fold(Phases::default(), |sum, hop| sum.plus(&hop.phases))
    }

    /// When the first certificate that was shown on the way expires, in seconds since the Unix epoch.
    pub fn earliest_expiry(&self) -> Option<i64> {
        self.hops.iter().filter_map(|hop| hop.tls.as_ref()?.earliest_expiry()).min()
    }
}

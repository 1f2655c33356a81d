use std::net::SocketAddr;
use std::time::Duration;

use crate::outcome::Packet;

use super::direction::Directions;

/// What the time stamps of an answered packet tell beyond its round trip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trip {
    /// How long the reflector kept the packet, by its own clock; the round trip is without it. `None` when its stamps
    /// contradict themselves: then the round trip holds that time as well.
    pub residence: Option<Duration>,
    /// Delay to the reflector and back, in nanoseconds, each by the two clocks: as far off as these are from each
    /// other, so it may be negative. `None` when a stamp is missing, or a clock was stepped in between.
    pub one_way: Option<(i64, i64)>,
    /// TTL or hop limit with which the packet reached the reflector; sent with 255. 0 where the reflector does not say.
    pub ttl_there: u8,
}

/// What the reflector's error estimates say of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerClock {
    /// All of them call it synchronized to UTC.
    pub synced: bool,
    /// The greatest error they give; `None` when one gives none.
    pub error: Option<Duration>,
}

/// The result of one session.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The reflector.
    pub target: SocketAddr,
    /// Session identifier sent.
    pub ssid: u16,
    /// The reflector returned the session identifier: it knows RFC 8972. `None` without an answer.
    pub ssid_returned: Option<bool>,
    /// Each packet in the order of sending.
    pub packets: Vec<Packet>,
    /// What else is known of each packet; `None` for one not answered in time.
    pub trips: Vec<Option<Trip>>,
    /// Further copies of answers, wherever they were made.
    pub duplicates: u32,
    /// Answers that came after their packet's timeout; the packets are lost all the same.
    pub late: u32,
    /// Answers that arrived after the answer to a packet sent later (RFC 4737).
    pub reordered: u32,
    /// Genuine answers from an address or port that was not asked.
    pub wrong_source: u32,
    /// Packets from the reflector that are no answer: too short, or with another HMAC.
    pub corrupted: u32,
    /// Packets that answer nothing that was sent.
    pub foreign: u32,
    /// Loss, copies and reordering per direction; `None` where it cannot be told.
    pub directions: Option<Directions>,
    /// What the reflector says of its clock; `None` without an answer.
    pub peer_clock: Option<PeerClock>,
    /// How much later than due this host sent, worst packet.
    pub lateness: Duration,
    /// What this host itself adds to a round trip, found on loopback; `None` where that failed.
    pub error: Option<Duration>,
}

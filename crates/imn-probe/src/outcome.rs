use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use imn_metric::{Counts, RttStats};

/// A point in time on the host's realtime clock: nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Now, by `CLOCK_REALTIME`.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// From nanoseconds since the Unix epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_nanos(time.0)
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

/// Who took the two timestamps of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TsSource {
    /// The kernel, at the device for both directions, or by its own TCP stack.
    Kernel,
    /// This process, for at least one of them: scheduling delay is in the sample.
    User,
}

/// What became of one packet (for TCP: of one connection attempt).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Answered within the timeout.
    Received {
        /// Round-trip time.
        rtt: Duration,
        /// Remaining TTL or hop limit of the answer, where the engine sees it.
        ttl: Option<u8>,
        /// Who took the timestamps.
        source: TsSource,
    },
    /// Not answered within the timeout.
    Lost,
    /// Not answered, and this host may itself have lost it: nothing is known about the network.
    Unknown,
    /// An ICMP error came back that quotes the packet.
    Unreachable {
        /// The node that sent the error.
        from: IpAddr,
        /// ICMP or ICMPv6 type.
        kind: u8,
        /// ICMP or ICMPv6 code.
        code: u8,
    },
    /// The port answered with a reset (TCP only). The host is there; the round trip is known.
    Refused {
        /// Time from the first SYN to the reset.
        rtt: Duration,
    },
    /// The connection was made and at once reset (TCP only).
    Reset {
        /// Time from the first SYN until the reset was noticed.
        rtt: Duration,
    },
    /// The local kernel would not send it, for example for want of a route.
    NotSent {
        /// The operating system's error number.
        errno: i32,
    },
}

/// One packet of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// When it left: the kernel's transmit timestamp if there is one.
    pub sent: Timestamp,
    /// What became of it.
    pub fate: Fate,
}

impl Packet {
    /// Round-trip time, if the packet was answered in time.
    pub fn rtt(&self) -> Option<Duration> {
        match self.fate {
            Fate::Received { rtt, .. } => Some(rtt),
            _ => None,
        }
    }

    /// Counts over the packets of a round. A packet that this host failed to send is unknown, not lost.
    pub fn counts(packets: &[Self]) -> Counts {
        let mut counts = Counts { sent: packets.len() as u64, ..Counts::default() };
        for packet in packets {
            match packet.fate {
                Fate::Received { .. } => counts.received += 1,
                Fate::Unknown | Fate::NotSent { .. } => counts.unknown += 1,
                Fate::Lost | Fate::Unreachable { .. } | Fate::Refused { .. } | Fate::Reset { .. } => {}
            }
        }
        counts
    }

    /// Statistics over the round-trip times of answered packets, in nanoseconds.
    pub fn rtt_stats(packets: &[Self]) -> RttStats {
        packets.iter().filter_map(Self::rtt).map(nanos).collect()
    }

    /// The weakest timestamp source among the answered packets; `None` if none was answered.
    pub fn ts_source(packets: &[Self]) -> Option<TsSource> {
        packets.iter().fold(None, |weakest, packet| match (weakest, packet.fate) {
            (Some(TsSource::User), _) => weakest,
            (_, Fate::Received { source, .. }) => Some(source),
            _ => weakest,
        })
    }
}

/// The result of one round, but for its packets, which [`Batch`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The key the round was submitted with.
    pub key: u64,
    /// The address measured.
    pub target: IpAddr,
    /// When the round was due.
    pub due: Timestamp,
    /// Further copies of answers already received.
    pub duplicates: u32,
    /// Answers that came after their packet's timeout; the packets are lost all the same.
    pub late: u32,
    /// Answers that arrived after the answer to a packet sent later (RFC 4737).
    pub reordered: u32,
    /// Answers with the right tag from an address that was not asked.
    pub wrong_source: u32,
    /// Answers whose checksum or length is wrong; the packets are lost unless a good copy came.
    pub corrupted: u32,
    /// How much later than due this host sent, worst packet.
    pub lateness: Duration,
    /// Error term of the samples: the round trip to loopback at the last calibration, which is what this host
    /// itself adds to a sample. `None` while uncalibrated.
    pub error: Option<Duration>,
    /// The round was cancelled: packets not yet sent are missing, unanswered ones are unknown.
    pub cancelled: bool,
    pub(crate) packets: Range<u32>,
}

/// Outcomes that were ready at about the same time.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) packets: Vec<Packet>,
}

impl Batch {
    /// Each outcome with its packets in the order of sending.
    pub fn iter(&self) -> impl Iterator<Item = (&Outcome, &[Packet])> {
        self.outcomes.iter().map(|outcome| {
            let range = outcome.packets.start as usize..outcome.packets.end as usize;
            (outcome, &self.packets[range])
        })
    }

    /// Number of outcomes.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// True without outcomes; the engine never sends such a batch.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }
}

/// What happens while a round runs, for rounds that ask for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The round's key.
    pub key: u64,
    /// The packet's number within the round, from 0.
    pub sequence: u16,
    /// What happened.
    pub kind: EventKind,
}

/// The kinds of [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The fate of the packet is settled.
    Settled(Packet),
    /// Another copy of an answer.
    Duplicate,
    /// An answer after the timeout, possibly after the round's outcome.
    Late {
        /// Round-trip time.
        rtt: Duration,
    },
    /// An answer from an address that was not asked.
    WrongSource {
        /// Who answered.
        from: IpAddr,
    },
}

/// Nanoseconds of a duration, saturating.
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

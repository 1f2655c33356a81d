use std::net::IpAddr;
use std::time::Duration;

use imn_metric::{Counts, Ipdv, RttStats};

use crate::outcome::{Fate, Timestamp, TsSource, nanos};

use super::config::Protocol;
use super::extension::Extension;
use super::packet::Answer;
use super::verdict::LossKind;

/// What a trace found.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The key the trace was submitted with.
    pub key: u64,
    /// The address traced.
    pub target: IpAddr,
    /// The address it was traced from; `None` when this host has no route to the target.
    pub source: Option<IpAddr>,
    /// What was sent.
    pub protocol: Protocol,
    /// When the trace was due.
    pub due: Timestamp,
    /// When the first probe left; `None` if none did.
    pub started: Option<Timestamp>,
    /// From the first probe to the last answer or the last probe given up.
    pub elapsed: Duration,
    /// Hops by ascending TTL without gap: up to the target or the node where the path ends, else up to the last TTL
    /// tried.
    pub hops: Vec<Hop>,
    /// The target answered, and the last hop is it.
    pub reached: bool,
    /// The paths taken: one, or without an answer none, unless parallel paths were looked for. The most used first.
    pub paths: Vec<Path>,
    /// When parallel paths were looked for: the stopping rule was satisfied at every branch.
    pub complete: bool,
    /// Every lost probe was waited for at least so long (Tmax).
    pub tmax: Duration,
    /// Probes that turned out to go beyond the path's end; no hop counts them.
    pub beyond: u32,
    /// Further copies of answers.
    pub duplicates: u32,
    /// Answers after their probe was given up; it is lost all the same.
    pub late: u32,
    /// Genuine echo replies from an address that was not asked.
    pub wrong_source: u32,
    /// Answers that name a probe of this trace but cannot be genuine; they were ignored.
    pub forged: u32,
    /// How much later than due this host sent, worst cycle.
    pub lateness: Duration,
    /// Error term of the samples: the round trip to loopback, which is what this host itself adds. `None` while
    /// uncalibrated.
    pub error: Option<Duration>,
    /// The operating system's number of the first error for which a probe was not sent.
    pub errno: Option<i32>,
    /// The trace was cancelled: what was in flight is unknown.
    pub cancelled: bool,
}

/// One TTL of a path.
#[derive(Debug, Clone, PartialEq)]
pub struct Hop {
    /// TTL or hop limit of the probes.
    pub ttl: u8,
    /// Every probe in order of sending.
    pub probes: Vec<Probe>,
    /// Who answered, in order of appearance, at most 64.
    pub responders: Vec<Responder>,
    /// What the loss at this hop means; `None` when there are too few probes to tell. See [`LossKind`].
    pub loss: Option<LossKind>,
}

/// One probe of a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The cycle, from 0; when parallel paths are looked for, the flow.
    pub cycle: u16,
    /// When it left: the kernel's transmit timestamp if there is one.
    pub sent: Timestamp,
    /// Who answered: index of a [`Responder`] of the hop.
    pub responder: Option<u8>,
    /// What became of it: received, lost, unknown or not sent.
    pub fate: Fate,
}

/// A node that answered at a hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Responder {
    /// The address it answers from.
    pub address: IpAddr,
    /// How it answered last.
    pub answer: Answer,
    /// TTL or hop limit at which its last answer arrived here.
    pub ttl: Option<u8>,
    /// Bytes of its last answer behind the IP header; 0 while that is not known.
    pub size: u16,
    /// TTL or hop limit at which the probe had arrived there, as its last error says; 1 unless somebody hides hops.
    pub quoted_ttl: Option<u8>,
    /// ICMP extension of its last error that had one.
    pub extension: Option<Extension>,
}

/// The nodes that one flow, or several, passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Names the sequence of addresses, everywhere and at all times: its FNV-1a hash.
    pub id: u64,
    /// The address at each hop from the first; `None` where none answered.
    pub addresses: Vec<Option<IpAddr>>,
    /// The flows that took it.
    pub flows: Vec<u16>,
}

impl Probe {
    /// Round-trip time, if it was answered in time.
    pub fn rtt(&self) -> Option<Duration> {
        match self.fate {
            Fate::Received { rtt, .. } => Some(rtt),
            _ => None,
        }
    }

    /// Counts over the given probes. One that this host failed to send is unknown, not lost.
    pub fn counts<'a>(probes: impl IntoIterator<Item = &'a Self>) -> Counts {
        let mut counts = Counts::default();
        for probe in probes {
            counts.sent += 1;
            match probe.fate {
                Fate::Received { .. } => counts.received += 1,
                Fate::Unknown | Fate::NotSent { .. } => counts.unknown += 1,
                _ => {}
            }
        }
        counts
    }
}

impl Hop {
    /// Packets sent, received and unknown at this hop.
    pub fn counts(&self) -> Counts {
        Probe::counts(&self.probes)
    }

    /// Statistics over the round-trip times in nanoseconds, of all that answered.
    pub fn rtt(&self) -> RttStats {
        self.delays().flatten().collect()
    }

    /// Statistics over the round-trip times of one responder, in nanoseconds.
    pub fn rtt_of(&self, responder: u8) -> RttStats {
        let of = self.probes.iter().filter(|probe| probe.responder == Some(responder));
        of.filter_map(Probe::rtt).map(nanos).collect()
    }

    /// Answers of one responder.
    pub fn received_of(&self, responder: u8) -> u64 {
        self.probes.iter().filter(|probe| probe.responder == Some(responder)).count() as u64
    }

    /// Differences of consecutive round-trip times in nanoseconds; undefined across a loss.
    pub fn ipdv(&self) -> Ipdv {
        Ipdv::from_delays(self.delays())
    }

    /// The last round-trip time.
    pub fn last(&self) -> Option<Duration> {
        self.probes.iter().rev().find_map(Probe::rtt)
    }

    /// The weakest timestamp source among the answers; `None` without answers.
    pub fn ts_source(&self) -> Option<TsSource> {
        self.probes.iter().fold(None, |weakest, probe| match (weakest, probe.fate) {
            (Some(TsSource::User), _) => weakest,
            (_, Fate::Received { source, .. }) => Some(source),
            _ => weakest,
        })
    }

    /// The responder that answered most often, the first of equals.
    pub fn main(&self) -> Option<&Responder> {
        let mut best: Option<(u64, &Responder)> = None;
        for (index, responder) in self.responders.iter().enumerate() {
            let count = self.received_of(index as u8);
            if best.is_none_or(|(most, _)| count > most) {
                best = Some((count, responder));
            }
        }
        best.map(|(_, responder)| responder)
    }

    fn delays(&self) -> impl Iterator<Item = Option<u64>> {
        self.probes.iter().map(|probe| probe.rtt().map(nanos))
    }
}

impl Path {
    /// The path of `flows` over these addresses.
    pub(crate) fn new(addresses: Vec<Option<IpAddr>>, flows: Vec<u16>) -> Self {
        let mut id = Fnv::default();
        for address in &addresses {
            match address {
                None => id.feed(&[0]),
                Some(IpAddr::V4(v4)) => {
                    id.feed(&[4]);
                    id.feed(&v4.octets());
                }
                Some(IpAddr::V6(v6)) => {
                    id.feed(&[6]);
                    id.feed(&v6.octets());
                }
            }
        }
        Self { id: id.0, addresses, flows }
    }

    /// The path of the only flow: at each hop the node that answered most often. `None` without an answer.
    pub(crate) fn single(hops: &[Hop], flow: u8) -> Option<Self> {
        let mut addresses: Vec<_> =
            hops.iter().map(|hop| hop.main().map(|responder| responder.address)).collect();
        while addresses.last() == Some(&None) {
            addresses.pop();
        }
        (!addresses.is_empty()).then(|| Self::new(addresses, vec![u16::from(flow)]))
    }
}

/// FNV-1a, 64 bits: the same on every host and in every version.
pub(crate) struct Fnv(pub u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What happens while a trace runs, for traces that ask for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The trace's key.
    pub key: u64,
    /// TTL or hop limit of the probe.
    pub ttl: u8,
    /// The probe, settled.
    pub probe: Probe,
    /// Who answered it, and how.
    pub from: Option<(IpAddr, Answer)>,
    /// The TTL of the path's end, once it is known: what goes beyond it counts nowhere.
    pub end: Option<u8>,
}

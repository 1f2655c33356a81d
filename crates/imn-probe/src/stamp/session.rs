//! A sending session without its socket: what was sent, and what each arriving packet means.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::clock::{Clock, Now};
use crate::icmp::Overflow;
use crate::outcome::{Event, EventKind, Fate, Packet, Timestamp, TsSource, nanos};
use crate::sys::Control;

use super::direction::{Arrival, attribute};
use super::estimate::ErrorEstimate;
use super::outcome::{Outcome, PeerClock, Trip};
use super::packet::{Answer, Request};
use super::spec::Spec;
use super::time::Format;

/// An answer just in time may still be on its way through the kernel.
const GRACE: u64 = 1_000_000;
/// Error of two clock readings and of a stamp's way into the kernel.
const SLACK: u64 = 100_000;
/// What atomic time is ahead of UTC since 2017, in seconds.
const TAI_OFFSET: i64 = 37;
const SECOND: i64 = 1_000_000_000;

/// One packet.
struct Probe {
    /// When it was handed to the kernel, monotonic.
    tx_mono: u64,
    /// When it left, realtime: the kernel's stamp if `stamped`, else ours.
    tx_real: u64,
    stamped: bool,
    /// The time stamp that it carries.
    carried: u64,
    fate: Option<Fate>,
    trip: Option<Trip>,
    /// Answered, be it after its timeout.
    heard: bool,
}

/// See the module.
pub(crate) struct Session<'a> {
    spec: &'a Spec,
    ssid: u16,
    estimate: ErrorEstimate,
    timeout: u64,
    interval: u64,
    begun: u64,
    probes: Vec<Probe>,
    /// First packet whose timeout has not passed.
    judge: usize,
    settled: usize,
    expected: u64,
    arrivals: Vec<Arrival>,
    outcome: Outcome,
    /// Packet with which the kernel's present numbering of stamps began.
    numbered_from: u32,
    /// The kernel takes stamps on arrival.
    trusted: bool,
    pub(crate) overflow: Overflow,
}

impl<'a> Session<'a> {
    /// A session whose first packet is due at `begun`, monotonic. Receive stamps are used if they are `trusted`.
    pub(crate) fn new(spec: &'a Spec, begun: u64, error: Option<Duration>, trusted: bool) -> Self {
        let ssid = spec.ssid.unwrap_or_else(|| rand::random::<u16>().max(1));
        Self {
            spec,
            ssid,
            estimate: ErrorEstimate::new(&spec.clock, spec.format),
            timeout: nanos(spec.timeout),
            interval: nanos(spec.interval),
            begun,
            probes: Vec::with_capacity(usize::from(spec.count.min(1024))),
            judge: 0,
            settled: 0,
            expected: 0,
            arrivals: Vec::new(),
            outcome: Outcome {
                target: spec.target,
                ssid,
                ssid_returned: None,
                packets: Vec::new(),
                trips: Vec::new(),
                duplicates: 0,
                late: 0,
                reordered: 0,
                wrong_source: 0,
                corrupted: 0,
                foreign: 0,
                directions: None,
                peer_clock: None,
                lateness: Duration::ZERO,
                error,
            },
            numbered_from: 0,
            trusted,
            overflow: Overflow::default(),
        }
    }

    /// When the next packet is due, monotonic; none after the last.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let sent = self.probes.len() as u64;
        (sent < u64::from(self.spec.count)).then(|| self.begun.saturating_add(sent * self.interval))
    }

    /// When the next packet is given up, monotonic.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.probes.get(self.judge).map(|probe| probe.tx_mono.saturating_add(self.timeout + GRACE))
    }

    /// Packets whose fate is known.
    pub(crate) fn settled(&self) -> usize {
        self.settled
    }

    /// Whether the fate of every packet is known.
    pub(crate) fn is_done(&self) -> bool {
        self.settled == usize::from(self.spec.count)
    }

    /// Writes the next packet, as of `now`; `room` is of the session's size.
    pub(crate) fn write(&mut self, room: &mut [u8], now: Now) {
        let due = self.next_due().unwrap_or(now.mono);
        let late = Duration::from_nanos(now.mono.saturating_sub(due));
        self.outcome.lateness = self.outcome.lateness.max(late);
        let carried = self.spec.format.encode(Timestamp::from_nanos(now.real), self.spec.clock.tai_offset);
        let sequence = self.probes.len() as u32;
        let request = Request { sequence, timestamp: carried, estimate: self.estimate, ssid: self.ssid };
        request.write(room, self.spec.key.as_ref());
        self.probes.push(Probe {
            tx_mono: now.mono,
            tx_real: now.real,
            stamped: false,
            carried,
            fate: None,
            trip: None,
            heard: false,
        });
    }

    /// The kernel has not taken the packet just written: for want of memory, or for `errno`.
    pub(crate) fn not_sent(&mut self, errno: i32, tell: &mut impl FnMut(Event)) {
        let own = matches!(errno, libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM);
        let fate = if own { Fate::Unknown } else { Fate::NotSent { errno } };
        self.settle(self.probes.len() - 1, fate, tell);
    }

    /// The kernel's numbering of transmit stamps starts anew: with the packet written last if that is tried `again`, else
    /// with the next.
    pub(crate) fn renumber(&mut self, again: bool) {
        self.numbered_from = self.probes.len() as u32 - u32::from(again);
    }

    /// A transmit stamp of the kernel for its packet `number`.
    pub(crate) fn stamp(&mut self, number: u32, stamp: u64) {
        let Some(at) = self.numbered_from.checked_add(number) else { return };
        if let Some(probe) = self.probes.get_mut(at as usize)
            && !probe.stamped
            // A stamp cannot be before the moment when the packet was handed over, less the clocks' jitter.
            && stamp + 1_000_000 > probe.tx_real
        {
            probe.tx_real = stamp;
            probe.stamped = true;
        }
    }

    /// An ICMP error that quotes one of our packets, of which `payload` is what it quotes.
    pub(crate) fn unreachable(
        &mut self,
        payload: &[u8],
        (from, kind, code): (IpAddr, u8, u8),
        tell: &mut impl FnMut(Event),
    ) {
        // Some nodes quote no more than the UDP header; the sequence number would follow it.
        let at = match payload.first_chunk::<4>() {
            Some(sequence) => u32::from_be_bytes(*sequence) as usize,
            None => match self.probes.iter().position(|probe| probe.fate.is_none()) {
                Some(at) => at,
                None => return,
            },
        };
        if self.probes.get(at).is_some_and(|probe| probe.fate.is_none()) {
            self.settle(at, Fate::Unreachable { from, kind, code }, tell);
        }
    }

    /// A packet has arrived; `bytes` are `None` where not all of it did.
    pub(crate) fn answer(
        &mut self,
        from: SocketAddr,
        bytes: Option<&[u8]>,
        control: &Control,
        (now, clock): (Now, &Clock),
        tell: &mut impl FnMut(Event),
    ) {
        let asked = self.spec.target;
        let right = (from.ip(), from.port()) == (asked.ip(), asked.port());
        let parsed = bytes.and_then(|bytes| Answer::parse(bytes, self.spec.key.as_ref()).ok());
        let Some(answer) = parsed else {
            *if right { &mut self.outcome.corrupted } else { &mut self.outcome.foreign } += 1;
            return;
        };
        let at = answer.sender_sequence as usize;
        let genuine = self.probes.get(at).is_some_and(|probe| probe.carried == answer.sender_timestamp)
            && (answer.ssid == self.ssid || answer.ssid == 0);
        if !genuine {
            self.outcome.foreign += 1;
            return;
        }
        if !right {
            self.outcome.wrong_source += 1;
            self.tell(at, EventKind::WrongSource { from: from.ip() }, tell);
            return;
        }
        // As many as a path that doubles every packet both ways makes of them.
        if self.arrivals.len() < 4 * usize::from(self.spec.count) {
            self.arrivals.push(Arrival { sequence: answer.sender_sequence, reflected: answer.sequence });
        }
        if self.probes[at].heard {
            self.outcome.duplicates += 1;
            self.tell(at, EventKind::Duplicate, tell);
            return;
        }
        self.probes[at].heard = true;
        if (at as u64) < self.expected {
            self.outcome.reordered += 1;
        } else {
            self.expected = at as u64 + 1;
        }
        let (rtt, trip, source) = self.trip(at, &answer, control.stamp, now, clock);
        let open = matches!(self.probes[at].fate, None | Some(Fate::Unreachable { .. }));
        if !open || rtt > self.timeout {
            self.outcome.late += 1;
            self.tell(at, EventKind::Late { rtt: Duration::from_nanos(rtt) }, tell);
            return;
        }
        self.note_peer(&answer);
        self.probes[at].trip = Some(trip);
        let rtt = Duration::from_nanos(rtt);
        self.settle(at, Fate::Received { rtt, ttl: control.ttl, source }, tell);
    }

    /// Round trip in nanoseconds without the reflector's share, and what else the four time stamps tell.
    fn trip(
        &self,
        at: usize,
        answer: &Answer,
        stamp: Option<u64>,
        now: Now,
        clock: &Clock,
    ) -> (u64, Trip, TsSource) {
        let probe = &self.probes[at];
        let steady = clock.steady_since(probe.tx_mono);
        let by_us = now.mono.saturating_sub(probe.tx_mono);
        // Sent after our clock was read, received before it was read again: kernel stamps lie within.
        let by_kernel = stamp
            .filter(|_| steady && self.trusted)
            .map(|stamp| stamp.wrapping_sub(probe.tx_real))
            .filter(|whole| *whole <= by_us + SLACK);
        let whole = by_kernel.unwrap_or(by_us);
        let source = if by_kernel.is_some() && probe.stamped { TsSource::Kernel } else { TsSource::User };

        let near = Timestamp::from_nanos(now.real);
        let format = answer.estimate.format();
        let received = format.decode(answer.received, near).map(Timestamp::as_nanos);
        let returned = format.decode(answer.timestamp, near).map(Timestamp::as_nanos);
        let residence = received
            .zip(returned)
            .and_then(|(received, returned)| returned.checked_sub(received))
            .filter(|residence| *residence <= whole);
        let one_way =
            received.zip(returned).filter(|_| residence.is_some() && steady).map(|(there, back)| {
                let sent = probe.tx_real as i64;
                let (there, back) = (there as i64, back as i64);
                let ways = (there.wrapping_sub(sent), sent.wrapping_add(whole as i64).wrapping_sub(back));
                if format == Format::Ptp { from_atomic(ways, self.spec.clock.tai_offset) } else { ways }
            });
        let trip =
            Trip { residence: residence.map(Duration::from_nanos), one_way, ttl_there: answer.sender_ttl };
        (whole - residence.unwrap_or(0), trip, source)
    }

    fn note_peer(&mut self, answer: &Answer) {
        let told = PeerClock { synced: answer.estimate.synced(), error: answer.estimate.error() };
        let before = self.outcome.peer_clock.unwrap_or(told);
        self.outcome.peer_clock = Some(PeerClock {
            synced: before.synced && told.synced,
            error: before.error.zip(told.error).map(|(before, told)| before.max(told)),
        });
        let returned = answer.ssid == self.ssid;
        self.outcome.ssid_returned = Some(self.outcome.ssid_returned.unwrap_or(true) && returned);
    }

    /// Gives up packets whose timeout has passed by `now`, up to when everything that arrived has been read.
    pub(crate) fn judge(&mut self, now: u64, tell: &mut impl FnMut(Event)) {
        while self.next_deadline().is_some_and(|deadline| deadline <= now) {
            let at = self.judge;
            self.judge += 1;
            if self.probes[at].fate.is_none() {
                let (from, to) = (self.probes[at].tx_mono, self.probes[at].tx_mono + self.timeout);
                let fate = if self.overflow.touches(from, to) { Fate::Unknown } else { Fate::Lost };
                self.settle(at, fate, tell);
            }
        }
    }

    fn settle(&mut self, at: usize, fate: Fate, tell: &mut impl FnMut(Event)) {
        let before = self.probes[at].fate.replace(fate);
        if before.is_none() {
            self.settled += 1;
        }
        let packet = self.packet(at);
        self.tell(at, EventKind::Settled(packet), tell);
    }

    fn packet(&self, at: usize) -> Packet {
        let probe = &self.probes[at];
        Packet { sent: Timestamp::from_nanos(probe.tx_real), fate: probe.fate.unwrap_or(Fate::Unknown) }
    }

    fn tell(&self, at: usize, kind: EventKind, tell: &mut impl FnMut(Event)) {
        if self.spec.progress {
            tell(Event { key: 0, sequence: at as u16, kind });
        }
    }

    /// What was found so far. Packets whose fate is open are not in it.
    pub(crate) fn outcome(&self) -> Outcome {
        let settled = || (0..self.probes.len()).filter(|at| self.probes[*at].fate.is_some());
        let packets: Vec<Packet> = settled().map(|at| self.packet(at)).collect();
        let silent = |fate: &Fate| matches!(fate, Fate::Lost | Fate::Unreachable { .. });
        let unanswered: Vec<u32> = settled()
            .filter(|at| self.probes[*at].fate.as_ref().is_some_and(silent) && !self.probes[*at].heard)
            .map(|at| at as u32)
            .collect();
        // What this host itself lost or did not send is in no direction, and would be taken for a loss in one; so would
        // what is under way.
        let own = packets.iter().any(|packet| matches!(packet.fate, Fate::Unknown | Fate::NotSent { .. }));
        let directions = if own || packets.len() < self.probes.len() {
            None
        } else {
            attribute(self.spec.peer, packets.len() as u32, &self.arrivals, &unanswered)
        };
        let trips = settled().map(|at| self.probes[at].trip).collect();
        Outcome { packets, trips, directions, ..self.outcome.clone() }
    }
}

/// The PTP format counts atomic time, but many a reflector writes UTC in it: whichever it is, the two differ by more
/// than any path takes.
fn from_atomic((there, back): (i64, i64), tai_offset: i32) -> (i64, i64) {
    let ahead = if tai_offset == 0 { TAI_OFFSET } else { i64::from(tai_offset) } * SECOND;
    let apart = (there / 2).wrapping_sub(back / 2);
    if apart.wrapping_sub(ahead).unsigned_abs() < SECOND as u64 * 5 {
        (there.wrapping_sub(ahead), back.wrapping_add(ahead))
    } else {
        (there, back)
    }
}

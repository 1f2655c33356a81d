//! Receiving: every message is attributed to its probe, or counted as what else it is.

use std::net::IpAddr;
use std::time::Duration;

use crate::icmp::{Cookie, Family};
use crate::outcome::{Timestamp, TsSource, nanos};
use crate::sys::{Control, RecvBatch};

use super::config::Protocol;
use super::course::Arrival;
use super::engine::Machine;
use super::extension::Extension;
use super::packet::{Answer, Mark, Message, Quoted, TCP, parse_icmp, parse_tcp, split_segment};
use super::send::flow_checksum;

/// Calls of `recvmmsg` per socket before others get their turn.
const CALLS: usize = 256;

/// How a message came.
struct Receipt {
    /// The kernel's receive timestamp.
    stamp: Option<u64>,
    ttl: Option<u8>,
    /// Bytes behind the IP header.
    size: u16,
    /// When it was read, monotonic.
    now: u64,
}

/// What an answer says besides who sent it and when.
struct Said {
    answer: Answer,
    quoted_ttl: Option<u8>,
    extension: Option<Extension>,
}

impl Machine {
    /// Reads all sockets empty: transmit timestamps first, then answers.
    pub(crate) fn drain(&mut self) {
        for at in 0..self.sockets.len() {
            self.drain_stamps(at);
        }
        for at in 0..self.sockets.len() {
            if self.sockets[at].receives() {
                self.drain_answers(at);
            }
        }
    }

    fn drain_answers(&mut self, at: usize) {
        let Some(mut batch) = self.receive.take() else { return };
        for _ in 0..CALLS {
            let socket = &mut self.sockets[at];
            let Ok(count) = batch.receive(&socket.socket, false) else { continue };
            if count == 0 {
                break;
            }
            let now = self.clock.now();
            socket.overflow.check(&socket.socket, now.mono);
            for index in 0..count {
                self.message(at, &batch, index, now.mono);
            }
            if count < batch.capacity() {
                break;
            }
        }
        self.receive = Some(batch);
    }

    fn message(&mut self, at: usize, batch: &RecvBatch, index: usize, now: u64) {
        let socket = &self.sockets[at];
        let (family, protocol) = (socket.family, socket.protocol);
        let mut control = batch.control(index);
        let (mut bytes, truncated) = batch.data(index);
        if family == Family::V4 {
            let Some((ttl, segment)) = split_segment(bytes) else { return };
            control.ttl = Some(ttl);
            bytes = segment;
        }
        let Some(from) = batch.name(index) else { return };
        let receipt = Receipt { stamp: control.stamp, ttl: control.ttl, size: bytes.len() as u16, now };
        if protocol == TCP {
            if let Some((port, Message::Direct { mark, answer, .. })) = parse_tcp(from, bytes) {
                self.segment(&mark, port, answer, &receipt);
            }
            return;
        }
        match parse_icmp(family, from, bytes, !truncated) {
            Message::Direct { mark, cookie, .. } => self.echo(&mark, cookie, &receipt),
            Message::Error { answer, quoted, extension } => {
                let said = Said { answer, quoted_ttl: Some(quoted.ttl), extension };
                self.error(from, &quoted, said, &receipt);
            }
            Message::Corrupted => self.report.stats.corrupted += 1,
            Message::Other => {}
        }
    }

    /// A segment of the target itself.
    fn segment(&mut self, mark: &Mark, port: u16, answer: Answer, receipt: &Receipt) {
        match self.marks.get(mark).copied() {
            Some(slot) if self.port_of(slot) == Some(port) => {
                let said = Said { answer, quoted_ttl: None, extension: None };
                self.arrive(slot, mark.target, said, receipt);
            }
            _ => self.report.stats.foreign += 1,
        }
    }

    /// An echo reply. The payload comes back whole, so there is always a cookie to go by.
    fn echo(&mut self, mark: &Mark, cookie: Option<Cookie>, receipt: &Receipt) {
        let slot = cookie.map_or(usize::MAX, |cookie| cookie.slot as usize);
        let probe = self.probes.get(slot).map(|probe| (probe.mark.target, probe.course));
        match (cookie, probe) {
            (Some(cookie), Some((target, Some(index)))) if self.genuine(cookie, target) => {
                if target == mark.target {
                    let said = Said { answer: Answer::EchoReply, quoted_ttl: None, extension: None };
                    self.arrive(cookie.slot, target, said, receipt);
                } else if let Some(course) = &mut self.courses[index as usize] {
                    self.report.stats.wrong_source += 1;
                    course.wrong_source += 1;
                }
            }
            _ => self.unattributed(cookie, mark),
        }
    }

    /// An ICMP error that quotes a packet with one of our flow identifiers.
    fn error(&mut self, from: IpAddr, quoted: &Quoted, said: Said, receipt: &Receipt) {
        let by_mark = self.marks.get(&quoted.mark).copied();
        let slot = match (by_mark, quoted.cookie) {
            (Some(slot), Some(cookie)) if cookie == self.cookie(slot) => Some(slot),
            // The tag is not ours, or is another probe's.
            (Some(slot), Some(_)) => {
                self.forged(slot);
                return;
            }
            // Eight bytes is all that some routers quote.
            (Some(slot), None) => self.flow_fits(slot, quoted).then_some(slot),
            // Whoever rewrites addresses rewrites checksums, which identify UDP; the payload is left.
            (None, Some(cookie)) => (self.genuine(cookie, quoted.mark.target)
                && self.probes[cookie.slot as usize].mark.protocol == quoted.mark.protocol)
                .then_some(cookie.slot),
            (None, None) => None,
        };
        match slot {
            Some(slot) if self.port_of(slot).unwrap_or(0) == quoted.port => {
                self.arrive(slot, from, said, receipt);
            }
            Some(slot) => self.forged(slot),
            None => self.unattributed(quoted.cookie, &quoted.mark),
        }
    }

    /// True when the cookie names a probe whose state is kept and that went to `target`.
    fn genuine(&self, cookie: Cookie, target: IpAddr) -> bool {
        let probe = self.probes.get(cookie.slot as usize);
        probe.is_some_and(|probe| probe.course.is_some() && probe.generation == cookie.generation)
            && self.wrote(cookie, target)
    }

    /// Destination port of a probe; `None` for ICMP.
    fn port_of(&self, slot: u32) -> Option<u16> {
        let index = self.probes[slot as usize].course?;
        match self.courses[index as usize].as_ref()?.spec.protocol {
            Protocol::Icmp => None,
            Protocol::Udp { port } | Protocol::Tcp { port } => Some(port),
        }
    }

    /// True when the quoted checksum of an IPv4 echo request is the flow's.
    fn flow_fits(&self, slot: u32, quoted: &Quoted) -> bool {
        let Some(index) = self.probes[slot as usize].course else { return false };
        let Some(course) = self.courses[index as usize].as_ref() else { return false };
        course.spec.protocol != Protocol::Icmp
            || course.spec.target.is_ipv6()
            || quoted.checksum == flow_checksum(course, quoted.mark.flow)
    }

    fn forged(&mut self, slot: u32) {
        self.report.stats.forged += 1;
        if let Some(index) = self.probes[slot as usize].course
            && let Some(course) = &mut self.courses[index as usize]
        {
            course.forged += 1;
        }
    }

    /// An answer whose probe is not known any more, or never was.
    fn unattributed(&mut self, cookie: Option<Cookie>, mark: &Mark) {
        let Some(cookie) = cookie else {
            // Too little is quoted to say whether it was ours: it may answer a trace that has ended.
            self.report.stats.foreign += 1;
            return;
        };
        if self.wrote(cookie, mark.target) {
            self.report.stats.expired += 1;
            return;
        }
        self.report.stats.forged += 1;
        // Somebody guesses at a trace of ours: it is told.
        for course in self.courses.iter_mut().flatten() {
            if course.spec.target == mark.target {
                course.forged += 1;
            }
        }
    }

    /// An answer to the probe in `slot`.
    fn arrive(&mut self, slot: u32, from: IpAddr, said: Said, receipt: &Receipt) {
        let (rtt, kernel) = self.round_trip(slot, receipt.stamp, receipt.now);
        let probe = &mut self.probes[slot as usize];
        let Some(index) = probe.course else { return };
        let Some(course) = &mut self.courses[index as usize] else { return };
        if std::mem::replace(&mut probe.answered, true) {
            course.duplicates += 1;
            self.report.stats.duplicates += 1;
            return;
        }
        if probe.settled || rtt > nanos(course.spec.timeout) {
            course.late += 1;
            self.report.stats.late += 1;
            return;
        }
        probe.settled = true;
        let (track, ttl, number) = (probe.track, probe.ttl, probe.number);
        course.probe(ttl, number).sent = Timestamp::from_nanos(probe.tx_real);
        let arrival = Arrival {
            from,
            answer: said.answer,
            rtt: Duration::from_nanos(rtt),
            ttl: receipt.ttl,
            size: receipt.size,
            source: if kernel { TsSource::Kernel } else { TsSource::User },
            quoted_ttl: said.quoted_ttl,
            extension: said.extension,
        };
        course.arrive(track, ttl, number, arrival, receipt.now);
        course.last_settled = receipt.now;
        self.report.stats.received += 1;
        self.report.event(course, track, ttl, number);
        self.touched.push(index);
    }

    /// Round-trip time in nanoseconds, and whether it is the kernel's.
    fn round_trip(&self, slot: u32, stamp: Option<u64>, now: u64) -> (u64, bool) {
        let probe = &self.probes[slot as usize];
        let user = now.saturating_sub(probe.tx_mono);
        let Some(stamp) = stamp else { return (user, false) };
        if !self.clock.steady_since(probe.tx_mono) {
            return (user, false);
        }
        let rtt = stamp.wrapping_sub(probe.tx_real) as i64;
        // Sent after our clock was read, received before it was read again: kernel stamps lie within.
        if rtt < 0 || rtt as u64 > user + 100_000 { (user, false) } else { (rtt as u64, probe.stamped) }
    }

    /// Reads the transmit timestamps of a socket.
    pub(crate) fn drain_stamps(&mut self, at: usize) {
        let Some(mut batch) = self.error_receive.take() else { return };
        for _ in 0..CALLS {
            let Ok(count) = batch.receive(&self.sockets[at].socket, true) else { continue };
            for index in 0..count {
                self.stamp(at, &batch.control(index));
            }
            if count < batch.capacity() {
                break;
            }
        }
        self.error_receive = Some(batch);
    }

    fn stamp(&mut self, at: usize, control: &Control) {
        let Some(error) = control.error else { return };
        if error.origin != libc::SO_EE_ORIGIN_TIMESTAMPING {
            return;
        }
        let socket = &mut self.sockets[at];
        let Some((slot, generation)) = socket.stamps.find(error.data) else { return };
        let probe = &mut self.probes[slot as usize];
        // A stamp cannot be before the moment when the probe was handed over, less the clocks' jitter.
        if let Some(stamp) = control.stamp
            && probe.generation == generation
            && !probe.stamped
            && stamp + 1_000_000 > probe.tx_real
        {
            probe.tx_real = stamp;
            probe.stamped = true;
            socket.stamped = true;
        }
    }
}

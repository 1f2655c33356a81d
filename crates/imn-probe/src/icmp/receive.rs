//! Receiving: every message is attributed to its packet, or counted as what else it is.

use std::net::IpAddr;
use std::time::Duration;

use crate::outcome::EventKind;
use crate::sys::{Control, RecvBatch};

use super::engine::Machine;
use super::packet::{Cookie, Family, HEADER, Message, Quoted, parse, parse_quoted, split_ipv4};
use super::table::{Phase, Status, Watch};

/// Calls of `recvmmsg` per socket before others get their turn.
const CALLS: usize = 1024;

impl Machine {
    /// Reads all sockets empty: transmit timestamps first, then answers.
    pub(crate) fn drain(&mut self) {
        for at in 0..self.sockets.len() {
            self.drain_errors(at);
            self.drain_answers(at);
        }
        self.emit_settled();
    }

    fn drain_answers(&mut self, at: usize) {
        let Some(mut batch) = self.receive.take() else { return };
        for _ in 0..CALLS {
            // An error here is an ICMP error's echo at the socket; reading it has cleared it.
            let Ok(count) = batch.receive(&self.sockets[at].socket, false) else { continue };
            if count == 0 {
                break;
            }
            let now = self.clock.now();
            self.sockets[at].check_overflow(now.mono);
            for index in 0..count {
                self.answer(at, &batch, index, now.mono);
            }
            if count < batch.capacity() {
                break;
            }
        }
        self.receive = Some(batch);
    }

    fn answer(&mut self, at: usize, batch: &RecvBatch, index: usize, now: u64) {
        let socket = &self.sockets[at];
        let mut control = batch.control(index);
        let (mut bytes, truncated) = batch.data(index);
        if socket.raw && socket.family == Family::V4 {
            let Some((ttl, message)) = split_ipv4(bytes) else { return };
            control.ttl = Some(ttl);
            bytes = message;
        }
        let Some(from) = batch.name(index) else { return };
        match parse(socket.family, bytes, !truncated) {
            Message::Reply { id, cookie, length, intact, .. } if socket.owns(id) => {
                let whole = intact && !truncated;
                self.reply(from, cookie, (length, whole), &control, now);
            }
            Message::Error { kind, code, quoted } if socket.owns(quoted.id) => {
                self.error(from, kind, code, &quoted);
            }
            _ => self.report.stats.foreign += 1,
        }
    }

    fn reply(
        &mut self,
        from: IpAddr,
        cookie: Option<Cookie>,
        body: (usize, bool),
        control: &Control,
        now: u64,
    ) {
        let Some(cookie) = cookie else {
            self.report.stats.foreign += 1;
            return;
        };
        let (length, intact) = body;
        let Some(slot) = self.table.find(cookie) else {
            self.unattributed(from, cookie, intact);
            return;
        };
        let packet = &self.table.packets[slot as usize];
        let index = packet.round as usize;
        let round = &mut self.table.rounds[index];
        if !intact || length != usize::from(round.size) {
            round.corrupted += 1;
            self.report.stats.corrupted += 1;
            return;
        }
        if from != round.target {
            round.wrong_source += 1;
            self.report.stats.wrong_source += 1;
            self.event(slot, EventKind::WrongSource { from });
            return;
        }
        let (rtt, kernel) = self.round_trip(slot, control.stamp, now);
        let packet = &mut self.table.packets[slot as usize];
        let round = &mut self.table.rounds[index];
        let open = match packet.status {
            Status::InFlight => true,
            // An answer outweighs an error, as long as the outcome is not out.
            Status::Unreachable => round.phase != Phase::Emitted,
            _ => false,
        };
        if packet.status == Status::Received || packet.late {
            round.duplicates += 1;
            self.report.stats.duplicates += 1;
            self.event(slot, EventKind::Duplicate);
            return;
        }
        if !open || rtt > round.timeout {
            // To RFC 4737 too it is lost: it overtakes nothing, and nothing overtakes it.
            packet.late = true;
            round.late += 1;
            self.report.stats.late += 1;
            self.event(slot, EventKind::Late { rtt: Duration::from_nanos(rtt) });
            return;
        }
        if u32::from(packet.sequence) < round.expected {
            round.reordered += 1;
            self.report.stats.reordered += 1;
        } else {
            round.expected = u32::from(packet.sequence) + 1;
        }
        packet.value = rtt;
        packet.kernel = kernel;
        packet.ttl = control.ttl.unwrap_or(0);
        if round.watch == Watch::Calibration {
            let user = now.saturating_sub(packet.tx_mono);
            self.report.floor_sample(Family::of(from), user);
        }
        if !kernel && !self.table.packets[slot as usize].stamped {
            self.report.stats.tx_stamps_missing += 1;
        }
        self.settle(slot, Status::Received);
    }

    /// Round-trip time in nanoseconds, and whether it is the kernel's.
    fn round_trip(&self, slot: u32, stamp: Option<u64>, now: u64) -> (u64, bool) {
        let packet = &self.table.packets[slot as usize];
        let user = now.saturating_sub(packet.tx_mono);
        let Some(stamp) = stamp else { return (user, false) };
        if !self.clock.steady_since(packet.tx_mono) {
            return (user, false);
        }
        let rtt = stamp.wrapping_sub(packet.tx_real) as i64;
        // Sent after our clock was read, received before it was read again: kernel stamps lie within.
        if rtt < 0 || rtt as u64 > user + 100_000 { (user, false) } else { (rtt as u64, packet.stamped) }
    }

    /// A reply whose packet is not known any more, or never was.
    fn unattributed(&mut self, from: IpAddr, cookie: Cookie, intact: bool) {
        let stats = &mut self.report.stats;
        if intact && self.table.wrote(cookie, from) {
            stats.expired += 1;
        } else {
            stats.foreign += 1;
        }
    }

    /// An ICMP error that quotes a request with one of our identifiers.
    fn error(&mut self, from: IpAddr, kind: u8, code: u8, quoted: &Quoted) {
        let slot = match quoted.cookie {
            Some(cookie) => self.table.find(cookie),
            // Eight bytes is all that some routers quote. The checksum is ours alone to know.
            None => self.table.find_quoted(quoted),
        };
        let Some(slot) = slot else {
            self.report.stats.foreign += 1;
            return;
        };
        if self.table.packets[slot as usize].status == Status::InFlight {
            self.unreachable.insert(slot, (from, kind, code));
            self.settle(slot, Status::Unreachable);
        }
    }

    /// Reads a socket's error queue: transmit timestamps, and for datagram sockets the ICMP errors.
    pub(crate) fn drain_errors(&mut self, at: usize) {
        let Some(mut batch) = self.error_receive.take() else { return };
        for _ in 0..CALLS {
            let Ok(count) = batch.receive(&self.sockets[at].socket, true) else { continue };
            for index in 0..count {
                self.error_queue_entry(at, &batch, index);
            }
            if count < batch.capacity() {
                break;
            }
        }
        self.error_receive = Some(batch);
    }

    fn error_queue_entry(&mut self, at: usize, batch: &RecvBatch, index: usize) {
        let control = batch.control(index);
        let Some(error) = control.error else { return };
        let socket = &self.sockets[at];
        match error.origin {
            libc::SO_EE_ORIGIN_TIMESTAMPING => {
                let Some((slot, generation)) = socket.stamps.find(error.data) else { return };
                let packet = &mut self.table.packets[slot as usize];
                // A stamp cannot be before the moment when the packet was handed over, less the clocks' jitter.
                if let Some(stamp) = control.stamp
                    && packet.generation == generation
                    && !packet.stamped
                    && stamp + 1_000_000 > packet.tx_real
                {
                    packet.tx_real = stamp;
                    packet.stamped = true;
                }
            }
            libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 if !socket.raw => {
                let (bytes, _) = batch.data(index);
                let (Some(target), Some(from)) = (batch.name(index), error.offender) else { return };
                let family = socket.family;
                if bytes.len() >= HEADER
                    && let Some(quoted) = parse_quoted(family, target, bytes)
                {
                    self.error(from, error.kind, error.code, &quoted);
                }
            }
            _ => {}
        }
    }
}

//! Sending: requests are gathered and handed to the kernel in batches.

use std::io;

use crate::clock::Now;
use crate::sys::SendControl;

use super::engine::Machine;
use super::packet::{Family, HEADER, write_request};
use super::socket::BATCH;
use super::table::Status;

/// Bytes gathered at most before a batch is sent.
const BATCH_BYTES: usize = 256 << 10;

impl Machine {
    /// Gathers the next packet of a round.
    pub(crate) fn send(&mut self, index: u32, now: Now) {
        let slot = self.table.add_packet(index, now.mono);
        self.report.stats.sent += 1;
        self.report.stats.in_flight += 1;
        let round = &self.table.rounds[index as usize];
        let family = Family::of(round.target);
        let Some(at) = self.sockets.iter().position(|socket| socket.family == family) else {
            self.not_sent(slot, libc::EAFNOSUPPORT);
            return;
        };
        let (size, cookie) = (round.size, self.table.cookie(round.target, slot));
        if !self.sockets[at].suits(size) {
            self.flush(at);
            self.sockets[at].suit(size);
        }
        let round = &self.table.rounds[index as usize];
        let socket = &mut self.sockets[at];
        let id = socket.identifier(round.flow);
        let control = SendControl { ttl: round.ttl, tos: round.tos, source: round.source, label: 0 };
        let bytes = socket.batch.push(round.target, &control, HEADER + usize::from(round.size));
        // The packet has been added, so its number is one less than the count.
        write_request(bytes, family, id, round.sent - 1, cookie, round.checksum);
        socket.queued.push(slot);
        if socket.batch.len() >= BATCH || socket.batch.bytes() >= BATCH_BYTES {
            self.flush(at);
        }
    }

    pub(crate) fn flush_all(&mut self) {
        for at in 0..self.sockets.len() {
            self.flush(at);
        }
    }

    /// Sends what is gathered, and reads what came of it.
    fn flush(&mut self, at: usize) {
        if self.sockets[at].queued.is_empty() {
            return;
        }
        let now = self.clock.now();
        let queued = std::mem::take(&mut self.sockets[at].queued);
        for &slot in &queued {
            let packet = &mut self.table.packets[slot as usize];
            (packet.tx_mono, packet.tx_real) = (now.mono, now.real);
            let round = &mut self.table.rounds[packet.round as usize];
            let due = round.due_mono.saturating_add(u64::from(packet.sequence) * round.interval);
            let late = now.mono.saturating_sub(due);
            round.lateness = round.lateness.max(late);
            self.report.lateness.note(late, now.mono);
        }
        self.transmit(at, &queued);
        let socket = &mut self.sockets[at];
        socket.batch.clear();
        socket.queued = queued;
        socket.queued.clear();
        self.drain();
    }

    fn transmit(&mut self, at: usize, queued: &[u32]) {
        let mut retried = None;
        loop {
            let socket = &mut self.sockets[at];
            let position = socket.batch.position();
            let Some(&failing) = queued.get(position) else { return };
            match socket.batch.send(&socket.socket) {
                Ok(count) => {
                    for &slot in &queued[position..position + count] {
                        socket.stamps.sent(slot, self.table.packets[slot as usize].generation);
                    }
                    if position + count == queued.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // The first error may be an ICMP error's, left at the socket for whoever calls next.
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    let own = matches!(errno, libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM);
                    if own || retried == Some(position) {
                        socket.batch.skip();
                        if own {
                            self.report.stats.send_overflow += 1;
                            self.settle(failing, Status::Unknown);
                        } else {
                            self.not_sent(failing, errno);
                        }
                    }
                    retried = Some(position);
                }
            }
            // Whether the packet that stopped the batch has used up a timestamp number, only the kernel knows.
            self.drain_errors(at);
            let socket = &mut self.sockets[at];
            socket.stamps.restart(&socket.socket);
        }
    }

    fn not_sent(&mut self, slot: u32, errno: i32) {
        self.table.packets[slot as usize].value = errno as u64;
        self.report.stats.not_sent += 1;
        self.settle(slot, Status::NotSent);
    }
}

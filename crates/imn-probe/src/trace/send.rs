//! Sending: probes are gathered and handed to the kernel in batches.

use std::io;

use crate::icmp::Family;
use crate::outcome::Fate;
use crate::sys::SendControl;

use super::course::{Aim, Course};
use super::engine::Machine;
use super::outcome::Fnv;
use super::packet::{Draft, length, write};
use super::socket::BATCH;

impl Machine {
    /// Gathers a probe.
    pub(crate) fn gather(&mut self, index: u32, course: &mut Course, aim: &Aim, now: u64) {
        self.report.stats.sent += 1;
        let number = course.sent(aim);
        let Some(slot) = self.open_probe(index, course, aim.track) else {
            // It stays unknown, as it is from the start.
            self.report.stats.unknown += 1;
            return;
        };
        let probe = &mut self.probes[slot as usize];
        (probe.ttl, probe.number, probe.tx_mono, probe.due) = (aim.ttl, number, now, aim.due);
        let mark = probe.mark;
        course.order.push_back(slot);
        let family = Family::of(mark.target);
        let socket = self
            .sockets
            .iter()
            .position(|socket| socket.family == family && socket.protocol == mark.protocol);
        let (Some(at), Some(source)) = (socket, course.source) else {
            self.settle(course, slot, Fate::NotSent { errno: libc::EAFNOSUPPORT }, now);
            return;
        };
        let draft = Draft {
            protocol: course.spec.protocol,
            source,
            cookie: self.cookie(slot),
            checksum: flow_checksum(course, mark.flow),
        };
        let socket = &mut self.sockets[at];
        let control = SendControl {
            ttl: aim.ttl,
            tos: course.spec.dscp << 2,
            source: Some(source),
            label: if socket.labels { flow_label(course, mark.flow) } else { 0 },
        };
        let bytes = socket.batch.push(mark.target, &control, length(course.spec.protocol, course.spec.size));
        write(bytes, &mark, &draft);
        socket.queued.push(slot);
        if socket.batch.len() >= BATCH {
            self.flush(at, index, course);
        }
    }

    pub(crate) fn flush_all(&mut self, index: u32, course: &mut Course) {
        for at in 0..self.sockets.len() {
            self.flush(at, index, course);
        }
    }

    /// Sends what is gathered, all of it one trace's.
    fn flush(&mut self, at: usize, index: u32, course: &mut Course) {
        if self.sockets[at].queued.is_empty() {
            return;
        }
        let now = self.clock.now();
        let queued = std::mem::take(&mut self.sockets[at].queued);
        for &slot in &queued {
            let probe = &mut self.probes[slot as usize];
            (probe.tx_mono, probe.tx_real) = (now.mono, now.real);
            if probe.ttl == course.spec.first_hop {
                let late = now.mono.saturating_sub(probe.due);
                course.lateness = course.lateness.max(late);
                self.report.lateness.note(late, now.mono);
            }
            if course.first_sent == 0 {
                course.first_sent = now.mono;
            }
        }
        self.transmit(at, &queued, course);
        let socket = &mut self.sockets[at];
        socket.batch.clear();
        socket.queued = queued;
        socket.queued.clear();
        // Its probes are settled when they are in the course again.
        self.touched.push(index);
    }

    fn transmit(&mut self, at: usize, queued: &[u32], course: &mut Course) {
        let mut retried = None;
        loop {
            let socket = &mut self.sockets[at];
            let position = socket.batch.position();
            let Some(&failing) = queued.get(position) else { return };
            match socket.batch.send(&socket.socket) {
                Ok(count) => {
                    for &slot in &queued[position..position + count] {
                        socket.stamps.sent(slot, self.probes[slot as usize].generation);
                    }
                    if position + count == queued.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    let own = matches!(errno, libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM);
                    if errno == libc::EINVAL && socket.labels {
                        // Somebody holds a flow label for himself: ours are taken no more, and the kernel's must do.
                        socket.labels = false;
                    }
                    if own || retried == Some(position) {
                        socket.batch.skip();
                        let fate = if own { Fate::Unknown } else { Fate::NotSent { errno } };
                        let now = self.probes[failing as usize].tx_mono;
                        self.settle(course, failing, fate, now);
                    }
                    retried = Some(position);
                }
            }
            // Whether the probe that stopped the batch has used up a timestamp number, only the kernel knows.
            self.drain_stamps(at);
            let socket = &mut self.sockets[at];
            socket.stamps.restart(&socket.socket);
        }
    }
}

/// The ICMP checksum of a flow, the same at every start, so that a target stays on its path.
pub(crate) fn flow_checksum(course: &Course, flow: u16) -> u16 {
    // Neither of the two zeros of one's complement.
    (flow_hash(course, flow) % 0xfffe) as u16 + 1
}

/// The IPv6 flow label of a flow, likewise: routers spread by it alone, with the ports, or by the ports alone (RFC
/// 6438), and whichever of these they do, a flow stays on its path and another may take another.
fn flow_label(course: &Course, flow: u16) -> u32 {
    // Zero says that there is none.
    (flow_hash(course, flow) % 0xf_ffff) as u32 + 1
}

fn flow_hash(course: &Course, flow: u16) -> u64 {
    let mut hash = Fnv::default();
    match course.spec.target {
        std::net::IpAddr::V4(v4) => hash.feed(&v4.octets()),
        std::net::IpAddr::V6(v6) => hash.feed(&v6.octets()),
    }
    hash.feed(&flow.to_be_bytes());
    hash.0
}

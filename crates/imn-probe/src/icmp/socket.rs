use std::io;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::sys::{SendBatch, attach_filter, receive_drops, set_option};

use super::config::{SocketKind, StartError};
use super::filter::{FLOWS, program};
use super::packet::Family;

/// Messages per `sendmmsg`.
pub(crate) const BATCH: usize = 128;
/// Transmit timestamps that may be outstanding per socket; a power of two.
const STAMPS: usize = 16_384;
/// Overflow windows remembered; the oldest are merged into one when there are more.
const WINDOWS: usize = 64;
/// `SOL_RAW` and `ICMP_FILTER`, which libc lacks.
const SOL_RAW: i32 = 255;
const ICMP_FILTER: i32 = 1;
const ICMP6_FILTER: i32 = 1;

/// Largest payload that every IPv4 link is taken to carry in one piece (RFC 791: 576 bytes, of which 28 are headers).
const ATOMIC: u16 = 548;

const STAMPING: u32 = libc::SOF_TIMESTAMPING_TX_SOFTWARE
    | libc::SOF_TIMESTAMPING_RX_SOFTWARE
    | libc::SOF_TIMESTAMPING_SOFTWARE
    | libc::SOF_TIMESTAMPING_OPT_TSONLY;

/// One socket, which serves every target of its family.
pub(crate) struct IcmpSocket {
    pub family: Family,
    pub raw: bool,
    pub socket: Socket,
    /// First of our identifiers; on a datagram socket the only one.
    pub id: u16,
    /// Requests gathered for sending, and the slots of their states.
    pub batch: SendBatch,
    pub queued: Vec<u32>,
    pub stamps: Stamps,
    pub overflow: Overflow,
    /// Requests may not be fragmented: they need no identification, which the kernel makes at some expense.
    atomic: bool,
}

impl IcmpSocket {
    /// Opens the best permitted socket; `None` if the host lacks the family.
    pub(crate) fn open(
        family: Family,
        kind: SocketKind,
        buffer: usize,
        id: u16,
    ) -> Result<Option<Self>, StartError> {
        let raw = match kind {
            SocketKind::Datagram => None,
            SocketKind::Auto | SocketKind::Raw => Some(create(family, Type::RAW)),
        };
        let (socket, raw) = match raw {
            Some(Ok(socket)) => (socket, true),
            Some(Err(error)) if kind == SocketKind::Raw || !denied(&error) => return refuse(error),
            Some(Err(_)) | None => match create(family, Type::DGRAM) {
                Ok(socket) => (socket, false),
                Err(error) => return refuse(error),
            },
        };
        let id = configure(&socket, family, raw, buffer, id)
            .map_err(|source| StartError::System { operation: "configure icmp socket", source })?;
        let stamps = Stamps::start(&socket);
        Ok(Some(Self {
            family,
            raw,
            socket,
            id,
            batch: SendBatch::new(BATCH),
            queued: Vec::with_capacity(BATCH),
            stamps,
            overflow: Overflow::default(),
            atomic: false,
        }))
    }

    /// Whether a payload of this size can be sent with the socket as it is set; else what is gathered must go first.
    pub(crate) fn suits(&self, size: u16) -> bool {
        self.family == Family::V6 || self.atomic == (size <= ATOMIC)
    }

    /// Sets the socket for payloads of this size. Small requests carry "don't fragment" either way (RFC 6864 §4.1).
    pub(crate) fn suit(&mut self, size: u16) {
        let atomic = size <= ATOMIC;
        let mode = if atomic { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_WANT };
        // Where it cannot be set, requests go as the kernel likes.
        let _ = set_option(&self.socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode);
        self.atomic = atomic;
    }

    /// The identifier of a flow.
    pub(crate) fn identifier(&self, flow: u8) -> u16 {
        if self.raw { self.id + u16::from(flow) % FLOWS } else { self.id }
    }

    /// True for the identifiers of this engine.
    pub(crate) fn owns(&self, id: u16) -> bool {
        if self.raw { id & !(FLOWS - 1) == self.id } else { id == self.id }
    }

    /// Asks the kernel whether it has dropped packets since the last question.
    pub(crate) fn check_overflow(&mut self, now: u64) {
        self.overflow.check(&self.socket, now);
    }
}

fn create(family: Family, kind: Type) -> io::Result<Socket> {
    let (domain, protocol) = match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    Socket::new(domain, kind, Some(protocol))
}

fn denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

fn refuse(error: io::Error) -> Result<Option<IcmpSocket>, StartError> {
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => Ok(None),
        _ if denied(&error) => Err(StartError::NotPermitted(error)),
        _ => Err(StartError::System { operation: "open icmp socket", source: error }),
    }
}

/// Makes a socket non-blocking with buffers of so many bytes, as far as the kernel's limits allow.
pub(crate) fn prepare(socket: &Socket, buffer: usize) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let bytes = i32::try_from(buffer).unwrap_or(i32::MAX);
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
        socket.set_recv_buffer_size(buffer)?;
    }
    socket.set_send_buffer_size(buffer)
}

fn configure(socket: &Socket, family: Family, raw: bool, buffer: usize, id: u16) -> io::Result<u16> {
    prepare(socket, buffer)?;
    match family {
        Family::V4 => {
            // Without it, raw sockets hide ENOBUFS, and ping sockets hide ICMP errors.
            set_option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
            if !raw {
                set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?;
            }
        }
        Family::V6 => {
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
        }
    }
    if !raw {
        let any = match family {
            Family::V4 => std::net::SocketAddr::from(([0, 0, 0, 0], 0)),
            Family::V6 => std::net::SocketAddr::from(([0_u16; 8], 0)),
        };
        socket.bind(&SockAddr::from(any))?;
        let bound = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
        return Ok(bound);
    }
    match family {
        Family::V4 => {
            let pass =
                family.errors().iter().fold(1 << family.echo_reply(), |pass: u32, kind| pass | 1 << kind);
            set_option(socket, SOL_RAW, ICMP_FILTER, !pass)?;
        }
        Family::V6 => {
            let mut block = [u32::MAX; 8];
            for kind in family.errors().iter().copied().chain([family.echo_reply()]) {
                block[usize::from(kind / 32)] &= !(1 << (kind % 32));
            }
            set_option(socket, libc::IPPROTO_ICMPV6, ICMP6_FILTER, block)?;
        }
    }
    let id = id & !(FLOWS - 1);
    attach_filter(socket, &program(family, id))?;
    Ok(id)
}

/// Which packet a transmit timestamp belongs to: the kernel numbers the packets of a socket.
pub(crate) struct Stamps {
    ring: Box<[(u32, u32)]>,
    next: u32,
}

impl Stamps {
    pub(crate) fn start(socket: &Socket) -> Self {
        let mut stamps = Self { ring: vec![(u32::MAX, 0); STAMPS].into(), next: 0 };
        stamps.restart(socket);
        stamps
    }

    /// Starts the numbering anew. A send that failed may or may not have used up a number, and only the kernel
    /// knows. Stamps still to come for earlier packets then carry numbers that are out of range.
    pub(crate) fn restart(&mut self, socket: &Socket) {
        let set = |flags: u32| set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags);
        // A kernel that refuses gives no stamps, and the samples say so.
        let _ = set(STAMPING).and_then(|()| set(STAMPING | libc::SOF_TIMESTAMPING_OPT_ID));
        self.next = 0;
        self.ring.fill((u32::MAX, 0));
    }

    /// Notes that the packet in `slot` was sent.
    pub(crate) fn sent(&mut self, slot: u32, generation: u32) {
        self.ring[self.next as usize % STAMPS] = (slot, generation);
        self.next = self.next.wrapping_add(1);
    }

    /// Slot and generation of the packet with this number.
    pub(crate) fn find(&self, number: u32) -> Option<(u32, u32)> {
        let age = self.next.wrapping_sub(number);
        let entry = self.ring[number as usize % STAMPS];
        ((1..=STAMPS as u32).contains(&age) && entry.0 != u32::MAX).then_some(entry)
    }
}

/// When the receive queue overflowed. The kernel counts drops but does not say which packets they were.
#[derive(Debug, Default)]
pub(crate) struct Overflow {
    drops: u32,
    checked_at: u64,
    windows: std::collections::VecDeque<(u64, u64)>,
}

impl Overflow {
    /// Asks the kernel whether it has dropped packets of `socket` since the last question.
    pub(crate) fn check(&mut self, socket: &Socket, now: u64) {
        if now > self.checked_at
            && let Ok(drops) = receive_drops(socket)
        {
            self.observe(drops, now);
        }
    }

    /// Takes the kernel's count of drops as of `now`.
    pub(crate) fn observe(&mut self, drops: u32, now: u64) {
        if drops != self.drops {
            match self.windows.back_mut() {
                Some(last) if last.1 >= self.checked_at => last.1 = now,
                _ => self.windows.push_back((self.checked_at, now)),
            }
            if self.windows.len() > WINDOWS
                && let Some(oldest) = self.windows.pop_front()
                && let Some(second) = self.windows.front_mut()
            {
                second.0 = oldest.0;
            }
            self.drops = drops;
        }
        self.checked_at = now;
    }

    /// Packets dropped so far.
    pub(crate) fn drops(&self) -> u32 {
        self.drops
    }

    /// True when an answer expected between `from` and `to` may have been among the dropped.
    pub(crate) fn touches(&self, from: u64, to: u64) -> bool {
        self.windows.iter().any(|window| window.0 <= to && window.1 >= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_windows_reach_back_to_the_last_clean_check() {
        let mut overflow = Overflow::default();
        overflow.observe(0, 100);
        overflow.observe(3, 200);
        assert!(overflow.touches(50, 150));
        assert!(overflow.touches(150, 400));
        assert!(!overflow.touches(10, 90));
        overflow.observe(3, 300);
        assert!(!overflow.touches(201, 400));
        for n in 0..200 {
            overflow.observe(3 + n, 1000 + u64::from(n) * 100);
            overflow.observe(3 + n, 1050 + u64::from(n) * 100);
        }
        assert!(overflow.windows.len() <= WINDOWS);
        assert!(overflow.touches(120, 130));
    }
}

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::clock::{Clock, monotonic};
use crate::outcome::{Event, Timestamp};
use crate::pace::{Pace, Rate};
use crate::stamping::Keeper;
use crate::sys::{RecvBatch, SendBatch, SendControl, receive_drops, set_option};

use super::floor;
use super::outcome::Outcome;
use super::packet::base;
use super::session::Session;
use super::spec::Spec;
use super::tlv;

/// The clocks are compared this often while packets are in flight; errors of the network are read as often.
const CLOCK_CHECK: u64 = 100_000_000;
/// Received octets that may wait; what the kernel's limit allows of it is taken.
const RECEIVE_BUFFER: i32 = 1 << 20;
/// Calls of `recvmmsg` at a time.
const CALLS: usize = 1024;
/// TTL or hop limit of what is sent, so that the hops can be counted at the other end.
const TTL: i32 = 255;

/// Packets per second of all sessions of one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// To anywhere but loopback; `None` is unlimited. Default 20,000.
    pub rate: Option<Rate>,
    /// To one /24 or /48 other than loopback; `None` is unlimited. Default 200.
    pub prefix_rate: Option<Rate>,
}

impl Default for Pacing {
    fn default() -> Self {
        Self { rate: Rate::new(20_000), prefix_rate: Rate::new(200) }
    }
}

/// Why a session could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The spec is not valid.
    #[error("measure: {0}")]
    Invalid(&'static str),
    /// An address cannot be listened on.
    #[error("listen on {address}: {source}{hint}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
        /// What may help; empty where nothing is known to.
        hint: &'static str,
    },
    /// A system call failed.
    #[error("{operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Sends sessions, any number at a time; each has a socket of its own while it lasts.
#[derive(Debug)]
pub struct Sender {
    pace: Mutex<Pace>,
    /// Asked for with the first session.
    stamping: OnceLock<Keeper>,
    /// What this host itself adds to a round trip: IPv4, IPv6.
    floors: [OnceLock<Option<Duration>>; 2],
}

impl Sender {
    /// A sender that keeps to these rates.
    pub fn new(pacing: &Pacing) -> Self {
        Self {
            pace: Mutex::new(Pace::new(pacing.rate, pacing.prefix_rate)),
            stamping: OnceLock::new(),
            floors: [OnceLock::new(), OnceLock::new()],
        }
    }

    /// Runs one session: its first packet goes at `due`, or now if that is past, and the others an interval apart. Ends
    /// when the fate of each is known. Within a tokio runtime with I/O and time. Dropping the future ends the session.
    ///
    /// `tell` is called for each packet of a session that asks for progress; also with what makes up the outcome so far,
    /// for whoever wants it. Packets under way are not in that.
    pub async fn measure(
        &self,
        spec: &Spec,
        due: Timestamp,
        mut tell: impl FnMut(Event, &dyn Fn() -> Outcome) + Send,
    ) -> Result<Outcome, StartError> {
        spec.check().map_err(StartError::Invalid)?;
        let system = |operation| move |source| StartError::System { operation, source };
        let trusted = self.stamping.get_or_init(Keeper::new).stamps();
        let family = usize::from(spec.target.is_ipv6());
        let floor = *self.floors[family].get_or_init(|| floor::measure(spec.target.is_ipv4()));
        let mut link = Link::open(spec).map_err(system("open udp socket"))?;
        let ready = link.watch().map_err(system("watch udp socket"))?;
        let mut clock = Clock::new();
        let now = clock.now();
        let ahead = due.as_nanos() as i64 - now.real as i64;
        let begun = now.mono.saturating_add_signed(ahead);
        let mut session = Session::new(spec, begun, floor, trusted);
        let mut allowed_at = None;
        let mut events = Vec::new();
        loop {
            // What had arrived by `now` is read before timeouts are judged as of `now`.
            let now = clock.now();
            let mut note = |event| events.push(event);
            link.drain(&mut session, &mut clock, &mut note);
            session.judge(now.mono, &mut note);
            for event in events.drain(..) {
                tell(event, &|| session.outcome());
            }
            if session.is_done() {
                return Ok(session.outcome());
            }
            let mut until = now.mono + CLOCK_CHECK;
            while let Some(due) = session.next_due() {
                let now = monotonic();
                let at = if due > now {
                    due
                } else {
                    *allowed_at.get_or_insert_with(|| self.reserve(spec.target.ip(), now))
                };
                if at > now {
                    until = until.min(at);
                    break;
                }
                allowed_at = None;
                link.send(&mut session, &mut clock, &mut |event| events.push(event));
            }
            until = until.min(session.next_deadline().unwrap_or(u64::MAX));
            let pause = Duration::from_nanos(until.saturating_sub(monotonic()));
            tokio::select! {
                biased;
                readable = ready.readable() => {
                    readable.map_err(system("watch udp socket"))?;
                    // All of it is read next; what comes after that makes it readable anew.
                    let _ = ready.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// When the next packet to this address may go: `now` or later.
    fn reserve(&self, target: IpAddr, now: u64) -> u64 {
        if target.is_loopback() {
            return now;
        }
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let at = pace.reserve_prefix(target, now);
        pace.reserve_engine(at)
    }
}

/// The socket of one session with its buffers.
pub(crate) struct Link {
    pub(crate) socket: Socket,
    target: SocketAddr,
    control: SendControl,
    /// A whole packet, of which only the fields at its front change.
    template: Vec<u8>,
    sending: SendBatch,
    answers: RecvBatch,
    errors: RecvBatch,
}

impl Link {
    pub(crate) fn open(spec: &Spec) -> io::Result<Self> {
        let socket = open(spec)?;
        number(&socket);
        let size = usize::from(spec.size);
        let mut template = vec![0; size];
        tlv::pad(&mut template[base(spec.key.is_some())..]);
        Ok(Self {
            socket,
            target: spec.target,
            control: SendControl { tos: spec.dscp << 2, ..SendControl::default() },
            template,
            sending: SendBatch::new(1),
            answers: RecvBatch::new(if size > 2048 { 4 } else { 32 }, size.max(2048)),
            errors: RecvBatch::new(32, 256),
        })
    }

    /// The socket, to wait for packets.
    fn watch(&self) -> io::Result<UdpSocket> {
        UdpSocket::from_std(self.socket.try_clone()?.into())
    }

    /// Sends the next packet.
    pub(crate) fn send(
        &mut self,
        session: &mut Session<'_>,
        clock: &mut Clock,
        tell: &mut impl FnMut(Event),
    ) {
        self.sending.clear();
        let room = self.sending.push_to(self.target, &self.control, self.template.len());
        room.copy_from_slice(&self.template);
        session.write(room, clock.now());
        let mut tried = false;
        loop {
            let error = match self.sending.send(&self.socket) {
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            // The first error may be an ICMP error's, left at the socket for whoever calls next. And whether the packet
            // has used up a number of the transmit stamps, only the kernel knows.
            self.drain_errors(session, tell);
            number(&self.socket);
            let own = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM));
            session.renumber(!own && !tried);
            if own || tried {
                session.not_sent(error.raw_os_error().unwrap_or(libc::EIO), tell);
                return;
            }
            tried = true;
        }
    }

    /// Reads all that has arrived: transmit stamps first, then answers.
    pub(crate) fn drain(
        &mut self,
        session: &mut Session<'_>,
        clock: &mut Clock,
        tell: &mut impl FnMut(Event),
    ) {
        for _ in 0..CALLS {
            self.drain_errors(session, tell);
            // An error here is an ICMP error's echo at the socket; reading it has cleared it.
            let Ok(count) = self.answers.receive(&self.socket, false) else { continue };
            let now = clock.now();
            if let Ok(drops) = receive_drops(&self.socket) {
                session.overflow.observe(drops, now.mono);
            }
            if count == 0 {
                return;
            }
            // The stamps of packets sent in the meantime.
            self.drain_errors(session, tell);
            for index in 0..count {
                let Some(from) = self.answers.peer(index) else { continue };
                let (bytes, truncated) = self.answers.data(index);
                let control = self.answers.control(index);
                session.answer(from, (!truncated).then_some(bytes), &control, (now, clock), tell);
            }
        }
    }

    fn drain_errors(&mut self, session: &mut Session<'_>, tell: &mut impl FnMut(Event)) {
        for _ in 0..CALLS {
            let Ok(count) = self.errors.receive(&self.socket, true) else { continue };
            for index in 0..count {
                let control = self.errors.control(index);
                let Some(error) = control.error else { continue };
                match error.origin {
                    libc::SO_EE_ORIGIN_TIMESTAMPING => {
                        if let Some(stamp) = control.stamp {
                            session.stamp(error.data, stamp);
                        }
                    }
                    libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
                        if let Some(from) = error.offender {
                            let (payload, _) = self.errors.data(index);
                            session.unreachable(payload, (from, error.kind, error.code), tell);
                        }
                    }
                    _ => {}
                }
            }
            if count < self.errors.capacity() {
                return;
            }
        }
    }
}

/// A socket that is not connected, so that answers from elsewhere are seen and counted.
fn open(spec: &Spec) -> io::Result<Socket> {
    let v4 = spec.target.is_ipv4();
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER as usize)?;
    }
    if v4 {
        set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_TTL, TTL)?;
    } else {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, TTL)?;
    }
    let any = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    socket.bind(&SockAddr::from(spec.source.unwrap_or(SocketAddr::new(any, 0))))?;
    Ok(socket)
}

/// Asks for stamps of both directions and starts the numbering of those of transmission.
fn number(socket: &Socket) {
    const STAMPING: u32 = libc::SOF_TIMESTAMPING_TX_SOFTWARE
        | libc::SOF_TIMESTAMPING_RX_SOFTWARE
        | libc::SOF_TIMESTAMPING_SOFTWARE
        | libc::SOF_TIMESTAMPING_OPT_TSONLY;
    let set = |flags: u32| set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags);
    // A kernel that refuses gives no stamps, and the samples say so.
    let _ = set(STAMPING).and_then(|()| set(STAMPING | libc::SOF_TIMESTAMPING_OPT_ID));
}

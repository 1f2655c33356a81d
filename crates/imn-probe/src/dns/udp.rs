//! One question as one datagram.
//!
//! The socket is not connected, so that an answer from an address that was not asked is seen and counted, and not
//! only missed.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::time::{Instant, timeout_at};

use super::config::{Ask, Mismatch, Query};
use super::outcome::{Failure, Outcome};
use super::stamp::{self, Stopwatch, genuine};
use crate::outcome::{Fate, Timestamp};
use crate::sys::{RecvBatch, receive_drops, set_option};
use crate::tcp::own_fault;

/// Larger datagrams do not exist.
const DATAGRAM: usize = 65_536;
const AT_ONCE: usize = 2;
/// Errors of the socket that are passed over in one go: each reading takes one off.
const MOST_ERRORS: usize = 16;
const FLOOR_SAMPLES: usize = 5;
/// Of the first, the kernel may not yet take stamps.
const FLOOR_TRIES: usize = 200;

thread_local! {
    static BUFFERS: RefCell<RecvBatch> = RefCell::new(RecvBatch::new(AT_ONCE, DATAGRAM));
}

/// What has come so far.
#[derive(Default)]
struct Seen {
    sent: Option<u64>,
    received: Option<u64>,
    failure: Option<Failure>,
}

/// Asks once, and fills in what becomes of it.
pub(super) async fn exchange(resolver: SocketAddr, query: &Query, ask: &Ask, outcome: &mut Outcome) {
    let failure = match open(resolver, query) {
        Ok(socket) => attempt(socket, resolver, query, ask, outcome).await.err(),
        Err(error) => Failure::of(own_fault(&error)),
    };
    outcome.failure = failure.map(|failure| match failure {
        Failure::Timeout if outcome.wrong.total() > 0 => Failure::Wrong(outcome.wrong),
        failure => failure,
    });
}

async fn attempt(
    socket: Socket,
    resolver: SocketAddr,
    query: &Query,
    ask: &Ask,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let local_trouble = |error: io::Error| Failure::of(own_fault(&error)).unwrap_or(Failure::Unknown);
    let socket = tokio::net::UdpSocket::from_std(socket.into()).map_err(local_trouble)?;
    let mut watch = Stopwatch::start();
    let deadline = Instant::now() + query.timeout;
    outcome.sent = watch.sent(None);
    SockRef::from(&socket).send_to(&ask.bytes, &SockAddr::from(resolver)).map_err(local_trouble)?;
    let mut seen = Seen::default();
    let interest = Interest::READABLE | Interest::ERROR;
    let answered = socket.async_io(interest, || {
        drain(&socket, resolver, ask, outcome, &mut seen);
        // All is read, whatever came: the readiness is used up.
        let done = outcome.answer.is_some() || seen.failure.is_some();
        if done { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    });
    let waited = timeout_at(deadline, answered).await;
    if waited.is_err() {
        // This process may have been late, the answer not.
        drain(&socket, resolver, ask, outcome, &mut seen);
    }
    if seen.sent.is_none() {
        errors(&socket, resolver, &mut seen);
    }
    outcome.sent = watch.sent(seen.sent);
    if outcome.answer.is_some() {
        let lap = watch.lap(seen.sent, seen.received);
        if lap.elapsed <= query.timeout {
            (outcome.phases.query, outcome.source) = (Some(lap.elapsed), lap.source);
            return outcome
                .answer
                .as_ref()
                .and_then(|answer| answer.fault)
                .map_or(Ok(()), |fault| Err(fault.into()));
        }
        outcome.answer = None;
        outcome.bytes.clear();
        return Err(Failure::Timeout);
    }
    Err(match seen.failure {
        Some(failure) => failure,
        None if receive_drops(&socket).is_ok_and(|drops| drops > 0) => Failure::Unknown,
        None => Failure::Timeout,
    })
}

fn open(resolver: SocketAddr, query: &Query) -> io::Result<Socket> {
    let v4 = resolver.is_ipv4();
    let socket = Socket::new(if v4 { Domain::IPV4 } else { Domain::IPV6 }, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    let tos = i32::from(query.dscp) << 2;
    if v4 {
        set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        if tos != 0 {
            set_option(&socket, libc::IPPROTO_IP, libc::IP_TOS, tos)?;
        }
    } else {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        if tos != 0 {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, tos)?;
        }
    }
    if let Some(source) = query.source {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    stamp::request(&socket, true);
    Ok(socket)
}

/// Reads all that has come, up to the answer.
fn drain(socket: &impl AsFd, resolver: SocketAddr, ask: &Ask, outcome: &mut Outcome, seen: &mut Seen) {
    BUFFERS.with_borrow_mut(|batch| {
        let mut failed = 0;
        loop {
            match batch.receive(socket, false) {
                Ok(0) => break,
                Ok(count) => {
                    for index in 0..count {
                        take(batch, index, resolver, ask, outcome, seen);
                    }
                    if outcome.answer.is_some() {
                        return;
                    }
                }
                // An error that is pending; what it is stands in the error queue.
                Err(_) if failed < MOST_ERRORS => failed += 1,
                Err(_) => break,
            }
        }
    });
    errors(socket, resolver, seen);
}

fn take(
    batch: &RecvBatch,
    index: usize,
    resolver: SocketAddr,
    ask: &Ask,
    outcome: &mut Outcome,
    seen: &mut Seen,
) {
    if outcome.answer.is_some() {
        return;
    }
    let from = batch.peer(index);
    if from.is_none_or(|from| (from.ip(), from.port()) != (resolver.ip(), resolver.port())) {
        outcome.wrong.source = outcome.wrong.source.saturating_add(1);
        return;
    }
    let bytes = batch.data(index).0;
    let count = match ask.judge(bytes) {
        Ok(answer) => {
            let control = batch.control(index);
            seen.received = control.stamp;
            outcome.local = control.destination.map(|(_, local)| local);
            outcome.bytes = bytes.to_vec();
            outcome.answer = Some(answer);
            return;
        }
        Err(mismatch) => outcome.wrong.of(mismatch),
    };
    *count = count.saturating_add(1);
}

/// Reads the error queue: the transmit timestamp, and ICMP errors that quote the query.
fn errors(socket: &impl AsFd, resolver: SocketAddr, seen: &mut Seen) {
    BUFFERS.with_borrow_mut(|batch| {
        while let Ok(count @ 1..) = batch.receive(socket, true) {
            for index in 0..count {
                let control = batch.control(index);
                let Some(error) = control.error else { continue };
                match error.origin {
                    libc::SO_EE_ORIGIN_TIMESTAMPING => seen.sent = seen.sent.or(control.stamp),
                    libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
                        let ours = batch.peer(index).is_some_and(|to| to.ip() == resolver.ip());
                        let failure = error
                            .offender
                            .filter(|_| ours)
                            .and_then(|from| unreachable(resolver.ip(), from, error.kind, error.code));
                        seen.failure = seen.failure.take().or(failure);
                    }
                    _ => {}
                }
            }
        }
    });
}

/// What an ICMP error means; `None` for advice about sizes, which the kernel follows by itself.
fn unreachable(resolver: IpAddr, from: IpAddr, kind: u8, code: u8) -> Option<Failure> {
    match (from, kind, code) {
        (IpAddr::V4(_), 3, 4) | (IpAddr::V6(_), 2, _) => None,
        (IpAddr::V4(_), 3, 3) | (IpAddr::V6(_), 1, 4) if from == resolver => Some(Failure::Refused),
        _ => Failure::of(Fate::Unreachable { from, kind, code }),
    }
}

/// What this host adds to an exchange: twice the median time of a datagram over loopback, stamp to stamp. While a
/// [`Keeper`](crate::stamping::Keeper) lives, the kernel stamps all that comes after this.
pub(super) fn floor() -> Option<Duration> {
    let sample = |_| {
        let (from, to) = (UdpSocket::bind(any()).ok()?, UdpSocket::bind(any()).ok()?);
        to.set_nonblocking(true).ok()?;
        stamp::request(&from, true);
        stamp::request(&to, false);
        from.send_to(&[0; 64], to.local_addr().ok()?).ok()?;
        BUFFERS.with_borrow_mut(|batch| {
            let mut stamp = |socket: &UdpSocket, errors| {
                let before = Timestamp::now();
                let count = batch.receive(&socket.as_fd(), errors).ok()?;
                (count > 0).then(|| genuine(batch.control(0).stamp, before))?
            };
            let sent = stamp(&from, true)?;
            let received = stamp(&to, false)?;
            Some(Duration::from_nanos(received.checked_sub(sent)?) * 2)
        })
    };
    let mut samples: Vec<Duration> = (0..FLOOR_TRIES).filter_map(sample).take(FLOOR_SAMPLES).collect();
    samples.sort_unstable();
    imn_metric::percentile(&samples, 0.5)
}

fn any() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

impl super::outcome::Wrong {
    /// The count that a mismatch adds to.
    pub(super) fn of(&mut self, mismatch: Mismatch) -> &mut u32 {
        match mismatch {
            Mismatch::Form => &mut self.form,
            Mismatch::Id => &mut self.id,
            Mismatch::Question => &mut self.question,
        }
    }
}

impl Outcome {
    pub(super) fn new(query_size: usize) -> Self {
        Self {
            sent: Timestamp::now(),
            local: None,
            phases: super::outcome::Phases::default(),
            source: crate::outcome::TsSource::User,
            error: None,
            answer: None,
            bytes: Vec::new(),
            wrong: super::outcome::Wrong::default(),
            query_size,
            retried: false,
            tls: None,
            http_status: None,
            failure: None,
        }
    }
}

//! One connection attempt: the socket, and what its state says about the network.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::outcome::{Fate, TsSource};
use crate::sys::{RecvBatch, set_option, tcp_rtt};

use super::config::Round;

/// Connections to itself by which this host finds out what it adds to a sample.
const FLOOR_SAMPLES: usize = 5;
/// None of them takes longer.
const FLOOR_WITHIN: Duration = Duration::from_millis(50);

/// Median round trip to loopback, by the clock that samples are taken by; `None` where there is no loopback.
pub(crate) fn floor() -> Option<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    let address = SockAddr::from(listener.local_addr().ok()?);
    let sample = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).ok()?;
        socket.set_linger(Some(Duration::ZERO)).ok()?;
        let begin = Instant::now();
        socket.connect_timeout(&address, FLOOR_WITHIN).ok()?;
        Some(tcp_rtt(&socket).unwrap_or_else(|| begin.elapsed()))
    };
    let mut samples: Vec<Duration> = (0..FLOOR_SAMPLES).filter_map(sample).collect();
    samples.sort_unstable();
    imn_metric::percentile(&samples, 0.5)
}

/// Starts to connect. The error tells what to make of it when it did not even start.
pub(crate) fn start(round: &Round) -> Result<Socket, Fate> {
    let peer = SocketAddr::new(round.target, round.port);
    let socket = open(peer, round.dscp, round.source).map_err(|error| own_fault(&error))?;
    // Closing resets: no TIME_WAIT here, no lingering connection there.
    socket.set_linger(Some(Duration::ZERO)).map_err(|error| own_fault(&error))?;
    match socket.connect(&SockAddr::from(peer)) {
        Ok(()) => Ok(socket),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(Fate::Refused { rtt: Duration::ZERO })
        }
        Err(error) => Err(own_fault(&error)),
    }
}

/// A socket that does not block and is told by ICMP errors, to connect to `peer` with.
pub(crate) fn open(peer: SocketAddr, dscp: u8, source: Option<IpAddr>) -> io::Result<Socket> {
    let domain = if peer.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    let tos = i32::from(dscp) << 2;
    // The error queue tells which node said that the target is unreachable.
    if peer.is_ipv4() {
        set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        if tos != 0 {
            set_option(&socket, libc::IPPROTO_IP, libc::IP_TOS, tos)?;
        }
    } else {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        if tos != 0 {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, tos)?;
        }
    }
    if let Some(source) = source {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    Ok(socket)
}

/// Want of files, ports or memory is this host's own trouble and says nothing; want of a route is told by number.
pub(crate) fn own_fault(error: &io::Error) -> Fate {
    match error.raw_os_error().unwrap_or(libc::EIO) {
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN | libc::EADDRNOTAVAIL => {
            Fate::Unknown
        }
        errno => Fate::NotSent { errno },
    }
}

/// What became of an attempt whose socket is ready, `elapsed` after its start; `None` if nothing has yet.
pub(crate) fn conclude(socket: &Socket, elapsed: Duration, errors: &mut RecvBatch) -> Option<Fate> {
    let error = match socket.take_error() {
        Ok(None) => {
            if let Some(rtt) = tcp_rtt(socket).filter(|rtt| *rtt <= elapsed) {
                return Some(Fate::Received { rtt, ttl: None, source: TsSource::Kernel });
            }
            return match socket.peer_addr() {
                Ok(_) => Some(Fate::Received { rtt: elapsed, ttl: None, source: TsSource::User }),
                // An ICMP error that comes while a call holds the socket is left in the queue, and nowhere else.
                Err(_) => said_by(socket, errors),
            };
        }
        Ok(Some(error)) | Err(error) => error,
    };
    Some(match error.raw_os_error().unwrap_or(libc::EIO) {
        libc::ECONNREFUSED => {
            // An ICMP port unreachable, as firewalls send it, has the same number as a reset.
            said_by(socket, errors).unwrap_or(Fate::Refused { rtt: elapsed })
        }
        libc::ECONNRESET | libc::EPIPE => Fate::Reset { rtt: elapsed },
        libc::ETIMEDOUT => Fate::Lost,
        errno => said_by(socket, errors).unwrap_or(Fate::NotSent { errno }),
    })
}

/// The ICMP error in the socket's error queue, if there is one.
fn said_by(socket: &Socket, errors: &mut RecvBatch) -> Option<Fate> {
    let count = errors.receive(socket, true).ok()?;
    (0..count).find_map(|index| {
        let error = errors.control(index).error?;
        let icmp = matches!(error.origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
        let from: IpAddr = error.offender?;
        icmp.then_some(Fate::Unreachable { from, kind: error.kind, code: error.code })
    })
}

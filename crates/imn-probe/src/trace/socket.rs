use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol as Transport, SockAddr, Socket, Type};

use crate::icmp::{Family, Overflow, Stamps, prepare};
use crate::sys::{SendBatch, attach_filter, set_option};

use super::config::{FLOWS, StartError};
use super::filter;
use super::packet::{ICMP, ICMPV6, TCP, UDP};

/// Messages per `sendmmsg`.
pub(crate) const BATCH: usize = 64;
/// First of the ports that flows use: above those that Linux gives to connections.
const FIRST_PORT: u16 = 0xf000;

/// One raw socket: sends probes of one transport and family, and receives what answers them.
pub(crate) struct RawSocket {
    pub family: Family,
    /// Number of the transport protocol.
    pub protocol: u8,
    pub socket: Socket,
    /// Probes gathered for sending, and the slots of their states.
    pub batch: SendBatch,
    pub queued: Vec<u32>,
    /// The kernel takes the flow labels of our choice.
    pub labels: bool,
    pub stamps: Stamps,
    /// Stamps seen: a probe without one may not have left.
    pub stamped: bool,
    pub overflow: Overflow,
}

impl RawSocket {
    /// Opens a socket; `None` if the host lacks the family.
    pub(crate) fn open(
        family: Family,
        protocol: u8,
        buffer: usize,
        base: u16,
    ) -> Result<Option<Self>, StartError> {
        let domain = match family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let socket = match Socket::new(domain, Type::RAW, Some(Transport::from(i32::from(protocol)))) {
            Ok(socket) => socket,
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => Ok(None),
                    _ if error.kind() == io::ErrorKind::PermissionDenied => {
                        Err(StartError::NotPermitted(error))
                    }
                    _ => Err(StartError::System { operation: "open raw socket", source: error }),
                };
            }
        };
        let program = match protocol {
            ICMP | ICMPV6 => filter::icmp(family, base),
            TCP => filter::tcp(family, base),
            _ => filter::nothing(),
        };
        configure(&socket, family, buffer)
            .and_then(|()| attach_filter(&socket, &program))
            .map_err(|source| StartError::System { operation: "configure raw socket", source })?;
        let stamps = Stamps::start(&socket);
        Ok(Some(Self {
            family,
            protocol,
            socket,
            batch: SendBatch::new(BATCH),
            queued: Vec::with_capacity(BATCH),
            labels: family == Family::V6,
            stamps,
            stamped: false,
            overflow: Overflow::default(),
        }))
    }

    /// True if answers arrive here.
    pub(crate) fn receives(&self) -> bool {
        self.protocol != UDP
    }
}

fn configure(socket: &Socket, family: Family, buffer: usize) -> io::Result<()> {
    prepare(socket, buffer)?;
    // ICMP errors arrive as messages; as errors of the socket (IP_RECVERR) they would come a second time.
    match family {
        Family::V4 => Ok(()),
        Family::V6 => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1),
    }
}

/// The flow identifiers of an engine: an aligned range of ports that no other engine on this host has.
pub(crate) struct Range {
    pub base: u16,
    /// Holds the range: nobody else can bind its first port.
    _claim: Option<UdpSocket>,
}

impl Range {
    /// Takes the first free range, so that a host's flows are the same from one start to the next; where all are
    /// taken, one at random is shared, and tags tell the engines' probes apart.
    pub(crate) fn claim() -> Self {
        let any = |port| {
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
                .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
        };
        let ranges = (u32::from(u16::MAX) + 1 - u32::from(FIRST_PORT)) / u32::from(FLOWS);
        for range in 0..ranges as u16 {
            let base = FIRST_PORT + range * FLOWS;
            if let Ok(claim) = any(base) {
                return Self { base, _claim: Some(claim) };
            }
        }
        let range = rand::random::<u16>() % ranges as u16;
        Self { base: FIRST_PORT + range * FLOWS, _claim: None }
    }
}

/// The address from which this host reaches `target`.
pub(crate) fn source_toward(target: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let domain = if target.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    // A datagram socket that connects sends nothing; it looks the route up.
    let socket = Socket::new(domain, Type::DGRAM, Some(Transport::UDP))?;
    socket.bind(&SockAddr::from(SocketAddr::new(any, 0)))?;
    socket.connect(&SockAddr::from(SocketAddr::new(target, 33_434)))?;
    let local = socket.local_addr()?.as_socket().map(|address| address.ip());
    local.ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
}

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::sys::{receive_drops, set_option};

/// Received octets that may wait; what the kernel's limit allows of it is taken.
const RECEIVE_BUFFER: i32 = 4 << 20;
/// TTL or hop limit of answers, so that the hops can be counted at the other end.
const TTL: i32 = 255;

/// One address to listen on.
#[derive(Debug)]
pub(crate) struct Port {
    socket: Socket,
    address: SocketAddr,
}

impl Port {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let v4 = address.is_ipv4();
        let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER as usize)?;
        }
        if v4 {
            set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?;
            set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
            set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
            set_option(&socket, libc::IPPROTO_IP, libc::IP_TTL, TTL)?;
        } else {
            socket.set_only_v6(true)?;
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, TTL)?;
        }
        let stamping = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
        // A kernel that refuses gives no stamps; the counters say so.
        let _ = set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, stamping);
        socket.bind(&SockAddr::from(address))?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Self { socket, address })
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Packets that the kernel has dropped here.
    pub(crate) fn drops(&self) -> u64 {
        receive_drops(&self.socket).map_or(0, u64::from)
    }
}

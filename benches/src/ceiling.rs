//! What the kernel asks for an echo at least: a loop that sends and receives, with the kernel's time of both, and does
//! nothing else. It keeps no state, judges nothing and tells nobody; no engine can cost less.

use std::{
    io::{IoSlice, IoSliceMut},
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        resource::UsageWho,
        socket::{
            AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, SockaddrIn,
            TimestampingFlag, recvmmsg, sendmmsg, setsockopt, socket, sockopt,
        },
        time::TimeSpec,
    },
};

use crate::{icmp::Cost, sys, turn::cpu_us};

/// Messages per call.
const BATCH: usize = 128;
/// Octets of an echo request, as many as ping's default.
const REQUEST: usize = 64;

/// One echo to each of many loopback addresses.
pub(super) fn bare(targets: u32) -> Result<Cost> {
    let socket = open()?;
    let request = request();
    let (before, start) = (cpu_us(UsageWho::RUSAGE_SELF)?, Instant::now());
    let (mut answers, mut stamps) = (Batch::new(256), Batch::new(256));
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let slices: Vec<[IoSlice<'_>; 1]> = (0..BATCH).map(|_| [IoSlice::new(&request)]).collect();
    let (mut answered, mut stamped) = (0, 0);
    let addresses: Vec<u32> = (0..targets).map(|number| 0x7f01_0000 + number).collect();
    for chunk in addresses.chunks(BATCH) {
        let to: Vec<_> = chunk
            .iter()
            .map(|bits| Some(SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::from_bits(*bits), 0))))
            .collect();
        let sent =
            sendmmsg(socket.as_raw_fd(), &mut headers, &slices[..chunk.len()], &to, [], MsgFlags::empty())
                .context("send")?
                .count();
        if sent != chunk.len() {
            bail!("the kernel took {sent} of {} packets", chunk.len());
        }
        stamped += stamps.receive(&socket, MsgFlags::MSG_ERRQUEUE)?;
        answered += answers.receive(&socket, MsgFlags::empty())?;
    }
    let elapsed = start.elapsed();
    let cpu_us = (cpu_us(UsageWho::RUSAGE_SELF)? - before) / f64::from(targets);
    if (answered, stamped) != (targets as usize, targets as usize) {
        bail!("{answered} answers and {stamped} stamps of {targets}");
    }
    Ok(Cost { cpu_us, rate: f64::from(targets) / elapsed.as_secs_f64() })
}

fn open() -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::Icmp)
        .context("open a raw socket (needs root)")?;
    sys::only_echo_replies(&socket)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).context("enlarge the receive queue")?;
    let flags = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY;
    setsockopt(&socket, sockopt::Timestamping, &flags).context("ask for timestamps")?;
    Ok(socket)
}

/// Type 8, code 0, the checksum of nothing but zeros after it.
fn request() -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[0] = 8;
    request[2..4].copy_from_slice(&(!0x0800_u16).to_be_bytes());
    request
}

/// Where messages are received, many at a time.
struct Batch {
    headers: MultiHeaders<SockaddrIn>,
    buffers: Vec<Vec<u8>>,
}

impl Batch {
    fn new(size: usize) -> Self {
        let control = cmsg_space!([libc::timespec; 3], libc::sock_extended_err, libc::sockaddr_in);
        let headers = MultiHeaders::preallocate(BATCH, Some(control));
        Self { headers, buffers: vec![vec![0; size]; BATCH] }
    }

    /// How many came.
    fn receive(&mut self, socket: &OwnedFd, flags: MsgFlags) -> Result<usize> {
        let mut slices: Vec<_> = self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        match recvmmsg(socket.as_raw_fd(), &mut self.headers, slices.iter_mut(), flags, None::<TimeSpec>) {
            Ok(messages) => Ok(messages.count()),
            Err(Errno::EAGAIN) => Ok(0),
            Err(error) => Err(error).context("receive"),
        }
    }
}

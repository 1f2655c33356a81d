use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

const CONTROL: usize = 256;

/// Room for one message's control data, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ControlBuffer([u8; CONTROL]);

/// Per-packet settings that differ from the socket's own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SendControl {
    /// TTL or hop limit; 0 leaves the default.
    pub ttl: u8,
    /// The whole TOS or traffic-class octet; 0 leaves the default.
    pub tos: u8,
    /// Source address, of the target's family.
    pub source: Option<IpAddr>,
    /// Flow label of IPv6, 20 bits; 0 leaves it to the kernel. Refused with `EINVAL` while anybody on the host holds one
    /// for himself.
    pub label: u32,
}

/// Messages gathered for `sendmmsg`.
pub(crate) struct SendBatch {
    data: Vec<u8>,
    ends: Vec<usize>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<(ControlBuffer, usize)>,
    iovs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    sent: usize,
}

// SAFETY: its pointers lead into its own heap buffers only, which move with it.
unsafe impl Send for SendBatch {}

impl SendBatch {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            data: Vec::with_capacity(capacity * 64),
            ends: Vec::with_capacity(capacity),
            names: Vec::with_capacity(capacity),
            controls: Vec::with_capacity(capacity),
            iovs: Vec::with_capacity(capacity),
            headers: Vec::with_capacity(capacity),
            sent: 0,
        }
    }

    /// Messages gathered, sent ones included.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Adds a message of `length` bytes, all zero, and returns them to be filled.
    pub(crate) fn push(&mut self, target: IpAddr, control: &SendControl, length: usize) -> &mut [u8] {
        self.push_to(SocketAddr::new(target, 0), control, length)
    }

    /// As [`push`](Self::push), to a port.
    pub(crate) fn push_to(&mut self, target: SocketAddr, control: &SendControl, length: usize) -> &mut [u8] {
        let start = self.data.len();
        self.data.resize(start + length, 0);
        self.ends.push(start + length);
        self.names.push(name_of(target));
        self.controls.push(encode(target.is_ipv4(), control));
        &mut self.data[start..]
    }

    /// Forgets all messages.
    pub(crate) fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
        self.names.clear();
        self.controls.clear();
        self.iovs.clear();
        self.headers.clear();
        self.sent = 0;
    }

    /// Sends messages not yet sent, in order; returns how many went. The error is that of the first of them.
    pub(crate) fn send(&mut self, fd: &impl AsFd) -> io::Result<usize> {
        if self.headers.is_empty() {
            self.link();
        }
        let rest = &mut self.headers[self.sent..];
        // SAFETY: every header points into buffers of `self` that are neither moved nor freed before `clear`, and
        // were linked after the last `push`.
        let count = unsafe {
            libc::sendmmsg(fd.as_fd().as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT)
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        self.sent += count as usize;
        Ok(count as usize)
    }

    /// Passes over the message that failed.
    pub(crate) fn skip(&mut self) {
        self.sent += 1;
    }

    /// Index of the next message to send.
    pub(crate) fn position(&self) -> usize {
        self.sent
    }

    fn link(&mut self) {
        let mut start = 0;
        for &end in &self.ends {
            let bytes = &mut self.data[start..end];
            self.iovs.push(libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
            start = end;
        }
        for index in 0..self.ends.len() {
            // SAFETY: msghdr is pointers and integers, for which all zeros is a value.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = name_length(&self.names[index]);
            header.msg_iov = &raw mut self.iovs[index];
            header.msg_iovlen = 1;
            let (control, length) = &mut self.controls[index];
            if *length > 0 {
                header.msg_control = control.0.as_mut_ptr().cast();
                header.msg_controllen = *length as _;
            }
            self.headers.push(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
        }
    }
}

fn name_of(target: SocketAddr) -> libc::sockaddr_storage {
    // SAFETY: sockaddr_storage is plain integers, for which all zeros is a value.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    match target {
        SocketAddr::V4(v4) => {
            // SAFETY: sockaddr_storage is as large and as aligned as every socket address.
            let name = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
            name.sin_family = libc::AF_INET as u16;
            name.sin_port = v4.port().to_be();
            name.sin_addr.s_addr = v4.ip().to_bits().to_be();
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let name = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
            name.sin6_family = libc::AF_INET6 as u16;
            name.sin6_port = v6.port().to_be();
            name.sin6_addr.s6_addr = v6.ip().octets();
            name.sin6_scope_id = v6.scope_id();
        }
    }
    storage
}

fn name_length(name: &libc::sockaddr_storage) -> libc::socklen_t {
    let length = if i32::from(name.ss_family) == libc::AF_INET {
        size_of::<libc::sockaddr_in>()
    } else {
        size_of::<libc::sockaddr_in6>()
    };
    length as libc::socklen_t
}

fn encode(v4: bool, control: &SendControl) -> (ControlBuffer, usize) {
    let mut buffer = (ControlBuffer([0; CONTROL]), 0);
    if control.ttl != 0 {
        let (level, name) =
            if v4 { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) };
        append(&mut buffer, level, name, &libc::c_int::from(control.ttl));
    }
    if control.tos != 0 {
        let (level, name) =
            if v4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
        append(&mut buffer, level, name, &libc::c_int::from(control.tos));
    }
    if control.label != 0 && !v4 {
        append(&mut buffer, libc::IPPROTO_IPV6, libc::IPV6_FLOWINFO, &control.label.to_be());
    }
    match control.source {
        Some(IpAddr::V4(source)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: source.to_bits().to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            append(&mut buffer, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(source)) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: source.octets() }, ipi6_ifindex: 0 };
            append(&mut buffer, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        None => {}
    }
    buffer
}

fn append<T: Copy>((buffer, length): &mut (ControlBuffer, usize), level: i32, name: i32, value: &T) {
    // SAFETY: CMSG_LEN and CMSG_SPACE only compute.
    let (used, space) =
        unsafe { (libc::CMSG_LEN(size_of::<T>() as u32), libc::CMSG_SPACE(size_of::<T>() as u32) as usize) };
    assert!(*length + space <= CONTROL, "control messages exceed their buffer");
    let at = buffer.0[*length..].as_mut_ptr();
    let header = libc::cmsghdr { cmsg_len: used as _, cmsg_level: level, cmsg_type: name };
    // SAFETY: there is room for `space` bytes, which hold the header and the value behind it, as asserted; neither
    // write needs alignment.
    unsafe {
        ptr::copy_nonoverlapping((&raw const header).cast::<u8>(), at, size_of::<libc::cmsghdr>());
        let payload = at.add(libc::CMSG_LEN(0) as usize);
        ptr::copy_nonoverlapping(ptr::from_ref(value).cast::<u8>(), payload, size_of::<T>());
    }
    *length += space;
}

/// What the kernel says about a received message.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Control {
    /// Software timestamp, nanoseconds of `CLOCK_REALTIME`.
    pub stamp: Option<u64>,
    /// TTL or hop limit.
    pub ttl: Option<u8>,
    /// The whole TOS or traffic-class octet.
    pub tos: Option<u8>,
    /// The destination in the packet's header, and this host's address that it was delivered to.
    pub destination: Option<(IpAddr, IpAddr)>,
    /// For messages from the error queue.
    pub error: Option<ExtendedError>,
}

/// `sock_extended_err` and the offender's address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExtendedError {
    pub origin: u8,
    pub kind: u8,
    pub code: u8,
    /// For timestamps: the number of the packet.
    pub data: u32,
    pub offender: Option<IpAddr>,
}

/// Buffers for `recvmmsg`.
pub(crate) struct RecvBatch {
    data: Vec<u8>,
    size: usize,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<ControlBuffer>,
    _iovs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: its pointers lead into its own heap buffers only, which move with it.
unsafe impl Send for RecvBatch {}

impl RecvBatch {
    /// Room for `count` messages of `size` bytes.
    pub(crate) fn new(count: usize, size: usize) -> Self {
        let mut data = vec![0_u8; count * size];
        // SAFETY: sockaddr_storage is plain integers, for which all zeros is a value.
        let mut names: Vec<libc::sockaddr_storage> = vec![unsafe { std::mem::zeroed() }; count];
        let mut controls = vec![ControlBuffer([0; CONTROL]); count];
        let mut iovs: Vec<libc::iovec> = data
            .chunks_exact_mut(size)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: size })
            .collect();
        let headers = (0..count)
            .map(|index| {
                // SAFETY: mmsghdr is pointers and integers, for which all zeros is a value.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_name = (&raw mut names[index]).cast();
                header.msg_hdr.msg_iov = &raw mut iovs[index];
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = controls[index].0.as_mut_ptr().cast();
                header
            })
            .collect();
        Self { data, size, names, controls, _iovs: iovs, headers }
    }

    /// Messages that fit into one call.
    pub(crate) fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// Largest message that fits.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Receives what is there; 0 when there is nothing.
    pub(crate) fn receive(&mut self, fd: &impl AsFd, error_queue: bool) -> io::Result<usize> {
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
            header.msg_hdr.msg_controllen = CONTROL as _;
            header.msg_hdr.msg_flags = 0;
        }
        let flags = libc::MSG_DONTWAIT | if error_queue { libc::MSG_ERRQUEUE } else { 0 };
        // SAFETY: every header points into buffers of `self`, which are never moved or resized after `new`.
        let count = unsafe {
            libc::recvmmsg(
                fd.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as u32,
                flags,
                ptr::null_mut(),
            )
        };
        if count >= 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) }
    }

    /// Message `index` of the last call: its bytes, and whether more of it did not fit.
    pub(crate) fn data(&self, index: usize) -> (&[u8], bool) {
        let header = &self.headers[index];
        let length = (header.msg_len as usize).min(self.size);
        let start = index * self.size;
        (&self.data[start..start + length], header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0)
    }

    /// Sender of message `index`; for the error queue the original destination.
    pub(crate) fn name(&self, index: usize) -> Option<IpAddr> {
        self.peer(index).map(|peer| peer.ip())
    }

    /// As [`name`](Self::name), with the port.
    pub(crate) fn peer(&self, index: usize) -> Option<SocketAddr> {
        if self.headers[index].msg_hdr.msg_namelen == 0 {
            None
        } else {
            address_in(&raw const self.names[index])
        }
    }

    /// Control data of message `index`.
    pub(crate) fn control(&self, index: usize) -> Control {
        let mut control = Control::default();
        let mut rest = &self.controls[index].0[..self.headers[index].msg_hdr.msg_controllen.min(CONTROL)];
        while rest.len() >= size_of::<libc::cmsghdr>() {
            // SAFETY: there are enough bytes, and a cmsghdr is plain integers; read_unaligned needs no alignment.
            let header = unsafe { rest.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
            let length = header.cmsg_len;
            // SAFETY: CMSG_LEN and CMSG_SPACE only compute.
            let (begin, next) = unsafe {
                let payload = length.saturating_sub(libc::CMSG_LEN(0) as usize);
                (libc::CMSG_LEN(0) as usize, libc::CMSG_SPACE(payload as u32) as usize)
            };
            if length < begin || length > rest.len() {
                break;
            }
            decode(&mut control, header.cmsg_level, header.cmsg_type, &rest[begin..length]);
            rest = rest.get(next..).unwrap_or_default();
        }
        control
    }
}

fn decode(control: &mut Control, level: i32, name: i32, payload: &[u8]) {
    match (level, name) {
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING) => {
            // scm_timestamping: three timespecs, of which the first is the software one.
            if let (Some(seconds), Some(nanos)) = (integer::<i64>(payload, 0), integer::<i64>(payload, 8)) {
                let stamp = seconds as u64 * 1_000_000_000 + nanos as u64;
                control.stamp = (stamp != 0).then_some(stamp);
            }
        }
        (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
            control.ttl = integer::<i32>(payload, 0).map(|ttl| ttl as u8);
        }
        // An octet for IPv4, an integer for IPv6.
        (libc::IPPROTO_IP, libc::IP_TOS) => control.tos = payload.first().copied(),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            control.tos = integer::<i32>(payload, 0).map(|class| class as u8);
        }
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            // in_pktinfo: interface u32, local address, destination of the header.
            let address = |at| Some(IpAddr::from(*payload.get(at..)?.first_chunk::<4>()?));
            control.destination = address(8).zip(address(4));
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let address = payload.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
            control.destination = address.zip(address);
        }
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
            // sock_extended_err: errno u32, origin u8, type u8, code u8, pad u8, info u32, data u32; offender follows.
            let Some(data) = integer(payload, 12) else { return };
            control.error = Some(ExtendedError {
                origin: payload[4],
                kind: payload[5],
                code: payload[6],
                data,
                offender: offender(payload.get(16..).unwrap_or_default()),
            });
        }
        _ => {}
    }
}

fn offender(bytes: &[u8]) -> Option<IpAddr> {
    // SAFETY: sockaddr_storage is plain integers, for which all zeros is a value.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let length = bytes.len().min(size_of::<libc::sockaddr_storage>());
    // SAFETY: `length` fits both, and the two do not overlap.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut storage).cast::<u8>(), length) };
    address_in(&raw const storage).map(|address| address.ip())
}

/// The address and port in a socket address of at least `sockaddr_storage` size; callers pass a live one.
fn address_in(storage: *const libc::sockaddr_storage) -> Option<SocketAddr> {
    // SAFETY: the pointer is to a live sockaddr_storage, which is as large and aligned as the others.
    unsafe {
        match i32::from((*storage).ss_family) {
            libc::AF_INET => {
                let name = &*storage.cast::<libc::sockaddr_in>();
                let address = Ipv4Addr::from_bits(u32::from_be(name.sin_addr.s_addr));
                Some((address, u16::from_be(name.sin_port)).into())
            }
            libc::AF_INET6 => {
                let name = &*storage.cast::<libc::sockaddr_in6>();
                let address = Ipv6Addr::from(name.sin6_addr.s6_addr);
                let port = u16::from_be(name.sin6_port);
                Some(SocketAddrV6::new(address, port, 0, name.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

trait Integer: Sized {
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! integers {
    ($($kind:ty),*) => {$(
        impl Integer for $kind {
            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.first_chunk().map(|chunk| Self::from_ne_bytes(*chunk))
            }
        }
    )*};
}
integers!(u32, i32, i64);

fn integer<T: Integer>(payload: &[u8], offset: usize) -> Option<T> {
    payload.get(offset..).and_then(T::read)
}

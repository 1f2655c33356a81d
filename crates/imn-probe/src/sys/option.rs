use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Values the kernel reads as plain bytes.
pub(crate) trait OptionValue: Copy {}
impl OptionValue for i32 {}
impl OptionValue for u32 {}
impl OptionValue for [u32; 8] {}

/// Sets a socket option.
pub(crate) fn set_option<T: OptionValue>(fd: &impl AsFd, level: i32, name: i32, value: T) -> io::Result<()> {
    set_raw(fd, level, name, &value)
}

/// Attaches a classic BPF program: what it rejects is never queued and wakes nobody.
pub(crate) fn attach_filter(fd: &impl AsFd, program: &[libc::sock_filter]) -> io::Result<()> {
    // SO_ATTACH_FILTER copies the program and does not write to it, in spite of the pointer's type.
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    set_raw(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Packets that the socket's full receive queue has made the kernel drop since the socket was opened: the count that
/// `SO_RXQ_OVFL` attaches to the next packet, but to be had without one.
pub(crate) fn receive_drops(fd: &impl AsFd) -> io::Result<u32> {
    const DROPS: usize = 8;
    let mut info = [0_u32; DROPS + 1];
    get_raw(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut info)?;
    Ok(info[DROPS])
}

/// The kernel's smoothed round-trip time of a TCP connection, `None` if it has retransmitted or has none yet.
pub(crate) fn tcp_rtt(fd: &impl AsFd) -> Option<Duration> {
    // SAFETY: tcp_info is plain integers, for which all zeros is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    get_raw(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).ok()?;
    (info.tcpi_rtt > 0 && info.tcpi_total_retrans == 0)
        .then(|| Duration::from_micros(u64::from(info.tcpi_rtt)))
}

fn set_raw<T>(fd: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe the live `value`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get_raw<T>(fd: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the live `value`; both callers pass plain integers.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

//! The one socket option that has no safe wrapper.
#![expect(unsafe_code, reason = "setsockopt with a structure of its own")]

use std::{io, mem::size_of_val, os::fd::AsRawFd};

/// The option's name at `SOL_RAW`, as linux/icmp.h has it.
const ICMP_FILTER: libc::c_int = 1;

/// Lets nothing but echo replies come to a raw ICMP socket.
pub(crate) fn only_echo_replies(socket: &impl AsRawFd) -> io::Result<()> {
    let blocked: u32 = !1;
    // SAFETY: the pointer and the length are those of a live value, which the kernel copies.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_RAW,
            ICMP_FILTER,
            (&raw const blocked).cast(),
            size_of_val(&blocked) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

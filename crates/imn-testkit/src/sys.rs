//! The system calls for which no safe wrapper exists: the only unsafe code of the crate.

use crate::{Error, Result};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

/// Makes the child of `command` enter `namespace`, receive `on_parent_death` when the thread that spawns it ends,
/// and lead a process group of its own.
#[expect(
    unsafe_code,
    reason = "pre_exec: the hook makes system calls only, which is allowed between fork and exec"
)]
pub(crate) fn prepare_child(command: &mut Command, namespace: Option<Arc<OwnedFd>>, on_parent_death: Signal) {
    command.process_group(0);
    let parent = rustix::process::getpid();
    // SAFETY: the closure neither allocates nor takes locks; it calls setns, prctl and getppid only.
    unsafe {
        command.pre_exec(move || {
            if let Some(namespace) = &namespace {
                nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)?;
            }
            nix::sys::prctl::set_pdeathsig(on_parent_death)?;
            if rustix::process::getppid() != Some(parent) {
                // The parent died before the line above: its signal will never come.
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

/// Makes the child of `command` the leader of a new session, so that no signal to the group of its parent reaches it.
#[expect(
    unsafe_code,
    reason = "pre_exec: the hook makes one system call, which is allowed between fork and exec"
)]
pub(crate) fn detach_child(command: &mut Command) {
    // SAFETY: the closure neither allocates nor takes locks; it calls setsid only.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
}

/// Creates the TUN device `name` in the network namespace of the calling thread; packets carry no header of their own.
#[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
pub(crate) fn open_tun(name: &str) -> Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(Error::file("open", "/dev/net/tun"))?;
    if name.len() >= libc::IFNAMSIZ {
        return Err(Error::Topology(format!("interface name {name} is longer than 15 bytes")));
    }
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if status < 0 {
        return Err(Error::system(format!("create TUN device {name}"))(io::Error::last_os_error()));
    }
    rustix::io::ioctl_fionbio(&file, true).map_err(Error::errno("make TUN device non-blocking"))?;
    Ok(file.into())
}

/// Gives the calling thread the lowest real-time priority; `false` when that is not permitted.
#[expect(unsafe_code, reason = "sched_setscheduler has no safe wrapper")]
pub(crate) fn become_real_time() -> bool {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the call reads one sched_param, which outlives it; 0 is the calling thread.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const priority) == 0
    }
}

/// Gives the calling thread less than the lowest priority: it runs when nobody else does; `false` when refused.
#[expect(unsafe_code, reason = "sched_setscheduler has no safe wrapper")]
pub(crate) fn become_idle() -> bool {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one sched_param, which outlives it; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const priority) == 0 }
}

//! The system calls for which no safe wrapper exists: the only unsafe code of the crate.

use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use std::io;
use std::os::fd::OwnedFd;
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

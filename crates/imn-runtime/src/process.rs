//! Processes as the kernel shows them: who they are, whether they live, what they use, when they end.

use std::{fs, io, os::fd::OwnedFd, time::Duration};

use nix::{sys::signal::kill, unistd::Pid as NixPid};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

pub use nix::sys::signal::Signal;

/// Ticks per second in `/proc/PID/stat`; the kernel's interface fixes it, whatever the kernel's own clock is.
const TICKS_PER_SECOND: f64 = 100.0;

/// On how many processors one part of a network works at a time, at least one: half of those that there are. The parts
/// share a host, and threads on more than that would rather hand work to and fro than do it.
pub fn processors() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1)
}

/// One process and no other: a pid is used again, a pid with its start time in one boot is not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// When it was started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
    /// The boot in which that counts.
    #[serde(default)]
    pub boot: String,
}

impl Identity {
    /// The living process of this pid; `None` when there is none.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        stat.alive().then(|| Self { pid, start_time: stat.start_time, boot: boot() })
    }

    /// The child of this pid that this process has not waited for yet, also when it has ended already.
    pub fn of_child(pid: u32) -> Option<Self> {
        let start_time = Stat::read(pid)?.start_time;
        Some(Self { pid, start_time, boot: boot() })
    }

    /// This process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id())
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "/proc/self/stat is unreadable"))
    }

    /// Whether this very process still runs. One that has ended and was not waited for does not.
    pub fn is_alive(&self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.alive() && stat.start_time == self.start_time)
            && self.boot == boot()
    }

    /// Whether somebody has stopped it, by SIGSTOP or a debugger.
    pub fn is_stopped(&self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| matches!(stat.state, 'T' | 't'))
    }

    /// Sends a signal to this very process; tells whether it was there to take it.
    ///
    /// # Errors
    /// When it is another user's.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        if !self.is_alive() {
            return Ok(false);
        }
        match kill(NixPid::from_raw(self.pid as i32), signal) {
            Ok(()) => Ok(true),
            Err(nix::errno::Errno::ESRCH) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until this process has ended; it need not be a child. At once when it is gone. Cancel-safe.
    ///
    /// # Errors
    /// When the system refuses to watch it.
    pub async fn exited(&self) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid as i32) else { return Ok(()) };
        let fd: OwnedFd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        // The descriptor may be that of a later process of the same pid; it cannot become one from now on.
        if !self.is_alive() {
            return Ok(());
        }
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; an OwnedFd that stays here meets its conditions"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        fd.readable().await?.retain_ready();
        Ok(())
    }

    /// Asks it to end by SIGTERM and, past `deadline`, kills it. Tells whether it ended by itself.
    ///
    /// # Errors
    /// When it may not be signalled or watched.
    pub async fn terminate(&self, deadline: Duration) -> io::Result<bool> {
        self.signal(Signal::SIGTERM)?;
        if let Ok(ended) = tokio::time::timeout(deadline, self.exited()).await {
            ended?;
            return Ok(true);
        }
        tracing::warn!(pid = self.pid, deadline_ms = deadline.as_millis(), "killed at the deadline");
        self.signal(Signal::SIGKILL)?;
        self.exited().await?;
        Ok(false)
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time in user and kernel mode since its start, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
    /// Threads.
    pub threads: u64,
}

/// What a process has used; `None` when it is gone.
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = Stat::read(pid)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rss_kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    Some(Usage {
        cpu_seconds: stat.ticks as f64 / TICKS_PER_SECOND,
        rss_bytes: rss_kib * 1024,
        threads: stat.threads,
    })
}

/// Has the kernel send SIGTERM to this process when its parent dies, however that dies.
///
/// To the kernel the parent is the thread that started this process: it must live as long as its process, as those
/// of tokio's scheduler do and those of its blocking pool do not.
///
/// `parent` is the pid that started it: when that has died already, before this call, the error says so and the
/// process should end.
///
/// # Errors
/// When the parent is gone or the system refuses.
pub fn die_with_parent(parent: Option<u32>) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let actual = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u32);
    match parent {
        Some(expected) if expected != actual => {
            Err(io::Error::other(format!("the parent, pid {expected}, has ended")))
        }
        _ => Ok(()),
    }
}

struct Stat {
    state: char,
    ticks: u64,
    threads: u64,
    start_time: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Fields are counted from the last `)`: the name before it may hold spaces and brackets.
    fn parse(text: &str) -> Option<Self> {
        let rest = &text[text.rfind(')')? + 1..];
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // `fields[0]` is field 3 of proc(5).
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            ticks: number(14)? + number(15)?,
            threads: number(20)?,
            start_time: number(22)?,
        })
    }

    fn alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The id of this boot; empty where the kernel does not tell.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::process::CommandExt, process::Command};

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 11 31 0 0 20 0 5 0 987654 1 2";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.state, stat.ticks, stat.threads, stat.start_time), ('S', 42, 5, 987_654));
        for cut in ["", "1 (x", "1 (x)", "1 (x) S 1 2"] {
            assert!(Stat::parse(cut).is_none(), "{cut}");
        }
    }

    #[tokio::test]
    async fn a_process_is_watched_signalled_and_never_mistaken() {
        let mut child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(identity.is_alive());
        let other = Identity { start_time: identity.start_time + 1, ..identity.clone() };
        assert!(!other.is_alive());
        assert!(!other.signal(Signal::SIGKILL).unwrap());
        other.exited().await.unwrap();
        assert!(identity.terminate(Duration::from_secs(10)).await.unwrap());
        // A zombie until it is waited for: it runs no more, and is still known.
        assert!(!identity.is_alive());
        assert_eq!(Identity::of(child.id()), None);
        assert_eq!(Identity::of_child(child.id()).as_ref(), Some(&identity));
        child.wait().unwrap();
        identity.exited().await.unwrap();
        assert_eq!(Identity::of_child(child.id()), None);
    }

    #[tokio::test]
    async fn what_does_not_listen_is_killed_at_the_deadline() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; echo; while :; do sleep 1; done"])
            .stdout(std::process::Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut ready = [0];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(!identity.terminate(Duration::from_millis(100)).await.unwrap());
        child.wait().unwrap();
    }

    #[test]
    fn usage_of_this_process_is_plausible() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 100_000 && usage.threads >= 1, "{usage:?}");
        assert!(super::usage(0).is_none());
    }
}

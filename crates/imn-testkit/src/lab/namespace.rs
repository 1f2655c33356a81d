//! Network namespaces without names: they exist as long as somebody holds them, so none can be left behind.

use crate::session::Session;
use crate::{Error, Program, Result};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const IP: Duration = Duration::from_secs(20);

/// A network namespace, held by a descriptor.
#[derive(Clone, Debug)]
pub(crate) struct Namespace(Arc<OwnedFd>);

impl Namespace {
    pub(crate) fn new() -> Result<Self> {
        let create = || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(Error::errno("create a network namespace"))?;
            let own = "/proc/thread-self/ns/net";
            Ok(Self(Arc::new(File::open(own).map_err(Error::file("open", own))?.into())))
        };
        on_thread(create)
    }

    /// Runs `work` on a fresh thread inside.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET).map_err(Error::errno("enter a network namespace"))?;
            Ok(work())
        })
    }

    pub(crate) fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Program {
        Program::new(program).namespace(Some(Arc::clone(&self.0)))
    }

    pub(crate) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.0)
    }

    /// A path that other programs can open while this process lives.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }

    /// Runs the commands of ip(8) inside, one per line.
    pub(crate) fn ip(&self, commands: &str) -> Result<()> {
        let directory = Session::current()?.directory("ip")?;
        let batch = directory.join("batch");
        fs::write(&batch, commands).map_err(Error::file("write", &batch))?;
        let outcome = self.program("ip").package("iproute2").arg("-batch").arg(&batch).run_ok(IP);
        let _ = fs::remove_dir_all(directory);
        outcome.map(drop)
    }
}

/// Sets a variable below /proc/sys/net in the namespace of the calling thread.
pub(crate) fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).map_err(Error::file("write", path))
}

/// Runs `work` on a thread of its own, because entering a namespace changes the thread for good.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("namespace".into())
            .spawn_scoped(scope, work)
            .map_err(Error::system("start a thread"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

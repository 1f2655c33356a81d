//! What one test process owns: a directory, the thread that starts its children, and the watchdog that removes
//! both when the process is gone, however it went.

use crate::{Error, Result, sys};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};

/// The environment variable by which the descendants of a child are found, even after their parent died.
pub(crate) const OWNER: &str = "IMN_TESTKIT_OWNER";

/// Waits for its standard input to close, which the kernel does when the test process ends for whatever reason; then
/// kills what still carries the mark of the process and removes its directory. The pause lets servers that get a
/// gentler signal at the death of their parent clean up after themselves.
const WATCHDOG: &str = r#"
trap '' HUP INT QUIT TERM
read -r _
sleep 0.3
for round in 1 2 3; do
    found=$(grep -laF -- "$1" /proc/[0-9]*/environ 2>/dev/null)
    [ -n "$found" ] || break
    for file in $found; do pid=${file#/proc/}; kill -KILL "${pid%/environ}" 2>/dev/null; done
    sleep 0.1
done
rm -rf -- "$2"
"#;

pub(crate) struct Session {
    mark: String,
    root: PathBuf,
    spawner: mpsc::Sender<Request>,
    next: AtomicU64,
    // Closed by the kernel when this process ends; the watchdog waits for that.
    _watchdog: ChildStdin,
}

struct Request {
    command: Command,
    answer: mpsc::Sender<std::io::Result<Child>>,
}

impl Session {
    /// The session of this process; the first call creates it.
    pub(crate) fn current() -> Result<&'static Self> {
        static SESSION: OnceLock<Result<Session>> = OnceLock::new();
        SESSION.get_or_init(Self::open).as_ref().map_err(|error| Error::System {
            operation: "open the session of the test process".into(),
            source: std::io::Error::other(error.to_string()),
        })
    }

    /// A new, empty directory that goes when the process ends, at the latest.
    pub(crate) fn directory(&self, purpose: &str) -> Result<PathBuf> {
        let path = self.root.join(format!("{purpose}-{}", self.number()));
        fs::create_dir(&path).map_err(Error::file("create", &path))?;
        Ok(path)
    }

    /// A mark that no other child of any process has.
    pub(crate) fn mark(&self) -> String {
        format!("{}.{}", self.mark, self.number())
    }

    /// Starts `command` from a thread that lives as long as the process, because the signal at the death of the
    /// parent is sent when the *thread* that spawned ends, and the threads of tests end early.
    pub(crate) fn spawn(&self, command: Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        let (answer, child) = mpsc::channel();
        let gone = || std::io::Error::other("the spawning thread is gone");
        self.spawner
            .send(Request { command, answer })
            .map_err(|_| gone())
            .and_then(|()| child.recv().map_err(|_| gone())?)
            .map_err(|source| Error::Spawn { program, source })
    }

    fn open() -> Result<Self> {
        let root = tempfile::Builder::new()
            .prefix(&format!("imn-testkit-{}-", std::process::id()))
            .tempdir()
            .map_err(Error::system("create the directory of the test process"))?
            .keep();
        // Servers that refuse to run as root must be able to reach their directories below.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o711))
            .map_err(Error::file("set the mode of", &root))?;
        let mark = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let watchdog = start_watchdog(&mark, &root)?;
        let (spawner, requests) = mpsc::channel::<Request>();
        std::thread::Builder::new()
            .name("testkit-spawner".into())
            .spawn(move || {
                for mut request in requests {
                    // The asker may have died meanwhile; its child is then killed with the process.
                    let _ = request.answer.send(request.command.spawn());
                }
            })
            .map_err(Error::system("start the spawning thread"))?;
        Ok(Self { mark, root, spawner, next: AtomicU64::new(1), _watchdog: watchdog })
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

fn start_watchdog(mark: &str, root: &Path) -> Result<ChildStdin> {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", WATCHDOG, "testkit-watchdog", &format!("{OWNER}={mark}.")])
        .arg(root)
        .current_dir("/")
        .env_remove(OWNER)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::detach_child(&mut command);
    let mut child = command.spawn().map_err(Error::system("start the watchdog"))?;
    child
        .stdin
        .take()
        .ok_or_else(|| Error::system("start the watchdog")(std::io::Error::other("it has no stdin")))
}

//! One process of a module: started, or taken over from the agent before.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use imn_contract::{Encoding, InstanceId, encode, latest::ModuleConfig};
use imn_runtime::process::{Identity, Signal};
use nix::sys::signal::killpg;
use rustix::process::{Pid, Resource, Rlimit, getpriority_process, getrlimit, prlimit, setpriority_process};
use tokio::{io::AsyncWriteExt, process::Child};

use super::{
    catalog::{Limits, Spec},
    record::{INSTANCE_VARIABLE, Record},
};
use crate::{Environment, Error, Result, output::output_file};

/// How long a module may take to read its configuration.
const CONFIG_WITHIN: Duration = Duration::from_secs(5);
/// How long a program may be open for writing in a process that is just being started.
const BUSY_FOR: Duration = Duration::from_millis(200);
/// A log file larger than this starts anew; the old one is kept as `.1`.
const LOG_LIMIT: u64 = 10 * 1024 * 1024;

/// A running process.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) identity: Identity,
    pub(super) fingerprint: String,
    /// How it was told to run; unknown of one that was taken over.
    pub(super) told: Option<Arc<Spec>>,
    pub(super) since: Instant,
    /// Absent when it was taken over.
    child: Option<Child>,
    /// Where it writes, and from which byte on.
    log: Option<(PathBuf, u64)>,
}

impl Launched {
    /// Takes a process over that runs.
    pub(super) fn adopt(record: &Record) -> Self {
        Self {
            identity: record.process.clone(),
            fingerprint: record.fingerprint.clone(),
            told: None,
            since: Instant::now(),
            child: None,
            log: None,
        }
    }

    /// Starts a process in a group of its own. It waits for its configuration on standard input: until
    /// [`Launched::configure`] it can be dropped, and ends by itself.
    /// What it writes to its standard error goes to `log`, and `environment` is all that it gets of that.
    pub(super) fn start(
        spec: &Spec,
        instance: &InstanceId,
        log: &Path,
        environment: &Environment,
    ) -> Result<Self> {
        let failed = |source: io::Error| Error::Start { program: spec.program.clone(), source };
        let out = open_log(&output_file(log)).map_err(failed)?;
        let errors = open_log(log).map_err(failed)?;
        let from = errors.metadata().map_err(failed)?.len();
        // Whoever looks at its own name finds what it was found under; a script is told the copy's by the kernel.
        let program = spec.artifact.as_ref().map_or(&spec.program, |artifact| &artifact.path);
        let mut command = Command::new(program);
        command.arg0(&spec.program).args(&spec.args).env_clear().env(INSTANCE_VARIABLE, instance.as_str());
        for name in ["PATH", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(environment.0.iter().map(|(name, value)| (name, value)));
        if let Some(level) = &spec.log_level {
            command.env("IMN_LOG", level);
        }
        command.stdin(Stdio::piped()).stdout(out).stderr(errors).process_group(0);
        let child = spawn(&mut command.into()).map_err(failed)?;
        let identity = child
            .id()
            .and_then(Identity::of_child)
            .ok_or_else(|| failed(io::Error::other("its start time cannot be read in /proc")))?;
        // It has not read its configuration yet, so it has done nothing.
        bound(spec.limits, identity.pid)
            .map_err(|error| failed(io::Error::other(format!("set the limits of its manifest: {error}"))))?;
        Ok(Self {
            identity,
            fingerprint: spec.fingerprint.clone(),
            told: Some(Arc::new(spec.clone())),
            since: Instant::now(),
            child: Some(child),
            log: Some((log.to_owned(), from)),
        })
    }

    /// Hands the configuration over.
    pub(super) async fn configure(&mut self, spec: &Spec, config: &ModuleConfig) -> Result<()> {
        let failed = |message: String| Error::Start {
            program: spec.program.clone(),
            source: io::Error::other(format!("hand over its configuration: {message}")),
        };
        let text = encode(config, Encoding::Json).map_err(|error| failed(error.to_string()))?;
        let Some(mut stdin) = self.child.as_mut().and_then(|child| child.stdin.take()) else { return Ok(()) };
        let write = async {
            stdin.write_all(&text).await?;
            stdin.shutdown().await
        };
        match tokio::time::timeout(CONFIG_WITHIN, write).await {
            Ok(Ok(())) => Ok(()),
            // A module that needs no configuration may close its input at once.
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("not read within {} s", CONFIG_WITHIN.as_secs()))),
        }
    }

    /// Waits for the end and says how it was. Cancel-safe.
    pub(super) async fn exited(&mut self) -> String {
        match &mut self.child {
            Some(child) => match child.wait().await {
                // What it has said last is why; one that was killed has not said it.
                Ok(status) if status.code().is_some_and(|code| code != 0) => {
                    let words = self.log.as_ref().and_then(|(path, from)| last_words(path, *from));
                    words.map_or_else(|| status.to_string(), |words| format!("{status}: {words}"))
                }
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            None => match self.identity.exited().await {
                Ok(()) => "ended (its status went to the agent before)".to_owned(),
                Err(error) => error.to_string(),
            },
        }
    }

    /// Asks it to end, and kills it past the deadline.
    pub(super) async fn stop(mut self, deadline: Duration) {
        if let Err(error) = self.identity.signal(Signal::SIGTERM) {
            tracing::warn!(pid = self.identity.pid, %error, "module cannot be signalled");
        }
        if tokio::time::timeout(deadline, self.exited()).await.is_err() {
            tracing::warn!(pid = self.identity.pid, "module killed, it did not drain in time");
            self.kill().await;
        }
        self.sweep_group();
    }

    /// Kills it at once.
    pub(super) async fn kill(&mut self) {
        // A failure means that it is gone already.
        let _ = self.identity.signal(Signal::SIGKILL);
        self.exited().await;
    }

    /// Kills what a module that has ended has left behind in its group.
    pub(super) fn sweep_group(&self) {
        let _ = killpg(nix::unistd::Pid::from_raw(self.identity.pid.cast_signed()), Signal::SIGKILL);
    }
}

/// Starts a program that this process may have written just now: until the child of another thread that was forked
/// meanwhile has executed its own program, it still has the file open, and the kernel calls it busy.
fn spawn(command: &mut tokio::process::Command) -> io::Result<Child> {
    let end = Instant::now() + BUSY_FOR;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            spawned => return spawned,
        }
    }
}

/// Sets what a process may use.
fn bound(limits: Limits, pid: u32) -> rustix::io::Result<()> {
    let process = Pid::from_raw(pid.cast_signed());
    let set = |resource: Resource, most: u64| {
        // More than this process may use itself cannot be given.
        let most = getrlimit(resource).maximum.map_or(most, |own| most.min(own));
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        prlimit(process, resource, limit).map(drop)
    };
    if let Some(mb) = limits.memory_mb {
        set(Resource::Data, mb.saturating_mul(1 << 20))?;
    }
    if let Some(files) = limits.open_files {
        set(Resource::Nofile, files)?;
    }
    if let Some(nice) = limits.nice {
        let own = getpriority_process(None)?;
        setpriority_process(process, nice.max(own))?;
    }
    Ok(())
}

/// The last line that a process has written, as far as anyone reads.
fn last_words(log: &Path, from: u64) -> Option<String> {
    const LONGEST: u64 = 2_048;
    let mut file = File::open(log).ok()?;
    let end = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(LONGEST)).min(end))).ok()?;
    let mut tail = Vec::new();
    file.take(LONGEST).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let said = |line: &&str| !line.is_empty() && !line.starts_with("note: run with `RUST_BACKTRACE");
    let line = tail.lines().map(str::trim).rfind(said)?;
    Some(line.strip_prefix("error: ").unwrap_or(line).chars().take(400).collect())
}

/// Starts a log file anew when it is too large. The module goes on writing to the same file, which is truncated.
pub(super) fn bound_log(path: &Path) {
    let Ok(meta) = std::fs::metadata(path) else { return };
    if meta.len() <= LOG_LIMIT {
        return;
    }
    let kept = PathBuf::from(format!("{}.1", path.display()));
    let bounded = std::fs::copy(path, &kept)
        .and_then(|_| OpenOptions::new().write(true).open(path))
        .and_then(|file| file.set_len(0));
    if let Err(error) = bounded {
        tracing::warn!(path = %path.display(), %error, "log file cannot be bounded");
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    bound_log(path);
    OpenOptions::new().append(true).create(true).open(path)
}

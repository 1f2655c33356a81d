//! Child processes of system scenarios: captured, killable by pid, and gone when the test is.

use crate::session::{OWNER, Session};
use crate::{Error, Result, sys, wait_until};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A program to be started: what `std::process::Command` is, and where and as whom it runs.
///
/// ```no_run
/// # use imn_testkit::Program;
/// # use std::time::Duration;
/// let outcome = Program::new("echo").arg("hello").run(Duration::from_secs(5))?;
/// assert_eq!(outcome.stdout, "hello\n");
/// # Ok::<(), imn_testkit::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Program {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    directory: Option<PathBuf>,
    namespace: Option<Arc<OwnedFd>>,
    user: Option<(u32, u32)>,
    package: Option<&'static str>,
    on_parent_death: Signal,
}

/// How a program that ran to its end did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

/// A running program in a process group of its own, its output captured in files.
///
/// It ends with the test: dropping kills it with all its descendants (found by a mark in their environment, so also
/// those that left the group or lost their parent), and so does the death of the test process, even by SIGKILL.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    mark: String,
    directory: PathBuf,
}

impl Program {
    /// The program `program`, a name on `PATH` or a path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            directory: None,
            namespace: None,
            user: None,
            package: None,
            on_parent_death: Signal::SIGKILL,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Takes a variable out of the inherited environment.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Names the Debian package that has the program, for the error when it is missing.
    #[must_use]
    pub fn package(mut self, package: &'static str) -> Self {
        self.package = Some(package);
        self
    }

    pub(crate) fn namespace(mut self, namespace: Option<Arc<OwnedFd>>) -> Self {
        self.namespace = namespace;
        self
    }

    /// Runs as this user and group; `None` changes nothing.
    pub(crate) fn user(mut self, ids: Option<(u32, u32)>) -> Self {
        self.user = ids;
        self
    }

    pub(crate) fn on_parent_death(mut self, signal: Signal) -> Self {
        self.on_parent_death = signal;
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// [`Error::MissingProgram`] when it is not installed and its package is known, [`Error::Spawn`] otherwise.
    pub fn spawn(&self) -> Result<Process> {
        let session = Session::current()?;
        let name =
            Path::new(&self.program).file_name().unwrap_or(&self.program).to_string_lossy().into_owned();
        let directory = session.directory("process")?;
        let mark = session.mark();
        let capture = |stream: &str| {
            let path = directory.join(stream);
            File::create(&path).map_err(Error::file("create", path))
        };
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(capture("stdout")?).stderr(capture("stderr")?);
        for (variable, value) in &self.env {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        command.env(OWNER, &mark);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        sys::prepare_child(&mut command, self.namespace.clone(), self.on_parent_death);
        let child = session.spawn(command).map_err(|error| match (self.package, error) {
            (Some(package), Error::Spawn { program, source })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Error::MissingProgram { program, package }
            }
            (_, error) => error,
        })?;
        Ok(Process { name, child, status: None, mark, directory })
    }

    /// Starts the program and waits until it ends by itself.
    ///
    /// # Errors
    /// As [`Program::spawn`]; [`Error::Timeout`] when it still runs at the deadline (it is then killed).
    pub fn run(&self, deadline: Duration) -> Result<Outcome> {
        let mut process = self.spawn()?;
        let status = process.wait_deadline(deadline)?;
        Ok(Outcome { status, stdout: process.stdout(), stderr: process.stderr() })
    }

    /// As [`Program::run`], but an exit status other than 0 is an error; gives the standard output.
    ///
    /// # Errors
    /// As [`Program::run`], and [`Error::Ended`] with the end of the output when the program fails.
    pub fn run_ok(&self, deadline: Duration) -> Result<String> {
        let outcome = self.run(deadline)?;
        if outcome.status.success() {
            return Ok(outcome.stdout);
        }
        Err(Error::Ended {
            program: self.program.to_string_lossy().into_owned(),
            status: outcome.status.to_string(),
            output: tail(&(outcome.stdout + &outcome.stderr)),
        })
    }
}

impl Process {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last component of the program's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything written to the standard output so far.
    pub fn stdout(&self) -> String {
        read_lossy(&self.directory.join("stdout"))
    }

    /// Everything written to the standard error so far.
    pub fn stderr(&self) -> String {
        read_lossy(&self.directory.join("stderr"))
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// Sends `signal` to this one process; a process that has ended is left alone.
    pub fn signal(&mut self, signal: Signal) {
        // Asked first: the id of a process that was waited for may belong to another one by now.
        if self.is_running() {
            let _ = kill(Pid::from_raw(self.pid() as i32), signal);
        }
    }

    /// Asks it to end (SIGTERM). Does not wait.
    pub fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    /// Kills it (SIGKILL) and waits until it is gone. Its descendants stay.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the end of its output; the process is left as it is.
    pub fn wait_deadline(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} (pid {}) to end", self.name, self.pid());
        wait_until(what, deadline, || self.ended()).map_err(|error| self.explain(error))
    }

    /// Waits for a value that `condition` makes of this process, which must not end before.
    ///
    /// # Errors
    /// [`Error::Ended`] as soon as it has ended, [`Error::Timeout`] at the deadline, both with the end of its output.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T> {
        let what = format!("{} (pid {}): {what}", self.name, self.pid());
        wait_until(what, deadline, || match condition(self) {
            Some(value) => Some(Ok(value)),
            None => self.ended().map(|status| {
                Err(Error::Ended {
                    program: self.name.clone(),
                    status: status.to_string(),
                    output: self.tail(),
                })
            }),
        })
        .map_err(|error| self.explain(error))?
    }

    /// The ids of all running processes that descend from this one, whoever their parent is now, and of itself.
    pub fn family(&self) -> Vec<u32> {
        marked(&self.mark)
    }

    /// The last lines of its output.
    pub fn tail(&self) -> String {
        tail(&(self.stdout() + &self.stderr()))
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Timeout { what, after, .. } => {
                Error::Timeout { what, after, detail: format!("; the end of its output:\n{}", self.tail()) }
            }
            error => error,
        }
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "the test harness shows it with the failed test, and only then")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of the output of {} (pid {}):\n{}", self.name, self.pid(), self.tail());
        }
        if self.status.is_none() {
            let _ = killpg(Pid::from_raw(self.pid() as i32), Signal::SIGKILL);
            self.kill9();
        }
        // A process can start another between being seen and being killed, and has no environment for a moment while
        // it executes a new program: hence rounds, until two in a row find nothing.
        let mut quiet = 0;
        for _ in 0..10 {
            let family = self.family();
            quiet = if family.is_empty() { quiet + 1 } else { 0 };
            if quiet == 2 {
                break;
            }
            for pid in family {
                let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The processes whose environment carries `mark`, zombies excepted (theirs is empty).
fn marked(mark: &str) -> Vec<u32> {
    let wanted = format!("{OWNER}={mark}").into_bytes();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == wanted))
        })
        .collect()
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

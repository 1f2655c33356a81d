//! The test programs of the workspace: which there are, which run beside others, and how they did.

use std::{
    collections::VecDeque,
    io::Write,
    path::PathBuf,
    process::{Command, Output},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::run::{cargo, output};

/// Programs that mostly wait, for restarts, deadlines and disks that are full: they run beside each other, those that take
/// longest first. All others run alone: they measure load and lateness, and two at once would measure each other.
const BESIDE: &[&str] = &[
    "imn/bad_input",
    "imn-agent/agent",
    "imn/first_minute",
    "imn/agent_killed_with_jobs",
    "imn/conformance",
    "imn/demonstrations",
    "imn/revocation",
    "imn/module_registry",
    "imn/bad_version",
    "imn/nats_away",
    "imn/agent_disk_full",
    "imn-server/core",
    "imn/every_type",
    "imn/hang",
    "imn/sigterm_past_deadline",
    "imn-store/results_conformance",
    "imn/ingest_full",
    "imn/bgp",
    "imn/postgres",
    "imn/circuit",
    "imn/orderly_end",
    "imn/torn_spool",
    "imn/manage",
    "imn/server_away",
    "imn/all_saturated",
    "imn/reroute",
    "imn/stored_not_acked",
    "imn-store/duckdb",
    "imn/enrollment",
    "imn-store/catalog_conformance",
    "imn/web",
    "imn-server/api",
    "imn-runtime/spool",
];
/// How many of these run at once.
const LANES: usize = 3;

/// A program of tests.
#[derive(Debug)]
pub(crate) struct Program {
    /// `{package}/{target}`.
    name: String,
    path: PathBuf,
    /// Where cargo would run it.
    directory: PathBuf,
}

/// A line of cargo's about what it has built.
#[derive(Deserialize)]
struct Built {
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the programs, and beside them the product.
pub(crate) fn build() -> Result<Vec<Program>> {
    let format = "--message-format=json-render-diagnostics";
    let told = output(cargo().args(["test", "--release", "--workspace", "--no-run", "--quiet", format]))?;
    let mut programs = Vec::new();
    for line in told.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let built: Built = serde_json::from_slice(line).context("read what cargo has built")?;
        let (Some(target), Some(path)) = (built.target, built.executable) else { continue };
        if built.profile.is_some_and(|profile| profile.test) {
            let directory =
                built.manifest_path.parent().context("a manifest without a directory")?.to_owned();
            let package = directory.file_name().unwrap_or_default().to_string_lossy();
            programs.push(Program { name: format!("{package}/{}", target.name), path, directory });
        }
    }
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    match BESIDE.iter().find(|name| programs.iter().all(|program| program.name != **name)) {
        Some(name) => bail!("xtask/src/suite.rs: there is no test program {name}"),
        None => Ok(programs),
    }
}

/// Runs all tests whose name contains `filter`; `set` is what each program finds in its environment.
pub(crate) fn run(programs: &[Program], filter: Option<&str>, set: (&str, PathBuf)) -> Result<()> {
    let place = |program: &Program| BESIDE.iter().position(|name| *name == program.name);
    let (mut beside, alone): (Vec<_>, Vec<_>) = programs.iter().partition(|program| place(program).is_some());
    beside.sort_by_key(|program| place(program));
    let run = Run { filter, set: &set, failed: Mutex::default(), queue: Mutex::new(beside.into()) };
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| run.drain());
        }
    });
    *run.queue.lock().unwrap_or_else(PoisonError::into_inner) = alone.into();
    run.drain();
    let failed = run.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failed.is_empty() { Ok(()) } else { bail!("tests failed: {}", failed.join(", ")) }
}

/// Programs on their way.
struct Run<'a> {
    filter: Option<&'a str>,
    set: &'a (&'a str, PathBuf),
    queue: Mutex<VecDeque<&'a Program>>,
    failed: Mutex<Vec<String>>,
}

impl<'a> Run<'a> {
    fn next(&self) -> Option<&'a Program> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn drain(&self) {
        while let Some(program) = self.next() {
            let start = Instant::now();
            let ended = self.command(program).output();
            let passed = ended.as_ref().is_ok_and(|output| output.status.success());
            tell(program, start, ended);
            if !passed {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(program.name.clone());
            }
        }
    }

    fn command(&self, program: &Program) -> Command {
        let mut command = Command::new(&program.path);
        command.current_dir(&program.directory).env("CARGO_MANIFEST_DIR", &program.directory);
        command.args(self.filter).arg("--test-threads=1").env(self.set.0, &self.set.1);
        command
    }
}

/// Prints what a program has said, in one piece.
fn tell(program: &Program, start: Instant, ended: std::io::Result<Output>) {
    let mut out = std::io::stdout().lock();
    let seconds = start.elapsed().as_secs_f64();
    let told = match ended {
        Ok(Output { status, stdout, stderr }) => {
            writeln!(out, "\n{}: {status}, {seconds:.1} s", program.name)
                .and_then(|()| out.write_all(&stderr))
                .and_then(|()| out.write_all(&stdout))
        }
        Err(error) => writeln!(out, "\n{}: {}: {error}", program.name, program.path.display()),
    };
    if let Err(error) = told.and_then(|()| out.flush()) {
        eprintln!("{}: what it said cannot be shown: {error}", program.name);
    }
}

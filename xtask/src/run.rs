//! Running other programs, and `up`.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::install;

/// The workspace's directory.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// What cargo sets for a program that it runs.
const OWN: &[&str] = &["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What cargo tells this program of itself would make build scripts that look at it run again.
    for (name, _) in std::env::vars_os() {
        if OWN.iter().any(|own| name.to_string_lossy().starts_with(own)) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.status().with_context(|| format!("run {shown}"))?;
    if status.success() { Ok(()) } else { bail!("{shown}: {status}") }
}

/// Runs a command and gives what it prints.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = shown(command);
    let output =
        command.stderr(std::process::Stdio::inherit()).output().with_context(|| format!("run {shown}"))?;
    if output.status.success() { Ok(output.stdout) } else { bail!("{shown}: {}", output.status) }
}

/// The program and its arguments.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Builds the product and gives the path of its program.
pub(crate) fn build() -> Result<PathBuf> {
    run(cargo().args(["build", "--release", "--package", "imn"]))?;
    Ok(target().join("release/imn"))
}

/// `cargo xtask up`: becomes `imn up`, so that signals reach it.
pub(crate) fn up(args: &[String]) -> Result<()> {
    install::for_running()?;
    let program = build()?;
    let error = Command::new(program).arg("up").args(args).exec();
    Err(error).context("start imn up")
}

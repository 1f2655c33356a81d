//! `test` and `soak`.

use std::time::Instant;

use anyhow::Result;

use crate::{
    install,
    run::{build, cargo, root, run},
    tidy,
};

/// Set for the scenarios, which then run at full length.
const SOAK: &str = "IMN_SOAK";
/// Where the scenarios find the product; it is built once, and is what users run.
const PROGRAM: &str = "IMN_TEST_PROGRAM";
/// Where tests find Python with the packages that they need.
const INTERPRETER: &str = "IMN_TEST_PYTHON";

pub(crate) fn test(filter: Option<&str>, with_tidy: bool) -> Result<()> {
    install::for_testing()?;
    let start = Instant::now();
    let program = build()?;
    eprintln!("built in {} s", start.elapsed().as_secs());
    if with_tidy {
        tidy::tidy()?;
    }
    let start = Instant::now();
    let mut command = cargo();
    command.args(["test", "--release", "--workspace", "--no-fail-fast"]);
    command.env(PROGRAM, program).env(INTERPRETER, install::interpreter());
    // Scenarios measure load and lateness: two at once would measure each other.
    command.args(filter).args(["--", "--test-threads=1"]);
    run(&mut command)?;
    eprintln!("tested in {} s", start.elapsed().as_secs());
    Ok(())
}

pub(crate) fn soak(filter: Option<&str>) -> Result<()> {
    install::for_testing()?;
    let program = build()?;
    let mut command = cargo();
    command.args(["test", "--release", "--package", "imn", "--no-fail-fast"]);
    command.env(PROGRAM, program).env(INTERPRETER, install::interpreter()).env(SOAK, "1");
    command.args(filter).args(["--", "--test-threads=1", "--nocapture"]);
    run(&mut command)?;
    fuzz()
}

/// Each fuzz target for a minute, where cargo-fuzz is installed.
fn fuzz() -> Result<()> {
    if run(cargo().args(["fuzz", "--version"])).is_err() {
        eprintln!("SKIPPED fuzz: cargo-fuzz is not installed; cargo install cargo-fuzz");
        return Ok(());
    }
    let targets = root().join("fuzz/fuzz_targets");
    for entry in std::fs::read_dir(targets)? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().filter(|_| path.extension().is_some_and(|e| e == "rs")) {
            // No sanitizer: it needs a nightly compiler, and this code has no unsafe to check.
            run(cargo()
                .args(["fuzz", "run", "--sanitizer", "none"])
                .arg(name)
                .args(["--", "-max_total_time=60"]))?;
        }
    }
    Ok(())
}

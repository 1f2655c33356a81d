//! `test` and `soak`.

use std::{process::Command, time::Instant};

use anyhow::Result;

use crate::{
    install,
    run::{cargo, output, root, run, target},
    suite, tidy,
};

/// Set for the scenarios, which then run at full length.
const SOAK: &str = "IMN_SOAK";
/// Where tests find Python with the packages that they need.
const INTERPRETER: &str = "IMN_TEST_PYTHON";

pub(crate) fn test(filter: Option<&str>, with_tidy: bool) -> Result<()> {
    install::for_testing()?;
    let start = Instant::now();
    let programs = suite::build()?;
    eprintln!("built in {} s", start.elapsed().as_secs());
    if with_tidy {
        tidy::tidy(&target().join("release/imn"))?;
    }
    let start = Instant::now();
    let tested = suite::run(&programs, filter, (INTERPRETER, install::interpreter()));
    // Examples of the documentation, whichever tests have failed.
    let examples = run(tests().arg("--doc").args(filter));
    eprintln!("tested in {} s", start.elapsed().as_secs());
    tested.and(examples)
}

pub(crate) fn soak(filter: Option<&str>) -> Result<()> {
    install::for_testing()?;
    suite::build()?;
    run(tests().env(SOAK, "1").args(filter).args([
        "--",
        "--test-threads=1",
        "--nocapture",
        "--include-ignored",
    ]))?;
    fuzz()
}

/// One scenario at full length, with what it tells.
pub(crate) fn in_full(scenario: &str) -> Result<()> {
    install::for_testing()?;
    run(tests().env(SOAK, "1").args(["--test", scenario, "--", "--nocapture"]))
}

fn tests() -> Command {
    let mut command = cargo();
    command.args(["test", "--release", "--workspace", "--no-fail-fast"]);
    command.env(INTERPRETER, install::interpreter());
    command
}

/// Each fuzz target for a minute.
fn fuzz() -> Result<()> {
    if output(cargo().args(["fuzz", "--version"])).is_err() {
        run(cargo().args(["install", "--quiet", "--locked", "cargo-fuzz"]))?;
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

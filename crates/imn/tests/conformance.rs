//! `imn module check`: the same suite for a built-in module, for one in Python, and for a program that is none.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use imn_testkit::{Outcome, Program};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/python");
/// With the SDK, and in the contract alone.
const IN_PYTHON: [&str; 2] = ["hello_module.py", "alone_module.py"];
const SOON: Duration = Duration::from_mins(2);

fn check(program: &Path, args: &[&str]) -> Outcome {
    let imn = Program::new(network::program()).args(["module", "check"]).arg(program).args(args);
    let outcome = imn.run(SOON).unwrap();
    println!("{}", outcome.stdout);
    outcome
}

#[track_caller]
fn kept(outcome: &Outcome) {
    assert!(outcome.status.success(), "{}{}", outcome.stdout, outcome.stderr);
    assert!(!outcome.stdout.contains("left ") && !outcome.stdout.contains("BROKEN"), "{}", outcome.stdout);
}

#[test]
fn built_in_and_python_modules_keep_the_contract() {
    let params = ["--param", "mode=delay", "--param", "delay_ms=1", "--slow-param", "delay_ms=1000"];
    kept(&check(
        &network::program(),
        &[&["--type", "faulty"][..], &params, &["--", "module", "faulty"]].concat(),
    ));

    let Some(python) = network::python() else {
        return imn_testkit::skip("conformance", "no Python with nats-py; `cargo xtask test` installs it");
    };
    // The interpreter of the tests: a module is started with a cleared environment.
    for example in IN_PYTHON {
        let path = format!("{EXAMPLES}/{example}");
        kept(&check(&python, &["--type", "hello", "--slow-param", "delay_ms=1000", "--", &path]));
    }
}

#[test]
fn what_is_no_module_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("silent");
    fs::write(&path, "#!/bin/sh\ncat > /dev/null\nsleep 60\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let silent = check(&path, &[]);
    assert_eq!(silent.status.code(), Some(1), "{}", silent.stderr);
    assert!(silent.stdout.contains("BROKEN  announces hello and ready"), "{}", silent.stdout);
    assert_eq!(check(Path::new("/nonexistent/module"), &[]).status.code(), Some(2));
}

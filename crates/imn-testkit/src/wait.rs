//! Waiting for a condition with a deadline, and skipping what this machine cannot run.

use crate::{Error, Result};
use std::io::Write;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);

/// Asks `condition` every 5 ms until it yields a value.
///
/// # Errors
/// [`Error::Timeout`] naming `what` when `deadline` passes first.
pub fn wait_until<T>(
    what: impl Into<String>,
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if started.elapsed() >= deadline {
            return Err(Error::Timeout { what: what.into(), after: deadline, detail: String::new() });
        }
        std::thread::sleep(POLL);
    }
}

/// Whether this process may run `test`, which needs root and `/dev/net/tun` (namespaces, TUN devices, raw sockets).
///
/// When it may not, `SKIPPED <test>: <reason>` goes to stderr and the answer is `false`, so that a test says
/// `if !require_root("name") { return; }`.
///
/// # Panics
/// When it may not and the environment variable `CI` is `true`: in CI nothing is skipped.
#[must_use]
pub fn require_root(test: &str) -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "needs root"
    } else if !std::path::Path::new("/dev/net/tun").exists() {
        "needs /dev/net/tun (modprobe tun)"
    } else {
        return true;
    };
    skip(test, reason);
    false
}

/// Reports that `test` is skipped because of `reason`, as [`require_root`] does.
///
/// # Panics
/// When the environment variable `CI` is `true`.
pub fn skip(test: &str, reason: &str) {
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci, "{test} may not be skipped in CI: {reason}");
    // Not eprintln, which the test harness captures: a skip has to be seen.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

//! Module processes as an agent runs them: real processes, a real nats-server, a raw client.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its support too")]

mod child;
mod jobs;
mod rights;
mod standing;

/// Not a test: what a child process of the tests runs. The configuration arrives on its standard input.
#[test]
#[ignore = "the body of the module processes that the tests start"]
fn module_process() {
    let Ok(kind) = std::env::var(child::KIND) else { return };
    imn_module::run_builtin(&kind, None).unwrap();
}

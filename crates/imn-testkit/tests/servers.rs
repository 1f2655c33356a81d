//! The servers of the kit are real: they start, answer, survive a kill and leave nothing behind.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper fails its test")]

use imn_testkit::{NatsServer, Postgres, Program, skip, wait_until};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

/// Sends protocol lines and waits for a line that contains `expected`.
fn nats_says(server: &NatsServer, send: &str, expected: &str) -> String {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    (&stream).write_all(send.as_bytes()).unwrap();
    BufReader::new(stream)
        .lines()
        .map(|line| line.unwrap())
        .find(|line| line.contains(expected))
        .unwrap_or_else(|| panic!("nats-server did not say {expected}"))
}

fn request(server: &NatsServer, subject: &str, body: &str, expected: &str) -> String {
    let length = body.len();
    let send =
        format!("CONNECT {{\"verbose\":false}}\r\nSUB reply 1\r\nPUB {subject} reply {length}\r\n{body}\r\n");
    nats_says(server, &send, expected)
}

#[test]
fn nats_server_keeps_port_and_store_over_a_kill() {
    let mut server = NatsServer::start().unwrap();
    let stream = r#"{"name":"S","subjects":["s.>"],"storage":"file"}"#;
    request(&server, "$JS.API.STREAM.CREATE.S", stream, "\"name\":\"S\"");
    request(&server, "s.one", "kept", "\"seq\":1");

    let (pid, url) = (server.pid(), server.url());
    server.kill9();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    server.restart().unwrap();
    assert_ne!(server.pid(), pid);
    assert_eq!(server.url(), url);
    request(&server, "$JS.API.STREAM.INFO.S", "", "\"messages\":1");

    let store = server.store();
    let pid = server.pid();
    drop(server);
    assert!(!store.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn nats_server_takes_a_configuration() {
    let mut server = NatsServer::with_config("authorization { user: u, password: p }").unwrap();
    nats_says(&server, "CONNECT {\"verbose\":true}\r\n", "-ERR 'Authorization Violation'");
    nats_says(&server, "CONNECT {\"verbose\":true,\"user\":\"u\",\"pass\":\"p\"}\r\nPING\r\n", "PONG");
    server.stop().unwrap();
}

#[test]
fn nats_server_reports_a_bad_configuration() {
    let error = NatsServer::with_config("no such thing {").unwrap_err().to_string();
    assert!(error.contains("nats-server ended"), "{error}");
}

#[test]
fn a_missing_program_names_its_package() {
    let error = Program::new("imn-no-such-program").package("imn-package").spawn().unwrap_err().to_string();
    assert!(error.contains("apt-get install imn-package"), "{error}");
}

#[test]
fn a_process_takes_its_descendants_with_it() {
    // The grandchild leaves the process group and loses its parent; only its environment tells whose it is.
    let script = "setsid sh -c 'sleep 300 & echo $!' & wait; echo ready; sleep 300";
    let mut process = Program::new("sh").args(["-c", script]).spawn().unwrap();
    let orphan: u32 = process
        .wait_for("both lines", SOON, |process| {
            let out = process.stdout();
            out.contains("ready").then(|| out.lines().next().unwrap().parse().unwrap())
        })
        .unwrap();
    wait_until("the mark of the orphan", SOON, || process.family().contains(&orphan).then_some(())).unwrap();
    drop(process);
    wait_until("the orphan to go", SOON, || (!Path::new(&format!("/proc/{orphan}")).exists()).then_some(()))
        .unwrap();
}

#[test]
fn postgres_starts_answers_and_keeps_what_was_committed() {
    let mut postgres = Postgres::start().unwrap();
    let url = postgres.fresh_database().unwrap();
    let database = url.rsplit('/').next().unwrap().to_owned();
    postgres.query(&database, "CREATE TABLE t AS SELECT 42 AS n").unwrap();
    assert_eq!(postgres.query(&database, "SHOW fsync").unwrap(), "on\n");
    assert!(postgres.query(&database, "SELECT nonsense").unwrap_err().to_string().contains("nonsense"));

    postgres.kill9();
    postgres.restart().unwrap();
    assert_eq!(postgres.query(&database, "SELECT n FROM t").unwrap(), "42\n");

    let (pid, directory) = (postgres.pid(), postgres.socket_directory().to_owned());
    drop(postgres);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!directory.exists());
}

#[test]
fn a_skip_is_said_and_is_a_failure_in_ci() {
    // The test runs itself again, because the environment of a process is shared by all its tests.
    const AGAIN: &str = "IMN_TESTKIT_SKIP";
    if std::env::var_os(AGAIN).is_some() {
        skip("some_test", "some reason");
        return;
    }
    let again = Program::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_skip_is_said_and_is_a_failure_in_ci"])
        .env(AGAIN, "1");
    let outcome = again.clone().env_remove("CI").run(SOON).unwrap();
    assert!(outcome.status.success());
    assert_eq!(outcome.stderr, "SKIPPED some_test: some reason\n");
    let outcome = again.env("CI", "true").run(SOON).unwrap();
    assert!(!outcome.status.success());
    assert!(outcome.stdout.contains("some_test may not be skipped in CI: some reason"), "{}", outcome.stdout);
}

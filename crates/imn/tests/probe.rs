//! `imn probe`: a probe on its own, as its operators and the readers of its records see it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use imn_testkit::{NatsServer, Process, Program, require_root, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const ICMP: &str = "error geo_location jitter_ms loss_pct packets_received packets_sent probe_id probe_type rtt_max_ms \
                    rtt_min_ms rtt_ms status stddev_ms target timestamp";
const REGISTRY: &str = "available_metrics ip location probe_id uptime version";
const HEALTH: &str = "failures_last_hour last_successful_run probe_id uptime";

fn imn(args: &[&str]) -> Program {
    let mut program = Program::new(env!("CARGO_BIN_EXE_imn"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("IMN_")) {
        program = program.env_remove(name);
    }
    program.current_dir("/").args(args)
}

fn probe(more: &[&str]) -> Program {
    let base = ["probe", "icmp", "--probe-id", "p1", "--location", "London, UK", "-c", "2"];
    imn(&[&base[..], more].concat())
}

/// Waits until the lines hold so many records, and gives all.
fn wait_lines(process: &mut Process, what: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let found = process.wait_for(what, PATIENCE, |process| {
        let text = process.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        enough(&lines).then_some(lines)
    });
    found.unwrap_or_else(|error| panic!("{error}\n{}", process.tail()))
}

fn keys(record: &Value) -> String {
    record.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn records_have_the_fields_that_their_readers_rely_on() {
    if !require_root("records_have_the_fields_that_their_readers_rely_on") {
        return;
    }
    let args = ["--target", "127.0.0.1", "--target", "192.0.2.256.invalid", "--interval", "300ms"];
    let mut process = probe(&[&args[..], &["--health-interval", "700ms"]].concat()).spawn().unwrap();
    let lines = wait_lines(&mut process, "records and health", |lines| {
        lines.iter().filter(|line| keys(line) == HEALTH).count() >= 2
    });
    process.terminate();
    assert!(process.wait_deadline(PATIENCE).unwrap().success(), "{}", process.tail());

    assert_eq!(keys(&lines[0]), REGISTRY);
    assert_eq!((&lines[0]["probe_id"], &lines[0]["available_metrics"][0]), (&"p1".into(), &"icmp".into()));
    let of = |target: &str| -> Vec<&Value> { lines.iter().filter(|line| line["target"] == target).collect() };
    let (good, bad) = (of("127.0.0.1"), of("192.0.2.256.invalid"));
    assert!(good.len() >= 3 && bad.len() >= 3, "{lines:?}");
    for record in good {
        assert_eq!(keys(record), ICMP.replace("error ", ""));
        assert_eq!((&record["probe_type"], &record["status"]), (&"icmp".into(), &"success".into()));
        assert_eq!(record["geo_location"], "London, UK");
        assert_eq!((&record["packets_sent"], &record["packets_received"]), (&2.into(), &2.into()));
        assert!(
            record["timestamp"].as_str().unwrap().ends_with('Z') && record["rtt_ms"].as_f64().unwrap() > 0.0
        );
    }
    for record in bad {
        assert_eq!(keys(record), ICMP);
        assert_eq!((&record["status"], &record["packets_sent"]), (&"unresolved".into(), &0.into()));
    }
    let health = lines.iter().rfind(|line| keys(line) == HEALTH).unwrap();
    assert!(health["failures_last_hour"].as_u64().unwrap() >= 2, "{health}");
    assert!(health["last_successful_run"].as_str().unwrap().ends_with('Z'), "{health}");
    // The log is not among the records.
    assert!(process.stderr().contains("measurement failed"), "{}", process.stderr());
}

#[test]
fn records_go_to_a_file_and_to_nats() {
    if !require_root("records_go_to_a_file_and_to_nats") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let target = ["--target", "127.0.0.1", "--interval", "200ms"];
    let file = probe(&[&target[..], &["--output", "file"]].concat()).current_dir(directory.path());
    let path = directory.path().join("network_metrics.json");
    for records in [3, 6] {
        // A second start adds to the file.
        let mut process = file.spawn().unwrap();
        let lines = wait_until("records in the file", PATIENCE, || {
            let text = fs::read_to_string(&path).ok()?;
            let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (lines.iter().filter(|line| line["status"] == "success").count() >= records).then_some(lines)
        });
        let lines = lines.unwrap_or_else(|error| panic!("{error}\n{}", process.tail()));
        assert_eq!(keys(&lines[0]), REGISTRY);
        process.terminate();
        process.wait_deadline(PATIENCE).unwrap();
        assert_eq!(process.stdout(), "");
    }

    let nats = NatsServer::start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use futures::StreamExt;
        let client = async_nats::connect(nats.url()).await.unwrap();
        let mut messages = client.subscribe("mmn.probe.>").await.unwrap();
        client.flush().await.unwrap();
        let url = nats.url();
        let _process =
            probe(&[&target[..], &["--output", "nats", "--nats-url", &url]].concat()).spawn().unwrap();
        let mut next = async || tokio::time::timeout(PATIENCE, messages.next()).await.unwrap().unwrap();
        assert_eq!(next().await.subject.as_str(), "mmn.probe.agent.registry");
        let message = next().await;
        assert_eq!(message.subject.as_str(), "mmn.probe.icmp.metrics");
        let headers = message.headers.unwrap();
        for (name, value) in [
            ("probe_id", "p1"),
            ("probe_type", "icmp"),
            ("geo_location", "London, UK"),
            ("target", "127.0.0.1"),
        ] {
            assert_eq!(headers.get(name).unwrap().as_str(), value);
        }
        let record: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(record["status"], "success");
    });
}

#[test]
fn a_health_check_passes_or_fails() {
    if !require_root("a_health_check_passes_or_fails") {
        return;
    }
    let run = |program: Program| program.run(PATIENCE).unwrap();
    let passed = run(probe(&["--target", "::1", "--health-check"]));
    assert_eq!((passed.stdout.as_str(), passed.status.code()), ("PASSED\n", Some(0)), "{}", passed.stderr);
    let failed = run(probe(&["--target", "::1", "--target", "x.invalid", "--health-check"]));
    assert!(failed.stdout.starts_with("FAILED\nx.invalid: resolve x.invalid: "), "{}", failed.stdout);
    assert_eq!(failed.status.code(), Some(1));
    let unwritable =
        ["--target", "::1", "--health-check", "--output", "file", "--output-file", "/nonexistent/x"];
    let failed = run(probe(&unwritable));
    assert!(failed.stdout.starts_with("FAILED\n--output-file /nonexistent/x: "), "{}", failed.stdout);

    // A nats-server that is away: it is no success, and no reason not to end.
    let away = ["--target", "::1", "--output", "nats", "--nats-url", "nats://127.0.0.1:1"];
    let failed = run(probe(&[&away[..], &["--health-check"]].concat()));
    assert!(failed.stdout.starts_with("FAILED\nnats: "), "{}", failed.stdout);
    assert_eq!(failed.status.code(), Some(1));
    let mut process = probe(&away).spawn().unwrap();
    process.wait_for("its log", PATIENCE, |it| it.stderr().contains("nats").then_some(())).unwrap();
    process.terminate();
    assert!(process.wait_deadline(PATIENCE).unwrap().success(), "{}", process.tail());

    for (args, words) in [
        (&["--target", "::1", "--output", "kafka"][..], "this build has no Kafka yet"),
        (&["--target", "::1", "--kafka-brokers", "k:9092"], "this build has no Kafka yet"),
        (&["--target", "a b"], "--target: "),
        (&[], "--target"),
    ] {
        let refused = run(probe(args));
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(words), "{args:?}: {}", refused.stderr);
    }
    let registry = run(imn(&["probe", "registry", "--probe-id", "p1", "--location", "here"]));
    assert_eq!(keys(&serde_json::from_str(registry.stdout.trim()).unwrap()), REGISTRY);
}

const COMMON: &str = "geo_location probe_id probe_type status target timestamp";

/// A web server that says `hello` to everybody.
fn web() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        }
    });
    address
}

/// A name server for which every name has the address 192.0.2.7 (RFC 1035, section 4).
fn names() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut message = [0; 4096];
        while let Ok((_, from)) = socket.recv_from(&mut message) {
            let name = message[12..].iter().position(|byte| *byte == 0).unwrap();
            let mut answer = message[..12 + name + 5].to_vec();
            answer[2] |= 0x80;
            answer[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

#[test]
fn every_type_has_the_fields_that_its_readers_rely_on() {
    if !require_root("every_type_has_the_fields_that_its_readers_rely_on") {
        return;
    }
    let (url, server) = (format!("http://{}/", web()), names().to_string());
    let http = "bytes connect_ms dns_ms response_time_ms status_code tls_ms ttfb_ms url";
    let dns = "answers latency_ms query rcode record_type resolver";
    let mtr = "avg_rtt_ms best_rtt_ms hop host ip last_rtt_ms loss_pct sent stddev_ms worst_rtt_ms";
    for (kind, flags, fields, known) in [
        ("http", vec!["--url", &url], http, ("status_code", Value::from(200))),
        ("dns", vec!["--target", "example.net", "--resolver", &server], dns, ("rcode", "NOERROR".into())),
        ("mtr", vec!["--target", "127.0.0.1", "-c", "2"], mtr, ("ip", "127.0.0.1".into())),
    ] {
        let base = ["probe", kind, "--probe-id", "p1", "--location", "here", "--interval", "500ms"];
        let mut process = imn(&[&base[..], &flags].concat()).spawn().unwrap();
        let lines = wait_lines(&mut process, "records", |lines| lines.len() >= 3);
        let mut expected: Vec<&str> = COMMON.split(' ').chain(fields.split(' ')).collect();
        expected.sort_unstable();
        let record = &lines[2];
        assert_eq!(keys(record), expected.join(" "), "{record}");
        assert_eq!((&record["probe_type"], &record["status"]), (&kind.into(), &"success".into()), "{record}");
        assert_eq!(record[known.0], known.1, "{record}");
        process.terminate();
        assert!(process.wait_deadline(PATIENCE).unwrap().success(), "{}", process.tail());
        let check = imn(&[&base[..], &flags, &["--health-check"]].concat()).run(PATIENCE).unwrap();
        assert_eq!(check.stdout, "PASSED\n", "{}", check.stderr);
    }
}

//! `imn stamp` as scripts see it, both ends on this host's loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{net::UdpSocket, time::Duration};

use imn_testkit::{Outcome, Process, Program};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

fn imn() -> Program {
    Program::new(env!("CARGO_BIN_EXE_imn")).env("IMN_STATE_DIR", "/nonexistent/imn")
}

/// A reflector on a port of the kernel's choice, and that port.
fn reflector(args: &[&str]) -> (Process, String) {
    let program = imn().args(["stamp", "reflect", "--stateful", "--listen", "127.0.0.1:0"]).args(args);
    let mut process = program.spawn().unwrap();
    let port = process.wait_for("its port", SOON, |process| {
        let line = process.stdout();
        let address = line.strip_prefix("ready: reflecting on ")?.lines().next()?;
        Some(address.rsplit_once(':')?.1.to_owned())
    });
    (process, port.unwrap())
}

#[track_caller]
fn send(args: &[&str], code: i32) -> Outcome {
    let outcome = imn().args(["stamp", "send"]).args(args).run(SOON).unwrap();
    assert_eq!(outcome.status.code(), Some(code), "{args:?}: {}", outcome.stderr);
    outcome
}

#[test]
fn both_ends_in_every_format() {
    let (mut reflector, port) = reflector(&[]);
    let target = format!("127.0.0.1:{port}");
    let base = [target.as_str(), "-c", "5", "-i", "10ms", "-o"];
    let output = |format: &str| send(&[&base[..], &[format]].concat(), 0).stdout;

    let rows: Vec<Value> = serde_json::from_str(&output("json")).unwrap();
    let row = &rows[0];
    assert_eq!((&row["target"], &row["sent"], &row["received"]), (&"127.0.0.1".into(), &5.into(), &5.into()));
    assert_eq!((&row["timestamp_source"], &row["tmax_ms"]), (&"kernel".into(), &1000.into()));
    for way in ["forward", "backward"] {
        assert_eq!((&row[way]["sent"], &row[way]["lost"]), (&5.into(), &0.into()), "{row}");
        assert!(row[way]["delay_ms"]["avg"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(row["clock"]["local"]["synced"].is_boolean() && row["rtt_ms"]["min"].as_f64().unwrap() > 0.0);

    let csv = output("csv");
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), lines[0].len()), (2, lines[1].len()));
    assert!(lines[0].contains(&"forward_avg_ms") && lines[0].contains(&"backward_lost"));
    let prometheus = output("prometheus");
    assert!(prometheus.contains("probe_success{") && prometheus.contains("imn_stamp_one_way_seconds{"));
    assert!(output("influx").starts_with("imn_stamp,target=127.0.0.1,"));
    let table = output("table");
    assert!(
        table.contains("forward") && table.contains("lost 0 of 5") && table.contains("clocks"),
        "{table}"
    );
    // Nobody has defined it for this.
    let refused = send(&[&base[..], &["atlas"]].concat(), 2).stderr;
    assert!(refused.contains("atlas") && refused.contains("stamp"), "{refused}");

    reflector.terminate();
    assert_eq!(reflector.wait_deadline(SOON).unwrap().code(), Some(0));
    assert!(reflector.stderr().contains("25 received, 25 reflected"), "{}", reflector.stderr());
}

#[test]
fn keys_ports_and_absent_reflectors() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("right"), "a shared secret\n").unwrap();
    std::fs::write(path("wrong"), "another secret\n").unwrap();
    std::fs::write(path("empty"), "\n").unwrap();
    let (_reflector, port) = reflector(&["--key-file", &path("right")]);
    let target = format!("127.0.0.1:{port}");
    let fast = |more: &[&str], code| {
        let base = [target.as_str(), "-c", "3", "-i", "10ms", "-t", "200ms", "-o", "json"];
        send(&[&base[..], more].concat(), code)
    };
    let outcome = fast(&["--key-file", &path("right")], 0);
    assert!(!outcome.stdout.contains("secret") && !outcome.stderr.contains("secret"));
    let rows: Vec<Value> = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&rows[0]["mode"], &rows[0]["size"]), (&"authenticated".into(), &112.into()));
    // Who has not the key is not answered.
    fast(&["--key-file", &path("wrong")], 3);
    fast(&[], 3);
    for (args, says) in [
        (vec!["--key-file", "/nonexistent/key"], "--key-file: read key file"),
        (vec!["--key-file", &path("empty")], "first line is empty"),
        (vec!["-s", "46"], "--size"),
        (vec!["127.0.0.2:9"], "one port"),
    ] {
        let said = fast(&args, 2).stderr;
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let none = imn().args(["stamp", "reflect", "--listen", "192.0.2.77:8620"]).run(SOON).unwrap();
    assert_eq!(none.status.code(), Some(1), "{}", none.stderr);
    assert!(none.stderr.contains("--listen: listen on 192.0.2.77:8620"), "{}", none.stderr);
}

/// A relay between the sender and the reflector lets five answers through and no more.
#[test]
fn ctrl_c_shows_what_is_known() {
    let (mut reflector, port) = reflector(&[]);
    let relay = UdpSocket::bind("127.0.0.1:0").unwrap();
    let beyond = UdpSocket::bind("127.0.0.1:0").unwrap();
    beyond.connect(format!("127.0.0.1:{port}")).unwrap();
    for socket in [&relay, &beyond] {
        socket.set_read_timeout(Some(SOON)).unwrap();
    }
    let target = relay.local_addr().unwrap().to_string();
    let args = ["stamp", "send", &target, "-c", "1000", "-i", "20ms", "-t", "1h", "-o", "json"];
    let mut sender = imn().args(args).spawn().unwrap();
    let mut packet = [0; 2048];
    for _ in 0..5 {
        let (size, from) = relay.recv_from(&mut packet).unwrap();
        beyond.send(&packet[..size]).unwrap();
        let size = beyond.recv(&mut packet).unwrap();
        relay.send_to(&packet[..size], from).unwrap();
    }
    // By the time of the second packet more, the fifth answer has been read.
    for _ in 0..2 {
        relay.recv_from(&mut packet).unwrap();
    }
    sender.terminate();
    assert_eq!(sender.wait_deadline(SOON).unwrap().code(), Some(130));
    let rows: Vec<Value> = serde_json::from_str(&sender.stdout()).unwrap();
    let row = &rows[0];
    assert_eq!((&row["sent"], &row["received"]), (&5.into(), &5.into()), "{row}");
    // Of a direction nothing is known while packets are under way, as they may have been when it was last told.
    assert!(row["forward"]["sent"].is_null() || row["forward"]["sent"] == 5, "{row}");
    reflector.terminate();
    reflector.wait_deadline(SOON).unwrap();
}

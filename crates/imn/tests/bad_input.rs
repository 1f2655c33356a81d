//! Bad input of every kind: messages, values, files, ports, rights, disks. Each is answered in words that name the
//! fix, nothing else is disturbed, and nothing panics.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking and tells its figures"
)]

#[path = "site/cell.rs"]
mod cell;
#[path = "site/network.rs"]
mod network;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use cell::Cell;
use imn_testkit::{Signal, wait_until};
use network::Network;
use serde_json::{Value, json};

/// Every subject, with every credential, in both encodings: garbage, wrong majors, wrong types, too long, too deep.
#[test]
fn messages_that_are_none_are_answered_and_disturb_nothing() {
    if !imn_testkit::require_root("bad_input") {
        return;
    }
    let mut network = Network::start();
    network.wait_get("/api/v1/targets/127.0.0.1/results?limit=10", Duration::from_secs(30), |rows| {
        (rows["items"].as_array()?.len() >= 2).then_some(())
    });
    let before = network.parts();
    assert!(before.len() >= 8, "{before:?}");
    let Some(text) = network.python("attack.py", &["1"], Duration::from_mins(4)) else {
        return imn_testkit::skip("bad_input", "no Python with nats-py; `cargo xtask test` installs it");
    };
    let seen: Value = serde_json::from_str(&text).unwrap();

    let answered = seen["answered"].as_object().unwrap();
    assert!(answered.len() >= 12, "{seen}");
    for (subject, tally) in answered {
        assert_eq!(tally["wrong"], json!([]), "{subject}: {tally}");
        assert!(tally["coded"].as_u64().unwrap() > 30, "{subject}: {tally}");
    }
    let simple = &seen["simple"];
    assert!(simple["sent"].as_u64().unwrap() > 30 && simple["coded"] == simple["sent"], "{simple}");
    assert!(seen["batches"].as_u64().unwrap() > 400, "{}", seen["batches"]);
    // nats-server says so and closes the connection; the client may see no more than the close.
    assert_ne!(seen["over_long"], "", "a message longer than the limit was taken");
    assert_eq!(seen["failures"], json!([]), "nats-py could not read an answer");

    values_out_of_range_are_refused(&network);

    // What was measured meanwhile is whole, by the same processes, and jobs are done as before.
    assert_eq!(network.parts(), before);
    let now = jiff::Timestamp::now().as_microsecond();
    let results = "/api/v1/targets/127.0.0.1/results?limit=1000";
    let due = network.wait_get(results, Duration::from_secs(30), |rows| {
        let due = dues(rows);
        (due.len() >= 4 && due.last().is_some_and(|last| *last > now)).then_some(due)
    });
    let gaps: Vec<_> = due.windows(2).filter(|pair| pair[1] - pair[0] != 5_000_000).collect();
    assert!(gaps.is_empty(), "{due:?}");
    let job = network.post("/api/v1/jobs?wait=5s", &json!({"type": "icmp", "target": "127.0.0.1"}));
    let job = job["id"].as_str().or(job["job_id"].as_str()).unwrap().to_owned();
    network.wait_get(&format!("/api/v1/jobs/{job}"), Duration::from_secs(10), |job| {
        (job["state"] == "succeeded").then_some(())
    });
    let log = network.process().stderr();
    assert!(!log.contains("panicked"), "{log}");
    assert!(log.lines().all(|line| line.len() < 2_500), "a log repeats what it was sent");
    for log in fs::read_dir(network.state().join("agents/local/log")).unwrap() {
        let text = fs::read_to_string(log.unwrap().path()).unwrap();
        assert!(!text.contains("panicked"), "{text}");
    }
    network.stop();
}

/// Over HTTP by a status and the field at fault; on the command line by exit code 2 (5 for what is not there).
fn values_out_of_range_are_refused(network: &Network) {
    let refused = |path: &str, body: Value, status: u16, word: &str| {
        let answer = network.curl("POST", path, Some(&body.to_string()));
        let text = answer.body.to_string();
        assert_eq!(answer.status, status, "{path} {body}: {text}");
        assert!(text.contains(word), "{path} {body}: {text}");
    };
    refused("/api/v1/targets", json!({"ip": "300.1.1.1", "tier": "standard"}), 400, "300.1.1.1");
    refused("/api/v1/targets", json!({"ip": "127.0.0.9", "tier": "gold"}), 400, "gold");
    let tier = |key: &str, value: Value| {
        let mut tier = json!({"name": "t", "probe_interval": "10s", "probe_timeout": "1s", "count": 1});
        tier[key] = value;
        tier
    };
    refused("/api/v1/tiers", tier("probe_interval", json!("0s")), 400, "probe_interval");
    refused("/api/v1/tiers", tier("probe_interval", json!(-1)), 400, "probe_interval");
    refused("/api/v1/tiers", tier("count", json!(0)), 400, "count");
    refused("/api/v1/jobs", json!({"type": "nonsense", "target": "x"}), 404, "nonsense");
    refused("/api/v1/jobs", json!({"type": "echo", "target": "x", "deadline_ms": 0}), 400, "deadline_ms");
    refused("/api/v1/jobs", json!({"v": 9, "type": "echo", "target": "x"}), 400, "v");
    let long = "x".repeat(2_000_000);
    refused("/api/v1/targets", json!({"ip": "127.0.0.9", "display_name": long}), 413, "larger than");
    assert_eq!(network.curl("POST", "/api/v1/targets", Some(&"[".repeat(100_000))).status, 400);

    for (args, code) in [
        (&["ping", "*"][..], 2),
        (&["ping", "300.1.1.1"], 2),
        (&["ping", "-c", "0", "127.0.0.1"], 2),
        (&["ping", "-i", "0s", "127.0.0.1"], 2),
        (&["tcp", "-p", "70000", "127.0.0.1"], 2),
        (&["target", "add", "127.0.0.9", "--tier", "gold"], 2),
        (&["target", "add", "a b"], 2),
        (&["tier", "add", "t", "--interval", "0s"], 2),
        (&["tier", "show", "gold"], 5),
        (&["module", "disable", "nonsense"], 5),
        (&["job", "submit", "nonsense", "127.0.0.1"], 5),
    ] {
        let done = network.program().args(args).run(Duration::from_secs(20)).unwrap();
        assert_eq!(done.status.code(), Some(code), "{args:?}: {}", done.stderr);
        assert!(done.stderr.starts_with("error: "), "{args:?}: {}", done.stderr);
    }
}

/// Due times, in order, in microseconds.
fn dues(rows: &Value) -> Vec<i64> {
    let of = |row: &Value| {
        let due: jiff::Timestamp = row["due"].as_str().unwrap().parse().unwrap();
        due.as_microsecond()
    };
    let mut due: Vec<i64> = rows["items"].as_array().unwrap().iter().map(of).collect();
    due.sort_unstable();
    due
}

fn up(state: &Path) -> Command {
    let mut command = Command::new(network::program());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("IMN_")) {
        command.env_remove(name);
    }
    command.args(["up", "--state-dir"]).arg(state).env("IMN_LISTEN", "127.0.0.1:0").stdin(Stdio::null());
    command
}

/// Runs `imn up` where it cannot come up, and checks its last words.
fn refused(what: &str, command: &mut Command, words: &[&str]) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ended = wait_until(what, Duration::from_secs(40), || child.try_wait().unwrap());
    if ended.is_err() {
        child.kill().unwrap();
    }
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(1), "{what}: {stdout}{stderr}");
    assert!(!stdout.contains("ready http"), "{what}: {stdout}");
    for word in words {
        assert!(stderr.contains(word), "{what}: {word:?} is not in {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
}

fn script(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_imn_up_lacks_is_named_with_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused("an occupied port", up(&at("a")).args(["--listen", &address]), &[&address, "--listen"]);

    fs::write(at("file"), "").unwrap();
    refused("a file for a directory", &mut up(&at("file")), &["cannot be used", "--state-dir"]);
    refused("a directory in a file", &mut up(&at("file").join("x")), &["cannot be used", "--state-dir"]);

    let missing = at("no-such-program");
    let nats = |path: &Path| {
        let mut up = up(&at("b"));
        up.env("IMN_NATS_BIN", path);
        up
    };
    refused("no nats-server", &mut nats(&missing), &["apt-get install nats-server", "--nats-url"]);
    refused("no program", &mut nats(Path::new("/etc/passwd")), &["/etc/passwd", "IMN_NATS_BIN"]);
    let fails = script(directory.path(), "fails", "echo this is no nats-server; exit 7");
    refused("another program", &mut nats(&fails), &["exit status: 7", "this is no nats-server"]);
    let hangs = script(directory.path(), "hangs", "exec sleep 600");
    refused("a program that hangs", &mut nats(&hangs), &["not ready after 20 s", "Connection refused"]);

    // The ports once chosen are kept; another program on one of them is named.
    fs::create_dir_all(at("c/nats")).unwrap();
    let port = taken.local_addr().unwrap().port();
    fs::write(at("c/nats/ports.json"), json!({"client": port, "monitor": 12_001}).to_string()).unwrap();
    refused("a taken NATS port", &mut up(&at("c")), &[&port.to_string(), "ports.json", "remove the file"]);

    // A key that is none cannot be made again without a new identity: that is for people to decide.
    fs::create_dir_all(at("d/keys")).unwrap();
    fs::write(at("d/keys/account.nk"), b"\xff\xfe garbage").unwrap();
    refused("a key that is none", &mut up(&at("d")), &["account.nk", "restore the file"]);
}

/// What can be made again is, whatever the files hold now; `imn up` says so and everything goes on.
#[test]
fn damaged_files_are_made_again_or_named() {
    if !imn_testkit::require_root("bad_input") {
        return;
    }
    let mut network = Network::start();
    let state = network.state().to_owned();
    // A second one on the same directory is told who has it.
    refused("a second `imn up`", &mut up(&state), &["already in use by pid", "--state-dir"]);
    network.stop();
    for file in [
        "connect.json",
        "lock",
        "nats/ports.json",
        "nats/nats.conf",
        "nats/process.json",
        "keys/account.jwt",
        "keys/server.creds",
        "keys/client.creds",
        "keys/agent-local.creds",
        "keys/api.key",
        "agents/local/instances.json",
        "agents/local/creds/local-icmp-0.creds",
        "agents/local/assignments/local-icmp-0.json",
    ] {
        assert!(state.join(file).exists(), "{file}");
        fs::write(state.join(file), b"\xff\xfe\x00 garbage").unwrap();
    }
    network.up();
    let out = network.process().stdout();
    assert!(out.contains("all modules ready"), "{out}");
    for file in ["keys/server.creds", "keys/api.key", "instances.json"] {
        let log = network.process().stderr();
        assert!(log.contains(file), "nothing is said of {file}: {log}");
    }
    network.wait_get("/api/v1/targets/127.0.0.1", Duration::from_secs(20), |target| {
        (target["monitoring_state"] == "active").then_some(())
    });
    network.stop();

    // A catalog that is none is never replaced.
    for extra in ["catalog.sqlite-wal", "catalog.sqlite-shm"] {
        let _ = fs::remove_file(state.join("server").join(extra));
    }
    fs::write(state.join("server/catalog.sqlite"), vec![7; 8192]).unwrap();
    refused("a catalog that is none", &mut up(&state), &["catalog.sqlite"]);
    assert_eq!(fs::read(state.join("server/catalog.sqlite")).unwrap(), vec![7; 8192]);
}

#[test]
fn without_raw_sockets_the_module_says_why_and_the_others_go_on() {
    if !imn_testkit::require_root("bad_input") {
        return;
    }
    let mut cell = Cell::new("300m");
    cell.ping_group_range("1 0");
    let ping = cell.imn_as_nobody(&["ping", "-c", "1", "127.0.0.1"]);
    assert_eq!(ping.status.code(), Some(1));
    let text = String::from_utf8_lossy(&ping.stderr);
    assert!(text.contains("setcap cap_net_raw") && text.contains("net.ipv4.ping_group_range"), "{text}");

    cell.up_as_nobody();
    let icmp = cell.wait_get("/api/v1/modules", Duration::from_secs(30), |modules| {
        let of = |name: &str| modules["items"].as_array()?.iter().find(|m| m["instance"] == name).cloned();
        (of("local-tcp-0")?["state"] == "ready" && of("local-icmp-0")?["reason"].is_string())
            .then(|| of("local-icmp-0"))
            .flatten()
    });
    let reason = icmp["reason"].as_str().unwrap();
    assert!(reason.contains("setcap") && reason.contains("ping_group_range"), "{icmp}");
    let listening = cell::PORT.to_string();
    let tcp = cell.imn_as_nobody(&["tcp", "--from", "local", "-p", &listening, "-c", "1", "127.0.0.1"]);
    assert!(tcp.status.success(), "{}", String::from_utf8_lossy(&tcp.stderr));
    assert!(!cell.log().contains("panicked"));
    cell.stop();

    // With the range open it works by datagram sockets.
    cell.ping_group_range("0 2147483647");
    let ping = cell.imn_as_nobody(&["ping", "-c", "1", "127.0.0.1", "::1"]);
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stderr));
    cell.up_as_nobody();
    for target in ["127.0.0.1", "::1"] {
        cell.wait_get(&format!("/api/v1/targets/{target}"), Duration::from_secs(30), |target| {
            (target["monitoring_state"] == "active").then_some(())
        });
    }
    cell.stop();
}

#[test]
fn a_full_disk_is_said_and_survived() {
    if !imn_testkit::require_root("bad_input") {
        return;
    }
    let mut cell = Cell::new("200m");
    cell.up();
    for host in 10..40 {
        cell.post("/api/v1/targets", &json!({"ip": format!("127.0.1.{host}"), "tier": "critical"}));
    }
    let rows = "/api/v1/targets/127.0.1.10/results?limit=1000";
    cell.wait_get(rows, Duration::from_secs(30), |rows| (rows["items"].as_array()?.len() >= 2).then_some(()));
    let modules = |cell: &Cell| -> Vec<(Value, Value)> {
        let list = cell.get("/api/v1/modules").1;
        let pid = |m: &Value| (m["instance"].clone(), m["pid"].clone());
        list["items"].as_array().unwrap().iter().map(pid).collect()
    };
    let before = modules(&cell);

    cell.fill();
    let why = cell.wait_readyz(Duration::from_secs(40), |status, body| {
        (status == 503 && body.to_string().contains("no space left")).then(|| body.to_string())
    });
    assert!(why.contains("free some"), "{why}");
    // Writes are refused in words; also those that make NATS write.
    // One answer, whatever it is that could not be written.
    let full = |answer: &(u16, Value)| {
        let text = answer.1.to_string();
        assert!(text.contains("disk is full") && text.contains("free some"), "{answer:?}");
        assert_eq!((answer.0, &answer.1["type"]), (507, &json!("urn:imn:problem:no-space")), "{answer:?}");
    };
    full(&cell.try_post("/api/v1/targets", &json!({"ip": "127.0.2.1", "tier": "critical"})));
    full(&cell.try_post("/api/v1/tiers", &json!({"name": "t", "probe_interval": "10s"})));
    full(&cell.try_post("/api/v1/jobs", &json!({"type": "echo", "target": "x"})));
    if network::python().is_some() {
        let expected = ["echo", "503", "unavailable", "disk is full"];
        cell.python("refusal.py", &expected, Duration::from_mins(1));
    }
    sleep(Duration::from_secs(15));
    assert_eq!(modules(&cell), before, "a full disk ends no module");

    cell.free();
    cell.wait_readyz(Duration::from_mins(2), |status, _| (status == 200).then_some(()));
    let free = "/api/v1/jobs";
    wait_until("a job to be taken", Duration::from_secs(30), || {
        (cell.try_post(free, &json!({"type": "echo", "target": "x"})).0 < 300).then_some(())
    })
    .unwrap();
    cell.post("/api/v1/targets", &json!({"ip": "127.0.2.1", "tier": "critical"}));
    cell.wait_get("/api/v1/targets/127.0.2.1", Duration::from_secs(40), |target| {
        (target["monitoring_state"] == "active").then_some(())
    });
    assert_eq!(modules(&cell), before, "no module was started again");
    sleep(Duration::from_secs(6));

    // Every round is stored once or is in a recorded gap.
    let due = dues(&cell.get(rows).1);
    let gaps = cell.get("/api/v1/targets/127.0.1.10/gaps").1;
    let missed: u64 =
        gaps["items"].as_array().unwrap().iter().map(|gap| gap["rounds"].as_u64().unwrap()).sum();
    let owed = (due.last().unwrap() - due[0]) / 5_000_000 + 1;
    assert!(due.windows(2).all(|pair| pair[0] < pair[1]), "a round is stored twice: {due:?}");
    assert_eq!(
        due.len() as i64 + missed as i64,
        owed,
        "stored and missed make what was owed: {due:?} {gaps}"
    );
    assert!(!cell.log().contains("panicked"), "{}", cell.log());
    cell.stop();
}

/// nats-server waits for itself after a write for which there was no space, calls itself healthy and ignores SIGTERM.
/// One that has stopped answering about its streams is started again; one that somebody stopped is left alone.
#[test]
fn a_nats_server_that_hangs_on_a_full_disk_is_started_again() {
    if !imn_testkit::require_root("bad_input") {
        return;
    }
    if network::python().is_none() {
        return imn_testkit::skip("bad_input", "no Python with nats-py; `cargo xtask test` installs it");
    }
    let mut cell = Cell::new("200m");
    cell.up();
    cell.wait_get("/api/v1/targets/127.0.0.1", Duration::from_secs(30), |target| {
        (target["monitoring_state"] == "active").then_some(())
    });
    let pid = cell.pid_of("nats-server");
    cell.python("flood.py", &["4"], Duration::from_mins(1));
    cell.fill();
    cell.python("flood.py", &["64"], Duration::from_mins(1));
    let gone = wait_until("the server that hangs to be killed", Duration::from_mins(1), || {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    gone.unwrap();
    sleep(Duration::from_secs(5));
    assert!(cell.log().contains("no space left"), "{}", cell.log());
    cell.free();
    cell.wait_readyz(Duration::from_mins(1), |status, _| (status == 200).then_some(()));
    let job = cell.imn(&["ping", "--from", "local", "-c", "1", "127.0.0.1"]);
    assert!(job.status.success(), "{}", String::from_utf8_lossy(&job.stderr));
    let pid = cell.pid_of("nats-server");
    cell::signal(pid, Signal::SIGSTOP);
    sleep(Duration::from_secs(25));
    cell::signal(pid, Signal::SIGCONT);
    assert_eq!(cell.pid_of("nats-server"), pid);
    cell.wait_readyz(Duration::from_mins(1), |status, _| (status == 200).then_some(()));
    cell.stop();
}

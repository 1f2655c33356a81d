//! The command line as scripts see it: output, exit codes, and words for what is wrong.
//!
//! Everything here works without a server; measurements go to this host's loopback only.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use imn_testkit::{require_root, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

fn imn() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imn"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("IMN_")) {
        command.env_remove(name);
    }
    command.env("IMN_STATE_DIR", "/nonexistent/imn").current_dir("/");
    command
}

fn run(args: &[&str]) -> Output {
    imn().args(args).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[track_caller]
fn ends(args: &[&str], code: i32) -> Output {
    let output = run(args);
    assert_eq!(output.status.code(), Some(code), "imn {}: {}", args.join(" "), stderr(&output));
    output
}

fn rows(output: &Output) -> Vec<Value> {
    serde_json::from_str(stdout(output)).unwrap()
}

#[test]
fn loopback_answers_in_every_format() {
    if !require_root("loopback_answers_in_every_format") {
        return;
    }
    let base = ["ping", "127.0.0.1", "::1", "-c", "3", "-i", "10ms", "-o"];
    let output = |format: &str| ends(&[&base[..], &[format]].concat(), 0);

    let json = rows(&output("json"));
    assert_eq!(json.len(), 2);
    for (row, (address, protocol)) in json.iter().zip([("127.0.0.1", "icmp"), ("::1", "icmpv6")]) {
        assert_eq!((&row["target"], &row["address"]), (&Value::from(address), &Value::from(address)));
        assert_eq!((&row["sent"], &row["received"], &row["unknown"]), (&3.into(), &3.into(), &0.into()));
        assert_eq!((&row["loss_pct"], &row["protocol"]), (&0.0.into(), &Value::from(protocol)));
        assert_eq!((&row["tmax_ms"], &row["error"]), (&1000.into(), &Value::Null));
        assert_eq!(row["rtts_ms"].as_array().unwrap().len(), 3);
        let figure = |name: &str| row["rtt_ms"][name].as_f64().unwrap();
        assert!(0.0 < figure("min") && figure("min") <= figure("p50") && figure("p95") <= figure("max"));
        assert!(figure("max") < 50.0, "{row}");
    }

    let ndjson: Vec<Value> =
        stdout(&output("ndjson")).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(ndjson.len(), 2);

    let csv = output("csv");
    let lines: Vec<&str> = stdout(&csv).lines().collect();
    assert!(
        lines[0].starts_with("agent,target,address,") && lines[1].starts_with(",127.0.0.1,127.0.0.1,icmp,")
    );
    assert_eq!(lines.len(), 3);

    let atlas = rows(&output("atlas"));
    for (row, af) in atlas.iter().zip([4, 6]) {
        assert_eq!((&row["type"], &row["af"], &row["rcvd"]), (&"ping".into(), &af.into(), &3.into()));
        assert_eq!(row["src_addr"], row["dst_addr"]);
        assert!(row["fw"].as_u64().unwrap() >= 5000);
    }

    let prometheus = output("prometheus");
    assert!(
        stdout(&prometheus).contains("probe_success{target=\"::1\",address=\"::1\",protocol=\"icmpv6\"} 1\n")
    );
    assert!(stdout(&prometheus).contains("# TYPE probe_icmp_duration_seconds gauge\n"));

    let influx = output("influx");
    assert_eq!(stdout(&influx).lines().filter(|line| line.starts_with("ping,url=")).count(), 2);
    assert!(stdout(&influx).contains("packets_transmitted=3i,packets_received=3i,percent_packet_loss=0,"));

    let table = output("table");
    assert!(stdout(&table).starts_with("target "));
    // Plain when piped, and nothing beside the data.
    assert!(!stdout(&table).contains('\u{1b}') && table.stderr.is_empty());
}

#[test]
fn a_file_of_targets_and_a_summary() {
    if !require_root("a_file_of_targets_and_a_summary") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("targets");
    let addresses: Vec<String> = (0..1000).map(|n| format!("127.1.{}.{}", n / 250, n % 250 + 1)).collect();
    fs::write(&path, format!("# a comment\n\n{} # another\n", addresses.join("\n"))).unwrap();
    let path = path.to_str().unwrap();

    let output = ends(&["ping", "-f", path, "-c", "2", "-i", "10ms", "-o", "ndjson"], 0);
    let mut found: Vec<String> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .inspect(|row| assert_eq!((&row["sent"], &row["received"]), (&2.into(), &2.into()), "{row}"))
        .map(|row| row["target"].as_str().unwrap().to_owned())
        .collect();
    found.sort();
    let mut expected = addresses;
    expected.sort();
    assert_eq!(found, expected);

    // In place of rows, and an object when piped, whether or not the format is named.
    for format in [&[][..], &["-o", "json"]] {
        let args = [&["ping", "-f", path, "-c", "1", "--summary"][..], format].concat();
        let summary: Value = serde_json::from_str(stdout(&ends(&args, 0))).unwrap();
        for (name, count) in [
            ("targets", 1000),
            ("sent", 1000),
            ("received", 1000),
            ("lost", 0),
            ("unknown", 0),
            ("duplicates", 0),
        ] {
            assert_eq!(summary[name], count, "{name}");
        }
        for name in ["elapsed_s", "cpu_s"] {
            assert!(summary[name].as_f64().unwrap() > 0.0, "{name}");
        }
        for name in ["min", "p50", "p95", "p99", "max"] {
            assert!(summary["rtt_ms"][name].as_f64().unwrap() > 0.0, "{name}");
        }
    }

    // Beside rows without a file, as the last element of the same array.
    let all = rows(&ends(&["ping", "127.0.0.1", "-c", "1", "--summary", "-o", "json"], 0));
    assert_eq!((all.len(), &all[1]["targets"]), (2, &1.into()));
}

#[test]
fn targets_come_from_standard_input() {
    if !require_root("targets_come_from_standard_input") {
        return;
    }
    let mut child = imn()
        .args(["ping", "-f", "-", "-c", "1", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"127.0.0.1\n::1\n").unwrap();
    assert_eq!(rows(&child.wait_with_output().unwrap()).len(), 2);
}

#[test]
fn a_rate_spaces_targets() {
    if !require_root("a_rate_spaces_targets") {
        return;
    }
    let targets: Vec<String> = (1..=20).map(|n| format!("127.2.0.{n}")).collect();
    let mut args: Vec<&str> = targets.iter().map(String::as_str).collect();
    args.extend(["-c", "1", "--rate", "40", "-o", "ndjson"]);
    let start = Instant::now();
    let output = ends(&[&["ping"][..], &args].concat(), 0);
    assert_eq!(stdout(&output).lines().count(), 20);
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
}

#[test]
fn tcp_connects_or_says_why_not() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let open = rows(&ends(&["tcp", "127.0.0.1", "-p", &port, "-c", "2", "-i", "10ms", "-o", "json"], 0));
    assert_eq!((&open[0]["received"], &open[0]["protocol"]), (&2.into(), &"tcp".into()));
    assert_eq!(open[0]["port"].to_string(), port);
    drop(listener);
    let closed = rows(&ends(&["tcp", "127.0.0.1", "-p", &port, "-c", "2", "-i", "10ms", "-o", "json"], 3));
    assert_eq!((&closed[0]["sent"], &closed[0]["received"]), (&2.into(), &0.into()));
    assert_eq!(closed[0]["error"], "connection refused by 127.0.0.1");
}

#[test]
fn what_does_not_resolve_is_a_row() {
    if !require_root("what_does_not_resolve_is_a_row") {
        return;
    }
    let alone = rows(&ends(&["ping", "no-such-name.invalid", "-c", "1", "-o", "json"], 3));
    assert_eq!((&alone[0]["address"], &alone[0]["sent"]), (&Value::Null, &0.into()));
    assert!(alone[0]["error"].as_str().unwrap().contains("no-such-name.invalid"), "{}", alone[0]);
    // Part of it could be measured.
    let both = rows(&ends(&["ping", "no-such-name.invalid", "127.0.0.1", "-c", "1", "-o", "json"], 7));
    assert_eq!((&both[0]["target"], &both[1]["received"]), (&"no-such-name.invalid".into(), &1.into()));
    let family = rows(&ends(&["ping", "-6", "127.0.0.1", "-c", "1", "-o", "json"], 3));
    assert!(family[0]["error"].as_str().unwrap().contains("family"));
}

#[test]
fn bad_input_names_the_flag_and_the_fix() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "127.0.0.1\n# a comment\n\nbad target # here\n").unwrap();
    let bad = file.path().to_str().unwrap();
    let at_line = format!("--file {bad}: line 4: ");
    for (args, words) in [
        (&["ping"][..], &["<TARGET>"][..]),
        (&["ping", "127.0.0.1", "-c", "0"], &["--count", "1..=65535"]),
        (&["ping", "127.0.0.1", "-c", "many"], &["--count"]),
        (&["ping", "127.0.0.1", "-c", "-1"], &["--count", "1..=65535"]),
        (&["ping", "127.0.0.1", "-i", "0ms"], &["--interval", "greater than zero"]),
        (&["ping", "127.0.0.1", "-i", "10"], &["--interval", "10ms"]),
        (&["ping", "127.0.0.1", "-t", "soon"], &["--timeout", "10ms"]),
        (&["ping", "127.0.0.1", "-t", "2h"], &["--timeout", "1ms to 1h"]),
        (&["ping", "127.0.0.1", "-s", "70000"], &["--size", "65507"]),
        (&["ping", "127.0.0.1", "-4", "-6"], &["--ipv4", "--ipv6"]),
        (&["ping", "127.0.0.1", "--rate", "0"], &["--rate"]),
        (&["ping", "127.0.0.1", "-o", "yaml"], &["--output", "influx"]),
        (&["ping", "127.0.0.1", "--local", "--from", "eu"], &["--local", "--from"]),
        (&["ping", "0.0.0.0"], &["TARGET", "0.0.0.0 is nobody's address"]),
        (&["measure", "echo", "x", "--param", "count"], &["--param", "key=value"]),
        (&["ping", "127.0.0.1", "bad target"], &["TARGET", "\"bad target\""]),
        (&["ping", "999.1.1.1"], &["TARGET", "999.1.1.1"]),
        (&["ping", "-f", "/nonexistent/targets"], &["--file /nonexistent/targets"]),
        (&["ping", "-f", "/dev/null"], &["no targets"]),
        (&["ping", "127.0.0.1", "-f", bad], &[&*at_line, "\"bad target\""]),
        (&["dns", "x", "--resolver", "tls://127.0.0.1:5355", "-p", "5356"], &["--port", "5355"]),
        (&["dns", "x", "-o", "mtr-json"], &["--output", "use table, json"]),
        (&["tcp", "127.0.0.1", "-p", "0"], &["--port"]),
        (&["tcp", "127.0.0.1", "-p", "65536"], &["--port"]),
        (&["agent"], &["--id"]),
        (&["agent", "--id", "a.b"], &["--id", "A-Z a-z 0-9 _ -"]),
        (&["module"], &["<TYPE>"]),
        (&["target", "list", "-o", "xml"], &["--output", "yaml"]),
        (&["target", "list", "--url", "ftp://x"], &["--url ftp://x", "http://HOST:PORT"]),
        (&["results", "files", "--from", "yesterday"], &["--from", "2026-11-20T08:42:59Z"]),
        (&["job", "submit", "echo", "x", "--param", "novalue"], &["--param", "key=value"]),
        (&["tier", "add", "gold"], &["--interval"]),
        (&["target", "list", "--limit", "0"], &["--limit", "at least 1"]),
        (&["target", "gaps", "x", "--limit", "5000"], &["--limit", "1000"]),
        (&["target", "export", "-o", "xml"], &["--output", "csv"]),
        (&["job", "list", "--limit", "-1"], &["--limit"]),
        (&["agent", "list", "--status", "asleep"], &["--status", "offline"]),
        (&["target", "import", "/nonexistent"], &["FILE /nonexistent"]),
        (&["module", "bogus"], &["TYPE", "bogus", "use one of icmp"]),
        (&["module", "set", "echo", "--config", "["], &["--config", "JSON object"]),
        (&["module", "check", "/etc/passwd"], &["PROGRAM /etc/passwd", "chmod +x"]),
        (&["up", "--listen", "here"], &["--listen", "127.0.0.1:8080"]),
        (&["up", "--database-url", "mysql://x"], &["--database-url", "postgres://"]),
        (&["server", "--listen", "1"], &["--listen", "127.0.0.1:8080"]),
        (&["server", "--seed-target", "a b"], &["--seed-target", "a b"]),
        (&["agent", "--id", "x", "--listen", "x"], &["--listen", "127.0.0.1:8080"]),
        (&["bgp", "watch", "--bmp-listen", "x"], &["--bmp-listen", "127.0.0.1:8080"]),
        (&["bogus"], &["bogus"]),
    ] {
        let output = ends(args, 2);
        assert!(output.stdout.is_empty(), "{args:?}");
        for word in words {
            assert!(stderr(&output).contains(word), "{args:?} does not say {word:?}: {}", stderr(&output));
        }
    }
}

#[test]
fn without_a_server_the_fix_is_named() {
    let unknown = ends(&["target", "list"], 1);
    assert!(stderr(&unknown).contains("/nonexistent/imn/connect.json"), "{}", stderr(&unknown));
    let closed = ends(&["target", "list", "--url", "http://127.0.0.1:1"], 1);
    assert!(stderr(&closed).contains("http://127.0.0.1:1"), "{}", stderr(&closed));
    let job = ends(&["ping", "127.0.0.1", "--from", "any"], 1);
    for output in [unknown, closed, job] {
        assert!(stderr(&output).contains("`imn up`") && output.stdout.is_empty(), "{}", stderr(&output));
    }
    // Files can be listed without a server, but not without files.
    let results = ends(&["results", "files"], 5);
    assert!(stderr(&results).contains("--state-dir"), "{}", stderr(&results));
}

/// How often the engine's thread has slept: once per packet at least.
fn wakeups(pid: u32) -> Option<u64> {
    fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().find_map(|task| {
        let comm = fs::read_to_string(task.path().join("comm")).ok()?;
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
        (comm.trim() == "imn-icmp").then(|| line.split_whitespace().nth(1)?.parse().ok())?
    })
}

#[test]
fn ctrl_c_shows_what_is_known() {
    if !require_root("ctrl_c_shows_what_is_known") {
        return;
    }
    for (format, signal) in [("table", Signal::SIGINT), ("json", Signal::SIGTERM)] {
        let mut child = imn()
            .args(["ping", "127.0.0.1", "127.0.0.2", "-c", "1000", "-i", "10ms", "--summary", "-o", format])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("the engine to be at work", Duration::from_secs(20), || {
            wakeups(child.id()).filter(|n| *n > 20)
        })
        .unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{text}");
        if format == "table" {
            assert!(text.contains("2 targets: ") && text.contains("interrupted"), "{text}");
        } else {
            let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
            assert_eq!((rows.len(), &rows[2]["targets"], &rows[2]["lost"]), (3, &2.into(), &0.into()));
            let row = &rows[0];
            assert!(row["sent"].as_u64().unwrap() > 1 && row["time"].is_string(), "{text}");
            assert_eq!(
                (&row["timestamp_source"], &row["ttl"], &row["reordered"]),
                (&"kernel".into(), &64.into(), &0.into())
            );
        }
    }
}

#[test]
fn rows_leave_as_they_come() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("targets");
    fs::write(&path, "127.0.0.3\n127.0.0.4\n").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.4:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    // At 1 target per second the second row follows the first by about a second.
    let mut child = imn()
        .args(["tcp", "-p", &port, "-c", "1", "--rate", "1", "-o", "ndjson", "-f"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let (refused, at) = (next(), Instant::now());
    let open = next();
    assert!(at.elapsed() > Duration::from_millis(300), "{:?}", at.elapsed());
    assert_eq!((&refused["received"], &open["received"]), (&0.into(), &1.into()));
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn configuration_says_where_it_comes_from() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("imn.toml");
    fs::write(&file, "listen = '127.0.0.1:81'\nagent_id = 'lon1'\n").unwrap();
    let shown = imn()
        .args(["config", "show", "-o", "json"])
        .env("IMN_CONFIG", &file)
        .env("IMN_AGENT_ID", "nyc1")
        .env("IMN_TOKEN", "imn_1_secret")
        .output()
        .unwrap();
    let setting = |name: &str| rows(&shown).into_iter().find(|row| row["name"] == name).unwrap();
    assert_eq!(
        (&setting("listen")["value"], &setting("listen")["origin"]),
        (&"127.0.0.1:81".into(), &file.to_str().into())
    );
    assert_eq!(setting("agent_id")["origin"], "environment IMN_AGENT_ID");
    assert_eq!(setting("agent_listen")["origin"], "default");
    assert!(!stdout(&shown).contains("secret"));

    fs::write(&file, "listn = 'x'\n").unwrap();
    let wrong = imn().args(["config", "check"]).env("IMN_CONFIG", &file).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("did you mean listen?"), "{}", stderr(&wrong));
}

#[test]
fn documents_are_printed() {
    let openapi: Value = serde_json::from_str(stdout(&ends(&["docs", "openapi"], 0))).unwrap();
    assert_eq!(openapi["openapi"], "3.1.0");
    let schemas: Value = serde_json::from_str(stdout(&ends(&["docs", "schemas"], 0))).unwrap();
    assert!(schemas["submit.v1.json"]["$schema"].as_str().unwrap().contains("2020-12"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&ends(&["completions", shell], 0)).contains("prefix-rate"), "{shell}");
    }
    assert!(stdout(&ends(&["--help"], 0)).contains("ping"));
}

#[test]
fn any_type_measures_from_here() {
    let output = ends(&["measure", "echo", "a", "b", "--param", "n=1", "-o", "json"], 0);
    let rows = rows(&output);
    assert_eq!(rows[0], serde_json::json!({"echo": {"target": "a", "params": {"n": 1}}}));
    assert_eq!(rows[1]["echo"]["target"], "b");
    let table = ends(&["measure", "echo", "a"], 0);
    assert!(
        stdout(&table).starts_with("target ") && stdout(&table).lines().count() == 2,
        "{}",
        stdout(&table)
    );
    let csv = ends(&["measure", "echo", "a", "-o", "csv", "--summary"], 0);
    assert!(stdout(&csv).starts_with("agent,target,address,time,success,error,outcome\n,a,"));
    assert!(stderr(&csv).contains("\"targets\":1"));

    let nameless = ends(&["measure", "heartbeat", "here", "-o", "json"], 0);
    assert!(stdout(&nameless).contains("\"target\":\"here\""), "{}", stdout(&nameless));

    // One that fails, one that takes too long, and what is no measurement at all.
    let failed = ends(&["measure", "faulty", "x", "--param", "mode=error", "-o", "json"], 3);
    assert!(stdout(&failed).contains("\"target\":\"x\""), "{}", stdout(&failed));
    let late =
        ends(&["measure", "faulty", "x", "--param", "mode=hang", "--deadline", "200ms", "-o", "json"], 7);
    assert!(stdout(&late).contains("not done within 200 ms"));
    assert!(stderr(&ends(&["measure", "nonsense", "x"], 2)).contains("use one of icmp, "));
    assert!(stderr(&ends(&["measure", "icmp", "x y"], 2)).starts_with("error: TARGET: "));
    let wrong = ends(&["measure", "icmp", "127.0.0.1", "--param", "count=none"], 2);
    assert!(stderr(&wrong).starts_with("error: --param count: "), "{}", stderr(&wrong));
    assert!(stderr(&ends(&["measure", "echo", "x", "-o", "atlas"], 2)).contains("no form for the type echo"));
}

#[test]
fn paths_of_loopback_in_every_format() {
    if !require_root("paths_of_loopback_in_every_format") {
        return;
    }
    for (protocol, targets) in
        [("icmp", ["127.0.0.1", "::1"]), ("udp", ["127.0.0.1", "::1"]), ("tcp", ["127.0.0.1", "::1"])]
    {
        let base = ["mtr", targets[0], targets[1], "-c", "3", "-i", "10ms", "--protocol", protocol, "-o"];
        let output = |format: &str| ends(&[&base[..], &[format]].concat(), 0);
        for (row, target) in rows(&output("json")).iter().zip(targets) {
            assert_eq!(
                (&row["reached"], &row["distance"], &row["sent"]),
                (&true.into(), &1.into(), &3.into()),
                "{row}"
            );
            let hop = &row["hops"][0];
            assert_eq!((&hop["address"], &hop["received"]), (&target.into(), &3.into()), "{row}");
            assert_eq!(
                (&hop["timestamp_source"], &hop["loss_kind"]),
                (&"kernel".into(), &"none".into()),
                "{row}"
            );
        }
        let reports: Vec<Value> = serde_json::Deserializer::from_str(stdout(&output("mtr-json")))
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(reports[0]["report"]["hubs"][0]["Snt"], 3);
        assert_eq!(stdout(&output("csv")).lines().count(), 3);
        assert!(stdout(&output("table")).contains("127.0.0.1"));
        assert!(stdout(&output("prometheus")).contains("imn_trace_hop_packets{"));
        assert!(stdout(&output("influx")).contains("trace_hop,"));
        let results: Vec<Value> = serde_json::from_str(stdout(&output("atlas"))).unwrap();
        assert_eq!(results[0]["result"][0]["result"][0]["from"], "127.0.0.1");
    }
    let paths = ends(&["trace", "--multipath", "127.0.0.1", "-o", "json"], 0);
    let row = &rows(&paths)[0];
    assert_eq!((&row["paths_complete"], row["paths"].as_array().unwrap().len()), (&true.into(), 1), "{row}");
    let wrong = ends(&["trace", "127.0.0.1", "--protocol", "icmp", "-p", "80"], 2);
    assert!(stderr(&wrong).contains("--port"), "{}", stderr(&wrong));
}

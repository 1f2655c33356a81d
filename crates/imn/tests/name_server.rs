//! `imn dns` as scripts and other programs see it, at a real name server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use imn_testkit::{NameServer, skip};
use serde_json::Value;

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imn"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("IMN_")) {
        command.env_remove(name);
    }
    command.env("IMN_STATE_DIR", "/nonexistent/imn").current_dir("/").stdin(Stdio::null());
    command.args(args).output().unwrap()
}

#[track_caller]
fn ends(args: &[&str], code: i32) -> String {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "imn {}: {said}", args.join(" "));
    String::from_utf8(output.stdout).unwrap() + &said
}

#[test]
fn a_name_in_every_format() {
    let server = NameServer::start().unwrap();
    let resolver = server.plain().to_string();
    let dns = |name: &str, more: &[&str], code| {
        ends(&[&["dns", name, "--resolver", &resolver], more].concat(), code)
    };

    let json = dns("imn.test", &["--type", "MX", "-o", "json", "-c", "2", "-i", "10ms"], 0);
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    let row = &rows[0];
    assert_eq!((&row["success"], &row["rcode"], &row["sent"]), (&true.into(), &"NOERROR".into(), &2.into()));
    assert_eq!(
        (&row["timestamp_source"], &row["edns"]["nsid"]),
        (&"kernel".into(), &NameServer::NAME.into())
    );
    assert_eq!(row["answers"].as_array().unwrap().len(), 2);
    assert!(row["latency_ms"].as_f64().unwrap() > 0.0 && row["error"].is_null());

    let table = dns("text.imn.test", &["--type", "txt", "-o", "table"], 0);
    assert!(table.contains("NOERROR") && table.contains("text.imn.test. 300 TXT \"quote \\\""), "{table}");
    let csv = dns("www.imn.test", &["-o", "csv", "--no-recursion"], 0);
    let mut lines = csv.lines();
    let (head, line) = (lines.next().unwrap(), lines.next().unwrap());
    assert_eq!(head.split(',').count(), line.split(',').count());
    assert!(head.starts_with("agent,target,resolver,address,port,transport,query,record_type"));
    assert!(line.contains(",udp,www.imn.test,A,IN,") && line.contains("192.0.2."), "{line}");
    let influx = dns("www.imn.test", &["-o", "influx"], 0);
    let tags = "dns_query,server=127.0.0.1,domain=www.imn.test,record_type=A,rcode=NOERROR,result=success,";
    assert!(influx.starts_with(tags) && influx.contains("result_code=0i"), "{influx}");
    let page = dns("imn.test", &["--type", "SOA", "-o", "prometheus"], 0);
    let sample = |name: &str| {
        let line =
            page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {page}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    for (name, value) in [
        ("probe_success{", 1.0),
        ("probe_dns_query_succeeded{", 1.0),
        ("probe_dns_answer_rrs{", 1.0),
        ("probe_dns_serial{", 2_026_112_101.0),
        ("probe_ip_protocol{", 4.0),
        ("probe_dns_lookup_time_seconds{", 0.0),
    ] {
        assert!((sample(name) - value).abs() < 1e-9, "{name} {}", sample(name));
    }
    assert!(page.contains("phase=\"request\""));

    for (resolver, transport) in [(server.tls(), "dot"), (server.https(), "doh")] {
        let resolver = resolver.to_string();
        let args = ["dns", "www.imn.test", "--resolver", &resolver, "--transport", transport, "--insecure"];
        let table = ends(&args, 0);
        assert!(table.contains("tls ") && table.contains("192.0.2.1"), "{table}");
        assert!(ends(&args[..args.len() - 1], 3).contains("tls: "));
    }
    // Exit codes, and the flag that is wrong.
    assert!(dns("none.imn.test", &[], 3).contains("NXDOMAIN, expected NOERROR"));
    dns("none.imn.test", &["--expect-rcode", "NXDOMAIN"], 0);
    assert!(dns("a.example", &["--type", "NONSENSE"], 2).contains("--type: "));
    assert!(dns("a..b", &[], 2).contains("TARGET: "));

    atlas(&dns("imn.test", &["--type", "TXT", "-o", "atlas"], 0), &resolver);
}

/// Results as another program reads them, that of RIPE Atlas' own users.
fn atlas(results: &str, resolver: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = std::env::var_os("IMN_TEST_PYTHON")
        .map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    if !python.exists() {
        skip("a_name_in_every_format: atlas", "no Python with ripe.atlas.sagan: run cargo xtask test");
        return;
    }
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), results).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/sagan_dns.py");
    let output = Command::new(python)
        .args(["-W", "ignore"])
        .arg(script)
        .arg(path.path())
        .arg(resolver)
        .output()
        .unwrap();
    assert!(output.status.success(), "{results}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn hops_have_names_and_networks() {
    if !imn_testkit::require_root("hops_have_names_and_networks") {
        return;
    }
    let server = NameServer::start().unwrap();
    let resolver = server.plain().to_string();
    let asked = ["--names", "--asn-zone", "asn.imn.test", "--resolver", &resolver];
    let rows = ends(&[&["trace", "127.0.0.1", "127.0.0.2", "-o", "json"], &asked[..]].concat(), 0);
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    let hop = &rows[0]["hops"][0];
    assert_eq!((&hop["host"], &hop["asn"]), (&"ns1.imn.test".into(), &64_500.into()), "{hop}");
    // Of this one the server knows nothing.
    let hop = &rows[1]["hops"][0];
    assert!(hop["address"] == "127.0.0.2" && hop.get("host").is_none() && hop.get("asn").is_none(), "{hop}");
    let table =
        ends(&[&["mtr", "-c", "2", "-i", "10ms", "127.0.0.1", "-o", "table"], &asked[..]].concat(), 0);
    assert!(table.contains("AS64500 ns1.imn.test (127.0.0.1)"), "{table}");
    let report = ends(&[&["mtr", "-c", "1", "127.0.0.1", "-o", "mtr-json"], &asked[..]].concat(), 0);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["report"]["hubs"][0]["host"], "ns1.imn.test");
    let wrong = ends(&["trace", "127.0.0.1", "--names", "--resolver", "nobody"], 2);
    assert!(wrong.contains("resolver"), "{wrong}");
}

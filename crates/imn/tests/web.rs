//! `imn http` and `imn tcp --tls` as scripts and other programs see them, at a real web server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use imn_testkit::{Authority, WebServer, require_root, skip};
use network::Network;
use serde_json::{Value, json};

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
fn a_url_in_every_format() {
    let authority = Authority::new().unwrap();
    let good = authority.good("www.example.net").unwrap();
    let web = WebServer::start(
        &format!(
            "server {{ listen 127.0.0.1:PORT0 ssl http2; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3; root ROOT; }}",
            good.certificate.display(),
            good.key.display()
        ),
        None,
    )
    .unwrap();
    web.put("page", b"a page").unwrap();
    let (url, ca) = (format!("https://127.0.0.1:{}/page", web.port(0)), authority.certificate());
    let ca = ca.to_str().unwrap();
    let http = |more: &[&str], code| ends(&[&["http", &url, "--ca-file", ca][..], more].concat(), code);

    let rows: Vec<Value> = serde_json::from_str(&http(&["-o", "json", "-c", "2", "-i", "10ms"], 0)).unwrap();
    let row = &rows[0];
    assert_eq!((&row["success"], &row["status"], &row["body_bytes"]), (&true.into(), &200.into(), &6.into()));
    assert_eq!((&row["sent"], &row["met"], &row["tls"]["verified"]), (&2.into(), &2.into(), &true.into()));
    assert!(row["phases_ms"]["tls"].as_f64().unwrap() > 0.0 && row["phases_ms"]["resolve"].is_null());

    let table = http(&["-o", "table"], 0);
    assert!(table.contains("TLS 1.3") && table.contains("certificate until 2099-12-31"), "{table}");
    let csv = http(&["-o", "csv"], 0);
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let at = |name: &str| lines[1][lines[0].iter().position(|column| *column == name).unwrap()];
    assert_eq!((at("status"), at("version"), at("certificate_subject")), ("200", "2", "CN=www.example.net"));
    let influx = http(&["-o", "influx"], 0);
    assert!(
        influx.starts_with("http_response,server=https://127.0.0.1:") && influx.contains("result_code=0i"),
        "{influx}"
    );
    let page = http(&["-o", "prometheus"], 0);
    let sample = |name: &str| {
        let line =
            page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {page}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    for (name, value) in [
        ("probe_success{", 1.0),
        ("probe_http_status_code{", 200.0),
        ("probe_http_version{", 2.0),
        ("probe_http_ssl{", 1.0),
        ("probe_http_redirects{", 0.0),
        ("probe_http_content_length{", 6.0),
        ("probe_ssl_earliest_cert_expiry{", 4_102_444_799.0),
        ("probe_tls_version_info{", 1.0),
        ("probe_ip_protocol{", 4.0),
    ] {
        assert!((sample(name) - value).abs() < 1e-9, "{name} {}", sample(name));
    }
    assert!(page.contains("version=\"TLS 1.3\"") && page.contains("phase=\"processing\""));

    // Exit codes, and the flag that is wrong.
    let missed = http(&["--expect-body", "nothing of the kind"], 3);
    assert!(missed.contains("body does not match"), "{missed}");
    assert!(ends(&["http", &url], 3).contains("no trusted authority"));
    assert!(ends(&["http", "ftp://a/"], 2).contains("TARGET: "));
    assert!(http(&["--expect-status", "2xx"], 2).contains("--expect-status: "));
    assert!(ends(&["tcp", "127.0.0.1", "--insecure"], 2).contains("--insecure: is for --tls"));
    let port = web.port(0).to_string();
    let tls = ends(&["tcp", "127.0.0.1", "--tls", "-p", &port, "--ca-file", ca, "-c", "1"], 0);
    assert!(tls.contains("certificate until 2099-12-31"), "{tls}");

    atlas(&http(&["-o", "atlas"], 0), &good.certificate);
}

/// Results as another program reads them, that of RIPE Atlas' own users.
fn atlas(results: &str, certificate: &Path) {
    let Some(python) = network::python() else {
        skip("a_url_in_every_format: atlas", "no Python with ripe.atlas.sagan: run cargo xtask test");
        return;
    };
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), results).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/sagan_web.py");
    let output = Command::new(python)
        .arg("-W")
        .arg("ignore")
        .arg(script)
        .arg(path.path())
        .arg(certificate)
        .output()
        .unwrap();
    assert!(output.status.success(), "{results}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn urls_are_measured_continuously_and_by_jobs() {
    if !require_root("urls_are_measured_continuously_and_by_jobs") {
        return;
    }
    let mut network = Network::start();
    let authority = Authority::new().unwrap();
    let names = ["IP:127.0.0.1", "IP:127.0.0.9"];
    let good = authority.issue("web", &names, "20200101000000Z", "20991231235959Z").unwrap();
    let text = format!(
        "server {{ listen PORT0 ssl http2; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3; root ROOT; }}",
        good.certificate.display(),
        good.key.display()
    );
    let web = WebServer::start(&text, Some(network.node())).unwrap();
    web.put("page", b"a page").unwrap();
    let ca = std::fs::read_to_string(authority.certificate()).unwrap();
    let (port, secured) = (web.port(0), json!({"tls": true, "port": web.port(0), "ca": ca}));
    let tier = |name: &str, kind: &str, params: &Value| {
        network.post(
            "/api/v1/tiers",
            &json!({"name": name, "probe_interval": "2s", "probe_timeout": "2s", "count": 1,
                    "probes": [{"type": kind, "params": params}], "agent_selection": {"strategy": "all"}}),
        )
    };
    tier("web", "http", &json!({"ca": ca, "expect_body": ["a page"]}));
    tier("secured", "tcp", &secured);
    let url = format!("https://127.0.0.1:{port}/page");
    let target = network.post("/api/v1/targets", &json!({"url": url, "tier": "web"}));
    let missing = network.post("/api/v1/targets", &json!({"url": format!("{url}s"), "tier": "web"}));
    let host = network.post("/api/v1/targets", &json!({"ip": "127.0.0.9", "tier": "secured"}));
    let round = |target: &Value, kind: &str| {
        let path = format!("/api/v1/targets/{}/results", target["id"].as_str().unwrap());
        network.wait_get(&path, Duration::from_mins(1), |body| {
            body["items"].as_array()?.iter().find(|row| row["type"] == kind).cloned()
        })
    };
    let row = round(&target, "http");
    assert_eq!(
        (&row["success"], &row["status"], &row["version"]),
        (&true.into(), &200.into(), &"2".into()),
        "{row}"
    );
    assert_eq!(
        (&row["address"], &row["sent"], &row["received"]),
        (&"127.0.0.1".into(), &1.into(), &1.into()),
        "{row}"
    );
    assert!(row["phases_ms"]["tls"].as_f64().is_some_and(|ms| ms > 0.0), "{row}");
    assert_eq!(row["tls"]["expires"], "2099-12-31T23:59:59.000000Z", "{row}");
    assert!(row["rtt_avg_us"].as_f64().unwrap() > row["phases_ms"]["tls"].as_f64().unwrap() * 1e3, "{row}");
    let row = round(&missing, "http");
    assert_eq!(
        (&row["success"], &row["status"], &row["error_code"]),
        (&false.into(), &404.into(), &"status".into()),
        "{row}"
    );
    let row = round(&host, "tcp");
    assert_eq!((&row["success"], &row["ts_source"]), (&true.into(), &"kernel".into()), "{row}");
    assert!(row.to_string().contains("TLS 1.3"), "{row}");

    // The same as a job, by the same flags.
    let ca_file = authority.certificate();
    let program =
        network.program().args(["http", &url, "--from", "all", "-o", "json", "--ca-file"]).arg(ca_file);
    let rows: Vec<Value> = serde_json::from_str(&program.run_ok(Duration::from_mins(1)).unwrap()).unwrap();
    assert_eq!((&rows[0]["agent"], &rows[0]["success"]), (&"local".into(), &true.into()), "{rows:?}");
    network.stop();
}

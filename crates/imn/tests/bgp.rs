//! Updates of BGP from real daemons, as `imn bgp watch` shows them and as a whole network judges them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::TcpStream,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use imn_testkit::{Lab, Node, Process, require_root, wait_until};
use network::Network;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);
const STEP: Duration = Duration::from_secs(15);
/// What gobgpd wrote: 203.0.113.0/24, 2001:db8:5::/48 and 198.51.100.0/24 announced by AS64500, the first withdrawn.
const MRT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../imn-probe/tests/data/gobgpd-updates.mrt");
const BMP: &[u8] = include_bytes!("../../imn-probe/tests/data/gobgpd.bmp");

fn watch(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imn"));
    command.args(["bgp", "watch"]).args(args).env("IMN_STATE_DIR", "/nonexistent/imn").output().unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The findings of all lines: kind, state, prefix, origin.
fn findings(lines: &[Value]) -> Vec<(String, String, String, Option<u64>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let marks = lines.iter().flat_map(|line| line["findings"].as_array().cloned().unwrap_or_default());
    marks
        .map(|mark| {
            (text(&mark["kind"]), text(&mark["state"]), text(&mark["prefix"]), mark["origin_asn"].as_u64())
        })
        .collect()
}

#[test]
fn a_file_is_shown_in_every_format_and_judged() {
    let output = watch(&["--mrt", MRT, "-o", "ndjson"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = lines(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!(rows.len(), 4);
    let first = json!({
        "timestamp": rows[0]["timestamp"], "prefix": "203.0.113.0/24", "type": "A", "peer_asn": 64500,
        "peer_address": "10.0.0.1", "origin_asn": 64500, "as_path": "64500", "next_hop": "10.0.0.1",
        "communities": ["64500:100", "no-export", "64500:1:2"], "collector": "gobgpd-updates.mrt",
    });
    assert_eq!(rows[0], first);
    assert_eq!(
        (&rows[3]["type"], &rows[3]["as_path"], &rows[3]["communities"]),
        (&"W".into(), &Value::Null, &json!([]))
    );

    let array = watch(&["--mrt", MRT, "-o", "json"]).stdout;
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&array).unwrap(), rows);
    let csv = String::from_utf8(watch(&["--mrt", MRT, "-o", "csv"]).stdout).unwrap();
    assert_eq!(csv.lines().count(), 5);
    assert!(csv.starts_with("timestamp,prefix,type,peer_asn,peer_address,origin_asn,"), "{csv}");

    // The declared origin is not the one that announces; then nobody does.
    let judged = ["--mrt", MRT, "--prefix", "203.0.113.0/24", "--origin", "AS64999", "-o", "ndjson"];
    let rows = lines(std::str::from_utf8(&watch(&judged).stdout).unwrap());
    assert_eq!(rows.len(), 2);
    let prefix = "203.0.113.0/24".to_owned();
    assert_eq!(
        findings(&rows),
        [
            ("origin_change".to_owned(), "open".to_owned(), prefix.clone(), Some(64_500)),
            ("origin_change".to_owned(), "ended".to_owned(), prefix.clone(), Some(64_500)),
            ("withdrawal".to_owned(), "open".to_owned(), prefix, None),
        ]
    );
    let table = String::from_utf8(watch(&judged[..6]).stdout).unwrap();
    assert!(
        table.contains("\n  ! critical origin_change open: 203.0.113.0/24 is originated by AS64500"),
        "{table}"
    );
}

#[test]
fn what_cannot_be_read_is_said_and_ends_with_a_code() {
    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().join("cut.mrt");
    let whole = fs::read(MRT).unwrap();
    fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    let output = watch(&["--mrt", cut.to_str().unwrap(), "-o", "ndjson"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert!(
        stderr.contains("fault: cut: record at byte ")
            && stderr.contains("not everything could be read: cut 1"),
        "{stderr}"
    );
    assert_eq!(lines(std::str::from_utf8(&output.stdout).unwrap()).len(), 3);
    let output = watch(&["--ris-live", "ws://127.0.0.1:9/", "--for", "1s"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert!(stderr.contains("the source was never reached"), "{stderr}");
    for (args, code) in [
        (&["--mrt", "/nowhere.mrt"][..], 2),
        (&["--mrt", "/"], 2),
        (&["--mrt", MRT, "--prefix", "192.0.2.0/33"], 2),
        (&["--mrt", "ftp://example.net/x"], 2),
        (&["--ris-live", "http://127.0.0.1/"], 2),
        (&["--mrt", MRT, "--bmp-listen", "127.0.0.1:0"], 2),
        (&["--mrt", MRT, "--origin", "64500"], 2),
        (&["--mrt", MRT, "--prefix", "192.0.2.1"], 2),
        (&[], 2),
    ] {
        let output = watch(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn gobgpd(node: &Node, directory: &Path, asn: u32, neighbors: &[(String, u32, bool)], more: &str) -> Process {
    let mut text = format!("[global.config]\n  as = {asn}\n  router-id = \"{}\"\n", node.v4().unwrap());
    for (address, asn, passive) in neighbors {
        let _ = write!(
            text,
            "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{address}\"\n    peer-as = {asn}\n  \
             [neighbors.transport.config]\n    passive-mode = {passive}\n  [neighbors.timers.config]\n    connect-retry = 5\n"
        );
    }
    let path = directory.join(format!("{}.toml", node.name()));
    fs::write(&path, text + more).unwrap();
    node.program("gobgpd").package("gobgpd").args(["--pprof-disable", "-f"]).arg(path).spawn().unwrap()
}

#[test]
fn a_hijack_between_real_daemons_is_found_over_bmp() {
    if !require_root("a_hijack_between_real_daemons_is_found_over_bmp") {
        return;
    }
    let lab = Lab::from_toml(
        "name = \"hijack\"\nhosts = [\"origin\", \"collector\", \"hijacker\"]\nechoes = false\n\
         links = [{ between = [\"origin\", \"collector\"] }, { between = [\"hijacker\", \"collector\"] }]\n",
    )
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let [origin, collector, hijacker] =
        ["origin", "collector", "hijacker"].map(|name| lab.node(name).unwrap());
    let ours = |link: usize| collector.addresses()[2 * link].to_string();
    let mut imn = collector
        .program(env!("CARGO_BIN_EXE_imn"))
        .args(["bgp", "watch", "--bmp-listen", "127.0.0.1:11019", "--prefix", "203.0.113.0/24"])
        .args(["--origin", "64500", "-o", "ndjson"])
        .spawn()
        .unwrap();
    let bmp = "[[bmp-servers]]\n  [bmp-servers.config]\n    address = \"127.0.0.1\"\n    port = 11019\n    \
               route-monitoring-policy = \"pre-policy\"\n";
    let neighbors = [
        (origin.v4().unwrap().to_string(), 64_500, true),
        (hijacker.v4().unwrap().to_string(), 64_666, true),
    ];
    let _collector = gobgpd(collector, dir.path(), 64_510, &neighbors, bmp);
    let _origin = gobgpd(origin, dir.path(), 64_500, &[(ours(0), 64_510, false)], "");
    let _hijacker = gobgpd(hijacker, dir.path(), 64_666, &[(ours(1), 64_510, false)], "");
    wait_until("both sessions", SOON, || {
        let run = collector.program("gobgp").arg("neighbor").run(STEP).ok()?;
        (run.stdout.matches("Establ").count() == 2).then_some(())
    })
    .unwrap();
    let rib = |node: &Node, args: &str| {
        node.program("gobgp").args(["global", "rib"]).args(args.split_whitespace()).run_ok(STEP).unwrap();
    };
    let mut found = |kind: &str, state: &str, prefix: &str, origin: Option<u64>| {
        let wanted = (kind.to_owned(), state.to_owned(), prefix.to_owned(), origin);
        imn.wait_for(&format!("{wanted:?}"), SOON, |imn| {
            findings(&lines(&imn.stdout())).contains(&wanted).then_some(())
        })
        .unwrap();
    };
    rib(origin, "add 203.0.113.0/24");
    rib(hijacker, "add 203.0.113.0/24");
    found("origin_change", "open", "203.0.113.0/24", Some(64_666));
    rib(hijacker, "add 203.0.113.128/25");
    found("more_specific", "open", "203.0.113.128/25", Some(64_666));
    rib(hijacker, "del 203.0.113.0/24");
    found("origin_change", "ended", "203.0.113.0/24", Some(64_666));
    rib(hijacker, "del 203.0.113.128/25");
    found("more_specific", "ended", "203.0.113.128/25", Some(64_666));
    rib(origin, "del 203.0.113.0/24");
    found("withdrawal", "open", "203.0.113.0/24", None);
    imn.terminate();
    assert_eq!(imn.wait_deadline(STEP).unwrap().code(), Some(130));
}

#[test]
fn a_prefix_is_a_target_and_its_withdrawal_a_finding_over_http() {
    if !require_root("a_prefix_is_a_target_and_its_withdrawal_a_finding_over_http") {
        return;
    }
    let network = Network::start();
    let tier = json!({
        "name": "routing", "display_name": "Routing", "probe_interval": "2s", "probe_timeout": "1s", "count": 1,
        "probes": [{ "type": "bgp", "params": { "source": "bmp:127.0.0.1:11019" } }],
    });
    let made = network.curl("POST", "/api/v1/tiers", Some(&tier.to_string()));
    assert_eq!(made.status, 201, "{}", made.body);
    let target = json!({
        "kind": "prefix", "address": "203.0.113.0/24", "tier": "routing", "params": { "origins": [64_999] },
    });
    let made = network.curl("POST", "/api/v1/targets", Some(&target.to_string()));
    assert_eq!(made.status, 201, "{}", made.body);
    let id = made.body["id"].as_str().unwrap().to_owned();

    // The module listens once it has the target; the router stays connected.
    let mut router = wait_until("the listener", SOON, || {
        network.node().enter(|| TcpStream::connect("127.0.0.1:11019").ok()).unwrap()
    })
    .unwrap();
    router.write_all(BMP).unwrap();
    router.flush().unwrap();
    let view = network.wait_get(&format!("/api/v1/targets/{id}/bgp"), SOON, |body| {
        let kinds: Vec<_> = body["findings"].as_array()?.iter().map(|found| found["kind"].clone()).collect();
        kinds.contains(&"withdrawal".into()).then(|| body.clone())
    });
    let seen: Vec<_> = view["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| {
            (found["kind"].as_str().unwrap(), found["state"].as_str().unwrap(), &found["origin_asn"])
        })
        .collect();
    let foreign = json!(64_500);
    assert_eq!(
        seen,
        [
            ("origin_change", "open", &foreign),
            ("origin_change", "ended", &foreign),
            ("withdrawal", "open", &Value::Null)
        ],
        "{view}"
    );
    let agent = &view["agents"][0];
    assert_eq!((&agent["visible_peers"], &agent["peers"]), (&0.into(), &1.into()), "{agent}");
    assert_eq!(agent["expected_origins"], json!([64_999]));
    assert_eq!(agent["open"][0]["evidence"]["peers"][0]["address"], "10.0.0.1", "{agent}");

    // The same updates are in the rounds, in columns of their own; later rounds with the router are whole.
    let rounds = network.wait_get(&format!("/api/v1/targets/{id}/results"), SOON, |body| {
        let items = body["items"].as_array()?;
        let whole = items.iter().any(|round| round["success"] == true && round["down_ms"] == 0);
        whole.then(|| items.clone())
    });
    let told: u64 = rounds.iter().map(|round| round["announcements"].as_u64().unwrap_or_default()).sum();
    assert_eq!(told, 1, "{rounds:?}");
    assert!(rounds.iter().any(|round| round["updates"][0]["as_path"] == "64500"), "{rounds:?}");
    let wrong = network.curl("GET", "/api/v1/targets/127.0.0.1/bgp", None);
    assert_eq!(wrong.status, 400, "{}", wrong.body);
}

//! Every type of measurement in each of its ways: continuously, as a job, from this process, and on its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::{path::Path, time::Duration};

use imn_testkit::{NameServer, Process, WebServer, require_root};
use network::Network;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const REFLECTOR: &str = "127.0.0.24:8620";
const MRT: &str = "../imn-probe/tests/data/gobgpd-updates.mrt";

/// A type, its target in the API's words and in the command line's, and its parameters.
struct Case {
    kind: &'static str,
    target: Value,
    written: String,
    params: Value,
    /// A prefix is not measured but listened to: a file of updates is read by jobs only.
    stands: bool,
}

fn cases(web: u16, names: u16) -> Vec<Case> {
    let ip = |kind, address: &str, params| Case {
        kind,
        target: json!({ "ip": address }),
        written: address.to_owned(),
        params,
        stands: true,
    };
    let url = format!("http://127.0.0.1:{web}/page");
    let resolver = format!("127.0.0.1:{names}");
    let mrt = std::fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join(MRT)).unwrap();
    vec![
        ip("icmp", "127.0.0.21", json!({})),
        ip("tcp", "127.0.0.22", json!({ "port": web })),
        ip("trace", "127.0.0.23", json!({})),
        ip("stamp", "127.0.0.24", json!({ "port": 8620 })),
        Case { kind: "http", target: json!({ "url": url }), written: url, params: json!({}), stands: true },
        Case {
            kind: "dns",
            target: json!({ "resolver": resolver }),
            written: resolver,
            params: json!({ "query": "www.imn.test" }),
            stands: true,
        },
        Case {
            kind: "bgp",
            target: json!({}),
            written: "0.0.0.0/0".to_owned(),
            params: json!({ "source": format!("mrt:{}", mrt.display()) }),
            stands: false,
        },
    ]
}

#[test]
fn every_type_is_measured_in_every_way() {
    if !require_root("every_type_is_measured_in_every_way") {
        return;
    }
    let mut network = Network::start();
    let web = WebServer::start("server { listen PORT0; root ROOT; }", Some(network.node())).unwrap();
    web.put("page", b"a page").unwrap();
    let names = NameServer::start_on(network.node()).unwrap();
    let mut reflector: Process =
        network.program().args(["stamp", "reflect", "--stateful", "--listen", REFLECTOR]).spawn().unwrap();
    reflector.wait_for("the reflector", SOON, |it| it.stdout().contains("ready").then_some(())).unwrap();
    let cases = cases(web.port(0), names.plain().port());

    // Continuously: a tier and a target of each.
    let mut standing = Vec::new();
    for case in cases.iter().filter(|case| case.stands) {
        let tier = json!({
            "name": case.kind, "probe_interval": "2s", "probe_timeout": "1s", "count": 2,
            "probes": [{ "type": case.kind, "params": case.params }], "agent_selection": { "strategy": "all" },
        });
        network.post("/api/v1/tiers", &tier);
        let mut target = case.target.clone();
        target["tier"] = case.kind.into();
        let id = network.post("/api/v1/targets", &target)["id"].as_str().unwrap().to_owned();
        standing.push((case.kind, id));
    }
    for case in &cases {
        // From this process, and by a job of the agent: the same outcome of the same module.
        let given = case.params.as_object().unwrap();
        let params = given.iter().flat_map(|(name, value)| ["--param".to_owned(), format!("{name}={value}")]);
        let params: Vec<String> = params.collect();
        for way in [&["--local"][..], &["--from", "local"]] {
            let program = network.program().args(["measure", case.kind, &case.written, "-o", "json"]);
            let told = program.args(&params).args(way).run_ok(SOON).unwrap();
            let rows: Vec<Value> = serde_json::from_str(&told).unwrap();
            let row = &rows[0];
            assert_eq!(
                (rows.len(), &row["error"], &row["sent"]),
                (1, &Value::Null, &row["received"]),
                "{row}"
            );
            // Pings have no expectation that they could meet or not.
            assert_ne!(row["success"], false, "{row}");
            if case.kind != "bgp" && case.kind != "http" {
                assert_eq!(row["timestamp_source"], "kernel", "{row}");
            }
        }
    }
    for (kind, id) in &standing {
        let row = network.wait_get(&format!("/api/v1/targets/{id}/results"), SOON, |body| {
            body["items"].as_array()?.iter().find(|row| row["success"] == true).cloned()
        });
        assert_eq!(
            (&row["type"], &row["sent"], &row["received"]),
            (&(*kind).into(), &2.into(), &2.into()),
            "{row}"
        );
    }

    // On its own, with neither server nor agent.
    let resolver = format!("127.0.0.1:{}", names.plain().port());
    let url = format!("http://127.0.0.1:{}/page", web.port(0));
    for args in [
        &["icmp", "--target", "127.0.0.21"][..],
        &["dns", "--resolver", &resolver, "--target", "www.imn.test"],
        &["http", "--url", &url],
        &["mtr", "--target", "127.0.0.23", "-c", "2"],
    ] {
        let who = ["--probe-id", "p1", "--location", "here", "--health-check"];
        let passed = network.program().arg("probe").args(args).args(who).run_ok(SOON).unwrap();
        assert_eq!(passed, "PASSED\n", "imn probe {}", args.join(" "));
    }
    network.stop();
}

//! The HTTP API over real sockets, with a real nats-server, catalog and results.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "api/bench.rs"]
mod bench;
#[path = "api/lists.rs"]
mod lists;
#[path = "api/params.rs"]
mod params;
#[path = "api/transfer.rs"]
mod transfer;
#[path = "api/why.rs"]
mod why;

use std::{collections::BTreeSet, path::Path, time::Duration};

use bench::{Bench, read};
use futures::StreamExt;
use imn_contract::{
    AgentId, InstanceId, ModuleType, TargetId,
    latest::{Batch, Gap, Round},
};
use imn_server::{Role, mint};
use imn_store::IngestBatch;
use reqwest::Method;
use serde_json::{Value, json};

const TARGETS: &str = "/api/v1/targets";

#[tokio::test(flavor = "multi_thread")]
async fn targets_live_from_post_to_delete() {
    let bench = Bench::start().await;
    // As curl -d sends it.
    let curl = bench
        .request(Method::POST, TARGETS)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(r#"{"ip":"127.0.0.5","tier":"standard"}"#);
    let made = read(curl).await;
    let target = made.expect(201);
    let id = target["id"].as_str().unwrap();
    assert_eq!(made.header("location"), format!("{TARGETS}/{id}"));
    assert_eq!(made.header("etag"), "\"1\"");
    assert_eq!((&target["kind"], &target["monitoring_state"]), (&json!("ip"), &json!("unknown")));

    let probes = json!([{ "type": "icmp" }, { "type": "http" }, { "type": "bgp" }]);
    let any = json!({ "name": "any", "probe_interval": "30s", "probes": probes });
    bench.post("/api/v1/tiers", &any).await.expect(201);
    for (spec, paths) in [
        (json!({ "ip": "2001:DB8::0:1" }), vec!["2001:db8::1", "2001:DB8:0::1", "%5B2001%3Adb8%3A%3A1%5D"]),
        (json!({ "host": "Example.COM." }), vec!["example.com", "EXAMPLE.com"]),
        (
            json!({ "url": "https://Example.com/a b".replace(' ', "%20"), "tier": "any" }),
            vec!["https%3A%2F%2Fexample.com%2Fa%2520b"],
        ),
        (json!({ "address": "192.0.2.7" }), vec!["192.0.2.7"]),
        (json!({ "prefix": "198.51.100.0/24", "tier": "any" }), vec!["198.51.100.0%2F24"]),
    ] {
        let made = bench.post(TARGETS, &spec).await.expect(201);
        for path in paths {
            let found = bench.get(&format!("{TARGETS}/{path}")).await.expect(200);
            assert_eq!(found, made, "{path}");
        }
        let again = bench.post(TARGETS, &spec).await.problem(409);
        assert!(again["detail"].as_str().unwrap().contains(made["address"].as_str().unwrap()));
    }

    // What GET gave can be changed and put back; the server's own fields are ignored.
    let path = format!("{TARGETS}/127.0.0.5");
    let put = |body: &Value, tag: Option<&str>| {
        let request = bench.request(Method::PUT, &path).json(body);
        match tag {
            Some(tag) => request.header("If-Match", tag),
            None => request,
        }
    };
    let mut changed = target.clone();
    changed["display_name"] = json!("loopback");
    changed["tags"] = json!({ "pop": "jfk" });
    read(put(&changed, None)).await.problem(428);
    let answer = read(put(&changed, Some("\"1\""))).await;
    assert_eq!(answer.expect(200)["display_name"], "loopback");
    assert_eq!(answer.header("etag"), "\"2\"");
    let stale = read(put(&changed, Some("\"1\""))).await;
    stale.problem(412);
    assert_eq!(stale.header("etag"), "\"2\"");
    // A full replacement: what is not said is not kept.
    let bare = read(put(&json!({ "ip": "127.0.0.5", "tier": "low" }), Some("*"))).await.expect(200);
    assert_eq!((&bare["display_name"], &bare["tags"], &bare["id"]), (&Value::Null, &json!({}), &json!(id)));
    let off =
        read(put(&json!({ "tier": "low", "monitoring_state": "inactive" }), Some("\"3\""))).await.expect(200);
    assert_eq!((&off["monitoring_state"], &off["address"]), (&json!("inactive"), &json!("127.0.0.5")));
    let fresh = bench.request(Method::GET, &path).header("If-None-Match", "\"4\"");
    assert_eq!(read(fresh).await.status, 304);

    bench.delete("/api/v1/tiers/low").await.problem(409);
    let unconditional = bench.request(Method::DELETE, &path);
    read(unconditional).await.problem(428);
    bench.delete(&path).await.expect(204);
    bench.get(&path).await.problem(404);
    bench.delete(&path).await.problem(404);

    let actions: Vec<Value> =
        bench.get("/api/v1/audit").await.expect(200)["items"].as_array().unwrap().clone();
    let of = |action: &str| actions.iter().filter(|entry| entry["action"] == action).count();
    assert_eq!((of("target.create"), of("target.replace"), of("target.delete")), (6, 3, 1));
    assert!(actions.iter().all(|entry| entry["actor"].as_str().unwrap().starts_with("key:")));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_names_the_field() {
    let bench = Bench::start().await;
    let tier = |key: &str, value: Value| {
        let mut tier = json!({ "name": "new", "probe_interval": "5s" });
        tier[key] = value;
        tier
    };
    let tiers = "/api/v1/tiers";
    let jobs = "/api/v1/jobs";
    let keys = "/api/v1/api-keys";
    for (path, body, field) in [
        (TARGETS, json!({}), "address"),
        (TARGETS, json!([]), ""),
        (TARGETS, json!({ "ip": "300.1.2.3" }), "ip"),
        (TARGETS, json!({ "ip": "example.com" }), "ip"),
        (TARGETS, json!({ "ip": "0.0.0.0" }), "ip"),
        (TARGETS, json!({ "host": "a b" }), "host"),
        (TARGETS, json!({ "host": "1.2.3" }), "host"),
        (TARGETS, json!({ "url": "ftp://example.com" }), "url"),
        (TARGETS, json!({ "url": "http://u:p@example.com/" }), "url"),
        (TARGETS, json!({ "address": "" }), "address"),
        (TARGETS, json!({ "ip": "192.0.2.1", "host": "a" }), "host"),
        (TARGETS, json!({ "ip": "192.0.2.1", "kind": "url" }), "kind"),
        (TARGETS, json!({ "ip": "192.0.2.1", "tier": "none" }), "tier"),
        (TARGETS, json!({ "ip": "192.0.2.1", "tier": 7 }), "tier"),
        (TARGETS, json!({ "ip": "192.0.2.1", "teir": "low" }), "teir"),
        (TARGETS, json!({ "ip": "192.0.2.1", "tags": { "pop": 7 } }), "tags.pop"),
        (TARGETS, json!({ "ip": "192.0.2.1", "tags": { "pop": "x".repeat(300) } }), "tags.pop"),
        (TARGETS, json!({ "ip": "192.0.2.1", "expected_outcome": {} }), "expected_outcome.should_succeed"),
        (tiers, tier("probe_interval", json!("0s")), "probe_interval"),
        (tiers, tier("probe_interval", json!("soon")), "probe_interval"),
        (tiers, tier("probe_interval", json!(5)), "probe_interval"),
        (tiers, json!({ "name": "new" }), "probe_interval"),
        (tiers, json!({ "probe_interval": "5s" }), "name"),
        (tiers, tier("name", json!("a b")), "name"),
        (tiers, tier("probe_timeout", json!("0ms")), "probe_timeout"),
        (tiers, tier("probe_timeout", json!("61s")), "probe_timeout"),
        (tiers, tier("count", json!(0)), "count"),
        (tiers, tier("count", json!(-1)), "count"),
        (tiers, tier("probes", json!([])), "probes"),
        (tiers, tier("probes", json!([{ "type": "a b" }])), "probes[0].type"),
        (tiers, tier("probes", json!([{ "type": "icmp" }, { "type": "ping" }])), "probes[1].type"),
        (tiers, tier("probes", json!([{ "kind": "icmp" }])), "probes[0].kind"),
        (tiers, tier("agent_selection", json!({ "strategy": "some" })), "agent_selection.strategy"),
        (tiers, tier("agent_selection", json!({ "strategy": "distributed" })), "agent_selection.count"),
        (jobs, json!({ "type": "icmp" }), "target"),
        (jobs, json!({ "type": "icmp", "target": "127.0.0.1", "form": {} }), "form"),
        (jobs, json!({ "type": "icmp", "target": "127.0.0.1", "from": { "limit": "all" } }), "from.limit"),
        (jobs, json!({ "type": "icmp", "target": "127.0.0.1", "job_id": "a b" }), "job_id"),
        (jobs, json!({ "type": "icmp", "target": "127.0.0.1", "deadline_ms": 0 }), "deadline_ms"),
        (keys, json!({ "name": "x", "role": "root" }), "role"),
        (keys, json!({ "name": "", "role": "viewer" }), "name"),
        (keys, json!({ "name": "x", "role": "viewer", "expires": "2001-01-01T00:00:00Z" }), "expires"),
    ] {
        let problem = bench.post(path, &body).await.problem(400);
        assert_eq!(problem["errors"][0]["field"], field, "{path} {body}: {problem}");
    }
    // What is no JSON is said to be none, with the place, and no field is blamed.
    for (text, place) in [
        ("{\"ip\": \"192.0.2.1\n", "line 1, column 17"),
        ("{\"ip\": 192.0.2.1}", "line 1, column 13"),
        ("{\n \"ip\": \"192.0.2.1\",\n}", "line 3, column 1"),
        ("{\"ip\": 7, \"tier\": }", "line 1, column 19"),
        ("{\"ip\": \"192.0.2.1\"} x", "line 1, column 21"),
        ("{\"ip\"", "line 1, column 5"),
    ] {
        let sent = read(bench.request(Method::POST, TARGETS).body(text)).await;
        let problem = sent.problem(400);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("malformed JSON at {place}: ")), "{text:?}: {detail}");
        assert_eq!(problem["errors"][0]["field"], "", "{problem}");
    }
    // Everything that is wrong is told at once.
    let worst = json!({ "name": "a b", "probe_interval": "0s", "count": 0 });
    let problem = bench.post(tiers, &worst).await.problem(400);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 3, "{problem}");

    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("page_token=x", "page_token"),
        ("page_token=eyJxIjoxLCJrIjoiYSJ9", "page_token"),
        ("filters=x", "filters"),
        ("limit=1&limit=2", "limit"),
        ("order_by=nonsense", "order_by"),
    ] {
        let problem = bench.get(&format!("{TARGETS}?{query}")).await.problem(400);
        assert_eq!(problem["errors"][0]["field"], field, "{query}: {problem}");
    }
    for (query, field) in [
        ("from=yesterday", "from"),
        ("step=1ms", "step"),
        ("step=soon", "step"),
        ("from=2020-01-01T00:00:00Z&step=1s", "step"),
        ("from=2030-01-01T00:00:00Z&to=2020-01-01T00:00:00Z", "from"),
        ("agent=a%20b", "agent"),
    ] {
        let problem = bench.get(&format!("{TARGETS}/127.0.0.1/history?{query}")).await.problem(400);
        assert_eq!(problem["errors"][0]["field"], field, "{query}: {problem}");
    }
    for (text, position) in [("monitoring_state=dwon", 18), ("tier=low AND (", 15), ("colour=red", 1)] {
        let text = text.replace('=', "%3D").replace(' ', "%20");
        let problem = bench.get(&format!("{TARGETS}?filter={text}")).await.problem(400);
        assert_eq!(problem["errors"][0]["field"], "filter");
        assert_eq!(problem["errors"][0]["position"], position, "{problem}");
    }

    let raw = |media: &'static str, body: String| {
        read(bench.request(Method::POST, TARGETS).header("Content-Type", media).body(body))
    };
    assert!(
        raw("application/json", "{\"ip\":".to_owned()).await.problem(400)["detail"]
            .to_string()
            .contains("malformed JSON")
    );
    raw("application/json", "{} {}".to_owned()).await.problem(400);
    raw("application/json", String::new()).await.problem(400);
    raw("application/x-www-form-urlencoded", "ip=192.0.2.1".to_owned()).await.problem(400);
    raw("text/plain", "{}".to_owned()).await.problem(415);
    raw("application/json", format!("{{\"ip\":\"{}\"}}", "1".repeat(1 << 20))).await.problem(413);
    bench.get("/api/v1/nonsense").await.problem(404);
    bench.get("/nonsense").await.problem(404);
    bench.get(&format!("{TARGETS}/%FF")).await.problem(400);
    let patch = read(bench.request(Method::PATCH, TARGETS)).await;
    patch.problem(405);
    assert!(patch.header("allow").contains("POST"));
    let named = bench.request(Method::GET, "/nonsense").header("X-Request-Id", "mine-1");
    assert_eq!(read(named).await.problem(404)["request_id"], "mine-1");
    assert_eq!(bench.get(TARGETS).await.expect(200)["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_stay_whole_while_targets_come_and_go() {
    let bench = Bench::start().await;
    let lines: String = (1..=250)
        .map(|n| {
            json!({ "ip": format!("127.0.1.{n}"), "tags": { "n": (n % 7).to_string() } }).to_string() + "\n"
        })
        .collect();
    let import = |lines: String, query: &str| {
        let path = format!("{TARGETS}:import{query}");
        read(bench.request(Method::POST, &path).header("Content-Type", "application/x-ndjson").body(lines))
    };
    let report = import(lines.clone(), "").await.expect(200);
    assert_eq!(report, json!({ "created": 250, "updated": 0, "unchanged": 0, "errors": [] }));
    assert_eq!(import(lines.clone(), "").await.expect(200)["unchanged"], 250);

    for (query, expected) in [
        ("", 250),
        ("order_by=address", 250),
        ("order_by=tags.n+desc,address", 250),
        ("filter=NOT+tags.n%3D3", 214),
    ] {
        let mut seen = Vec::new();
        let mut token = String::new();
        loop {
            let page = bench.get(&format!("{TARGETS}?{query}&limit=40{token}")).await.expect(200);
            let items = page["items"].as_array().unwrap();
            seen.extend(items.iter().map(|item| item["address"].as_str().unwrap().to_owned()));
            // The last one shown goes away, and another comes.
            bench.delete(&format!("{TARGETS}/{}", seen.last().unwrap())).await.expect(204);
            let new = json!({ "ip": format!("127.2.{}.1", seen.len() / 2), "tags": { "n": "3" } });
            bench.post(TARGETS, &new).await.expect(201);
            match page["next_page_token"].as_str() {
                Some(next) => token = format!("&page_token={next}"),
                None => break,
            }
        }
        let first: Vec<&String> = seen.iter().filter(|address| address.starts_with("127.0.1.")).collect();
        assert_eq!(first.len(), expected, "{query}");
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), expected, "{query}: some were shown twice");
        if query == "order_by=address" {
            assert!(seen.is_sorted());
        }
        let page = bench.get(&format!("{TARGETS}?filter=address:127.2.&limit=1000")).await.expect(200);
        for item in page["items"].as_array().unwrap() {
            bench.delete(&format!("{TARGETS}/{}", item["address"].as_str().unwrap())).await.expect(204);
        }
        import(lines.clone(), "").await.expect(200);
    }

    let page = bench.get(&format!("{TARGETS}?limit=10&order_by=address")).await.expect(200);
    let token = page["next_page_token"].as_str().unwrap();
    bench.get(&format!("{TARGETS}?limit=20&order_by=address&page_token={token}")).await.expect(200);
    let other = bench.get(&format!("{TARGETS}?limit=10&page_token={token}")).await.problem(400);
    assert_eq!(other["errors"][0]["field"], "page_token");
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_tell_line_by_line_and_exports_come_back() {
    let bench = Bench::start().await;
    let import = |media: &'static str, lines: &str, query: &str| {
        let path = format!("{TARGETS}:import{query}");
        read(bench.request(Method::POST, &path).header("Content-Type", media).body(lines.to_owned()))
    };
    let csv = "address,tier,display_name,tags.pop\n192.0.2.1,standard,\"a, b\",jfk\nexample.com,low,,\n\
               300.1.2.3,standard,,\n192.0.2.1,low,,\n192.0.2.9,none,,\nshort\n";
    for (query, created) in [("?atomic=true", 0), ("?dry_run=true", 2), ("", 2)] {
        let report = import("text/csv", csv, query).await.expect(200);
        assert_eq!(report["created"], created, "{query}: {report}");
        let errors: Vec<(u64, &str)> = report["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| (error["line"].as_u64().unwrap(), error["field"].as_str().unwrap()))
            .collect();
        assert_eq!(errors, [(4, "address"), (5, "address"), (6, "tier"), (7, "")], "{query}");
        let there = bench.get(&format!("{TARGETS}/192.0.2.1")).await.status;
        assert_eq!(there == 200, query.is_empty(), "{query}");
    }
    assert_eq!(bench.get(&format!("{TARGETS}/192.0.2.1")).await.expect(200)["display_name"], "a, b");
    let changed = r#"{"ip":"192.0.2.1","tier":"low"}"#;
    assert_eq!(import("application/x-ndjson", changed, "").await.expect(200)["updated"], 1);

    let export = bench.get(&format!("{TARGETS}:export")).await;
    assert_eq!(export.text.lines().last(), Some(r#"{"count":2}"#));
    let report = import("application/x-ndjson", &export.text, "").await.expect(200);
    assert_eq!(report, json!({ "created": 0, "updated": 0, "unchanged": 2, "errors": [] }));
    let torn: String = export.text.split_inclusive('\n').skip(1).collect();
    assert_eq!(import("application/x-ndjson", &torn, "").await.expect(200)["errors"][0]["field"], "count");
    import("application/json", "[]", "").await.problem(415);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_post_is_done_once() {
    let bench = Bench::start().await;
    let post =
        |body: Value| read(bench.request(Method::POST, TARGETS).header("Idempotency-Key", "k-1").json(&body));
    let first = post(json!({ "ip": "192.0.2.1" })).await;
    let made = first.expect(201);
    let second = post(json!({ "ip": "192.0.2.1" })).await;
    assert_eq!(second.expect(201), made);
    assert_eq!(second.header("location"), first.header("location"));
    assert_eq!(second.header("idempotency-replayed"), "true");
    post(json!({ "ip": "192.0.2.2" })).await.problem(422);
    // Another key's requests are its own.
    let other = mint(&*bench.catalog, "other", Role::Operator, None).await.unwrap().token;
    let request = bench.http.post(format!("{}{TARGETS}", bench.url)).bearer_auth(other);
    read(request.header("Idempotency-Key", "k-1").json(&json!({ "ip": "192.0.2.2" }))).await.expect(201);
}

/// What stands for a parameter in a path.
fn concrete(path: &str) -> String {
    path.replace("{id}", "none").replace("{name}", "none").replace("{type}", "none")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_documented_and_guarded() {
    let bench = Bench::start().await;
    let document = read(bench.http.get(format!("{}/openapi.json", bench.url))).await;
    let parsed: utoipa::openapi::OpenApi = serde_json::from_str(&document.text).unwrap();
    let document = document.expect(200);
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(parsed.paths.paths.len(), document["paths"].as_object().unwrap().len());
    assert!(
        document == serde_json::to_value(imn_server::openapi()).unwrap(),
        "served is not what is printed"
    );
    references(&document, &document);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi/v1.json");
    let printed = imn_server::openapi().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("IMN_BLESS").is_some() {
        std::fs::write(&committed, &printed).unwrap();
    }
    let same = std::fs::read_to_string(&committed).unwrap() == printed;
    assert!(same, "openapi/v1.json is not what the routes say; run this test with IMN_BLESS=1");
    let mut tokens = Vec::new();
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        tokens.push((role, mint(&*bench.catalog, role.as_str(), role, None).await.unwrap().token));
    }
    let expired = mint(&*bench.catalog, "old", Role::Admin, Some(1)).await.unwrap().token;
    let forged = format!("{}0", &tokens[2].1[..tokens[2].1.len() - 1]);
    let wrong = [None, Some("imn_x_y"), Some("nonsense"), Some(expired.as_str()), Some(forged.as_str())];
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operations.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
            assert!(
                operation["summary"].is_string() && operation["responses"]["default"].is_object(),
                "{path}"
            );
            let method: Method = method.to_uppercase().parse().unwrap();
            let url = format!("{}{}", bench.url, concrete(path));
            if operation["security"] == json!([]) {
                let open = read(bench.http.request(method, url)).await;
                // Nothing is said yet of what `/probe` is to measure, or of who is to come in.
                let asks = path == "/probe" || path.starts_with("/api/v1/enroll");
                let refused = asks && (400..500).contains(&open.status.as_u16());
                assert!(open.status == 200 || path == "/readyz" || refused, "{path}: {open:?}");
                continue;
            }
            for token in wrong {
                let request = bench.http.request(method.clone(), &url);
                let request = match token {
                    Some(token) => request.bearer_auth(token),
                    None => request,
                };
                let refused = read(request).await;
                refused.problem(401);
                assert!(refused.header("www-authenticate").starts_with("Bearer"));
            }
            let said = operation["description"].as_str().unwrap();
            let needed = [Role::Viewer, Role::Operator, Role::Admin]
                .into_iter()
                .find(|role| said.ends_with(&format!("Needs the role {}.", role.as_str())))
                .unwrap();
            // Whoever only looks must never be enough for a change.
            assert!(method == Method::GET || needed > Role::Viewer, "{method} {path}");
            for (role, token) in &tokens {
                let request = bench.http.request(method.clone(), &url).bearer_auth(token);
                let response = request.send().await.unwrap();
                let status = response.status().as_u16();
                assert_eq!(status == 403, *role < needed, "{method} {path} as {}: {status}", role.as_str());
                assert!(status < 500 && status != 405, "{method} {path}: {status}");
                assert!(response.headers().contains_key("ratelimit"), "{method} {path}");
                if status == 404 {
                    let problem: Value = response.json().await.unwrap();
                    assert!(
                        problem["detail"].as_str().unwrap().contains("none"),
                        "{method} {path}: {problem}"
                    );
                }
            }
        }
    }
    for route in
        ["list_targets", "watch_target", "import_targets", "submit_job", "compact_results", "list_audit"]
    {
        assert!(operations.contains(route), "{route}");
    }
}

/// Every reference within the document leads somewhere.
fn references(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            map.values().for_each(|value| references(document, value));
        }
        Value::Array(values) => values.iter().for_each(|value| references(document, value)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_shown_once_and_end() {
    let bench = Bench::start().await;
    let spec = json!({ "name": "console", "role": "viewer", "expires": "2099-01-01T00:00:00Z" });
    let made = bench.post("/api/v1/api-keys", &spec).await.expect(201);
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(key.starts_with(&format!("imn_{id}_")));
    let list = bench.get("/api/v1/api-keys").await;
    assert_eq!(list.expect(200)["items"].as_array().unwrap().len(), 2);
    let secret = key.rsplit('_').next().unwrap();
    assert!(!list.text.contains(secret) && !bench.get("/api/v1/audit").await.text.contains(secret));
    let look = || read(bench.http.get(format!("{}{TARGETS}", bench.url)).bearer_auth(key));
    look().await.expect(200);
    bench.delete(&format!("/api/v1/api-keys/{id}")).await.expect(204);
    look().await.problem(401);
    bench.delete(&format!("/api/v1/api-keys/{id}")).await.problem(404);
    let own = bench.admin.split('_').nth(1).unwrap().to_owned();
    bench.delete(&format!("/api/v1/api-keys/{own}")).await.problem(409);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_told_to_wait() {
    let bench = Bench::start().await;
    let url = format!("{}/api/v1/tiers", bench.url);
    let before = read(bench.http.get(&url).bearer_auth(&bench.admin)).await;
    assert!(before.header("ratelimit-policy").starts_with("\"key\";q="), "{before:?}");
    let requests = futures::stream::iter(0..8_000)
        .map(|_| bench.http.get(&url).bearer_auth(&bench.admin).send())
        .buffer_unordered(32);
    let limited = requests.filter_map(|r| async { r.ok().filter(|r| r.status() == 429) });
    let limited = std::pin::pin!(limited).next().await.expect("no limit");
    assert!(limited.headers().contains_key("retry-after"));
    assert!(limited.headers()["ratelimit"].to_str().unwrap().starts_with("\"key\";r=0;"));
    // Others are not held up by it.
    let other = mint(&*bench.catalog, "other", Role::Viewer, None).await.unwrap().token;
    read(bench.http.get(&url).bearer_auth(other)).await.expect(200);
}

/// A batch of `rounds` rounds of a target, five seconds apart.
fn batch(target: &str, seq: u64, from_us: i64, rounds: i64) -> IngestBatch {
    let target = TargetId::new(target).unwrap();
    let round = |n: i64| Round {
        target: Some(target.clone()),
        address: "127.0.0.5".into(),
        due_us: from_us + n * 5_000_000,
        time_us: from_us + n * 5_000_000 + 17,
        sent: 3,
        received: 2,
        success: true,
        rtt_min_ns: Some(1_000_000),
        rtt_avg_ns: Some(1_500_000),
        rtt_max_ns: Some(2_000_000),
        rtt_stddev_ns: Some(707_107),
        tmax_us: 2_000_000,
        rtts_ns: vec![Some(1_000_000), None, Some(2_000_000)],
        ..Round::default()
    };
    let batch = Batch {
        agent: AgentId::new("lon1").unwrap(),
        instance: InstanceId::new("lon1-icmp-0").unwrap(),
        kind: ModuleType::new("icmp").unwrap(),
        epoch: 7,
        first_seq: seq,
        last_seq: seq,
        rounds: (0..rounds).map(round).collect(),
        gaps: vec![Gap {
            target: target.clone(),
            first_due_us: from_us - 10_000_000,
            last_due_us: from_us - 5_000_000,
            rounds: 2,
            reason: "module_crashed".to_owned(),
        }],
    };
    let sealed = batch.seal().unwrap();
    IngestBatch { batch, sealed }
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_are_shown_paged_exported_and_aggregated() {
    let bench = Bench::start().await;
    let made = bench.post(TARGETS, &json!({ "ip": "127.0.0.5" })).await.expect(201);
    let from = 1_790_000_000_000_000 / 60_000_000 * 60_000_000;
    bench.results.commit(vec![batch(made["id"].as_str().unwrap(), 1, from, 250)]).await.unwrap();
    let path = format!("{TARGETS}/127.0.0.5");

    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let page = bench.get(&format!("{path}/results?limit=60{token}")).await.expect(200);
        seen.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 250);
    let dues: Vec<&str> = seen.iter().map(|row| row["due"].as_str().unwrap()).collect();
    assert!(dues.is_sorted_by(|a, b| a > b), "newest first");
    let row = &seen[249];
    let names: BTreeSet<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = "time due agent target address type sent received unknown duplicates late reordered success error \
                    rtt_min_us rtt_avg_us rtt_max_us rtt_stddev_us ipdv_us loss_pct late_us tmax_us ts_source \
                    error_us rtts_us";
    assert_eq!(names, expected.split_whitespace().collect());
    assert!(row["time"].as_str().unwrap().ends_with(".000017Z"), "{row}");
    assert_eq!((&row["rtt_avg_us"], &row["rtts_us"]), (&json!(1500.0), &json!([1000.0, null, 2000.0])));

    let export =
        bench.request(Method::GET, &format!("{path}/results")).header("Accept", "application/x-ndjson");
    let export = read(export).await;
    let lines: Vec<Value> = export.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last(), Some(&json!({ "count": 250 })));
    assert!(lines[..250].iter().eq(seen.iter().rev()), "an export is in order");

    let time = |us: i64| dues[249 - ((us - from) / 5_000_000) as usize];
    let range = format!("from={}&to={}", time(from), time(from + 600_000_000));
    let history = bench.get(&format!("{path}/history?{range}&step=60s")).await.expect(200);
    let buckets = history["items"].as_array().unwrap();
    assert_eq!(buckets.len(), 10);
    for bucket in buckets {
        assert_eq!((&bucket["count"], &bucket["agent"]), (&json!(12), &json!("lon1")));
        let figures = (&bucket["min"], &bucket["avg"], &bucket["max"], &bucket["p50"], &bucket["p95"]);
        assert_eq!(figures, (&json!(1.0), &json!(1.5), &json!(2.0), &json!(2.0), &Value::Null));
        assert!((bucket["loss_pct"].as_f64().unwrap() - 100.0 / 3.0).abs() < 1e-9);
    }
    let none = bench.get(&format!("{path}/results?agent=fra1")).await.expect(200);
    assert_eq!(none, json!({ "items": [], "next_page_token": null }));
    let gaps = bench.get(&format!("{path}/gaps")).await.expect(200);
    assert_eq!(
        (&gaps["items"][0]["rounds"], &gaps["items"][0]["reason"]),
        (&json!(2), &json!("module_crashed"))
    );

    let compacted = bench.post("/api/v1/results:compact", &Value::Null).await.expect(200);
    assert!(compacted["rows"].as_u64().unwrap() >= 250, "{compacted}");
    let files = bench.get(&format!("/api/v1/results/files?from={}", time(from))).await.expect(200);
    let paths: Vec<&str> =
        files["items"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert!(!paths.is_empty() && paths.iter().all(|path| std::path::Path::new(path).exists()), "{files}");
    let again = bench.get(&format!("{path}/results?limit=250")).await.expect(200);
    assert_eq!(again["items"], json!(seen));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_measured_of_a_removed_target_is_found_by_its_id() {
    let bench = Bench::start().await;
    let made = bench.post(TARGETS, &json!({ "ip": "127.0.0.5" })).await.expect(201);
    let id = made["id"].as_str().unwrap();
    bench.results.commit(vec![batch(id, 1, 1_790_000_000_000_000, 3)]).await.unwrap();
    bench.delete(&format!("{TARGETS}/{id}")).await.expect(204);
    bench.get(&format!("{TARGETS}/{id}")).await.problem(404);
    for (path, rows) in [
        (format!("{id}/results"), 3),
        (format!("{id}/gaps"), 1),
        (format!("{id}/history?from=2026-09-01T00:00:00Z&to=2026-10-01T00:00:00Z&step=1d"), 1),
    ] {
        let found = bench.get(&format!("{TARGETS}/{path}")).await.expect(200);
        assert_eq!(found["items"].as_array().unwrap().len(), rows, "{path}: {found}");
    }
    for key in ["127.0.0.5", "01M5N4XVJ0000000000000000Z", "no%20id"] {
        bench.get(&format!("{TARGETS}/{key}/results")).await.problem(404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_nothing_measures_is_refused() {
    let bench = Bench::start().await.ready().await;
    let tiers = "/api/v1/tiers";
    let tier = |name: &str, types: &[&str]| {
        let probes: Vec<Value> = types.iter().map(|kind| json!({ "type": kind })).collect();
        json!({ "name": name, "probe_interval": "5s", "probes": probes })
    };
    let (url, prefix) = ("https://example.com/", "192.0.2.0/24");
    for (body, fix) in [
        (json!({ "url": url }), "http or dns"),
        (json!({ "prefix": prefix }), "bgp"),
        (json!({ "resolver": "192.0.2.53" }), "dns"),
    ] {
        let problem = bench.post(TARGETS, &body).await.problem(400);
        assert_eq!(problem["errors"][0]["field"], "tier", "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("measures by icmp")
                && detail
                    .ends_with(&format!("choose a tier with a probe of type {fix}, or add one to this tier")),
            "{detail}"
        );
    }
    // A type that nobody has is no probe; a built-in one is, and one of which an agent tells.
    let problem = bench.post(tiers, &tier("own", &["icmp", "acme"])).await.problem(400);
    assert_eq!(problem["errors"][0]["field"], "probes[1].type", "{problem}");
    bench.heartbeat_with("lon1", "acme").await;
    bench.post(tiers, &tier("own", &["acme"])).await.expect(201);
    bench.post(tiers, &tier("web", &["icmp", "http"])).await.expect(201);
    bench.post(TARGETS, &json!({ "prefix": prefix, "tier": "own" })).await.expect(201);
    let made = bench.post(TARGETS, &json!({ "url": url, "tier": "web" })).await.expect(201);

    // Nor does a target come to be one by its own change, or by that of its tier.
    let path = format!("{TARGETS}/{}", made["id"].as_str().unwrap());
    let mut moved = made.clone();
    moved["tier"] = json!("low");
    let put =
        |path: &str, body: &Value| read(bench.request(Method::PUT, path).header("If-Match", "*").json(body));
    assert_eq!(put(&path, &moved).await.problem(400)["errors"][0]["field"], "tier");
    let problem = put(&format!("{tiers}/web"), &tier("web", &["icmp"])).await.problem(400);
    assert_eq!(problem["errors"][0]["field"], "probes", "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(url), "{problem}");
    put(&format!("{tiers}/web"), &tier("web", &["http"])).await.expect(200);
    let mut renamed = made.clone();
    renamed["display_name"] = json!("Example");
    put(&path, &renamed).await.expect(200);
    put(&format!("{tiers}/low"), &tier("low", &["tcp"])).await.expect(200);

    let lines =
        format!("{{\"url\":\"{url}x\"}}\n{{\"url\":\"{url}y\",\"tier\":\"web\"}}\n{{\"ip\": 192.0.2.1}}\n");
    let import = bench.request(Method::POST, &format!("{TARGETS}:import"));
    let report = read(import.header("Content-Type", "application/x-ndjson").body(lines)).await.expect(200);
    assert_eq!((&report["created"], &report["errors"][0]["field"]), (&json!(1), &json!("tier")), "{report}");
    let broken = &report["errors"][1];
    assert_eq!((&broken["line"], &broken["field"]), (&json!(3), &json!("")), "{report}");
    assert!(broken["message"].as_str().unwrap().starts_with("malformed JSON at column 13: "), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_are_listed_as_they_were_made() {
    let bench = Bench::start().await;
    let lines: Vec<String> = (0..500).rev().map(|n| format!("127.0.{}.{}", n / 250, 1 + n % 250)).collect();
    let text: Vec<String> = lines.iter().map(|ip| json!({ "ip": ip }).to_string()).collect();
    let text = text.join("\n");
    let import = bench.request(Method::POST, &format!("{TARGETS}:import"));
    read(import.header("Content-Type", "application/x-ndjson").body(text)).await.expect(200);
    let list = bench.get(&format!("{TARGETS}?limit=1000")).await.expect(200);
    let listed: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|item| item["address"].as_str().unwrap()).collect();
    assert_eq!(listed, lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_have_the_columns_of_their_type() {
    let bench = Bench::start().await;
    let made = bench.post(TARGETS, &json!({ "ip": "127.0.0.5" })).await.expect(201);
    let outcomes = [
        ("heartbeat", "{\"load\":[1.5,0.5,0.25],\"clock_synced\":true,\"disk\":{\"free\":7}}"),
        ("acme", "{\"depth\":{\"m\":3}}"),
        ("broken", "{\"depth\":"),
    ];
    for (seq, (kind, outcome)) in (1..).zip(outcomes) {
        let mut one = batch(made["id"].as_str().unwrap(), seq, seq as i64, 1).batch;
        one.kind = ModuleType::new(kind).unwrap();
        one.rounds[0].outcome = Some(outcome.to_owned());
        let sealed = one.seal().unwrap();
        bench.results.commit(vec![IngestBatch { batch: one, sealed }]).await.unwrap();
    }
    let path = format!("{TARGETS}/127.0.0.5/results?order_by=due");
    let page = bench.get(&path).await.expect(200);
    let export = read(bench.request(Method::GET, &path).header("Accept", "application/x-ndjson")).await;
    let rows = page["items"].as_array().unwrap();
    for (line, row) in export.text.lines().zip(rows) {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap(), *row);
    }
    let host = &rows[0];
    assert_eq!((&host["load"], &host["clock_synced"]), (&json!([1.5, 0.5, 0.25]), &json!(true)));
    assert_eq!(
        (&host["outcome"], host.get("uptime_s")),
        (&json!({ "disk": { "free": 7 } }), Some(&Value::Null))
    );
    assert_eq!(rows[1]["outcome"], json!({ "depth": { "m": 3 } }));
    assert_eq!((&rows[2]["outcome"], rows[2].get("load")), (&json!("{\"depth\":"), None));

    let document = read(bench.http.get(format!("{}/openapi.json", bench.url))).await.expect(200);
    let schemas = &document["components"]["schemas"];
    let round = schemas["Round"]["allOf"].as_array().unwrap();
    assert!(round.iter().any(|part| part["$ref"] == "#/components/schemas/RoundColumns"), "{round:?}");
    let described: BTreeSet<&str> =
        schemas["HeartbeatColumns"]["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    let columns: BTreeSet<&str> = imn_store::columns("heartbeat").iter().map(|column| column.name).collect();
    assert_eq!(described, columns);
    assert!(columns.iter().all(|name| host.get(name).is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_what_is_committed_and_the_end() {
    let bench = Bench::start().await.ready().await;
    let made = bench.post(TARGETS, &json!({ "ip": "127.0.0.5" })).await.expect(201);
    let other = bench.post(TARGETS, &json!({ "ip": "127.0.0.6" })).await.expect(201);
    let response = bench.request(Method::GET, &format!("{TARGETS}/127.0.0.5/live")).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.bytes_stream();
    let mut text = String::new();
    let mut read_until = async |wanted: &str| {
        while !text.contains(wanted) {
            let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect(wanted);
            text.push_str(std::str::from_utf8(&next.expect("the stream has ended").unwrap()).unwrap());
        }
        text.clone()
    };
    read_until(": watching").await;
    let id = |target: &Value| target["id"].as_str().unwrap().to_owned();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
    bench.publish(&batch(&id(&other), 1, now, 1).batch).await;
    bench.publish(&batch(&id(&made), 2, now, 1).batch).await;
    let text = read_until("\"127.0.0.5\"").await;
    assert!(text.contains("event: round\ndata: {") && !text.contains(&id(&other)), "{text}");
    let Bench { running, .. } = bench;
    assert_eq!(running.drain(Duration::from_secs(10)).await, Vec::<String>::new());
    let end = tokio::time::timeout(Duration::from_secs(20), async { while stream.next().await.is_some() {} });
    end.await.expect("the stream goes on after the end of the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_modules_and_jobs() {
    let bench = Bench::start().await.ready().await;
    let submit =
        json!({ "type": "ping", "target": "127.0.0.1", "wait_for_module": true, "deadline_ms": 60_000 });
    let nobody = bench.post("/api/v1/jobs", &submit).await.problem(404);
    assert_eq!(nobody["type"], "urn:imn:problem:no-vantage");

    bench.heartbeat("lon1").await;
    let agent = bench.get("/api/v1/agents/lon1").await.expect(200);
    assert_eq!((&agent["status"], &agent["region"]), (&json!("active"), &json!("eu")));
    assert_eq!((&agent["modules"], &agent["telemetry"]["targets"]), (&json!(["echo"]), &json!(5)));
    let agents = bench.get("/api/v1/agents?region=eu&status=active").await.expect(200);
    assert_eq!(agents["items"].as_array().unwrap().len(), 1);
    assert_eq!(bench.get("/api/v1/agents?region=us").await.expect(200)["items"], json!([]));
    bench.get("/api/v1/agents?status=asleep").await.problem(400);
    assert_eq!(bench.get("/api/v1/agents/lon1/metrics").await.expect(200)["modules_ready"], 1);
    let modules = bench.get("/api/v1/modules").await.expect(200);
    assert_eq!((&modules["types"][0]["type"], &modules["types"][0]["slots"]), (&json!("echo"), &json!(4)));
    assert_eq!(
        bench.get("/api/v1/modules/echo").await.expect(200)["instances"][0]["instance"],
        "lon1-echo-0"
    );

    // Nobody answers for the agent, until somebody does.
    bench.post("/api/v1/modules/echo/disable", &Value::Null).await.problem(503);
    let told = bench.agent("lon1").await;
    let answer = bench.post("/api/v1/modules/echo/disable?agent=lon1", &Value::Null).await.expect(200);
    assert_eq!(answer["items"], json!([{ "agent": "lon1", "ok": true, "error": null }]));
    assert!(told.await.contains("\"op\":\"disable\""));

    let accepted = bench.post("/api/v1/jobs?wait=50ms", &submit).await;
    let job = accepted.expect(202);
    let path = accepted.header("location").to_owned();
    assert_eq!((&job["type"], &job["terminal"]), (&json!("icmp"), &json!(false)));
    assert_eq!(job["tasks"][0]["agent"], "lon1");
    let cancelled = bench.delete(&path).await.expect(200);
    assert_eq!((&cancelled["state"], &cancelled["terminal"]), (&json!("cancelled"), &json!(true)));
    assert_eq!(bench.delete(&path).await.expect(200), cancelled);
    let mut doomed = submit.clone();
    (doomed["deadline_ms"], doomed["job_id"]) = (json!(300), json!("doomed"));
    let ended = bench.post("/api/v1/jobs?wait=20s", &doomed).await.expect(200);
    assert_eq!((&ended["state"], &ended["job_id"]), (&json!("timed_out"), &json!("doomed")));
    doomed["target"] = json!("127.0.0.2");
    bench.post("/api/v1/jobs", &doomed).await.problem(409);
    let first = bench.get("/api/v1/jobs?limit=1").await.expect(200);
    let next = first["next_page_token"].as_str().unwrap();
    let second = bench.get(&format!("/api/v1/jobs?limit=1&page_token={next}")).await.expect(200);
    assert_ne!(first["items"][0]["job_id"], second["items"][0]["job_id"]);
    bench.get("/api/v1/jobs/none").await.problem(404);
    bench.get(&format!("{path}?wait=61s")).await.problem(400);

    bench.delete("/api/v1/agents/lon1").await.expect(204);
    bench.get("/api/v1/agents/lon1").await.problem(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_what_is_wrong() {
    let bench = Bench::start().await;
    let open = |path: &str| read(bench.http.get(format!("{}{path}", bench.url)));
    assert_eq!(open("/healthz").await.expect(200)["status"], "ok");
    let ready = open("/readyz").await;
    assert!(ready.json()["parts"].as_array().unwrap().iter().any(|part| part["name"] == "nats"), "{ready:?}");
    let metrics = open("/metrics").await;
    assert!(metrics.text.contains("imn_server_ingest_rounds_total"), "{}", metrics.text);
    let strict =
        bench.http.get(format!("{}/metrics", bench.url)).header("Accept", "application/openmetrics-text");
    assert!(read(strict).await.text.ends_with("# EOF\n"));
    assert_eq!(metrics.header("x-content-type-options"), "nosniff");
    assert!(!metrics.headers.contains_key("access-control-allow-origin"));
}

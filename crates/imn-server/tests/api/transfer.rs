//! What `targets:export` gives makes the same targets in another network.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    TARGETS,
    bench::{Answer, Bench, read},
};

async fn import(bench: &Bench, media: &str, text: &str) -> Value {
    let request = bench.request(Method::POST, &format!("{TARGETS}:import"));
    read(request.header("Content-Type", media).body(text.to_owned())).await.expect(200)
}

async fn export(bench: &Bench, query: &str, accept: Option<&str>) -> Answer {
    let request = bench.request(Method::GET, &format!("{TARGETS}:export{query}"));
    read(match accept {
        Some(accept) => request.header("Accept", accept),
        None => request,
    })
    .await
}

/// Each target as users know it.
async fn targets(bench: &Bench) -> BTreeSet<String> {
    let list = bench.get(&format!("{TARGETS}?limit=1000")).await.expect(200);
    let own = |target: &Value| {
        let mut target = target.clone();
        for name in ["id", "created", "updated", "state_since", "state_reason"] {
            target.as_object_mut().unwrap().remove(name).unwrap();
        }
        target.to_string()
    };
    list["items"].as_array().unwrap().iter().map(own).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_makes_the_same_targets_elsewhere() {
    let here = Bench::start().await;
    let nasty = "a, \"b\"\r\nc; \u{e4} = # count=1\n";
    let web =
        json!({ "name": "web", "probe_interval": "30s", "probes": [{ "type": "icmp" }, { "type": "http" }] });
    here.post("/api/v1/tiers", &web).await.expect(201);
    for target in [
        json!({ "ip": "127.0.0.1", "display_name": nasty, "tags": { "pop": "jfk", "a,b": nasty, "empty": "" } }),
        json!({ "ip": "2001:db8::1", "tier": "low", "params": { "size": 100, "dscp": 46 } }),
        json!({ "host": "example.com", "monitoring_state": "inactive" }),
        json!({ "url": "https://example.com/a?b=c,d&e=%22", "tier": "web",
            "params": { "http": { "expect_body": ["a,\"b\""] } } }),
        json!({ "ip": "192.0.2.1", "display_name": "# count=9",
            "expected_outcome": { "should_succeed": false, "alert_severity": "critical", "alert_message": nasty } }),
    ] {
        here.post(TARGETS, &target).await.expect(201);
    }
    let before = targets(&here).await;
    assert_eq!(before.len(), 5);
    for (query, accept, media, last) in [
        ("", None, "application/x-ndjson", "{\"count\":5}"),
        ("?format=csv", None, "text/csv; charset=utf-8", "# count=5"),
        ("", Some("text/csv;q=0.9, */*"), "text/csv; charset=utf-8", "# count=5"),
        ("?format=ndjson", Some("text/csv"), "application/x-ndjson", "{\"count\":5}"),
    ] {
        let answer = export(&here, query, accept).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type")),
            (200, media),
            "{query} {accept:?}"
        );
        assert_eq!(answer.text.lines().last(), Some(last), "{query} {accept:?}");
    }
    for (query, media) in [("?format=ndjson", "application/x-ndjson"), ("?format=csv", "text/csv")] {
        let text = export(&here, query, None).await.text;
        let there = Bench::start().await;
        there.post("/api/v1/tiers", &web).await.expect(201);
        let report = import(&there, media, &text).await;
        assert_eq!(report, json!({ "created": 5, "updated": 0, "unchanged": 0, "errors": [] }), "{text}");
        assert_eq!(targets(&there).await, before, "{text}");
        let report = import(&there, media, &text).await;
        assert_eq!((&report["unchanged"], &report["errors"]), (&json!(5), &json!([])), "{report}");
    }
    let problem = export(&here, "?format=xml", None).await.problem(400);
    assert_eq!(problem["errors"][0]["field"], "format", "{problem}");

    // What is torn is known by the number at its end.
    let two = "address,tier\n127.0.0.8,low\n127.0.0.9,low\n";
    for (text, wrong) in [
        (format!("{two}# count=2\n"), 0),
        (format!("{two}# count=3\n"), 1),
        (format!("{two}# count=x"), 1),
        (two.to_owned(), 0),
    ] {
        let errors = import(&here, "text/csv", &text).await["errors"].clone();
        assert_eq!(errors.as_array().unwrap().len(), wrong, "{text}: {errors}");
        if wrong > 0 {
            assert_eq!((&errors[0]["line"], &errors[0]["field"]), (&json!(4), &json!("count")), "{errors}");
        }
    }
    let request = here.request(Method::POST, &format!("{TARGETS}:import")).header("Content-Type", "text/csv");
    let problem = read(request.body("address,teir\n127.0.0.1,low\n")).await.problem(400);
    assert_eq!(problem["errors"][0]["field"], "teir", "{problem}");
    let filtered = export(&here, "?format=csv&filter=tier%3Dweb", None).await.text;
    assert_eq!(filtered.lines().last(), Some("# count=1"), "{filtered}");
}

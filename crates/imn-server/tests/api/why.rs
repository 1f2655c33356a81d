//! Why nobody measures a target.

use serde_json::{Value, json};

use crate::{
    TARGETS, batch,
    bench::{Bench, read},
};

/// The status of 127.0.0.5 once its first unmet demand contains these words.
async fn unmet(bench: &Bench, words: &str) -> Value {
    let status = format!("{TARGETS}/127.0.0.5/status");
    let found = bench.wait(&status, |status| status["unmet"].to_string().contains(words)).await;
    found["unmet"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_says_why_nobody_measures() {
    let bench = Bench::start().await.ready().await;
    let made = bench.post(TARGETS, &json!({ "ip": "127.0.0.5", "tier": "critical" })).await.expect(201);
    let none = unmet(&bench, "no agent is known").await;
    assert_eq!((&none[0]["type"], &none[0]["agents"]), (&json!("icmp"), &json!([])), "{none}");

    // An agent without the type.
    bench.heartbeat("lon1").await;
    let lacking = unmet(&bench, "no agent fits").await;
    let why = json!([{ "agent": "lon1", "why": "offers no standing work of type icmp" }]);
    assert_eq!(lacking[0]["agents"], why, "{lacking}");

    // One whose module ended too often.
    let module = |state: &str, reason: Option<&str>| json!({ "instance": "lon1-icmp-0", "type": "icmp", "state": state, "standing": true, "reason": reason });
    bench.heartbeat_of("lon1", &[module("quarantined", Some("it ended five times"))]).await;
    let idle = unmet(&bench, "lon1-icmp-0 is quarantined: it ended five times").await;
    assert_eq!(idle.as_array().unwrap().len(), 1, "{idle}");

    // Readiness tells of it too, and is not shaken by it; why, only whoever has a key may read.
    let open = |path: &str| read(bench.http.get(format!("{}{path}", bench.url)));
    let ready = open("/readyz").await.expect(200);
    let told = json!([{ "instance": "lon1-icmp-0", "agent": "lon1", "type": "icmp" }]);
    assert_eq!((&ready["ready"], &ready["quarantined"]), (&json!(true), &told));
    let listed = bench.ask("/api/v1/modules", &[("filter", "state=quarantined")]).await.expect(200);
    assert_eq!(listed["items"][0]["reason"], "it ended five times");
    let figure = "imn_server_modules{state=\"quarantined\"} 1";
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while !open("/metrics").await.text.contains(figure) {
        assert!(tokio::time::Instant::now() < deadline, "no {figure}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    // One that is at work, before and after its first round.
    bench.heartbeat_of("lon1", &[module("ready", None)]).await;
    unmet(&bench, "its first round has not come yet").await;
    assert_eq!(open("/readyz").await.expect(200)["quarantined"], json!([]));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
    bench.publish(&batch(made["id"].as_str().unwrap(), 1, now, 1).batch).await;
    let status = format!("{TARGETS}/127.0.0.5/status");
    let measured = bench.wait(&status, |status| status["agents_fresh"] == 1).await;
    assert_eq!(measured["unmet"], json!([]), "{measured}");

    // Demands of the tier that nobody meets, and one that is switched off.
    let mars = json!({ "name": "mars", "probe_interval": "5s", "agent_selection": { "regions": ["mars"] } });
    bench.post("/api/v1/tiers", &mars).await.expect(201);
    let put = |body: Value| {
        read(
            bench
                .request(reqwest::Method::PUT, &format!("{TARGETS}/127.0.0.5"))
                .header("If-Match", "*")
                .json(&body),
        )
    };
    put(json!({ "tier": "mars" })).await.expect(200);
    let away = unmet(&bench, "no agent fits").await;
    assert!(away[0]["agents"][0]["why"].as_str().unwrap().contains("region \"eu\" is not among"), "{away}");
    put(json!({ "tier": "mars", "monitoring_state": "inactive" })).await.expect(200);
    let off = unmet(&bench, "switched off by a user").await;
    assert_eq!(off[0]["type"], Value::Null, "{off}");
}

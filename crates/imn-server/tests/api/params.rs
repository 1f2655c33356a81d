//! Parameters that no module takes are refused where somebody still hears it.

use imn_contract::latest::Announce;
use imn_runtime::nats;
use serde_json::{Value, json};
use std::time::Duration;

use super::{TARGETS, bench::Bench};

const TIERS: &str = "/api/v1/tiers";
const JOBS: &str = "/api/v1/jobs";

/// The module of an agent says hello, and what it takes.
async fn announce(bench: &Bench, agent: &str, kind: &str, properties: Value) {
    bench.heartbeat_with(agent, kind).await;
    let announce: Announce = serde_json::from_value(json!({
        "event": "ready", "instance": format!("{agent}-{kind}-0"), "agent": agent, "type": kind, "version": "1.0.0",
        "accepts": ["job/1"], "slots": 4,
        "params_schema": { "type": "object", "properties": properties, "additionalProperties": false },
    }))
    .unwrap();
    bench.client().publish("mmn.modules.announce", &announce).await.unwrap();
    let known = async || {
        let answer = bench.get(&format!("/api/v1/modules/{kind}")).await;
        answer.status.is_success() && answer.json()["params_schema"].is_object()
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !known().await {
        assert!(tokio::time::Instant::now() < deadline, "the announcement of {kind} was not heard");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn fields(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_module_takes_is_refused() {
    let bench = Bench::start().await.ready().await;
    announce(
        &bench,
        "lon1",
        "icmp",
        json!({ "size": { "type": "integer", "minimum": 20 }, "retries": { "type": "integer" } }),
    )
    .await;
    announce(&bench, "ams1", "tcp", json!({ "port": { "type": "integer", "minimum": 1 } })).await;

    let tier = |name: &str, probes: Value| json!({ "name": name, "probe_interval": "30s", "probes": probes });
    for (probes, expected) in [
        (json!([{ "type": "icmp", "params": { "cuont": 2 } }]), "probes[0].params.cuont"),
        (json!([{ "type": "tcp" }, { "type": "icmp", "params": { "size": 5 } }]), "probes[1].params.size"),
        (json!([{ "type": "icmp", "params": { "count": 2 } }]), "probes[0].params.count"),
    ] {
        let problem = bench.post(TIERS, &tier("wrong", probes)).await.problem(400);
        assert!(fields(&problem).contains(&expected), "{problem}");
    }
    bench.get(&format!("{TIERS}/wrong")).await.problem(404);

    let probes = json!([{ "type": "icmp" }, { "type": "tcp", "params": { "port": 22 } }]);
    bench.post(TIERS, &tier("both", probes)).await.expect(201);
    for (params, expected) in [
        (json!({ "prot": 31080 }), "params.prot"),
        (json!({ "timeout": "100ms" }), "params.timeout"),
        // Echo requests know no port.
        (json!({ "port": 443 }), "params.port"),
        (json!({ "tcp": { "port": 0 } }), "params.port"),
    ] {
        let target = json!({ "ip": "127.0.0.42", "tier": "both", "params": params });
        let problem = bench.post(TARGETS, &target).await.problem(400);
        assert!(fields(&problem).contains(&expected), "{problem}");
        let import = bench
            .request(reqwest::Method::POST, &format!("{TARGETS}:import"))
            .header("Content-Type", "application/x-ndjson")
            .body(target.to_string());
        let report = super::read(import).await.expect(200);
        assert_eq!(report["errors"][0]["field"], expected, "{report}");
    }
    let problem = bench.post(TARGETS, &json!({ "ip": "127.0.0.42", "tier": "nosuch" })).await.problem(400);
    assert_eq!(fields(&problem), ["tier"]);
    bench.get(&format!("{TARGETS}/127.0.0.42")).await.problem(404);
    let one = json!({ "ip": "127.0.0.42", "tier": "both", "params": { "tcp": { "port": 443 } } });
    bench.post(TARGETS, &one).await.expect(201);

    for (params, expected) in
        [(json!({ "cuont": 2 }), "params.cuont"), (json!({ "size": "x" }), "params.size")]
    {
        let job = json!({ "type": "ping", "target": "127.0.0.1", "params": params });
        let problem = bench.post(JOBS, &job).await.problem(400);
        assert_eq!(fields(&problem), [expected]);
    }
    let both = json!({ "type": "icmp", "target": "127.0.0.1", "deadline": "5s", "deadline_ms": 5000 });
    assert_eq!(fields(&bench.post(JOBS, &both).await.problem(400)), ["deadline_ms"]);
    let made = bench
        .post(JOBS, &json!({ "type": "icmp", "target": "127.0.0.1", "deadline": "5s" }))
        .await
        .expect(202);
    let time = |name: &str| imn_runtime::clock::parse_rfc3339(made[name].as_str().unwrap()).unwrap();
    assert_eq!(time("deadline") - time("created"), 5_000_000);

    // Over NATS as over HTTP.
    let submit = json!({ "v": 1, "type": "icmp", "target": "127.0.0.1", "params": { "cuont": 2 }, "deadline_ms": 1000 });
    let client: &nats::Client = bench.client();
    let reply = client.inner().request("mmn.jobs.submit", submit.to_string().into()).await.unwrap();
    let reply: Value = serde_json::from_slice(&reply.payload).unwrap();
    assert_eq!((&reply["status"], &reply["error"]["field"]), (&json!(400), &json!("params.cuont")));
}

#[tokio::test(flavor = "multi_thread")]
async fn awaited_types_leave_room_for_those_that_are_there() {
    let bench = Bench::start().await.ready().await;
    bench.heartbeat("lon1").await;
    let job =
        |kind: String| json!({ "type": kind, "target": "x", "wait_for_module": true, "deadline_ms": 1000 });
    let mut refused = 0;
    for n in 0..40 {
        let answer = bench.post(JOBS, &job(format!("invented-{n}"))).await;
        if answer.status.as_u16() == 429 {
            assert_eq!(fields(&answer.problem(429)), ["type"]);
            refused += 1;
        } else {
            answer.expect(202);
        }
    }
    assert!((1..40).contains(&refused), "{refused} of 40 refused");
    bench.heartbeat_with("lon1", "real").await;
    let real = json!({ "type": "real", "target": "x", "deadline_ms": 1000 });
    bench.post(JOBS, &real).await.expect(202);
}

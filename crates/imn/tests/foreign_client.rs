//! An unmodified nats-py client: jobs, the simple interface, and garbage on both.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::time::Duration;

use network::Network;
use serde_json::Value;

#[test]
fn a_python_client_submits_jobs_and_uses_the_simple_interface() {
    if !imn_testkit::require_root("foreign_client") {
        return;
    }
    let network = Network::start();
    network.wait_get("/api/v1/modules", Duration::from_secs(30), |body| {
        let ready = |kind: &str| {
            body["items"]
                .as_array()
                .is_some_and(|m| m.iter().any(|m| m["type"] == kind && m["state"] == "ready"))
        };
        (ready("icmp") && ready("echo")).then_some(())
    });
    let Some(text) = network.python("client.py", &[], Duration::from_mins(1)) else {
        return imn_testkit::skip("foreign_client", "no Python with nats-py; `cargo xtask test` installs it");
    };
    let seen: Value = serde_json::from_str(&text).unwrap();

    assert_eq!(seen["submit"]["status"], 202, "{}", seen["submit"]);
    let job = seen["submit"]["job_id"].as_str().unwrap();
    assert_eq!(seen["result_subject"], format!("mmn.jobs.result.{job}"));
    assert_eq!(seen["submit"]["result_subject"], seen["result_subject"]);
    let result = &seen["result"];
    assert_eq!(
        (result["job_id"].as_str(), result["status"].as_str()),
        (Some(job), Some("succeeded")),
        "{result}"
    );
    assert_eq!(
        (&result["outcome"]["sent"], &result["outcome"]["received"]),
        (&3.into(), &3.into()),
        "{result}"
    );
    assert!(result.get("attempt_token").is_none(), "a secret was published: {result}");
    assert_eq!(seen["get"]["state"], "succeeded", "{}", seen["get"]);

    assert_eq!(seen["first"]["status"], 202);
    assert_eq!(seen["second"]["status"], 202, "the same id and body is the same job: {}", seen["second"]);
    assert_eq!(seen["conflict"]["error"]["code"], 409, "{}", seen["conflict"]);

    for (name, code) in [("garbage", 400), ("major", 422), ("over_long", 400)] {
        assert_eq!(seen[name]["error"]["code"], code, "{name}: {}", seen[name]);
        assert!(!seen[name]["error"]["message"].as_str().unwrap().is_empty());
    }
    assert!(
        [400, 404].map(Value::from).contains(&seen["unknown_type"]["error"]["code"]),
        "{}",
        seen["unknown_type"]
    );

    let out = &seen["out"];
    assert_eq!((&out["request_id"], &out["is_alive"]), (&"test-123".into(), &true.into()), "{out}");
    assert_eq!((&out["packets_sent"], &out["packets_received"]), (&4.into(), &4.into()), "{out}");
    assert_eq!((&out["protocol"], &out["address"]), (&"icmp".into(), &"127.0.0.1".into()), "{out}");
    assert!(out["rtt_min"].as_f64().unwrap() <= out["rtt_avg"].as_f64().unwrap());
    assert_eq!(seen["error_garbage"]["code"], 400, "{}", seen["error_garbage"]);
    assert_eq!(
        (&seen["error_count"]["code"], &seen["error_count"]["request_id"]),
        (&400.into(), &"zero".into())
    );
    assert_eq!(seen["heartbeat"]["agent"], "local");
}

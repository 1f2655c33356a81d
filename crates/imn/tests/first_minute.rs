//! The first minute of a new user: `imn up`, a target by curl, and what is shown of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::time::Duration;

use network::Network;
use serde_json::json;

#[test]
fn loopback_is_measured_and_a_posted_target_follows_its_tier() {
    if !imn_testkit::require_root("first_minute") {
        return;
    }
    let mut network = Network::start();

    // Within a minute of the start both loopbacks have stored rounds.
    for address in ["127.0.0.1", "::1"] {
        let path = format!("/api/v1/targets/{address}/results?limit=10");
        let rounds = network.wait_get(&path, Duration::from_mins(1), |body| {
            body["items"].as_array().filter(|items| !items.is_empty()).cloned()
        });
        assert_eq!(rounds[0]["received"], 1, "{address}: {}", rounds[0]);
        assert_eq!(rounds[0]["ts_source"], "kernel", "{address}: {}", rounds[0]);
        assert!(rounds[0]["rtt_avg_us"].as_f64().unwrap() > 0.0);
    }

    // curl's default content type, and the shorthand.
    let made = network.curl("POST", "/api/v1/targets", Some(r#"{"ip":"127.0.0.5","tier":"standard"}"#));
    assert_eq!(made.status, 201, "{}", made.body);
    let id = made.body["id"].as_str().unwrap().to_owned();
    for name in [id.as_str(), "127.0.0.5"] {
        let status =
            network.wait_get(&format!("/api/v1/targets/{name}/status"), Duration::from_mins(1), |body| {
                (body["consensus"] == "reachable").then(|| body.clone())
            });
        assert_eq!(status["monitoring_state"], "active", "{status}");
        let rows =
            network.wait_get(&format!("/api/v1/targets/{name}/results"), Duration::from_mins(1), |body| {
                body["items"].as_array().filter(|items| !items.is_empty()).cloned()
            });
        assert_eq!(
            (rows[0]["sent"].as_u64(), rows[0]["received"].as_u64()),
            (Some(3), Some(3)),
            "{}",
            rows[0]
        );
        assert_eq!(rows[0]["rtts_us"].as_array().unwrap().len(), 3);
        let history = network.get(&format!("/api/v1/targets/{name}/history"));
        assert!(!history["items"].as_array().unwrap().is_empty(), "{history}");
    }

    // The due times are the tier's interval apart.
    let rows = network.wait_get(&format!("/api/v1/targets/{id}/results"), Duration::from_secs(70), |body| {
        body["items"].as_array().filter(|items| items.len() >= 2).cloned()
    });
    let mut dues: Vec<_> = rows.iter().map(|row| row["due"].as_str().unwrap().to_owned()).collect();
    dues.sort();
    let seconds = |text: &str| text[17..].trim_end_matches('Z').parse::<f64>().unwrap();
    let apart = (seconds(&dues[1]) - seconds(&dues[0])).rem_euclid(60.0);
    assert!((apart - 30.0).abs() < 1e-6, "due times {dues:?} are not 30 s apart");

    // A wrong tier is refused in words and changes nothing.
    let refused =
        network.curl("POST", "/api/v1/targets", Some(&json!({"ip":"127.0.0.6","tier":"gold"}).to_string()));
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert_eq!(refused.body["errors"][0]["field"], "tier", "{}", refused.body);
    assert_eq!(network.curl("GET", "/api/v1/targets/127.0.0.6", None).status, 404);

    // A second `imn up` on the same directory is refused, and disturbs nothing.
    let second =
        network.program().args(["up", "--listen", "127.0.0.1:8181"]).run(Duration::from_secs(20)).unwrap();
    assert!(!second.status.success() && second.stderr.contains("in use"), "{}", second.stderr);
    assert!(network.stop() < Duration::from_secs(15));
}

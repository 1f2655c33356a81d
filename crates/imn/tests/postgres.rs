//! The catalog in PostgreSQL: the network lives on it, and over a kill -9 of the database.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::time::Duration;

use imn_testkit::Postgres;
use network::Network;

#[test]
fn a_catalog_in_postgresql_serves_and_outlives_its_database() {
    if !imn_testkit::require_root("postgres") {
        return;
    }
    let mut postgres = Postgres::start().unwrap();
    // The network runs in a namespace of its own, into which only the socket leads.
    let url = format!(
        "postgres://postgres@localhost/postgres?host={}&port={}",
        postgres.socket_directory().display(),
        postgres.port()
    );
    let mut network = Network::start_with(&["--database-url", &url]);
    let rounds = |network: &Network| {
        network.wait_get("/api/v1/targets/127.0.0.1/results?limit=1", Duration::from_mins(1), |body| {
            body["items"][0]["due"].as_str().map(str::to_owned)
        })
    };
    let first = rounds(&network);
    let targets = postgres.query("postgres", "select address from target order by address").unwrap();
    assert_eq!(targets.split_whitespace().collect::<Vec<_>>(), ["127.0.0.1", "::1"]);
    assert!(!network.state().join("server/catalog.sqlite").exists());

    postgres.kill9();
    postgres.restart().unwrap();
    let made = network.wait_get("/readyz", Duration::from_secs(30), |_| {
        let made = network.curl("POST", "/api/v1/targets", Some(r#"{"ip":"127.0.0.9","tier":"critical"}"#));
        (made.status == 201).then_some(made.body)
    });
    assert_eq!(made["address"], "127.0.0.9");
    let later =
        network.wait_get("/api/v1/targets/127.0.0.1/results?limit=1", Duration::from_mins(1), |body| {
            body["items"][0]["due"].as_str().filter(|due| **due > *first).map(str::to_owned)
        });
    network.stop();
    network.up();
    assert!(rounds(&network) >= later, "rounds were lost with the restart");
}

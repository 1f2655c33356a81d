//! Another program reads the files: what it finds is what was committed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "fixture/duckdb.rs"]
mod duckdb;
#[path = "fixture/rounds.rs"]
mod fixture;

use fixture::{NOON_US, batch, round};
use imn_contract::latest::Round;
use imn_store::{EmbeddedConfig, EmbeddedResults, Results, SqlCatalog};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_reads_what_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = SqlCatalog::sqlite(&directory.path().join("catalog.sqlite")).await.unwrap();
    let results = EmbeddedResults::open(
        &directory.path().join("results"),
        &catalog,
        EmbeddedConfig { flush_rows: 1, ..EmbeddedConfig::default() },
    )
    .await
    .unwrap();
    let (targets, seconds) = (100, 600);
    for second in 0..seconds {
        let due_us = NOON_US + second * 1_000_000;
        let mut rounds: Vec<Round> = (0..targets).map(|number| round(number, due_us)).collect();
        // One round of four packets, of which one is lost.
        rounds[5] = Round {
            sent: 4,
            received: 3,
            rtts_ns: vec![Some(1_000_000), None, Some(1_000_500), Some(999_500)],
            rtt_min_ns: Some(999_500),
            rtt_avg_ns: Some(1_000_000),
            rtt_max_ns: Some(1_000_500),
            ..round(5, due_us)
        };
        results.commit(vec![batch("lon1", "icmp", 1, second as u64 + 1, rounds)]).await.unwrap();
        if second % 100 == 50 {
            results.maintain(NOON_US).await.unwrap();
        }
    }
    results.compact().await.unwrap();
    let expected = results.rounds(&imn_store::RoundQuery::default()).await.unwrap();
    let files: Vec<_> =
        results.files(NOON_US, NOON_US + 1).await.unwrap().into_iter().map(|file| file.path).collect();
    let Some(found) = duckdb::read("duckdb_reads_what_was_committed", &files) else { return };

    assert_eq!(
        found["columns"],
        json!({
            "time": "TIMESTAMP WITH TIME ZONE", "due": "TIMESTAMP WITH TIME ZONE",
            "agent": "VARCHAR", "target": "VARCHAR", "address": "VARCHAR", "type": "VARCHAR",
            "sent": "UINTEGER", "received": "UINTEGER", "unknown": "UINTEGER", "duplicates": "UINTEGER",
            "late": "UINTEGER", "reordered": "UINTEGER", "success": "BOOLEAN", "error": "VARCHAR",
            "rtt_min_us": "DOUBLE", "rtt_avg_us": "DOUBLE", "rtt_max_us": "DOUBLE",
            "rtt_stddev_us": "DOUBLE", "ipdv_us": "DOUBLE", "loss_pct": "DOUBLE",
            "late_us": "UINTEGER", "tmax_us": "UBIGINT", "ts_source": "VARCHAR", "error_us": "DOUBLE",
            "rtts_us": "DOUBLE[]", "outcome": "VARCHAR",
        })
    );
    let total = targets as i64 * seconds;
    assert_eq!((&found["count"], &found["keys"]), (&json!(total), &json!(total)));
    assert_eq!(found["first_due"], "2026-11-20 12:00:00+00");
    assert_eq!(found["last_due"], "2026-11-20 12:09:59+00");
    assert_eq!(found["of_one_target"], seconds);
    assert_eq!((&found["packets"], &found["lost_packets"]), (&json!(4 * seconds), &json!(seconds)));
    assert_eq!(found["received"], total + 2 * seconds);
    assert_eq!(found["loss_pct"], 25.0 * seconds as f64);
    let rtt_us: f64 = expected.iter().filter_map(|row| row.rtt_avg_us).sum();
    assert!((found["rtt_us"].as_f64().unwrap() - rtt_us).abs() < 1.0, "{} {rtt_us}", found["rtt_us"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_reads_the_columns_of_a_type() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = SqlCatalog::sqlite(&directory.path().join("catalog.sqlite")).await.unwrap();
    let config = EmbeddedConfig { flush_rows: 1, ..EmbeddedConfig::default() };
    let results = EmbeddedResults::open(&directory.path().join("results"), &catalog, config).await.unwrap();
    for (seq, load) in (1..).zip([0.5, 1.5, 2.5]) {
        let outcome = json!({
            "load": [load, 0.25, 0.125], "memory_total": 1u64 << 40, "memory_available": 17, "uptime_s": 3.5,
            "clock_offset_us": if seq == 2 { json!(-12.5) } else { json!(null) }, "clock_synced": seq == 2,
            "disk": { "free": seq },
        });
        let round = Round { outcome: Some(outcome.to_string()), ..round(1, NOON_US + seq as i64) };
        results.commit(vec![batch("lon1", "heartbeat", 1, seq, vec![round])]).await.unwrap();
        results.maintain(NOON_US).await.unwrap();
    }
    for cycle in 1..=2u64 {
        let hop = |hop: u64, addresses: &[&str], ms: f64| {
            let responders: Vec<_> =
                addresses.iter().map(|of| json!({ "address": of, "received": 1 })).collect();
            json!({ "hop": hop, "address": addresses.first(), "avg_ms": ms, "rtts_ms": [ms, null],
                    "responders": responders, "sent": 2 })
        };
        let outcome = json!({
            "target": "example.com", "protocol": "udp", "reached": true,
            "hops": [hop(1, &["192.0.2.1"], 0.5), hop(2, &[], 0.0), hop(3, &["192.0.2.3", "192.0.2.4"], cycle as f64)],
        });
        let round = Round { outcome: Some(outcome.to_string()), ..round(1, NOON_US + cycle as i64) };
        results.commit(vec![batch("lon1", "trace", 2, cycle, vec![round])]).await.unwrap();
        results.maintain(NOON_US).await.unwrap();
    }
    results.compact().await.unwrap();
    let (hosts, traces): (Vec<_>, Vec<_>) = results
        .files(i64::MIN, i64::MAX)
        .await
        .unwrap()
        .into_iter()
        .partition(|file| file.table == "heartbeat");
    let traces: Vec<_> = traces.into_iter().map(|file| file.path).collect();
    let questions = [
        "SELECT target_name, hop.hop, hop.address, avg(hop.avg_ms), sum(len(hop.responders)) \
         FROM (SELECT target_name, unnest(hops) AS hop FROM rounds) GROUP BY ALL ORDER BY 2",
        "SELECT hops[3].responders[2].address, hops[1].rtts_ms, hops[1].jitter_ms, pdv_ms, outcome FROM rounds LIMIT 1",
    ];
    let Some(found) = duckdb::ask("duckdb_reads_the_columns_of_a_type", &traces, &questions) else { return };
    assert_eq!(
        found,
        json!([
            [
                ["example.com", 1, "192.0.2.1", 0.5, 2],
                ["example.com", 2, null, 0.0, 0],
                ["example.com", 3, "192.0.2.3", 1.5, 4]
            ],
            [["192.0.2.4", [0.5, null], null, null, null]],
        ])
    );
    let files: Vec<_> = hosts.into_iter().map(|file| file.path).collect();
    let questions = [
        "SELECT column_name, column_type FROM (DESCRIBE rounds) OFFSET 25",
        "SELECT load[1], memory_total, clock_offset_us, clock_synced FROM rounds ORDER BY due",
        "SELECT sum(load) FROM (SELECT unnest(load) AS load FROM rounds)",
        "SELECT json_extract(outcome, '$.disk.free')::INT FROM rounds ORDER BY due",
    ];
    let Some(found) = duckdb::ask("duckdb_reads_the_columns_of_a_type", &files, &questions) else { return };
    assert_eq!(
        found,
        json!([
            [
                ["outcome", "VARCHAR"],
                ["load", "DOUBLE[]"],
                ["memory_total", "UBIGINT"],
                ["memory_available", "UBIGINT"],
                ["uptime_s", "DOUBLE"],
                ["clock_offset_us", "DOUBLE"],
                ["clock_synced", "BOOLEAN"]
            ],
            [[0.5, 1u64 << 40, null, false], [1.5, 1u64 << 40, -12.5, true], [2.5, 1u64 << 40, null, false]],
            [[4.5 + 3.0 * 0.375]],
            [[1], [2], [3]],
        ])
    );
}

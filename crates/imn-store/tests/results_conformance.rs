//! What every backend of the results does, and nothing that only one of them does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "fixture/rounds.rs"]
mod fixture;

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fixture::{NOON_US, agent, batch, gap, kind, round, seal, target};
use imn_contract::latest::{Round, TimestampSource};
use imn_store::{
    ColumnType, Columns, Committed, EmbeddedConfig, EmbeddedResults, GapQuery, Order, Results, RoundQuery,
    RoundRow, SqlCatalog, columns, typed,
};
use serde_json::{Value, json};

struct Backend {
    results: Arc<dyn Results>,
    _directory: tempfile::TempDir,
}

async fn embedded() -> Backend {
    let directory = tempfile::tempdir().unwrap();
    let catalog = SqlCatalog::sqlite(&directory.path().join("catalog.sqlite")).await.unwrap();
    // The least: every maintenance writes files, so that merges come about.
    let config = EmbeddedConfig { flush_rows: 1, ..EmbeddedConfig::default() };
    let results = EmbeddedResults::open(&directory.path().join("results"), &catalog, config).await.unwrap();
    Backend { results: Arc::new(results), _directory: directory }
}

macro_rules! conformance {
    ($($case:ident),+ $(,)?) => {
        mod on_embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let backend = super::embedded().await;
                super::$case(std::sync::Arc::clone(&backend.results)).await;
            })+
        }
    };
}

conformance!(
    a_commit_judges_each_batch_by_its_watermark,
    every_column_comes_back,
    columns_of_a_type_come_back,
    columns_of_every_type_come_back,
    the_first_round_committed_under_a_key_stays,
    queries_agree_with_a_model,
    a_scan_streams_in_order_and_can_be_left,
    gaps_are_told_once,
    retention_ends_whole_files,
    readers_never_miss_a_row_nor_see_it_twice,
);

async fn all(results: &dyn Results) -> Vec<RoundRow> {
    results.rounds(&RoundQuery::default()).await.unwrap()
}

async fn a_commit_judges_each_batch_by_its_watermark(results: Arc<dyn Results>) {
    use Committed::{Before, Hole, Now};
    let of = |seq| batch("lon1", "icmp", 7, seq, vec![round(1, NOON_US + seq as i64)]);
    assert_eq!(results.watermark(&agent("lon1"), 7).await.unwrap(), 0);
    assert_eq!(results.commit(vec![of(2)]).await.unwrap(), [Hole(0)]);
    let verdicts = results.commit(vec![of(1), of(2), of(1), of(5), of(3)]).await.unwrap();
    assert_eq!(verdicts, [Now(1), Now(2), Before(2), Hole(2), Now(3)]);
    assert_eq!(results.commit(vec![of(3)]).await.unwrap(), [Before(3)]);
    // Another epoch or agent counts for itself.
    let other = batch("lon1", "icmp", 8, 1, vec![round(1, NOON_US)]);
    let another = batch("ams1", "icmp", 7, 1, vec![round(1, NOON_US)]);
    assert_eq!(results.commit(vec![other, another]).await.unwrap(), [Now(1), Now(1)]);
    // A hole that cannot be filled is declared; what was committed meanwhile does not matter.
    let mut declared = batch("lon1", "icmp", 7, 3, Vec::new()).batch;
    declared.last_seq = 9;
    declared.gaps = vec![gap(1, NOON_US, 3)];
    assert_eq!(results.commit(vec![seal(declared)]).await.unwrap(), [Now(9)]);
    assert_eq!(results.watermark(&agent("lon1"), 7).await.unwrap(), 9);
    assert_eq!(results.commit(Vec::new()).await.unwrap(), []);
    assert_eq!(all(&*results).await.len(), 5);
}

async fn every_column_comes_back(results: Arc<dyn Results>) {
    let full = Round {
        target: Some(target(3)),
        address: "2001:db8::1".into(),
        due_us: NOON_US,
        time_us: NOON_US + 17,
        sent: 4,
        received: 2,
        unknown: 1,
        duplicates: 5,
        late: 6,
        reordered: 7,
        success: true,
        error: Some("destination host unreachable from 192.0.2.1".into()),
        rtt_min_ns: Some(1_000_001),
        rtt_avg_ns: Some(1_500_002),
        rtt_max_ns: Some(2_000_003),
        rtt_stddev_ns: Some(700_004),
        ipdv_ns: Some(1),
        late_us: 17,
        tmax_us: 2_000_000,
        ts_source: TimestampSource::Mixed,
        error_ns: 1_234,
        rtts_ns: vec![Some(1_000_001), None, Some(2_000_003), None],
        outcome: Some("{\"x\":1}".into()),
    };
    let silent = Round {
        target: Some(target(1)),
        due_us: NOON_US - 1,
        time_us: NOON_US - 1,
        sent: 1,
        unknown: 1,
        ..Round::default()
    };
    results.commit(vec![batch("lon1", "own_type", 1, 1, vec![full, silent])]).await.unwrap();
    let expected_full = RoundRow {
        time_us: NOON_US + 17,
        due_us: NOON_US,
        agent: agent("lon1"),
        target: target(3),
        address: "2001:db8::1".into(),
        kind: kind("own_type"),
        sent: 4,
        received: 2,
        unknown: 1,
        duplicates: 5,
        late: 6,
        reordered: 7,
        success: true,
        error: Some("destination host unreachable from 192.0.2.1".into()),
        rtt_min_us: Some(1_000.001),
        rtt_avg_us: Some(1_500.002),
        rtt_max_us: Some(2_000.003),
        rtt_stddev_us: Some(700.004),
        ipdv_us: Some(0.001),
        loss_pct: Some(1.0 / 3.0 * 100.0),
        late_us: 17,
        tmax_us: 2_000_000,
        ts_source: TimestampSource::Mixed,
        error_us: 1.234,
        rtts_us: vec![Some(1_000.001), None, Some(2_000.003), None],
        columns: Columns::default(),
        outcome: Some("{\"x\":1}".into()),
    };
    for state in ["memory", "files"] {
        let rows = all(&*results).await;
        assert_eq!(rows.len(), 2, "{state}");
        assert_eq!(rows[1], expected_full, "{state}");
        let silent = &rows[0];
        assert_eq!((silent.loss_pct, silent.rtt_avg_us, &silent.error), (None, None, &None), "{state}");
        assert_eq!((silent.success, silent.ts_source), (false, TimestampSource::User), "{state}");
        assert!(silent.rtts_us.is_empty() && silent.outcome.is_none(), "{state}");
        results.compact().await.unwrap();
    }
}

async fn columns_of_a_type_come_back(results: Arc<dyn Results>) {
    let healthy = json!({
        "load": [0.5, 0.25, 0.125], "memory_total": 8_589_934_592u64, "memory_available": 17, "uptime_s": 3.5,
        "clock_offset_us": null, "clock_synced": false,
    });
    let mut newer = healthy.clone();
    newer["clock_offset_us"] = json!(-12.5);
    newer["disk"] = json!({ "free": 1 });
    newer["memory_total"] = json!("much");
    let of = |number, outcome: Option<&Value>| Round {
        outcome: outcome.map(ToString::to_string),
        ..round(number, NOON_US + number as i64)
    };
    let rounds = vec![of(0, Some(&healthy)), of(1, Some(&newer)), of(2, None)];
    let expected: Vec<RoundRow> =
        rounds.iter().map(|round| RoundRow::of(&agent("lon1"), &kind("heartbeat"), round).unwrap()).collect();
    assert_eq!(serde_json::to_value(&expected[0].columns).unwrap(), healthy);
    assert_eq!(expected[0].outcome, None);
    assert_eq!(expected[1].columns.get("clock_offset_us"), json!(-12.5));
    assert_eq!(expected[1].columns.get("memory_total"), Value::Null);
    let rest: Value = serde_json::from_str(expected[1].outcome.as_ref().unwrap()).unwrap();
    assert_eq!(rest, json!({ "disk": { "free": 1 }, "memory_total": "much" }));
    assert_eq!(expected[2].columns.get("load"), Value::Null);

    let [first, second, third] = rounds.try_into().unwrap();
    results.commit(vec![batch("lon1", "heartbeat", 1, 1, vec![first])]).await.unwrap();
    results.maintain(NOON_US).await.unwrap();
    results.commit(vec![batch("lon1", "heartbeat", 1, 2, vec![second, third])]).await.unwrap();
    for state in ["mixed", "files"] {
        assert_eq!(all(&*results).await, expected, "{state}");
        let mut scanned = Vec::new();
        let mut visit = |row| {
            scanned.push(row);
            ControlFlow::Continue(())
        };
        results.scan(&RoundQuery::default(), &mut visit).await.unwrap();
        assert_eq!(scanned, expected, "{state}");
        let brief = RoundQuery { brief: true, ..RoundQuery::default() };
        let bare = |row: &RoundRow| RoundRow { columns: Columns::default(), outcome: None, ..row.clone() };
        let expected: Vec<RoundRow> = expected.iter().map(bare).collect();
        assert_eq!(results.rounds(&brief).await.unwrap(), expected, "{state}");
        results.compact().await.unwrap();
    }
}

/// A value that fills a column, another for each `number`.
fn sample(kind: ColumnType, number: usize) -> Value {
    match kind {
        ColumnType::Bool => number.is_multiple_of(2).into(),
        ColumnType::U32 => (u32::MAX - number as u32).into(),
        ColumnType::U64 => (u64::MAX - number as u64).into(),
        ColumnType::I64 => (i64::MIN + number as i64).into(),
        ColumnType::F64 => (number as f64 + 0.5).into(),
        ColumnType::Text => format!("\u{1f600} {number}").into(),
        ColumnType::Time => format!("2026-11-20T12:00:00.{number:06}Z").into(),
        ColumnType::List(of) => {
            let mut items: Vec<Value> = (0..number % 4).map(|more| sample(*of, number + more)).collect();
            items.push(Value::Null);
            items.into()
        }
        ColumnType::Struct(columns) => {
            let fields = columns.iter().map(|column| (column.name.to_owned(), sample(column.kind, number)));
            Value::Object(fields.collect())
        }
    }
}

async fn columns_of_every_type_come_back(results: Arc<dyn Results>) {
    let count = 39;
    let row = |kind: &'static str, number: usize| -> Value {
        let columns = columns(kind).iter();
        let fields = columns.map(|column| (column.name.to_owned(), sample(column.kind, number)));
        Value::Object(fields.collect())
    };
    for (epoch, kind) in (1..).zip(typed()) {
        for number in 0..count {
            let mut outcome = row(kind, number);
            if let Some(name) = outcome.as_object_mut().unwrap().remove("target_name") {
                outcome["target"] = name;
            }
            let one = Round {
                // One in five says nothing.
                outcome: (number % 5 != 4).then(|| outcome.to_string()),
                ..round(number % 3, NOON_US + number as i64)
            };
            results.commit(vec![batch("lon1", kind, epoch, number as u64 + 1, vec![one])]).await.unwrap();
            if number % 9 == 8 {
                results.maintain(NOON_US).await.unwrap();
            }
        }
    }
    for state in ["mixed", "files"] {
        for kind in typed() {
            let query =
                RoundQuery { kind: Some(self::kind(kind)), target: Some(target(1)), ..RoundQuery::default() };
            let rows = results.rounds(&query).await.unwrap();
            assert_eq!(rows.len(), count / 3, "{kind}, {state}");
            for found in rows {
                let number = (found.due_us - NOON_US) as usize;
                let found_columns = serde_json::to_value(&found.columns).unwrap();
                if number % 5 == 4 {
                    assert!(
                        found_columns.as_object().unwrap().values().all(Value::is_null),
                        "{kind}, {state}"
                    );
                } else {
                    assert_eq!(found_columns, row(kind, number), "{kind} {number}, {state}");
                }
                assert_eq!(found.outcome, None, "{kind} {number}, {state}");
            }
        }
        results.compact().await.unwrap();
    }
}

async fn the_first_round_committed_under_a_key_stays(results: Arc<dyn Results>) {
    // Marked by `sent`, which is not part of the key.
    let marked = |mark, due_us| Round { sent: mark, ..round(1, due_us) };
    let commits = [
        batch("lon1", "icmp", 1, 1, vec![marked(1, NOON_US), marked(2, NOON_US)]),
        batch("lon1", "icmp", 2, 1, vec![marked(3, NOON_US), marked(4, NOON_US + 1)]),
        batch("lon1", "icmp", 3, 1, vec![marked(5, NOON_US + 1), marked(6, NOON_US)]),
    ];
    let expected = [(1, agent("lon1")), (4, agent("lon1"))];
    let marks = |rows: Vec<RoundRow>| rows.into_iter().map(|row| (row.sent, row.agent)).collect::<Vec<_>>();
    for commit in commits {
        results.commit(vec![commit]).await.unwrap();
        // Each commit in a file of its own.
        results.maintain(NOON_US).await.unwrap();
    }
    assert_eq!(marks(all(&*results).await), expected);
    let newest = RoundQuery { order: Order::Descending, limit: Some(1), ..RoundQuery::default() };
    assert_eq!(marks(results.rounds(&newest).await.unwrap()), expected[1..]);
    results.compact().await.unwrap();
    assert_eq!(marks(all(&*results).await), expected);
    let files = results.files(i64::MIN, i64::MAX).await.unwrap();
    assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [2], "{files:?}");
    // Another agent, target or type is another round.
    let others = vec![
        batch("ams1", "icmp", 1, 1, vec![marked(1, NOON_US)]),
        batch("lon1", "tcp", 9, 1, vec![marked(1, NOON_US)]),
        batch("lon1", "icmp", 4, 1, vec![round(2, NOON_US)]),
    ];
    results.commit(others).await.unwrap();
    assert_eq!(all(&*results).await.len(), 5);
}

async fn queries_agree_with_a_model(results: Arc<dyn Results>) {
    let mut model: BTreeMap<(i64, String, String, String), i64> = BTreeMap::new();
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let agents = ["ams1", "lon1"];
    let kinds = ["icmp", "tcp"];
    let mut sequences = [[0u64; 2]; 2];
    for commit in 0..40 {
        let (a, k) = (random(2), random(2));
        let mut rounds = Vec::new();
        for _ in 0..random(400) {
            // Over three hours, and sometimes the same round again.
            let due_us = NOON_US + random(3 * 3_600) as i64 * 1_000_000;
            let one = round(random(9), due_us);
            let id = one.target.as_ref().unwrap().to_string();
            model.entry((due_us, agents[a].into(), kinds[k].into(), id)).or_insert(one.time_us);
            rounds.push(one);
        }
        sequences[a][k] += 1;
        let committed = vec![batch(agents[a], kinds[k], k as u64, sequences[a][k], rounds)];
        assert_eq!(results.commit(committed).await.unwrap(), [Committed::Now(sequences[a][k])]);
        if commit % 7 == 6 {
            results.maintain(NOON_US).await.unwrap();
        }
    }
    for state in ["mixed", "files", "late"] {
        for _ in 0..300 {
            let from_us = (random(2) == 0).then(|| NOON_US + random(3 * 3_600) as i64 * 1_000_000);
            let query = RoundQuery {
                target: (random(2) == 0).then(|| target(random(10))),
                agent: (random(3) == 0).then(|| agent(agents[random(2)])),
                kind: (random(3) == 0).then(|| kind(kinds[random(2)])),
                from_us,
                to_us: (random(2) == 0)
                    .then(|| from_us.unwrap_or(NOON_US) + random(3_600) as i64 * 1_000_000),
                brief: random(2) == 0,
                limit: (random(2) == 0).then(|| random(50)),
                order: if random(2) == 0 { Order::Ascending } else { Order::Descending },
            };
            let mut expected: Vec<_> = model
                .keys()
                .filter(|(due_us, a, k, t)| {
                    query.target.as_ref().is_none_or(|wanted| wanted.as_str() == t)
                        && query.agent.as_ref().is_none_or(|wanted| wanted.as_str() == a)
                        && query.kind.as_ref().is_none_or(|wanted| wanted.as_str() == k)
                        && query.from_us.is_none_or(|from| *due_us >= from)
                        && query.to_us.is_none_or(|to| *due_us < to)
                })
                .cloned()
                .collect();
            if query.order == Order::Descending {
                expected.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.cmp(b)));
            }
            expected.truncate(query.limit.unwrap_or(usize::MAX));
            let found: Vec<_> = results
                .rounds(&query)
                .await
                .unwrap()
                .into_iter()
                .map(|row| (row.due_us, row.agent.to_string(), row.kind.to_string(), row.target.to_string()))
                .collect();
            assert_eq!(found, expected, "{state}: {query:?}");
        }
        results.compact().await.unwrap();
        if state == "files" {
            // Two days later everything is merged to days.
            for _ in 0..20 {
                results.maintain(NOON_US + 48 * 3_600_000_000).await.unwrap();
            }
            let files = results.files(i64::MIN, i64::MAX).await.unwrap();
            assert_eq!(files.len(), 2, "{files:?}");
        }
    }
}

async fn a_scan_streams_in_order_and_can_be_left(results: Arc<dyn Results>) {
    let minutes = 50;
    for minute in 0..minutes {
        let rounds = (0..100).map(|number| round(number, NOON_US + minute * 60_000_000)).collect();
        let icmp = batch("lon1", "icmp", 1, minute as u64 + 1, rounds);
        let tcp = batch("lon1", "tcp", 2, minute as u64 + 1, vec![round(1, NOON_US + minute)]);
        results.commit(vec![icmp, tcp]).await.unwrap();
        if minute % 10 == 5 {
            results.maintain(NOON_US).await.unwrap();
        }
    }
    let mut seen = Vec::new();
    let mut visit = |row: RoundRow| {
        seen.push((row.kind, row.target, row.due_us));
        ControlFlow::Continue(())
    };
    results.scan(&RoundQuery::default(), &mut visit).await.unwrap();
    assert_eq!(seen.len(), 101 * minutes as usize);
    assert!(seen.is_sorted());

    let mut count = 0;
    let mut leave = |_| {
        count += 1;
        if count == 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    results.scan(&RoundQuery::default(), &mut leave).await.unwrap();
    assert_eq!(count, 10);

    let mut limited = 0;
    let query = RoundQuery {
        kind: Some(kind("icmp")),
        from_us: Some(NOON_US + 60_000_000),
        to_us: Some(NOON_US + 3 * 60_000_000),
        limit: Some(150),
        ..RoundQuery::default()
    };
    let mut visit = |row: RoundRow| {
        assert!((1..3).contains(&((row.due_us - NOON_US) / 60_000_000)));
        limited += 1;
        ControlFlow::Continue(())
    };
    results.scan(&query, &mut visit).await.unwrap();
    assert_eq!(limited, 150);
}

async fn gaps_are_told_once(results: Arc<dyn Results>) {
    let mut first = batch("lon1", "icmp", 1, 1, Vec::new()).batch;
    first.gaps = vec![gap(2, NOON_US, 10), gap(1, NOON_US, 10), gap(2, NOON_US, 10)];
    let mut again = batch("lon1", "icmp", 2, 1, Vec::new()).batch;
    again.gaps = vec![gap(1, NOON_US, 10), gap(1, NOON_US + 100_000_000, 1)];
    results.commit(vec![seal(first)]).await.unwrap();
    results.maintain(NOON_US).await.unwrap();
    results.commit(vec![seal(again)]).await.unwrap();
    for state in ["mixed", "files"] {
        let gaps = results.gaps(&GapQuery::default()).await.unwrap();
        let keys: Vec<_> =
            gaps.iter().map(|gap| (gap.target.as_str(), gap.first_due_us, gap.rounds)).collect();
        assert_eq!(
            keys,
            [("t00001", NOON_US, 10), ("t00002", NOON_US, 10), ("t00001", NOON_US + 100_000_000, 1)],
            "{state}"
        );
        let of = |query: GapQuery| {
            let results = Arc::clone(&results);
            async move { results.gaps(&query).await.unwrap().len() }
        };
        assert_eq!(of(GapQuery { target: Some(target(1)), ..GapQuery::default() }).await, 2);
        assert_eq!(of(GapQuery { agent: Some(agent("ams1")), ..GapQuery::default() }).await, 0);
        assert_eq!(of(GapQuery { from_us: Some(NOON_US + 45_000_000), ..GapQuery::default() }).await, 3);
        assert_eq!(of(GapQuery { from_us: Some(NOON_US + 45_000_001), ..GapQuery::default() }).await, 1);
        assert_eq!(of(GapQuery { to_us: Some(NOON_US), ..GapQuery::default() }).await, 0);
        assert_eq!(of(GapQuery { limit: Some(1), ..GapQuery::default() }).await, 1);
        assert_eq!(gaps[0].reason, "module_crashed");
        assert!(all(&*results).await.is_empty());
        results.compact().await.unwrap();
    }
}

async fn retention_ends_whole_files(results: Arc<dyn Results>) {
    let hour_us = 3_600_000_000;
    for hour in 0..3 {
        let mut one =
            batch("lon1", "icmp", 1, hour as u64 + 1, vec![round(1, NOON_US + hour * hour_us)]).batch;
        one.gaps = vec![gap(1, NOON_US + hour * hour_us, 1)];
        results.commit(vec![seal(one)]).await.unwrap();
    }
    results.compact().await.unwrap();
    let files = results.files(i64::MIN, i64::MAX).await.unwrap();
    let tables: Vec<_> = files.iter().map(|file| file.table.as_str()).collect();
    assert_eq!(tables.iter().filter(|table| **table == "gap").count(), 3, "{files:?}");
    assert_eq!(tables.iter().filter(|table| **table == "icmp").count(), 3, "{files:?}");
    assert!(files.iter().all(|file| file.path.exists() && file.bytes > 0 && file.rows == 1));
    let within = results.files(NOON_US + hour_us, NOON_US + 2 * hour_us).await.unwrap();
    assert_eq!(within.len(), 2, "{within:?}");

    results.maintain(NOON_US + 30 * 24 * hour_us + 1).await.unwrap();
    assert_eq!(all(&*results).await.len(), 2);
    assert_eq!(results.gaps(&GapQuery::default()).await.unwrap().len(), 2);
    let gone: Vec<_> = files.iter().filter(|file| !file.path.exists()).collect();
    assert!(gone.len() >= 2, "{gone:?}");
}

async fn readers_never_miss_a_row_nor_see_it_twice(results: Arc<dyn Results>) {
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (results, done) = (Arc::clone(&results), Arc::clone(&done));
        async move {
            let mut before = 0;
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let rows = all(&*results).await;
                // Rows are committed in order of due, one by one.
                let dues: Vec<_> = rows.iter().map(|row| row.due_us - NOON_US).collect();
                assert_eq!(dues, (0..dues.len() as i64).collect::<Vec<_>>());
                assert!(dues.len() >= before);
                before = dues.len();
                reads += 1;
                let mut scanned = 0;
                let mut count = |_| {
                    scanned += 1;
                    ControlFlow::Continue(())
                };
                results.scan(&RoundQuery::default(), &mut count).await.unwrap();
                assert!(scanned >= before);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            reads
        }
    };
    let writer = async {
        for seq in 0..60 {
            let one = batch("lon1", "icmp", 1, seq + 1, vec![round(1, NOON_US + seq as i64)]);
            results.commit(vec![one]).await.unwrap();
            results.maintain(NOON_US).await.unwrap();
            if seq % 20 == 19 {
                results.compact().await.unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    let (reads, ()) = futures::join!(reader, writer);
    assert!(reads > 3, "{reads}");
    assert_eq!(all(&*results).await.len(), 60);
}

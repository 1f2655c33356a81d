//! `dns` as a job and as standing work, against a real name server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use imn_contract::latest::{Assignment, DnsOutcome, Outcome, TimestampSource};
use imn_contract::{ModuleType, TargetId};
use imn_module::{Addressing, Done, Due, builtin, local::Worker};
use imn_runtime::clock::now_us;
use imn_testkit::NameServer;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(20);

fn params(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

/// Does a job; tells its outcome and what its signs told of it on the way.
async fn job(target: &str, value: Value) -> (DnsOutcome, Vec<Value>) {
    let (signs, mut told) = mpsc::channel(1000);
    let outcome = Worker::new("dns").unwrap().run(target, &params(value), SOON, signs).await.unwrap();
    let Outcome::Dns(outcome) = outcome else { panic!("{outcome:?}") };
    let mut so_far = Vec::new();
    while let Ok(sign) = told.try_recv() {
        so_far.push(sign.detail["outcome"].clone());
    }
    (*outcome, so_far)
}

#[tokio::test]
async fn jobs_tell_what_the_server_says() {
    let server = NameServer::start().unwrap();
    let resolver = server.plain().to_string();
    let at = |more: Value| {
        let mut all = params(json!({ "resolver": resolver }));
        all.extend(params(more));
        Value::Object(all)
    };
    let (found, signs) = job("www.imn.test", at(json!({"count": 5, "interval": "10ms"}))).await;
    assert_eq!((found.sent, found.received, found.unknown, found.success), (5, 5, 0, true));
    assert_eq!((found.rcode.as_deref(), found.error.as_deref()), (Some("NOERROR"), None));
    // What is known so far is told with each query: it is shown where the job is interrupted.
    let so_far: Vec<_> = signs.iter().map(|outcome| (&outcome["sent"], &outcome["success"])).collect();
    let expected: Vec<(Value, Value)> = (1..=5).map(|sent| (json!(sent), json!(true))).collect();
    assert_eq!(so_far, expected.iter().map(|(sent, success)| (sent, success)).collect::<Vec<_>>());
    assert_eq!((found.latencies_ms.len(), found.timestamp_source), (5, TimestampSource::Kernel));
    assert!(found.latencies_ms.iter().all(|ms| ms.is_some_and(|ms| ms > 0.0 && ms < 1000.0)));
    assert_eq!((found.address.as_deref(), found.source.as_deref()), (Some("127.0.0.1"), Some("127.0.0.1")));
    assert_eq!(
        (found.transport.as_str(), found.port, found.loss_pct),
        ("udp", server.plain().port(), Some(0.0))
    );
    assert!(found.error_us > 0.0 && found.time.is_some() && found.tmax_ms == 2000);
    let mut data: Vec<&str> = found.answers.iter().map(|record| record.data.as_str()).collect();
    data.sort_unstable();
    assert_eq!(data, ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(found.edns.unwrap().nsid.as_deref(), Some(NameServer::NAME));

    // What is expected, and what is not.
    let (missing, _) = job("none.imn.test", at(json!({}))).await;
    assert_eq!((missing.success, missing.received, missing.error_code.as_deref()), (false, 1, Some("rcode")));
    assert_eq!(missing.error.as_deref(), Some("NXDOMAIN, expected NOERROR"));
    let (wanted, _) = job("none.imn.test", at(json!({"expect_rcode": "NXDOMAIN"}))).await;
    assert!(wanted.success && wanted.error.is_none() && wanted.latency_ms.is_some());
    let (matching, _) = job("imn.test", at(json!({"type": "TXT", "expect_answer": "spf1.*-all"}))).await;
    assert!(matching.success);
    let (other, _) = job("imn.test", at(json!({"type": "TXT", "expect_answer": "dkim"}))).await;
    assert_eq!((other.success, other.error_code.as_deref()), (false, Some("answer")));

    // The target as the resolver, over TLS and HTTPS.
    for (address, transport) in [(server.tls(), "dot"), (server.https(), "doh")] {
        let how = json!({"query": "imn.test", "type": "SOA", "transport": transport, "insecure": true});
        let (found, _) = job(&address.to_string(), how).await;
        assert!(found.success, "{found:?}");
        assert!(
            found.phases_ms.connect.is_some()
                && found.phases_ms.tls.is_some()
                && found.phases_ms.query.is_some()
        );
        let tls = found.tls.unwrap();
        assert_eq!((tls.version.as_str(), tls.distrust.is_some()), ("TLS 1.3", true));
        assert!(tls.expires.is_some());
        let wary = json!({"query": "imn.test", "transport": transport});
        let (found, _) = job(&address.to_string(), wary).await;
        assert!(!found.success && found.error_code.unwrap().starts_with("tls_"), "{:?}", found.error);
    }
}

#[tokio::test]
async fn what_cannot_be_asked_has_a_reason() {
    let (found, _) = job("a.example", json!({"resolver": "no-such-resolver.invalid", "timeout": "5s"})).await;
    assert_eq!((found.sent, found.error_code.as_deref(), found.address), (0, Some("resolve"), None));
    assert!(found.error.unwrap().contains("no-such-resolver.invalid"));
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (found, _) = job("a.example", json!({"resolver": closed.to_string()})).await;
    assert_eq!((found.sent, found.received, found.loss_pct), (1, 0, Some(100.0)));
    assert_eq!(found.error.as_deref(), Some("connection refused by 127.0.0.1"));
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let how = json!({"resolver": silent.local_addr().unwrap().to_string(), "timeout": "100ms", "count": 2, "interval": "1ms"});
    let (found, _) = job("a.example", how).await;
    assert_eq!((found.sent, found.error_code.as_deref()), (2, Some("timeout")));
    let worker = Worker::new("dns-lookup").unwrap();
    let fault = worker.check("a.example", &params(json!({"transport": "quic"}))).unwrap_err();
    assert_eq!((fault.code, fault.field.as_deref()), (400, Some("params.transport")));
}

#[test]
fn standing_rounds_carry_every_query_and_the_outcome() {
    let server = NameServer::start().unwrap();
    let mut standing = builtin("dns").unwrap().standing().unwrap().unwrap();
    let assignment = |target: &str, address: String, value: Value| Assignment {
        target: TargetId::new(target).unwrap(),
        kind: ModuleType::new("dns").unwrap(),
        address,
        interval_ms: 1000,
        timeout_ms: 300,
        count: 3,
        params: params(value),
        since_us: 0,
        until_us: None,
    };
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let resolver = |socket: std::net::SocketAddr| json!({ "resolver": socket.to_string() });
    let plans = [
        assignment("ns", server.plain().to_string(), json!({"query": "imn.test", "type": "SOA"})),
        assignment("name", "none.imn.test".to_owned(), resolver(server.plain())),
        assignment("dead", "www.imn.test".to_owned(), resolver(silent.local_addr().unwrap())),
    ]
    .map(|assignment| standing.plan(&assignment).unwrap());
    assert!(plans.iter().all(|plan| plan.addressing == Addressing::Opaque));
    let wrong = assignment("bad", "a.example".to_owned(), json!({"type": "NONSENSE"}));
    assert_eq!(standing.plan(&wrong).unwrap_err().field.as_deref(), Some("params.type"));

    let due_us = now_us() + 200_000;
    let dues: Vec<Due> = plans
        .iter()
        .enumerate()
        .map(|(key, plan)| Due {
            key: key as u64,
            due_us,
            address: None,
            plan: plan.number,
            count: 3,
            timeout: Duration::from_millis(300),
        })
        .collect();
    assert_eq!(standing.begin(&dues), 3);
    let end = Instant::now() + SOON;
    let mut done: Vec<Done> = Vec::new();
    while done.len() < 3 {
        standing.collect(&mut done);
        assert!(Instant::now() < end, "{done:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    done.sort_by_key(|done| done.key);
    let outcome =
        |done: &Done| -> DnsOutcome { serde_json::from_str(done.round.outcome.as_deref().unwrap()).unwrap() };
    let [answered, missing, dead] = [&done[0], &done[1], &done[2]];
    let round = &answered.round;
    assert_eq!((round.sent, round.received, round.success, round.error.clone()), (3, 3, true, None));
    assert_eq!((&*round.address, round.rtts_ns.len()), ("127.0.0.1", 3));
    assert_eq!(round.ts_source, TimestampSource::Kernel);
    assert!(
        round.time_us >= due_us
            && round.rtt_min_ns <= round.rtt_avg_ns
            && round.rtt_avg_ns <= round.rtt_max_ns
    );
    let told = outcome(answered);
    assert_eq!((told.query.as_str(), told.record_type.as_str(), told.answers.len()), ("imn.test", "SOA", 1));
    assert_eq!(told.latencies_ms.len(), 3);
    assert_eq!((missing.round.received, missing.round.success), (3, false));
    assert_eq!(missing.round.error.as_deref(), Some("NXDOMAIN, expected NOERROR"));
    assert_eq!((dead.round.sent, dead.round.received, dead.round.unknown), (3, 0, 0));
    assert_eq!(dead.round.error.as_deref(), Some("no answer within tmax"));
    assert_eq!(outcome(dead).error_code.as_deref(), Some("timeout"));
}

use std::time::Duration;

use imn_contract::latest::{
    AnnounceEvent, Attempt, AttemptStatus, Health, ModuleOp, ModuleState, PingOutcome, Task,
};
use imn_contract::subject;
use imn_testkit::require_root;
use serde_json::json;

use crate::child::{Bench, DEADLINE, PORTS, agent, instance, json, next};

#[tokio::test]
async fn a_job_is_done_once_however_often_it_is_handed_over() {
    let bench = Bench::start("echo", None).await;
    let task = bench.task(json!({"a": 1}));
    let reply = bench.hand(&task).await;
    assert!(reply.accepted, "{reply:?}");
    assert_eq!((reply.instance, reply.attempt), (Some(instance("echo")), Some(1)));
    let attempt = bench.attempt(&task.job_id).await;
    assert_eq!(attempt.status, AttemptStatus::Succeeded);
    assert_eq!(attempt.attempt_token, "secret");
    assert_eq!(attempt.outcome, json!({"echo": {"target": "127.0.0.1", "params": {"a": 1}}}));
    // The same attempt again: accepted again, reported again under the same id, of which the stream keeps one.
    assert!(bench.hand(&task).await.accepted);
    let other = Task { attempt: 2, ..task.clone() };
    assert!(bench.hand(&other).await.accepted);
    let attempts = bench.attempts(&task.job_id, 2).await;
    assert_eq!(attempts.iter().map(|a| a.attempt).collect::<Vec<_>>(), [1, 2]);
    // A stranger's token is refused.
    let guess = Task { attempt_token: "guess".to_owned(), ..task };
    assert_eq!(bench.hand(&guess).await.error.unwrap().code, 409);
}

#[tokio::test]
async fn a_direct_task_is_reported_to_the_agent_alone() {
    let bench = Bench::start("echo", None).await;
    let mut direct = bench.client.subscribe(subject::direct_agent(&agent())).await.unwrap();
    bench.client.flush().await.unwrap();
    let task = Task { direct: true, ..bench.task(json!({})) };
    assert!(bench.hand(&task).await.accepted);
    let attempt: Attempt = json(&next(&mut direct).await);
    assert_eq!((attempt.job_id, attempt.status), (task.job_id, AttemptStatus::Succeeded));
}

#[tokio::test]
async fn nonsense_gets_a_code_and_disturbs_nothing() {
    let mut bench = Bench::start("icmp", None).await;
    let work = subject::work(&agent(), &"icmp".parse().unwrap());
    let at = subject::at(&agent(), &instance("icmp"));
    let control = subject::module_control(&agent(), &instance("icmp"));
    let with = |change: fn(&mut Task)| {
        let mut task = bench.task(json!({}));
        change(&mut task);
        serde_json::to_vec(&task).unwrap()
    };
    let param = |name: &str, value: serde_json::Value| {
        let mut task = bench.task(json!({}));
        task.params.insert(name.to_owned(), value);
        serde_json::to_vec(&task).unwrap()
    };
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        (&work, b"{".to_vec(), 400),
        (&at, vec![0xff; 2000], 400),
        (&work, Vec::new(), 400),
        (&work, b"{\"v\":9}".to_vec(), 422),
        (&at, with(|t| t.kind = "dns".parse().unwrap()), 404),
        (&work, with(|t| t.target = "no such host".to_owned()), 400),
        (&work, with(|t| t.agent = "nyc1".parse().unwrap()), 400),
        (&work, with(|t| t.attempt = 0), 400),
        (&work, with(|t| t.ttl_ms = 0), 504),
        (&work, param("count", json!(0)), 400),
        (&work, param("count", json!("many")), 400),
        (&work, param("size", json!(70_000)), 400),
        (&work, param("colour", json!("red")), 400),
        (&control, b"drain".to_vec(), 400),
        (&control, b"{\"op\":\"dance\"}".to_vec(), 400),
        (&control, b"{\"op\":\"slots\",\"slots\":0}".to_vec(), 400),
        (&control, b"{\"op\":\"log_level\",\"level\":\"a=b=c\"}".to_vec(), 400),
        (&control, b"{\"op\":\"config\",\"revision\":1,\"config\":{\"rate\":\"fast\"}}".to_vec(), 400),
    ];
    for (subject, bytes, code) in cases {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(bench.refusal(subject, &bytes).await, (code.to_string(), code), "{subject} {shown}");
    }
    assert!(bench.module.is_running());
    let stats = bench.request("$SRV.STATS.imn-icmp", &json!({})).await;
    let stats: serde_json::Value = serde_json::from_slice(&stats.payload).unwrap();
    assert_eq!(stats["type"], "io.nats.micro.v1.stats_response");
    assert_eq!(stats["endpoints"][0]["subject"], work);
}

#[tokio::test]
async fn no_free_slot_is_said_at_once_and_health_tells_it() {
    let bench = Bench::start("faulty", Some(1)).await;
    let mut health = bench.client.subscribe(subject::health(&instance("faulty"))).await.unwrap();
    bench.client.flush().await.unwrap();
    let slow = bench.task(json!({"mode": "hang"}));
    assert!(bench.hand(&slow).await.accepted);
    loop {
        let health: Health = json(&next(&mut health).await);
        if health.state == ModuleState::Saturated {
            assert_eq!((health.inflight, health.slots), (1, 1));
            break;
        }
    }
    let fault = bench.hand(&bench.task(json!({"mode": "error"}))).await.error.unwrap();
    assert_eq!((fault.code, fault.name.as_str(), fault.retryable), (429, "saturated", true));
    assert!(fault.retry_after_ms.is_some());
    // The same attempt in work is accepted again, and takes no second slot.
    assert!(bench.hand(&slow).await.accepted);
    assert!(bench.control(ModuleOp::Has { job_id: slow.job_id.clone() }).await.ok);
    assert!(bench.control(ModuleOp::Cancel { job_id: slow.job_id.clone() }).await.ok);
    let attempt = bench.attempt(&slow.job_id).await;
    assert_eq!((attempt.status, attempt.error.unwrap().code), (AttemptStatus::Cancelled, 499));
    assert!(!bench.control(ModuleOp::Has { job_id: slow.job_id.clone() }).await.ok);
    loop {
        let health: Health = json(&next(&mut health).await);
        if health.state == ModuleState::Ready {
            break;
        }
    }
    assert!(bench.control(ModuleOp::Slots { slots: 2 }).await.ok);
    for _ in 0..2 {
        assert!(bench.hand(&bench.task(json!({"mode": "hang"}))).await.accepted);
    }
    assert!(!bench.hand(&bench.task(json!({"mode": "hang"}))).await.accepted);
}

#[tokio::test]
async fn every_fault_has_an_end() {
    let mut bench = Bench::start("faulty", None).await;
    let failed = async |bench: &Bench, task: Task| {
        assert!(bench.hand(&task).await.accepted);
        let attempt = bench.attempt(&task.job_id).await;
        assert_eq!(attempt.status, AttemptStatus::Failed);
        let fault = attempt.error.unwrap();
        (fault.code, fault.message)
    };
    let task = bench.task(json!({"mode": "error", "message": "on purpose"}));
    assert_eq!(failed(&bench, task).await, (500, "on purpose".to_owned()));
    let task = bench.task(json!({"mode": "panic", "message": "on purpose"}));
    assert_eq!(failed(&bench, task).await, (520, "the job panicked: on purpose".to_owned()));
    let task = Task { ttl_ms: 200, ..bench.task(json!({"mode": "hang"})) };
    assert_eq!(failed(&bench, task).await.0, 504);
    let never = bench.task(json!({"mode": "error", "probability": 0}));
    assert!(bench.hand(&never).await.accepted);
    assert_eq!(bench.attempt(&never.job_id).await.outcome, json!({"struck": false}));
    let flood = bench.task(json!({"mode": "flood", "delay_ms": 300}));
    let mut progress = bench.client.subscribe(subject::progress_job(&flood.job_id)).await.unwrap();
    bench.client.flush().await.unwrap();
    assert!(bench.hand(&flood).await.accepted);
    next(&mut progress).await;
    assert_eq!(bench.attempt(&flood.job_id).await.status, AttemptStatus::Succeeded);
    // The process may be gone before its answer to the task has left it.
    bench.send(&bench.task(json!({"mode": "exit"}))).await;
    assert_eq!(bench.module.wait_deadline(DEADLINE).unwrap().code(), Some(86));
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_work() {
    let mut bench = Bench::start("faulty", None).await;
    let task = bench.task(json!({"mode": "delay", "delay_ms": 700}));
    assert!(bench.hand(&task).await.accepted);
    bench.module.terminate();
    assert_eq!(bench.announced().await.event, AnnounceEvent::Draining);
    // From the unsubscription on nobody takes tasks; until then they are refused.
    let late = bench.task(json!({"mode": "delay"}));
    let body = serde_json::to_vec(&late).unwrap();
    if let Ok(reply) = bench.client.request(subject::work(&agent(), &late.kind), body.into()).await {
        let reply: imn_contract::latest::TaskReply = json(&reply);
        assert_eq!(reply.error.unwrap().code, 503);
    }
    assert_eq!(bench.attempt(&task.job_id).await.status, AttemptStatus::Succeeded);
    assert_eq!(bench.announced().await.event, AnnounceEvent::Bye);
    assert!(bench.module.wait_deadline(DEADLINE).unwrap().success());
}

#[tokio::test]
async fn a_drain_has_a_deadline_and_a_second_signal_shortens_it() {
    let mut bench = Bench::start("faulty", None).await;
    assert!(bench.hand(&bench.task(json!({"mode": "hang"}))).await.accepted);
    assert!(bench.control(ModuleOp::Drain).await.ok);
    assert_eq!(bench.announced().await.event, AnnounceEvent::Draining);
    let start = std::time::Instant::now();
    // The second one is looked at when the first has been acted upon.
    while bench.module.is_running() && start.elapsed() < Duration::from_secs(5) {
        bench.module.terminate();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(bench.module.wait_deadline(DEADLINE).unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_report_outlives_the_server_being_away() {
    let mut bench = Bench::start("faulty", None).await;
    let task = bench.task(json!({"mode": "delay", "delay_ms": 300}));
    assert!(bench.hand(&task).await.accepted);
    let ports = PORTS.lock().await;
    bench.server.kill9();
    tokio::time::sleep(Duration::from_millis(600)).await;
    bench.server.restart().unwrap();
    drop(ports);
    assert_eq!(bench.attempt(&task.job_id).await.status, AttemptStatus::Succeeded);
    // It takes tasks again without a word from anybody.
    let task = bench.task(json!({"mode": "delay", "delay_ms": 1}));
    assert!(bench.hand(&task).await.accepted);
}

#[tokio::test]
async fn a_ping_tells_its_packets() {
    if !require_root("a_ping_tells_its_packets") {
        return;
    }
    let bench = Bench::start("icmp", None).await;
    let task = bench.task(json!({"count": 3, "interval": "20ms", "timeout": "500ms"}));
    let mut progress = bench.client.subscribe(subject::progress_job(&task.job_id)).await.unwrap();
    bench.client.flush().await.unwrap();
    assert!(bench.hand(&task).await.accepted);
    for n in 1..=3 {
        let message: serde_json::Value = json(&next(&mut progress).await);
        assert_eq!(
            (&message["kind"], &message["n"], &message["seq"]),
            (&json!("packet"), &json!(n), &json!(n))
        );
        assert_eq!(message["status"], "received");
    }
    let attempt = bench.attempt(&task.job_id).await;
    let outcome: PingOutcome = serde_json::from_value(attempt.outcome).unwrap();
    assert_eq!((outcome.sent, outcome.received, outcome.rtts_ms.len()), (3, 3, 3));
    assert_eq!(outcome.loss_pct, Some(0.0));
    assert!(outcome.rtt_ms.min.unwrap() > 0.0 && outcome.rtt_ms.max.unwrap() < 100.0);
    assert_eq!(outcome.address.as_deref(), Some("127.0.0.1"));
    let unresolved = Task { target: "no-such-host.invalid".to_owned(), ..bench.task(json!({})) };
    assert!(bench.hand(&unresolved).await.accepted);
    let attempt = bench.attempt(&unresolved.job_id).await;
    assert_eq!(attempt.outcome["sent"], 0);
    assert!(attempt.outcome["error"].as_str().unwrap().contains("no-such-host.invalid"));
}

#[tokio::test]
async fn a_tcp_job_tells_refused_from_answered() {
    let bench = Bench::start("tcp", None).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let params = json!({"count": 2, "interval": 10, "timeout": 500, "port": port});
    let task = bench.task(params.clone());
    assert!(bench.hand(&task).await.accepted);
    let outcome: PingOutcome = serde_json::from_value(bench.attempt(&task.job_id).await.outcome).unwrap();
    assert_eq!((outcome.sent, outcome.received, outcome.port), (2, 2, Some(port)));
    drop(listener);
    let task = bench.task(params);
    assert!(bench.hand(&task).await.accepted);
    let outcome: PingOutcome = serde_json::from_value(bench.attempt(&task.job_id).await.outcome).unwrap();
    assert_eq!(outcome.received, 0);
    assert_eq!(outcome.error.as_deref(), Some("connection refused by 127.0.0.1"));
}

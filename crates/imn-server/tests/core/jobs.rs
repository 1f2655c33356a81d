//! Every accepted task has one terminal state and one published result.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use imn_contract::{
    latest::{AgentControl, AgentOp, AttemptStatus, JobRequest, JobResult, JobState, JobView, ResultStatus},
    stream, subject,
};
use serde_json::json;

use crate::bench::{Bench, SOON, agent, eventually, next};

async fn view(bench: &Bench, job: &imn_contract::JobId) -> JobView {
    bench.client.request(&subject::get(job), &JobRequest { v: 1 }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_its_one_result() {
    let bench = Bench::start().await;
    bench.agent("a", &["echo"]).await;
    let queue = bench.queue("a", "echo").await;
    let mut results = bench.client.subscribe(subject::RESULT_ALL).await.unwrap();
    let mut control = bench.client.subscribe(&subject::agent_control(&agent("a"))).await.unwrap();
    bench.client.round_trip(SOON).await.unwrap();

    let reply = bench.submit(json!({"type": "echo", "target": "x", "params": {"n": 1}})).await;
    assert_eq!((reply.status, reply.state), (202, Some(JobState::Queued)));
    let job = reply.job_id.unwrap();
    assert_eq!(reply.result_subject, Some(subject::result(&job)));
    let (task, message) = bench.pull(&queue).await;
    assert_eq!((&task.job_id, task.attempt, task.params["n"].as_i64()), (&job, 1, Some(1)));
    assert!(task.ttl_ms > 9_000 && task.ttl_ms <= 10_000);

    bench.report(&task, "agent", 1, AttemptStatus::Running).await;
    eventually("running", async || (view(&bench, &job).await.state == Some(JobState::Running)).then_some(()))
        .await;
    // A report without the secret, one by another instance, and garbage change nothing.
    let forged = imn_contract::latest::Task { attempt_token: "0".repeat(32), ..task.clone() };
    bench.report(&forged, "module", 1, AttemptStatus::Failed).await;
    let on = subject::attempt(&agent("a"), &crate::bench::instance("b", "echo"), &job);
    let headers = async_nats::HeaderMap::new();
    bench.client.publish_bytes_acked(&on, "{".into(), None, headers, SOON).await.unwrap();
    bench.report(&task, "module", 1, AttemptStatus::Succeeded).await;
    bench.report(&task, "module", 1, AttemptStatus::Failed).await;

    let result: JobResult = next(&mut results).await;
    assert_eq!((result.status, &result.job_id), (ResultStatus::Succeeded, &job));
    assert_eq!(result.outcome, json!({"echo": "x"}));
    let mut done = false;
    while !done {
        let told: AgentControl = next(&mut control).await;
        done = matches!(told.op, AgentOp::TaskDone { job_id } if job_id == job);
    }
    message.ack_with(AckKind::Ack).await.unwrap();
    assert_eq!(view(&bench, &job).await.state, Some(JobState::Succeeded));
    eventually("all reports settled", async || {
        let mut stream = bench.client.jetstream().get_stream(stream::ATTEMPTS).await.unwrap();
        (stream.info().await.unwrap().state.messages == 0).then_some(())
    })
    .await;
    let mut kept = bench.client.jetstream().get_stream(stream::RESULTS).await.unwrap();
    assert_eq!(kept.info().await.unwrap().state.messages, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_submissions_are_refused_with_code_and_field() {
    let bench = Bench::start().await;
    let none = bench.submit(json!({"type": "echo", "target": "x"})).await;
    assert_eq!((none.status, none.error.unwrap().name.as_str()), (404, "no_vantage"));
    bench.agent("a", &["echo"]).await;
    for (body, code, name, field) in [
        (json!({"type": "echo", "target": ""}), 400, "invalid", Some("target")),
        (json!({"type": "echo", "target": "x".repeat(3000)}), 400, "invalid", Some("target")),
        (json!({"type": "no such", "target": "x"}), 400, "invalid", Some("type")),
        (json!({"type": "dns", "target": "x"}), 404, "no_module", Some("type")),
        (json!({"type": "echo", "target": "x", "deadline_ms": 0}), 400, "invalid", Some("deadline_ms")),
        (json!({"type": "echo", "target": "x", "max_attempts": 99}), 400, "invalid", Some("max_attempts")),
        (json!({"type": "echo", "target": "x", "from": {"limit": 0}}), 400, "invalid", Some("from.limit")),
        (
            json!({"type": "echo", "target": "x", "from": {"agents": ["z"]}}),
            404,
            "no_vantage",
            Some("from.agents"),
        ),
        (json!({"type": "echo", "target": "x", "from": {"regions": ["z"]}}), 404, "no_vantage", Some("from")),
        (json!({"v": 2, "type": "echo", "target": "x"}), 422, "schema", Some("v")),
        (json!({"type": "echo"}), 400, "invalid", None),
        (json!("nonsense"), 400, "invalid", None),
    ] {
        let reply = bench.submit(body.clone()).await;
        let fault = reply.error.unwrap_or_else(|| panic!("{body} was accepted"));
        assert_eq!((reply.status, fault.code, fault.name.as_str()), (code, code, name), "{body}: {fault}");
        if field.is_some() {
            assert_eq!(fault.field.as_deref(), field, "{body}: {fault}");
        }
    }
    let waiting = bench.submit(json!({"type": "dns", "target": "x", "wait_for_module": true})).await;
    assert_eq!(waiting.status, 202);
    bench.queue("a", "dns").await;
    let job = imn_contract::JobId::new("nobody").unwrap();
    assert_eq!(view(&bench, &job).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_used_again_is_the_same_job_or_a_conflict() {
    let bench = Bench::start().await;
    bench.agent("a", &["echo"]).await;
    let body = json!({"job_id": "mine", "type": "echo", "target": "x"});
    let first = bench.submit(body.clone()).await;
    assert_eq!(bench.submit(body).await, first);
    let other = bench.submit(json!({"job_id": "mine", "type": "echo", "target": "y"})).await;
    assert_eq!((other.status, other.error.unwrap().field.as_deref()), (409, Some("job_id")));
    let queue = bench.queue("a", "echo").await;
    bench.pull(&queue).await;
    let mut rest = queue.fetch().max_messages(2).messages().await.unwrap();
    assert!(futures::StreamExt::next(&mut rest).await.is_none(), "queued twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_deadlines_and_cancellations_end_jobs() {
    let bench = Bench::start().await;
    bench.agent("a", &["faulty"]).await;
    let queue = bench.queue("a", "faulty").await;
    let mut results = bench.client.subscribe(subject::RESULT_ALL).await.unwrap();
    bench.client.round_trip(SOON).await.unwrap();

    let reply = bench.submit(json!({"type": "faulty", "target": "x", "max_attempts": 2})).await;
    let (task, message) = bench.pull(&queue).await;
    bench.report(&task, "agent", 1, AttemptStatus::Crashed).await;
    let job = reply.job_id.unwrap();
    eventually("retry_wait", async || {
        (view(&bench, &job).await.state == Some(JobState::RetryWait)).then_some(())
    })
    .await;
    bench.report(&task, "agent", 2, AttemptStatus::Crashed).await;
    let result: JobResult = next(&mut results).await;
    assert_eq!((result.status, result.attempt), (ResultStatus::Dead, 2));
    message.ack().await.unwrap();
    eventually("the dead job's entry", async || {
        let mut stream = bench.client.jetstream().get_stream(stream::DLQ).await.unwrap();
        (stream.info().await.unwrap().state.messages == 1).then_some(())
    })
    .await;

    let late = bench.submit(json!({"type": "faulty", "target": "late", "deadline_ms": 300})).await;
    let result: JobResult = next(&mut results).await;
    assert_eq!((result.status, Some(result.job_id)), (ResultStatus::TimedOut, late.job_id));

    let reply = bench.submit(json!({"type": "faulty", "target": "stop"})).await;
    let job = reply.job_id.unwrap();
    let cancelled: JobView =
        bench.client.request(&subject::cancel(&job), &JobRequest { v: 1 }).await.unwrap();
    assert_eq!(cancelled.state, Some(JobState::Cancelled));
    let result: JobResult = next(&mut results).await;
    assert_eq!((result.status, result.error.unwrap().code), (ResultStatus::Cancelled, 499));
    // Nobody gets what is settled.
    eventually("an empty queue", async || {
        let kind = imn_contract::ModuleType::new("faulty").unwrap();
        let mut stream = bench.client.jetstream().get_stream(stream::jobs(&kind)).await.unwrap();
        (stream.info().await.unwrap().state.messages == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_survive_a_killed_server() {
    let mut bench = Bench::start().await;
    bench.agent("a", &["echo"]).await;
    let queue = bench.queue("a", "echo").await;
    let mut jobs = Vec::new();
    for n in 0..20 {
        let body = json!({"type": "echo", "target": n.to_string(), "deadline_ms": 60_000});
        jobs.push(bench.submit(body).await.job_id.unwrap());
    }
    let mut tasks = Vec::new();
    for _ in 0..10 {
        tasks.push(bench.pull(&queue).await);
    }
    bench.kill_server();
    // Modules go on reporting while the server is away.
    for (task, _) in &tasks {
        bench.report(task, "module", 1, AttemptStatus::Succeeded).await;
    }
    bench.start_server().await;
    for (_, message) in &tasks {
        message.ack().await.unwrap();
    }
    for _ in 0..10 {
        let (task, message) = bench.pull(&queue).await;
        bench.report(&task, "module", 1, AttemptStatus::Succeeded).await;
        message.ack().await.unwrap();
    }
    for job in &jobs {
        eventually("the job's end", async || {
            (view(&bench, job).await.state == Some(JobState::Succeeded)).then_some(())
        })
        .await;
    }
    eventually("one result each", async || {
        let mut kept = bench.client.jetstream().get_stream(stream::RESULTS).await.unwrap();
        (kept.info().await.unwrap().state.messages == 20).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_takes_milliseconds() {
    let bench = Bench::start().await;
    bench.agent("a", &["echo"]).await;
    let queue = bench.queue("a", "echo").await;
    let mut messages = queue.messages().await.unwrap();
    let mut results = bench.client.subscribe(subject::RESULT_ALL).await.unwrap();
    bench.client.round_trip(SOON).await.unwrap();
    let mut times = Vec::new();
    for n in 0..50 {
        let start = std::time::Instant::now();
        bench.submit(json!({"type": "echo", "target": n.to_string()})).await;
        let message = futures::StreamExt::next(&mut messages).await.unwrap().unwrap();
        let task = imn_runtime::nats::decode(&message.message).unwrap();
        bench.report(&task, "agent", 1, AttemptStatus::Running).await;
        bench.report(&task, "module", 1, AttemptStatus::Succeeded).await;
        let _: JobResult = next(&mut results).await;
        times.push(start.elapsed());
        message.ack().await.unwrap();
    }
    times.sort();
    println!("submit to result: p50 {:?}, p95 {:?}", times[25], times[47]);
    assert!(times[25] < Duration::from_millis(100), "{times:?}");
}

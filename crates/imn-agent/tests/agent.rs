//! A whole agent in a process of its own, with real module processes, against a real nats-server. The test plays the
//! control plane: it owns the streams, queues tasks and reads what is reported.

#[path = "agent/bench.rs"]
mod bench;

use std::time::Duration;

use bench::{Bench, Queued};
use futures::StreamExt;
use imn_contract::{
    AgentId, Encoding, InstanceId, JobId, ModuleType, TargetId, encode,
    latest::{
        AgentOp, AttemptStatus, Batch, JobState, ModuleState, ModuleSummary, RollState, Round, SimpleError,
        SimpleReply, Watermark,
    },
    subject,
};
use imn_runtime::spool;
use imn_testkit::{Signal, wait_until};
use serde_json::json;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn modules_outlive_the_agent_and_are_taken_over() {
    let mut bench = Bench::start(&[("probe", "instances = 2\nstanding = true\n")]).await;
    let before = bench.ready("probe", 2).await;
    assert!(before.iter().all(|module| module.standing && module.version == "9.9.9"));

    bench.agent().kill9();
    // Nothing happens to them without an agent.
    bench.restart_agent();
    let after = bench.ready("probe", 2).await;
    let pids = |modules: &[imn_contract::latest::ModuleSummary]| -> Vec<_> {
        modules.iter().map(|module| (module.instance.clone(), module.pid)).collect()
    };
    assert_eq!(pids(&before), pids(&after));
    assert!(after.iter().all(|module| module.restarts == 0));

    // One that was taken over is watched like a child.
    let pid = after[0].pid.unwrap();
    bench::kill(pid, Signal::SIGKILL);
    let again = bench
        .module("probe", "one instance to be started again", |modules| {
            modules[0].restarts == 1 && modules[0].state == ModuleState::Ready
        })
        .await;
    assert_ne!(again[0].pid, Some(pid));
    assert_eq!(again[1].pid, after[1].pid, "the other one never stops");

    // An orderly end takes them along, and says so.
    bench.agent().terminate();
    let status = bench.agent().wait_deadline(Duration::from_secs(12)).unwrap();
    assert!(status.success(), "{}", bench.agent().tail());
    for module in &again {
        assert!(!bench::alive(module.pid.unwrap()));
    }
    assert_eq!(bench.last_status().await, imn_contract::latest::AgentStatus::Draining);
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_loops_are_quarantined_and_disturb_nobody() {
    let bench = Bench::start(&[("steady", ""), ("broken", "[config]\nexit_at_start = true\n")]).await;
    let steady = bench.ready("steady", 1).await;
    let broken =
        bench.module("broken", "a quarantine", |modules| modules[0].state == ModuleState::Quarantined).await;
    let reason = broken[0].reason.clone().unwrap();
    assert!(reason.contains("5 times") && reason.contains("exit status: 7"), "{reason}");
    assert_eq!(bench.ready("steady", 1).await[0].pid, steady[0].pid);

    // Disabled means down, enabled means up, and both are remembered and answered.
    let steady_type = imn_contract::ModuleType::new("steady").unwrap();
    bench.tell(AgentOp::Disable { kind: steady_type.clone() }).await.unwrap();
    bench.module("steady", "to be disabled", |modules| modules[0].state == ModuleState::Disabled).await;
    assert!(!bench::alive(steady[0].pid.unwrap()));
    bench.tell(AgentOp::Enable { kind: steady_type }).await.unwrap();
    bench.ready("steady", 1).await;
    let unknown = imn_contract::ModuleType::new("nobody").unwrap();
    let fault = bench.tell(AgentOp::Disable { kind: unknown }).await.unwrap_err();
    assert_eq!((fault.code, fault.name.as_str()), (404, "no_module"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_modules_directory_is_followed() {
    let bench = Bench::start(&[("first", "")]).await;
    let first = bench.ready("first", 1).await;
    bench.install("second", "instances = 2\n");
    let second = bench.ready("second", 2).await;
    bench.install("first", "slots = 5\n");
    let replaced = bench
        .module("first", "to be replaced", |modules| {
            modules[0].slots == 5 && modules[0].state == ModuleState::Ready
        })
        .await;
    assert_ne!(replaced[0].pid, first[0].pid);
    bench.uninstall("second");
    bench.module("second", "to be gone", <[_]>::is_empty).await;
    for module in second {
        assert!(!bench::alive(module.pid.unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_do_is_turned_down_and_that_is_remembered() {
    let mut bench = Bench::start(&[("work", "version = \"1\"\ninstances = 2\n")]).await;
    let before = bench.ready("work", 2).await;
    let pids = |modules: &[ModuleSummary]| modules[..2].iter().map(|module| module.pid).collect::<Vec<_>>();
    let turned_down = |modules: &[ModuleSummary]| {
        modules.len() == 3 && modules[2].state == ModuleState::Quarantined && modules[2].reason.is_some()
    };

    // It does not even start.
    bench.install("work", "version = \"2\"\ninstances = 2\n[config]\nexit_at_start = true\n");
    let after = bench.module("work", "version 2 to be turned down", turned_down).await;
    let reason = after[2].reason.as_deref().unwrap();
    assert!(reason.contains("version 2 (") && reason.contains("exit status: 7"), "{reason}");
    assert_eq!((pids(&after), after[2].instance.as_str()), (pids(&before), "lab1-work-64"));
    let rolls = bench.beat("the roll to be told", |beat| beat.rolls.len() == 1).await.rolls;
    assert_eq!((rolls[0].state, rolls[0].share_pct), (RollState::RolledBack, 0), "{rolls:?}");
    assert!(rolls[0].from.starts_with("1 (") && rolls[0].to.starts_with("2 ("), "{rolls:?}");

    // Nor is it tried by the next agent, and the version before still runs, although its file is gone.
    bench.agent().kill9();
    bench.restart_agent();
    let again = bench.module("work", "version 2 still turned down", turned_down).await;
    assert_eq!(again[2].reason.as_deref(), Some(reason));
    bench::kill(before[0].pid.unwrap(), Signal::SIGKILL);
    let reborn = bench
        .module("work", "an instance of version 1 to be started again", |modules| {
            modules[0].state == ModuleState::Ready && modules[0].pid != before[0].pid
        })
        .await;
    assert_eq!(reborn[0].restarts, 1);

    // One that does not do its self-test.
    let broken =
        "version = \"3\"\ninstances = 2\n[config]\nexit_at_job = true\n[self_test]\ntarget = \"x\"\n";
    bench.install("work", broken);
    let third = bench
        .module("work", "version 3 to be turned down", |modules| {
            turned_down(modules)
                && modules[2].reason.as_deref().is_some_and(|why| why.contains("version 3 ("))
        })
        .await;
    let reason = third[2].reason.as_deref().unwrap();
    assert!(reason.contains("exit status: 3"), "{reason}");
    assert_eq!(pids(&third), pids(&reborn));

    // One that does.
    bench.install("work", "version = \"4\"\ninstances = 2\nslots = 5\n[self_test]\ntarget = \"x\"\n");
    let fourth = bench
        .module("work", "version 4 to be in force", |modules| {
            modules.len() == 2
                && modules.iter().all(|module| module.slots == 5 && module.state == ModuleState::Ready)
        })
        .await;
    assert!(pids(&fourth).iter().all(|pid| !pids(&reborn).contains(pid)));
    let done = bench.beat("the roll to be done", |beat| beat.rolls[0].state == RollState::Done).await;
    assert_eq!((done.rolls[0].wave, done.rolls[0].share_pct), (3, 100));
    // Nothing is kept of what nobody uses.
    assert_eq!(bench.artifacts(), 1, "all these versions are of one program");
    // The same version once more, because somebody says so.
    let work = imn_contract::ModuleType::new("work").unwrap();
    bench.tell(AgentOp::Roll { kind: work }).await.unwrap();
    let nobody = imn_contract::ModuleType::new("nobody").unwrap();
    assert_eq!(bench.tell(AgentOp::Roll { kind: nobody }).await.unwrap_err().code, 404);
    bench
        .module("work", "all instances to be others", |modules| {
            modules.len() == 2
                && modules
                    .iter()
                    .all(|module| module.state == ModuleState::Ready && !pids(&fourth).contains(&module.pid))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_hangs_is_killed_whatever_it_says() {
    let bench = Bench::start(&[("work", "slots = 2\n")]).await;
    let before = bench.ready("work", 1).await;
    let stream = bench.queue("work").await;
    let (stuck, other) = (JobId::generate(), JobId::generate());
    bench.submit_within("work", &stuck, json!({"delay_ms": 60_000, "deaf": true}), 500).await;
    bench.submit("work", &other, json!({"delay_ms": 4_000})).await;
    let killed = bench
        .module("work", "the instance to be killed", |modules| {
            modules[0].state == ModuleState::Ready
                && modules[0].pid != before[0].pid
                && modules[0].restarts == 1
        })
        .await;
    let reason = killed[0].reason.as_deref().unwrap();
    assert!(reason.contains("hung") && reason.contains(stuck.as_str()), "{reason}");
    // What it had besides is done again.
    let verdicts = bench.verdicts(&other, Duration::from_secs(9)).await;
    assert_eq!(verdicts, [(AttemptStatus::Crashed, 1), (AttemptStatus::Succeeded, 2)]);
    bench.decide(&other, JobState::Succeeded).await;
    bench.decide(&stuck, JobState::TimedOut).await;
    bench.empty(&stream).await;

    // Rounds that fall due and are never made.
    bench.install("idle", "[config]\nstall = true\n");
    let idle = bench
        .module("idle", "the instance to be killed", |modules| {
            modules.first().is_some_and(|module| module.restarts > 0 && module.reason.is_some())
        })
        .await;
    let reason = idle[0].reason.as_deref().unwrap();
    assert!(reason.contains("hung: its rounds fell due"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_shared_followed_and_settled() {
    let bench = Bench::start(&[("work", "instances = 2\n")]).await;
    bench.ready("work", 2).await;
    let stream = bench.queue("work").await;
    // Four slots, six jobs: two wait in the queue, where they can be seen.
    let jobs: Vec<JobId> = (0..6).map(|_| JobId::generate()).collect();
    for job in &jobs {
        bench.submit("work", job, json!({"delay_ms": 400})).await;
    }
    let mut verdicts = Vec::new();
    let mut running = 0;
    while verdicts.len() < 6 {
        let (subject, attempt) = bench.attempt().await;
        match attempt.status {
            AttemptStatus::Running => {
                assert_eq!(bench::token(&subject, 4), "agent");
                running += 1;
            }
            AttemptStatus::Succeeded => {
                assert_eq!((attempt.attempt, bench::token(&subject, 4)), (1, attempt.instance.as_str()));
                verdicts.push(attempt.job_id.clone());
                bench.decide(&attempt.job_id, JobState::Succeeded).await;
            }
            other => panic!("{other:?} of {subject}"),
        }
    }
    while running < 6 {
        running += u32::from(bench.attempt().await.1.status == AttemptStatus::Running);
    }
    verdicts.sort();
    let mut wanted = jobs;
    wanted.sort();
    assert_eq!(verdicts, wanted);
    bench.empty(&stream).await;

    // What a module refuses for good is rejected; the server's word settles it.
    let refused = JobId::generate();
    bench.submit("work", &refused, json!({"refuse": true})).await;
    let (_, attempt) = bench.attempt().await;
    assert_eq!(
        (attempt.status, attempt.error.unwrap().field),
        (AttemptStatus::Rejected, Some("params.refuse".into()))
    );
    bench.decide(&refused, JobState::Rejected).await;
    // What is no task at all is taken out.
    bench.put("work", b"garbage".as_slice()).await;
    bench.empty(&stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_fails_over_at_once_and_a_dead_agent_loses_nothing() {
    let mut bench = Bench::start(&[("work", "instances = 2\nslots = 1\n")]).await;
    bench.ready("work", 2).await;
    let stream = bench.queue("work").await;

    let crashing = JobId::generate();
    bench.submit("work", &crashing, json!({"mode": "exit_once"})).await;
    let mut seen = Vec::new();
    // The agent's reports and the module's come by different ways.
    while !seen.contains(&(AttemptStatus::Succeeded, 2)) || !seen.contains(&(AttemptStatus::Crashed, 1)) {
        let (_, attempt) = bench.attempt().await;
        seen.push((attempt.status, attempt.attempt));
    }
    assert_eq!(seen.iter().filter(|step| **step == (AttemptStatus::Crashed, 1)).count(), 1, "{seen:?}");
    bench.decide(&crashing, JobState::Succeeded).await;
    bench.empty(&stream).await;

    // The agent dies while a job is in work, and the next one finds it there: it is not run twice.
    bench.ready("work", 2).await;
    let long = JobId::generate();
    bench.submit("work", &long, json!({"delay_ms": 6000})).await;
    let (_, attempt) = bench.attempt().await;
    assert_eq!((&attempt.job_id, attempt.status), (&long, AttemptStatus::Running));
    bench.know(Queued { job: long.clone(), state: JobState::Running, attempts: 1 });
    bench.agent().kill9();
    bench.restart_agent();
    let (_, attempt) = bench.attempt().await;
    let found = (&attempt.job_id, attempt.status, attempt.attempt);
    assert_eq!(found, (&long, AttemptStatus::Succeeded, 1), "not {crashing}");
    bench.decide(&long, JobState::Succeeded).await;
    bench.empty(&stream).await;
    assert!(bench.no_attempt(&long, Duration::from_millis(300)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_past_its_time_is_cancelled_and_one_that_is_decided_never_begun() {
    let bench = Bench::start(&[("work", "slots = 1\n")]).await;
    bench.ready("work", 1).await;
    let stream = bench.queue("work").await;
    let slow = JobId::generate();
    bench.submit_within("work", &slow, json!({"delay_ms": 60_000}), 700).await;
    assert_eq!(bench.attempt().await.1.status, AttemptStatus::Running);
    // Its slot is free again before the server has said anything.
    let next = JobId::generate();
    bench.submit("work", &next, json!({})).await;
    loop {
        let (_, attempt) = bench.attempt().await;
        if attempt.status == AttemptStatus::Succeeded {
            assert_eq!(attempt.job_id, next);
            break;
        }
    }
    bench.decide(&next, JobState::Succeeded).await;
    bench.decide(&slow, JobState::TimedOut).await;
    bench.empty(&stream).await;

    let decided = JobId::generate();
    bench.decide(&decided, JobState::Cancelled).await;
    bench.submit("work", &decided, json!({})).await;
    bench.empty(&stream).await;
    assert!(bench.no_attempt(&decided, Duration::from_millis(300)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simple_interface_answers_every_request_with_no_server() {
    let bench = Bench::start(&[("probe", "slots = 2\n")]).await;
    bench.ready("probe", 1).await;
    let good = json!({"target": "anything", "module": "probe", "request_id": "test-1"});
    let (out, reply) = bench.simple::<SimpleReply>("out", &good).await;
    assert_eq!((reply.request_id.as_str(), reply.protocol.as_str()), ("test-1", "probe"));
    assert_eq!(reply.outcome["attempt"], 1);
    // Answered from the first; byte for byte.
    let (again, _) = bench.simple::<SimpleReply>("out", &good).await;
    assert_eq!(out, again);
    let mut other = good.clone();
    other["target"] = json!("other");
    let (_, refused) = bench.simple::<SimpleError>("error", &other).await;
    assert_eq!(
        (refused.code, refused.name.as_str(), refused.request_id.as_deref()),
        (409, "conflict", Some("test-1"))
    );

    for (body, code, field) in [
        (json!("garbage"), 400, None),
        (json!({"count": 4, "request_id": "a"}), 400, None),
        (json!({"target": "::1", "port": 70_000, "request_id": "b"}), 400, Some("port")),
        (json!({"target": "::1", "count": 0}), 400, Some("count")),
        (json!({"target": "::1", "module": "nobody"}), 404, Some("module")),
        (json!({"v": 9, "target": "::1"}), 422, Some("v")),
        (json!({"target": "x", "module": "probe", "params": {"refuse": true}}), 400, Some("params.refuse")),
        (json!({"target": "x", "module": "probe", "params": {"mode": "fail"}}), 503, None),
    ] {
        let (_, refused) = bench.simple::<SimpleError>("error", &body).await;
        assert_eq!((refused.code, refused.field.as_deref()), (code, field), "{body}: {refused:?}");
        assert!(!refused.message.is_empty());
        if let Some(id) = body.get("request_id") {
            assert_eq!(refused.request_id.as_deref(), id.as_str());
        }
    }
    // A module that dies over a request costs a second attempt, not the answer.
    let crash = json!({"target": "x", "module": "probe", "params": {"mode": "exit_once"}});
    let (_, reply) = bench.simple::<SimpleReply>("out", &crash).await;
    assert_eq!(reply.outcome["attempt"], 2);
    // One who asks is answered directly as well.
    let direct = bench.ask(&json!({"target": "x", "module": "probe"})).await;
    let reply: SimpleReply = serde_json::from_slice(&direct).unwrap();
    assert!(!reply.request_id.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn standing_work_reaches_the_instances_and_needs_no_nats_the_next_time() {
    let mut bench = Bench::start(&[("probe", "instances = 2\nstanding = true\n")]).await;
    bench.ready("probe", 2).await;
    bench.assign("probe", 1, &["a", "b", "c", "d", "e", "f", "g", "h"]).await;
    bench.tell(AgentOp::Assignments { generation: 1 }).await.unwrap();
    let first = bench.standing(8, SOON).await;
    assert!(first.values().all(|targets| !targets.is_empty()), "{first:?}");
    bench.assign("probe", 2, &["a", "b", "c", "d", "e", "f", "g"]).await;
    bench.tell(AgentOp::Assignments { generation: 2 }).await.unwrap();
    let second = bench.standing(7, SOON).await;
    for (instance, targets) in &second {
        assert!(targets.iter().all(|target| first[instance].contains(target)), "nothing moves");
    }
    let beat = bench.beat("targets", |beat| beat.targets == 7).await;
    assert_eq!(beat.assignment.generation, 2);

    // Without NATS, and with the files gone, the cache is enough.
    bench.agent().kill9();
    bench.stop_nats();
    bench.forget_standing();
    bench.restart_agent();
    assert_eq!(bench.standing(7, SOON).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_silent_for_a_while_does_a_job_once() {
    let bench = Bench::start(&[("work", "slots = 1\n")]).await;
    let pid = bench.ready("work", 1).await[0].pid.unwrap();
    let stream = bench.queue("work").await;
    bench::kill(pid, Signal::SIGSTOP);
    let job = JobId::generate();
    bench.submit("work", &job, json!({})).await;
    // Long enough for the agent to give the first offer up, and to ask in vain who has it.
    assert!(bench.no_attempt(&job, Duration::from_millis(1_500)).await);
    bench::kill(pid, Signal::SIGCONT);
    // Whether or not the agent hears of it in time to say that it runs, it is done once.
    let verdicts = bench.verdicts(&job, Duration::from_secs(4)).await;
    assert_eq!(verdicts, [(AttemptStatus::Succeeded, 1)]);
    bench.decide(&job, JobState::Succeeded).await;
    bench.empty(&stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_of_an_instance_that_is_gone_is_shipped_and_removed() {
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("spool").join("lab1-gone-3");
    let target = TargetId::new("t1").unwrap();
    let config = spool::Config {
        dir: dir.clone(),
        agent: AgentId::new("lab1").unwrap(),
        instance: InstanceId::new("lab1-gone-3").unwrap(),
        kind: ModuleType::new("gone").unwrap(),
        partitions: 1,
        max_bytes: spool::Config::MAX_BYTES,
    };
    let left = spool::Spool::open(config).unwrap();
    let round = Round { target: Some(target.clone()), due_us: 42, ..Round::default() };
    left.append(&[round], &[]).unwrap();
    left.close().unwrap();
    drop(left);

    let bench = Bench::start_on(state, &[]).await;
    let js = async_nats::jetstream::new(bench.client().clone());
    js.create_stream(bench::stream_config("MMN_INGEST", subject::INGEST_ALL)).await.unwrap();
    let mut rows = bench.client().subscribe(subject::INGEST_ALL).await.unwrap();
    let message = tokio::time::timeout(SOON, rows.next()).await.unwrap().unwrap();
    assert_eq!(message.subject.as_str(), "mmn.ingest.rows.0.lab1.gone");
    let batch = Batch::open(&message.payload).unwrap();
    assert_eq!((batch.rounds[0].target.as_ref(), batch.rounds[0].due_us), (Some(&target), 42));
    assert!(dir.exists(), "nothing is removed before it is committed");
    let committed = Watermark { v: 1, epoch: batch.epoch, committed: batch.last_seq };
    let payload = encode(&committed, Encoding::Json).unwrap();
    bench.client().publish(subject::commit(&batch.agent), payload).await.unwrap();
    wait_until("the empty spool to be removed", SOON, || (!dir.exists()).then_some(())).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_of_an_instance_that_is_down_for_long_is_shipped_and_kept() {
    let state = tempfile::tempdir().unwrap();
    let config = spool::Config {
        dir: state.path().join("spool").join("lab1-work-0"),
        agent: AgentId::new("lab1").unwrap(),
        instance: InstanceId::new("lab1-work-0").unwrap(),
        kind: ModuleType::new("work").unwrap(),
        partitions: 1,
        max_bytes: spool::Config::MAX_BYTES,
    };
    let left = spool::Spool::open(config.clone()).unwrap();
    let round = Round { target: Some(TargetId::new("t1").unwrap()), due_us: 42, ..Round::default() };
    left.append(&[round], &[]).unwrap();
    left.set_progress(40);
    left.close().unwrap();
    drop(left);

    let bench = Bench::start_on(state, &[("work", "standing = true\n")]).await;
    let js = async_nats::jetstream::new(bench.client().clone());
    js.create_stream(bench::stream_config("MMN_INGEST", subject::INGEST_ALL)).await.unwrap();
    let mut rows = bench.client().subscribe(subject::INGEST_ALL).await.unwrap();
    bench.ready("work", 1).await;
    bench.tell(AgentOp::Disable { kind: config.kind.clone() }).await.unwrap();
    let message = tokio::time::timeout(SOON, rows.next()).await.unwrap().unwrap();
    let batch = Batch::open(&message.payload).unwrap();
    let committed = Watermark { v: 1, epoch: batch.epoch, committed: batch.last_seq };
    let payload = encode(&committed, Encoding::Json).unwrap();
    bench.client().publish(subject::commit(&batch.agent), payload).await.unwrap();
    // The next process of the instance finds what tells the rounds that are missing.
    let found = wait_until("the agent to let go of it", SOON, || {
        let spool = spool::Spool::open(config.clone()).ok()?;
        spool.is_empty().then(|| spool.recovered().clone())
    })
    .unwrap();
    assert_eq!(found.progress_us, Some(40));
    assert!(found.stopped_us.is_some(), "it had ended in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn scoped_credentials_are_enough_for_everything() {
    let mut bench = Bench::start_secured(&[("work", "instances = 2\nstanding = true\n")]).await;
    bench.ready("work", 2).await;
    let stream = bench.queue("work").await;
    let job = JobId::generate();
    bench.submit("work", &job, json!({"mode": "exit_once"})).await;
    let mut seen = Vec::new();
    while !seen.contains(&(AttemptStatus::Succeeded, 2)) || !seen.contains(&(AttemptStatus::Crashed, 1)) {
        let (_, attempt) = bench.attempt().await;
        seen.push((attempt.status, attempt.attempt));
    }
    bench.decide(&job, JobState::Succeeded).await;
    bench.empty(&stream).await;
    let (_, reply) = bench
        .simple::<SimpleReply>("out", &json!({"target": "x", "module": "work", "request_id": "r"}))
        .await;
    assert_eq!(reply.request_id, "r");
    bench.assign("work", 1, &["a", "b"]).await;
    bench.tell(AgentOp::Assignments { generation: 1 }).await.unwrap();
    bench.standing(2, SOON).await;
    // What is not signed by the instance itself is not believed.
    let forged = imn_contract::latest::Announce {
        v: 1,
        event: imn_contract::latest::AnnounceEvent::Draining,
        instance: InstanceId::new("lab1-work-0").unwrap(),
        agent: AgentId::new("lab1").unwrap(),
        kind: ModuleType::new("work").unwrap(),
        version: "0".into(),
        accepts: Vec::new(),
        slots: 99,
        params_schema: serde_json::Value::Null,
        pid: None,
    };
    bench.client().publish(subject::ANNOUNCE, encode(&forged, Encoding::Json).unwrap()).await.unwrap();
    bench.client().flush().await.unwrap();
    let modules = bench.ready("work", 2).await;
    assert!(modules.iter().all(|module| module.slots == 2), "{modules:?}");
    bench.agent().terminate();
    assert!(bench.agent().wait_deadline(Duration::from_secs(12)).unwrap().success());
    let logs = bench.logs();
    assert!(!logs.to_lowercase().contains("violation"), "{logs}");
    assert!(logs.contains("not signed by its instance"), "{logs}");
}

//! What every backend of the catalog does, and nothing that only one of them does.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and shows what it measured"
)]

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Instant,
};

use imn_contract::{
    AgentId, InstanceId, JobId, ModuleType, TargetId,
    latest::{JobResult, JobState, ResultStatus},
};
use imn_domain::{Agent, AgentSelection, MonitoringState, Probe, Target, TargetKind, Tier};
use imn_store::{
    ApiKey, AssignmentRow, AuditEntry, Catalog, CatalogError, Credential, EnrollmentToken, NewJob,
    SqlCatalog, StateChange, TaskTransition,
};
use imn_testkit::Postgres;
use serde_json::{Map, json};

/// One server for all tests; the kit stops it when the process ends.
static POSTGRES: LazyLock<Postgres> = LazyLock::new(|| Postgres::start().unwrap());

struct Backend {
    catalog: Arc<SqlCatalog>,
    _directory: Option<tempfile::TempDir>,
}

async fn sqlite() -> Backend {
    let directory = tempfile::tempdir().unwrap();
    let catalog = SqlCatalog::sqlite(&directory.path().join("catalog.sqlite")).await.unwrap();
    Backend { catalog: Arc::new(catalog), _directory: Some(directory) }
}

async fn postgres() -> Backend {
    let url = tokio::task::spawn_blocking(|| POSTGRES.fresh_database().unwrap()).await.unwrap();
    Backend { catalog: Arc::new(SqlCatalog::postgres(&url).await.unwrap()), _directory: None }
}

/// Makes a test of each case for each backend.
macro_rules! conformance {
    ($($case:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let backend = super::sqlite().await;
                super::$case(Arc::clone(&backend.catalog)).await;
            })+
            use std::sync::Arc;
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let backend = super::postgres().await;
                super::$case(Arc::clone(&backend.catalog)).await;
            })+
            use std::sync::Arc;
        }
    };
}

conformance!(
    targets_are_created_together_or_not_at_all,
    targets_are_found_paged_and_changed_by_revision,
    a_hundred_thousand_targets,
    states_are_written_with_their_history,
    tiers_in_use_stay,
    agents_keep_what_only_the_control_plane_knows,
    assignments_change_together,
    jobs_are_submitted_once,
    concurrent_submissions_each_get_their_answer,
    nothing_follows_a_terminal_state,
    reconcilers_find_what_is_left_to_do,
    keys_answers_audit_and_settings,
    agents_come_in_once_per_token_and_what_is_revoked_stays_so,
);

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn tier(name: &str) -> Tier {
    Tier {
        name: name.into(),
        display_name: None,
        probes: vec![Probe { kind: ModuleType::new("icmp").unwrap(), params: Map::new() }],
        probe_interval_ms: 30_000,
        probe_timeout_ms: 1_000,
        probe_retries: 0,
        count: 1,
        agent_selection: AgentSelection::default(),
        default_expected_outcome: None,
        created_us: 1,
        updated_us: 1,
        revision: 1,
    }
}

fn target(number: usize) -> Target {
    Target {
        id: TargetId::new(format!("t{number:06}")).unwrap(),
        kind: TargetKind::Ip,
        address: format!("127.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255),
        display_name: Some(format!("target \"{number}\"; DROP TABLE target")),
        tier: "standard".into(),
        tags: BTreeMap::from([("pop".into(), "jfk".into())]),
        params: json!({"size": 64}).as_object().unwrap().clone(),
        expected_outcome: None,
        monitoring_state: MonitoringState::Unknown,
        state_reason: None,
        state_since_us: 5,
        created_us: 5,
        updated_us: 5,
        revision: 1,
    }
}

fn agent_id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn job(id: &str, created_us: i64) -> NewJob {
    NewJob {
        id: JobId::new(id).unwrap(),
        kind: ModuleType::new("icmp").unwrap(),
        target: "example.net".into(),
        params: json!({"count": 4}).as_object().unwrap().clone(),
        body_hash: format!("hash of {id}"),
        created_us,
        deadline_us: created_us + 10,
        max_attempts: 3,
        traceparent: Some(TRACEPARENT.to_owned()),
        tasks: vec![(agent_id("lon1"), "secret-1".into()), (agent_id("nyc1"), "secret-2".into())],
    }
}

fn to(job: &NewJob, agent: &str, state: JobState) -> TaskTransition {
    TaskTransition {
        job: job.id.clone(),
        agent: agent_id(agent),
        to: state,
        attempts: 1,
        instance: Some(InstanceId::new("lon1-icmp-0").unwrap()),
        result: state.is_terminal().then(|| JobResult {
            v: 1,
            job_id: job.id.clone(),
            agent: agent_id(agent),
            instance: None,
            kind: job.kind.clone(),
            target: job.target.clone(),
            attempt: 1,
            status: ResultStatus::Succeeded,
            started: None,
            finished: None,
            outcome: json!({"sent": 4}),
            error: None,
        }),
        now_us: 77,
    }
}

async fn targets_are_created_together_or_not_at_all(catalog: Arc<SqlCatalog>) {
    let none = catalog.create_targets(&[target(1)]).await.unwrap_err();
    assert!(matches!(&none, CatalogError::Reference { key, .. } if key == "127.0.0.1"), "{none}");
    assert!(none.to_string().contains("there is no tier \"standard\""), "{none}");

    catalog.create_tier(&tier("standard")).await.unwrap();
    catalog.create_targets(&[target(1)]).await.unwrap();
    let mut again = target(3);
    again.address = "127.0.0.1".into();
    let taken = catalog.create_targets(&[target(2), again, target(4)]).await.unwrap_err();
    assert!(matches!(&taken, CatalogError::Exists { key, .. } if key == "127.0.0.1"), "{taken}");
    let mut same_id = target(1);
    same_id.address = "127.9.9.9".into();
    let taken = catalog.create_targets(&[same_id]).await.unwrap_err();
    assert!(matches!(&taken, CatalogError::Exists { key, .. } if key == "127.9.9.9"), "{taken}");
    let mut twin = target(6);
    twin.id = TargetId::new("twin").unwrap();
    let twice = catalog.create_targets(&[target(6), twin]).await.unwrap_err();
    assert!(matches!(&twice, CatalogError::Exists { key, .. } if key == "127.0.0.6"), "{twice}");
    assert_eq!(catalog.target_count().await.unwrap(), 1);
}

async fn targets_are_found_paged_and_changed_by_revision(catalog: Arc<SqlCatalog>) {
    catalog.create_tier(&tier("standard")).await.unwrap();
    let all: Vec<Target> = (0..10).map(target).collect();
    catalog.create_targets(&all).await.unwrap();
    assert_eq!(catalog.target("t000003").await.unwrap().as_ref(), Some(&all[3]));
    assert_eq!(catalog.target("127.0.0.3").await.unwrap().as_ref(), Some(&all[3]));
    assert_eq!(catalog.target("127.0.0.99").await.unwrap(), None);

    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = catalog.targets(after.as_deref(), 4).await.unwrap();
        assert!(page.items.len() <= 4);
        seen.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, all);

    let mut changed = all[3].clone();
    changed.display_name = None;
    changed.revision = 2;
    catalog.update_target(&changed).await.unwrap();
    assert_eq!(catalog.target("t000003").await.unwrap().unwrap(), changed);
    let stale = catalog.update_target(&changed).await.unwrap_err();
    assert!(matches!(stale, CatalogError::Stale { current: 2, given: 1, .. }), "{stale}");
    changed.address = "127.0.0.4".into();
    changed.revision = 3;
    let taken = catalog.update_target(&changed).await.unwrap_err();
    assert!(matches!(taken, CatalogError::Exists { .. }), "{taken}");
    changed.address = "127.0.0.3".into();
    changed.tier = "none".into();
    let missing = catalog.update_target(&changed).await.unwrap_err();
    assert!(matches!(missing, CatalogError::Reference { .. }), "{missing}");

    let stale = catalog.delete_target(&changed.id, Some(1)).await.unwrap_err();
    assert!(matches!(stale, CatalogError::Stale { current: 2, given: 1, .. }), "{stale}");
    catalog.delete_target(&changed.id, Some(2)).await.unwrap();
    let gone = catalog.delete_target(&changed.id, None).await.unwrap_err();
    assert!(matches!(gone, CatalogError::NotFound { .. }), "{gone}");
    assert_eq!(catalog.target_count().await.unwrap(), 9);
}

async fn a_hundred_thousand_targets(catalog: Arc<SqlCatalog>) {
    catalog.create_tier(&tier("standard")).await.unwrap();
    let all: Vec<Target> = (0..100_000).map(target).collect();
    let begin = Instant::now();
    catalog.create_targets(&all).await.unwrap();
    let created = begin.elapsed();
    let begin = Instant::now();
    let page = catalog.targets(None, 100_000).await.unwrap();
    let listed = begin.elapsed();
    assert_eq!(page.items.len(), all.len());
    assert_eq!(page.next, None);
    println!("100,000 targets: created in {created:?}, listed in {listed:?}");
    assert!(created.as_secs() < 30 && listed.as_secs() < 15, "created in {created:?}, listed in {listed:?}");
}

async fn states_are_written_with_their_history(catalog: Arc<SqlCatalog>) {
    use MonitoringState::{Active, Down, Unknown};
    catalog.create_tier(&tier("standard")).await.unwrap();
    catalog.create_targets(&[target(1), target(2)]).await.unwrap();
    let change = |number: usize, time_us, from, to| StateChange {
        target: target(number).id,
        time_us,
        from,
        to,
        reason: format!("at {time_us}"),
    };
    let first = change(1, 10, Unknown, Active);
    let second = change(1, 20, Active, Down);
    let other = change(2, 20, Unknown, Active);
    let gone = change(3, 20, Unknown, Active);
    catalog.set_states(&[first.clone(), second.clone(), other, gone.clone()]).await.unwrap();
    let stored = catalog.target("t000001").await.unwrap().unwrap();
    assert_eq!(
        (stored.monitoring_state, stored.state_reason.as_deref(), stored.state_since_us, stored.revision),
        (Down, Some("at 20"), 20, 1)
    );
    assert_eq!(catalog.state_history(&stored.id, 10).await.unwrap(), [second.clone(), first]);
    assert_eq!(catalog.state_history(&stored.id, 1).await.unwrap(), [second]);
    assert!(catalog.state_history(&gone.target, 10).await.unwrap().is_empty());
    catalog.delete_target(&stored.id, None).await.unwrap();
    assert!(catalog.state_history(&stored.id, 10).await.unwrap().is_empty());
}

async fn tiers_in_use_stay(catalog: Arc<SqlCatalog>) {
    catalog.create_tier(&tier("standard")).await.unwrap();
    catalog.create_tier(&tier("critical")).await.unwrap();
    let exists = catalog.create_tier(&tier("critical")).await.unwrap_err();
    assert!(matches!(exists, CatalogError::Exists { .. }), "{exists}");
    assert_eq!(catalog.tiers().await.unwrap(), [tier("critical"), tier("standard")]);
    assert_eq!(catalog.tier("low").await.unwrap(), None);

    let mut changed = tier("standard");
    changed.count = 5;
    changed.revision = 2;
    catalog.update_tier(&changed).await.unwrap();
    assert_eq!(catalog.tier("standard").await.unwrap().unwrap(), changed);
    let stale = catalog.update_tier(&changed).await.unwrap_err();
    assert!(matches!(stale, CatalogError::Stale { current: 2, given: 1, .. }), "{stale}");

    catalog.create_targets(&[target(1)]).await.unwrap();
    let used = catalog.delete_tier("standard", None).await.unwrap_err();
    assert!(matches!(used, CatalogError::Reference { .. }), "{used}");
    catalog.delete_tier("critical", Some(1)).await.unwrap();
    let gone = catalog.delete_tier("critical", None).await.unwrap_err();
    assert!(matches!(gone, CatalogError::NotFound { .. }), "{gone}");
}

async fn agents_keep_what_only_the_control_plane_knows(catalog: Arc<SqlCatalog>) {
    let known = Agent {
        id: agent_id("lon1"),
        name: Some("London".into()),
        region: Some("eu".into()),
        location: None,
        provider: None,
        tags: BTreeMap::new(),
        public_ip: Some("192.0.2.1".into()),
        max_targets: Some(7),
        first_seen_us: 10,
        last_heartbeat_us: 10,
        heartbeat: None,
    };
    let other = Agent { id: agent_id("ams1"), ..known.clone() };
    catalog.upsert_agents(&[known.clone(), other.clone()]).await.unwrap();
    let later = Agent {
        name: None,
        public_ip: None,
        max_targets: None,
        first_seen_us: 99,
        last_heartbeat_us: 99,
        ..known.clone()
    };
    catalog.upsert_agents(&[known.clone(), later]).await.unwrap();
    let expected = Agent { name: None, last_heartbeat_us: 99, ..known };
    assert_eq!(catalog.agents().await.unwrap(), [other, expected]);
    catalog.delete_agent(&agent_id("lon1")).await.unwrap();
    let gone = catalog.delete_agent(&agent_id("lon1")).await.unwrap_err();
    assert!(matches!(gone, CatalogError::NotFound { .. }), "{gone}");
    assert_eq!(catalog.agents().await.unwrap().len(), 1);
}

async fn assignments_change_together(catalog: Arc<SqlCatalog>) {
    catalog.create_tier(&tier("standard")).await.unwrap();
    catalog.create_targets(&(0..3).map(target).collect::<Vec<_>>()).await.unwrap();
    let row = |agent: &str, number: usize, since_us| AssignmentRow {
        agent: agent_id(agent),
        target: target(number).id,
        kind: ModuleType::new("icmp").unwrap(),
        since_us,
    };
    let lon1 = agent_id("lon1");
    let all = [row("lon1", 1, 1), row("ams1", 0, 1), row("lon1", 0, 1)];
    catalog.change_assignments(&all, &[], &[(lon1.clone(), 1)]).await.unwrap();
    assert_eq!(
        catalog.assignments().await.unwrap(),
        [row("ams1", 0, 1), row("lon1", 0, 1), row("lon1", 1, 1)]
    );
    catalog
        .change_assignments(&[row("ams1", 1, 2)], &[row("lon1", 1, 1)], &[(lon1.clone(), 2)])
        .await
        .unwrap();
    assert_eq!(
        catalog.assignments().await.unwrap(),
        [row("ams1", 0, 1), row("ams1", 1, 2), row("lon1", 0, 1)]
    );
    // One of a target that is gone is left out, and the rest is done.
    catalog.change_assignments(&[row("ams1", 9, 2), row("lon1", 0, 5)], &[], &[]).await.unwrap();
    assert_eq!(
        catalog.assignments().await.unwrap(),
        [row("ams1", 0, 1), row("ams1", 1, 2), row("lon1", 0, 5)]
    );
    catalog.delete_target(&target(0).id, None).await.unwrap();
    assert_eq!(catalog.assignments().await.unwrap(), [row("ams1", 1, 2)]);
    assert_eq!(catalog.generations().await.unwrap(), [(lon1, 2)]);
}

async fn jobs_are_submitted_once(catalog: Arc<SqlCatalog>) {
    let first = job("01A", 100);
    assert!(catalog.create_job(&first).await.unwrap());
    assert!(!catalog.create_job(&first).await.unwrap());
    let mut other = first.clone();
    other.body_hash = "another".into();
    let conflict = catalog.create_job(&other).await.unwrap_err();
    assert!(matches!(conflict, CatalogError::Exists { .. }), "{conflict}");

    let stored = catalog.job(&first.id).await.unwrap().unwrap();
    assert_eq!((&stored.params, stored.deadline_us, stored.max_attempts), (&first.params, 110, 3));
    assert_eq!(stored.traceparent.as_deref(), Some(TRACEPARENT));
    assert_eq!(stored.tasks.len(), 2);
    assert_eq!(stored.tasks[0].agent, agent_id("lon1"));
    assert_eq!((stored.tasks[0].state, stored.tasks[0].token.as_str()), (JobState::Queued, "secret-1"));
    assert_eq!(catalog.job(&JobId::new("none").unwrap()).await.unwrap(), None);

    for id in ["01B", "01C", "01D"] {
        catalog.create_job(&job(id, 200)).await.unwrap();
    }
    let page = catalog.jobs(None, 3).await.unwrap();
    let ids = |jobs: &[imn_store::Job]| jobs.iter().map(|job| job.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&page.items), ["01D", "01C", "01B"]);
    assert!(page.items.iter().all(|job| job.tasks.len() == 2));
    let rest = catalog.jobs(page.next.as_deref(), 3).await.unwrap();
    assert_eq!(ids(&rest.items), ["01A"]);
    assert_eq!(rest.next, None);
}

async fn concurrent_submissions_each_get_their_answer(catalog: Arc<SqlCatalog>) {
    let begin = Instant::now();
    let submissions = (0..500).map(|number| {
        let catalog = Arc::clone(&catalog);
        async move {
            // Every id is submitted twice, by the same body; every tenth a third time by another one.
            let fresh = job(&format!("{:04}", number / 2), 1);
            let mut other = fresh.clone();
            other.body_hash = "another".into();
            let added = catalog.create_job(&fresh).await.unwrap();
            if number % 10 == 0 {
                let conflict = catalog.create_job(&other).await;
                assert!(matches!(conflict, Err(CatalogError::Exists { .. })), "{conflict:?}");
            }
            // A caller that goes away must not take the writes of others along.
            drop(tokio::time::timeout(std::time::Duration::ZERO, catalog.create_job(&other)).await);
            added
        }
    });
    let added = futures::future::join_all(submissions).await;
    println!("500 concurrent submissions in {:?}", begin.elapsed());
    assert_eq!(added.into_iter().filter(|added| *added).count(), 250);
    assert_eq!(catalog.jobs(None, 1000).await.unwrap().items.len(), 250);
}

async fn nothing_follows_a_terminal_state(catalog: Arc<SqlCatalog>) {
    let first = job("01A", 100);
    catalog.create_job(&first).await.unwrap();
    let done = to(&first, "lon1", JobState::Succeeded);
    let mut late = to(&first, "lon1", JobState::TimedOut);
    late.result = None;
    let mut early = to(&first, "nyc1", JobState::Running);
    early.attempts = 3;
    let mut lower = to(&first, "nyc1", JobState::RetryWait);
    lower.attempts = 1;
    lower.instance = None;
    let unknown = to(&first, "nobody", JobState::Running);
    let applied = catalog
        .transition(&[to(&first, "lon1", JobState::Running), done.clone(), late, early, lower, unknown])
        .await
        .unwrap();
    assert_eq!(applied, [true, true, false, true, true, false]);
    let stored = catalog.job(&first.id).await.unwrap().unwrap();
    assert_eq!(stored.tasks[0].state, JobState::Succeeded);
    assert_eq!(stored.tasks[0].result, done.result);
    assert_eq!(stored.tasks[0].updated_us, 77);
    assert_eq!((stored.tasks[1].state, stored.tasks[1].attempts), (JobState::RetryWait, 3));
    assert_eq!(stored.tasks[1].instance, Some(InstanceId::new("lon1-icmp-0").unwrap()));
    assert_eq!(catalog.transition(&[]).await.unwrap(), Vec::<bool>::new());

    // Whoever is first decides, also among concurrent deciders.
    let deciders = (0..50).map(|number| {
        let catalog = Arc::clone(&catalog);
        let state = if number % 2 == 0 { JobState::Cancelled } else { JobState::TimedOut };
        let change = to(&first, "nyc1", state);
        async move { catalog.transition(&[change]).await.unwrap()[0] }
    });
    let decided = futures::future::join_all(deciders).await;
    assert_eq!(decided.into_iter().filter(|took| *took).count(), 1);
}

async fn reconcilers_find_what_is_left_to_do(catalog: Arc<SqlCatalog>) {
    let first = job("01A", 100);
    let second = job("01B", 200);
    catalog.create_job(&first).await.unwrap();
    catalog.create_job(&second).await.unwrap();
    let keys = |rows: Vec<imn_store::TaskRow>| {
        rows.into_iter().map(|task| format!("{}.{}", task.job, task.agent)).collect::<Vec<_>>()
    };
    assert_eq!(
        keys(catalog.tasks_unqueued(10).await.unwrap()),
        ["01A.lon1", "01A.nyc1", "01B.lon1", "01B.nyc1"]
    );
    catalog
        .mark_queued(&[(first.id.clone(), agent_id("lon1")), (second.id.clone(), agent_id("nyc1"))])
        .await
        .unwrap();
    assert_eq!(keys(catalog.tasks_unqueued(10).await.unwrap()), ["01A.nyc1", "01B.lon1"]);
    assert_eq!(keys(catalog.tasks_unqueued(1).await.unwrap()), ["01A.nyc1"]);
    assert_eq!(keys(catalog.tasks_overdue(150, 10).await.unwrap()), ["01A.lon1", "01A.nyc1"]);

    let all = [to(&first, "lon1", JobState::Succeeded), to(&first, "nyc1", JobState::TimedOut)];
    catalog.transition(&all).await.unwrap();
    assert!(catalog.tasks_overdue(150, 10).await.unwrap().is_empty());
    assert_eq!(keys(catalog.tasks_unqueued(10).await.unwrap()), ["01B.lon1"]);
    assert_eq!(keys(catalog.tasks_unpublished(10).await.unwrap()), ["01A.lon1", "01A.nyc1"]);
    catalog.mark_published(&[(first.id.clone(), agent_id("lon1"))]).await.unwrap();
    assert_eq!(keys(catalog.tasks_unpublished(10).await.unwrap()), ["01A.nyc1"]);

    assert_eq!(catalog.prune_jobs(100).await.unwrap(), 0);
    assert_eq!(catalog.prune_jobs(1_000).await.unwrap(), 1);
    assert_eq!(catalog.job(&first.id).await.unwrap(), None);
    assert!(catalog.tasks_unpublished(10).await.unwrap().is_empty());
}

async fn keys_answers_audit_and_settings(catalog: Arc<SqlCatalog>) {
    let key = ApiKey {
        id: "k1".into(),
        secret_hash: "00ff".into(),
        name: "ci".into(),
        role: "operator".into(),
        created_us: 1,
        expires_us: None,
    };
    catalog.create_api_key(&key).await.unwrap();
    let exists = catalog.create_api_key(&key).await.unwrap_err();
    assert!(matches!(exists, CatalogError::Exists { .. }), "{exists}");
    assert_eq!(catalog.api_key("k1").await.unwrap().as_ref(), Some(&key));
    assert_eq!(catalog.api_key("").await.unwrap(), None);
    assert_eq!(catalog.api_keys().await.unwrap(), [key]);
    catalog.delete_api_key("k1").await.unwrap();
    let gone = catalog.delete_api_key("k1").await.unwrap_err();
    assert!(matches!(gone, CatalogError::NotFound { .. }), "{gone}");

    let day = 86_400_000_000;
    assert_eq!(catalog.idempotent("a", "h1", None, 1).await.unwrap(), None);
    assert_eq!(catalog.idempotent("a", "h1", Some("answer"), 1).await.unwrap(), None);
    let before = Some(("h1".to_owned(), "answer".to_owned()));
    assert_eq!(catalog.idempotent("a", "h2", Some("other"), day - 1).await.unwrap(), before);
    assert_eq!(catalog.idempotent("a", "h1", None, day).await.unwrap(), before);
    assert_eq!(catalog.idempotent("a", "h2", Some("other"), 2 * day).await.unwrap(), None);

    for number in 0..3 {
        let entry = AuditEntry {
            time_us: number,
            actor: "k1".into(),
            action: "target.create".into(),
            subject: number.to_string(),
            detail: "{}".into(),
        };
        catalog.audit(&entry).await.unwrap();
    }
    let log = catalog.audit_log(2).await.unwrap();
    assert_eq!(log.iter().map(|entry| entry.subject.as_str()).collect::<Vec<_>>(), ["2", "1"]);

    assert_eq!(catalog.setting("server").await.unwrap(), None);
    catalog.set_setting("server", "one").await.unwrap();
    catalog.set_setting("server", "two").await.unwrap();
    assert_eq!(catalog.setting("server").await.unwrap().as_deref(), Some("two"));
}

async fn agents_come_in_once_per_token_and_what_is_revoked_stays_so(catalog: Arc<SqlCatalog>) {
    let token = |id: &str, created_us: i64| EnrollmentToken {
        id: id.into(),
        secret_hash: "00ff".into(),
        agent: Some(agent_id("lon1")),
        created_us,
        created_by: "key:k1".into(),
        expires_us: 100,
        used_us: None,
        used_by: None,
    };
    for (id, created_us) in [("t1", 1), ("t2", 2)] {
        catalog.create_enrollment_token(&token(id, created_us)).await.unwrap();
    }
    let exists = catalog.create_enrollment_token(&token("t1", 3)).await.unwrap_err();
    assert!(matches!(exists, CatalogError::Exists { .. }), "{exists}");
    assert_eq!(catalog.enrollment_tokens().await.unwrap(), [token("t2", 2), token("t1", 1)]);
    assert_eq!(catalog.enrollment_token("").await.unwrap(), None);

    let key = |public_key: &str, agent: &str, instance: Option<&str>| Credential {
        public_key: public_key.into(),
        agent: agent_id(agent),
        instance: instance.map(|instance| instance.parse().unwrap()),
        issued_us: 10,
        expires_us: Some(20),
        revoked_us: None,
    };
    let (own, rival) = (key("UA", "lon1", None), key("UB", "lon1", None));
    let (first, second) = tokio::join!(catalog.enroll("t1", &own), catalog.enroll("t1", &rival));
    assert_ne!(first.unwrap(), second.unwrap(), "a token is spent once");
    assert!(!catalog.enroll("no such token", &own).await.unwrap());
    let spent = catalog.enrollment_token("t1").await.unwrap().unwrap();
    assert_eq!((spent.used_us, spent.used_by), (Some(10), Some(agent_id("lon1"))));
    catalog.delete_enrollment_token("t1").await.unwrap();
    let gone = catalog.delete_enrollment_token("t1").await.unwrap_err();
    assert!(matches!(gone, CatalogError::NotFound { .. }), "{gone}");

    let module = key("UM", "lon1", Some("lon1-icmp-0"));
    let other = key("UO", "lon2", None);
    let renewed = Credential { issued_us: 15, expires_us: None, ..module.clone() };
    catalog.note_credentials(&[own.clone(), module, other.clone()]).await.unwrap();
    catalog.note_credentials(std::slice::from_ref(&renewed)).await.unwrap();
    assert_eq!(catalog.credential("UM").await.unwrap().as_ref(), Some(&renewed));
    assert_eq!(catalog.credential("nobody").await.unwrap(), None);
    let revoked = catalog.revoke_credentials(&agent_id("lon1"), 30).await.unwrap();
    assert!(revoked.len() >= 2 && revoked.iter().all(|key| key.revoked_us == Some(30)), "{revoked:?}");
    // Neither another revocation nor a renewal that was on its way changes that.
    catalog.note_credentials(&[renewed]).await.unwrap();
    let again = catalog.revoke_credentials(&agent_id("lon1"), 40).await.unwrap();
    assert_eq!(again, revoked);
    assert_eq!(catalog.credentials(Some(&agent_id("lon2"))).await.unwrap(), [other]);
    assert_eq!(catalog.credentials(None).await.unwrap().len(), revoked.len() + 1);
}

#[tokio::test]
async fn a_catalog_of_a_newer_program_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.sqlite");
    let catalog = SqlCatalog::sqlite(&path).await.unwrap();
    catalog.set_setting("server", "one").await.unwrap();
    catalog.close().await;
    let catalog = SqlCatalog::sqlite(&path).await.unwrap();
    assert_eq!(catalog.setting("server").await.unwrap().as_deref(), Some("one"));
    catalog.close().await;

    let raise = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); \
                 c.execute('UPDATE schema_version SET version=99'); c.commit()";
    let raised = std::process::Command::new("python3").args(["-c", raise]).arg(&path).status();
    if !raised.is_ok_and(|status| status.success()) {
        imn_testkit::skip("a_catalog_of_a_newer_program_is_refused", "needs python3");
        return;
    }
    let refused = SqlCatalog::sqlite(&path).await.unwrap_err().to_string();
    assert!(refused.contains("schema version 99") && refused.contains("newer"), "{refused}");

    let nowhere = SqlCatalog::sqlite(std::path::Path::new("/nowhere/catalog.sqlite")).await.unwrap_err();
    assert!(nowhere.to_string().contains("/nowhere/catalog.sqlite"), "{nowhere}");
}

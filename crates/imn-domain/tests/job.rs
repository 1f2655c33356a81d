//! States of jobs, what reports make of tasks, and the choice of agents, from `cases/select.toml`.

use std::{collections::BTreeMap, fs};

use imn_contract::{
    AgentId, ErrorCode, Fault, ModuleType,
    latest::{Attempt, AttemptStatus, JobState, ResultStatus, Selector},
};
use imn_domain::{Candidate, job_state, may_follow, select, verdict};
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    agent: Vec<Row>,
    case: Vec<Case>,
}

#[derive(Deserialize)]
struct Row {
    id: AgentId,
    #[serde(default)]
    name: Option<String>,
    region: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    online: bool,
    slots: u32,
    load: f64,
}

#[derive(Deserialize)]
struct Case {
    what: String,
    #[serde(default)]
    from: Option<Selector>,
    #[serde(default)]
    wait: bool,
    #[serde(default)]
    chosen: Vec<String>,
    #[serde(default)]
    refused: Option<String>,
}

fn candidate(row: &Row) -> Candidate<'_> {
    Candidate {
        id: &row.id,
        name: row.name.as_deref(),
        region: Some(&row.region),
        tags: &row.tags,
        online: row.online,
        slots: row.slots,
        load: row.load,
    }
}

#[test]
fn agents_are_chosen() {
    let path = format!("{}/tests/cases/select.toml", env!("CARGO_MANIFEST_DIR"));
    let cases: Cases = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let candidates: Vec<Candidate<'_>> = cases.agent.iter().map(candidate).collect();
    let kind = ModuleType::new("icmp").unwrap();
    for case in &cases.case {
        match select(&candidates, case.from.as_ref(), &kind, case.wait) {
            Ok(chosen) => {
                let chosen: Vec<&str> = chosen.into_iter().map(AgentId::as_str).collect();
                assert_eq!(
                    (chosen, &None),
                    (case.chosen.iter().map(String::as_str).collect(), &case.refused),
                    "{}",
                    case.what
                );
            }
            Err(fault) => assert_eq!(Some(&fault.name), case.refused.as_ref(), "{}: {fault}", case.what),
        }
    }
}

#[test]
fn a_job_is_as_far_as_its_tasks() {
    use JobState::{Cancelled, Dead, Failed, Queued, Running, Succeeded};
    assert_eq!(job_state([Succeeded, Running, Dead]), Running);
    assert_eq!(job_state([Succeeded, Queued]), Queued);
    assert_eq!(job_state([Succeeded, Succeeded]), Succeeded);
    assert_eq!(job_state([Succeeded, Cancelled, Failed]), Failed);
    assert!(may_follow(Queued, Succeeded) && may_follow(JobState::RetryWait, Running));
    assert!(!may_follow(Dead, Succeeded) && !may_follow(Running, JobState::Submitted));
}

#[test]
fn crashes_are_tried_again_until_none_is_left() {
    let attempt = |number, status| Attempt {
        v: 1,
        job_id: imn_contract::JobId::new("j").unwrap(),
        agent: AgentId::new("a").unwrap(),
        instance: imn_contract::InstanceId::new("i").unwrap(),
        kind: ModuleType::new("icmp").unwrap(),
        target: "t".to_owned(),
        attempt: number,
        attempt_token: String::new(),
        status,
        started: None,
        finished: None,
        outcome: serde_json::Value::Null,
        error: None,
    };
    let state = |number, status| verdict(attempt(number, status), 2).state;
    assert_eq!(state(1, AttemptStatus::Running), JobState::Running);
    assert_eq!(state(1, AttemptStatus::Crashed), JobState::RetryWait);
    assert_eq!(state(2, AttemptStatus::Crashed), JobState::Dead);
    let done = verdict(attempt(1, AttemptStatus::Succeeded), 2);
    assert_eq!(done.result.unwrap().status, ResultStatus::Succeeded);
    // The module noticed the deadline before the server did, or refused what had no time left.
    for status in [AttemptStatus::Failed, AttemptStatus::Rejected] {
        let error = Some(Fault::new(ErrorCode::Deadline, "not done within 1 ms"));
        let late = verdict(Attempt { error, ..attempt(1, status) }, 2);
        assert_eq!((late.state, late.result.unwrap().status), (JobState::TimedOut, ResultStatus::TimedOut));
    }
}

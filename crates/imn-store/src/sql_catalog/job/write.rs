//! Writes of many jobs in few statements, which share a transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use imn_contract::{AgentId, JobId, latest::JobState};
use sqlx::AssertSqlSafe;

use super::super::{Columns, to_json, to_word};
use crate::{
    catalog::CatalogError,
    model::{NewJob, TaskTransition},
    sql::{Arg, Database, Many, Row, args, placeholders},
};

/// What a creation is answered: whether the job is new, or that its id is taken by another. A conflict changes nothing.
pub(super) type Created = Result<bool, CatalogError>;

/// Adds jobs and their tasks; of several with one id, the first. The first statement returns the ids that are new.
pub(super) fn create(jobs: &[&NewJob]) -> Result<[Many; 2], CatalogError> {
    let state = to_word(&JobState::Queued)?;
    let mut first = HashSet::new();
    let (mut rows, mut tasks) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
    for job in jobs.iter().filter(|job| first.insert(job.id.as_str())) {
        rows.push(args![
            job.id.as_str(),
            job.kind.as_str(),
            &job.target,
            to_json(&job.params)?,
            &job.body_hash,
            job.created_us,
            job.deadline_us,
            job.max_attempts,
            job.traceparent.clone(),
        ]);
        let unique: BTreeMap<_, _> = job.tasks.iter().map(|(agent, token)| (agent, token)).collect();
        tasks.extend(unique.iter().map(|(agent, token)| {
            let id = job.id.as_str();
            args![id, agent.as_str(), &state, *token, job.created_us, &job.body_hash]
        }));
    }
    let jobs = Many {
        before: "INSERT INTO job (id, type, target, params, body_hash, created_us, deadline_us, max_attempts, \
                 traceparent)",
        rows,
        after: "ON CONFLICT DO NOTHING RETURNING id",
    };
    // One that was there before, by its time another's, has its tasks.
    let tasks = Many {
        before: "WITH v (v_job, v_agent, v_state, v_token, v_created_us, v_body_hash) AS (",
        rows: tasks,
        after: ") INSERT INTO task (job, agent, state, terminal, attempts, token, queued, published, updated_us) \
                SELECT v_job, v_agent, v_state, 0, 0, v_token, 0, 0, v_created_us FROM v JOIN job \
                ON id = v_job AND created_us = v_created_us AND body_hash = v_body_hash WHERE true \
                ON CONFLICT DO NOTHING",
    };
    Ok([jobs, tasks])
}

/// What each creation is answered, given the rows that told which are new.
pub(super) async fn created(
    database: &Database,
    jobs: &[&NewJob],
    added: &[Row],
) -> Result<Vec<Created>, CatalogError> {
    let mut added: HashSet<String> =
        added.iter().map(|row| Columns::of(row).text()).collect::<Result<_, _>>()?;
    // Those that were there before, by the hash of their bodies.
    let known: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).filter(|id| !added.contains(*id)).collect();
    // What is new is so whether or not the others can be read.
    let (mut hashes, unread) = match body_hashes(database, &known).await {
        Ok(hashes) => (hashes, None),
        Err(error) => (HashMap::new(), Some(error)),
    };
    let answer = |job: &&NewJob| {
        // The first of an id that was added; what comes after it finds it there.
        if added.remove(job.id.as_str()) {
            hashes.insert(job.id.to_string(), job.body_hash.clone());
            Ok(true)
        } else if hashes.get(job.id.as_str()) == Some(&job.body_hash) {
            Ok(false)
        } else {
            let exists = || CatalogError::Exists { what: "job", key: job.id.to_string() };
            Err(unread.clone().unwrap_or_else(exists))
        }
    };
    Ok(jobs.iter().map(answer).collect())
}

async fn body_hashes(database: &Database, ids: &[&str]) -> Result<HashMap<String, String>, CatalogError> {
    let mut hashes = HashMap::new();
    for chunk in ids.chunks(500) {
        let sql = format!("SELECT id, body_hash FROM job WHERE id IN ({})", placeholders(chunk.len()));
        let ids = chunk.iter().map(|id| Arg::from(*id)).collect();
        for row in database.fetch("get job", AssertSqlSafe(sql), ids).await? {
            let mut columns = Columns::of(&row);
            hashes.insert(columns.text()?, columns.text()?);
        }
    }
    Ok(hashes)
}

/// The statements that apply transitions in order by compare-and-set, one row for each; they return the tasks for which they
/// took effect.
pub(super) fn transition(changes: &[&TaskTransition]) -> Result<Vec<Many>, CatalogError> {
    let mut statements = Vec::new();
    let mut rest = changes;
    while !rest.is_empty() {
        // One statement changes a row once: what a task goes through after that is left to the next.
        let mut seen = HashSet::new();
        let count = rest.iter().take_while(|change| seen.insert((&change.job, &change.agent))).count();
        let (now, later) = rest.split_at(count);
        rest = later;
        let mut rows = Vec::with_capacity(now.len());
        for change in now {
            rows.push(args![
                change.job.as_str(),
                change.agent.as_str(),
                to_word(&change.to)?,
                change.to.is_terminal(),
                change.attempts,
                change.instance.as_ref().map(ToString::to_string),
                change.result.as_ref().map(to_json).transpose()?,
                change.now_us,
            ]);
        }
        statements.push(Many {
            before: "WITH v (v_job, v_agent, v_state, v_terminal, v_attempts, v_instance, v_result, v_updated_us) AS (",
            rows,
            after: ") UPDATE task SET state = v_state, terminal = v_terminal, \
                    attempts = CASE WHEN attempts < v_attempts THEN v_attempts ELSE attempts END, \
                    instance = COALESCE(v_instance, instance), result = v_result, updated_us = v_updated_us \
                    FROM v WHERE job = v_job AND agent = v_agent AND terminal = 0 RETURNING job, agent",
        });
    }
    Ok(statements)
}

/// For each transition whether it took effect, given the rows of each statement.
pub(super) fn applied(
    counts: &[usize],
    changes: &[&TaskTransition],
    changed: &[Vec<Row>],
) -> Result<Vec<bool>, CatalogError> {
    let mut applied = Vec::with_capacity(changes.len());
    let mut changes = changes.iter();
    for (count, changed) in counts.iter().zip(changed) {
        let mut took: HashSet<(String, String)> = HashSet::with_capacity(changed.len());
        for row in changed {
            let mut columns = Columns::of(row);
            took.insert((columns.text()?, columns.text()?));
        }
        let key = |change: &&TaskTransition| (change.job.to_string(), change.agent.to_string());
        applied.extend(changes.by_ref().take(*count).map(|change| took.contains(&key(change))));
    }
    Ok(applied)
}

pub(super) fn mark_queued(tasks: &[&(JobId, AgentId)]) -> Many {
    mark(tasks, "UPDATE task SET queued = 1 WHERE (job, agent) IN (")
}

pub(super) fn mark_published(tasks: &[&(JobId, AgentId)]) -> Many {
    mark(tasks, "UPDATE task SET published = 1 WHERE (job, agent) IN (")
}

fn mark(tasks: &[&(JobId, AgentId)], update: &'static str) -> Many {
    let rows = tasks.iter().map(|(job, agent)| args![job.as_str(), agent.as_str()]).collect();
    Many { before: update, rows, after: ")" }
}

//! Writes of many jobs in few statements, within a transaction that they share.

use std::collections::{BTreeMap, HashMap, HashSet};

use imn_contract::{AgentId, JobId, latest::JobState};
use sqlx::AssertSqlSafe;

use super::super::{Columns, to_json, to_word};
use crate::{
    catalog::CatalogError,
    model::{NewJob, TaskTransition},
    sql::{Arg, Tx, args, placeholders},
};

/// What a creation is answered: whether the job is new, or that its id is taken by another. A conflict changes nothing.
pub(super) type Created = Result<bool, CatalogError>;

/// Adds jobs and their tasks; of several with one id, the first.
pub(super) async fn create(tx: &mut Tx, jobs: &[&NewJob]) -> Result<Vec<Created>, CatalogError> {
    let mut first: HashMap<&str, &NewJob> = HashMap::new();
    let mut rows = Vec::with_capacity(jobs.len());
    for &job in jobs {
        if first.contains_key(job.id.as_str()) {
            continue;
        }
        first.insert(job.id.as_str(), job);
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
    }
    let added = tx
        .fetch_many(
            "INSERT INTO job (id, type, target, params, body_hash, created_us, deadline_us, max_attempts, \
             traceparent)",
            rows,
            "ON CONFLICT DO NOTHING RETURNING id",
        )
        .await?;
    let mut added: HashSet<String> =
        added.iter().map(|row| Columns::of(row).text()).collect::<Result<_, _>>()?;
    let new: Vec<&NewJob> = first.values().filter(|job| added.contains(job.id.as_str())).copied().collect();
    create_tasks(tx, &new).await?;
    // Those that were there before, by the hash of their bodies.
    let known: Vec<&str> = first.keys().filter(|id| !added.contains(**id)).copied().collect();
    let mut hashes = body_hashes(tx, &known).await?;
    for job in new {
        hashes.insert(job.id.to_string(), job.body_hash.clone());
    }
    let answer = |job: &&NewJob| {
        // The first of an id that was added; what comes after it finds it there.
        if added.remove(job.id.as_str()) {
            Ok(true)
        } else if hashes.get(job.id.as_str()) == Some(&job.body_hash) {
            Ok(false)
        } else {
            Err(CatalogError::Exists { what: "job", key: job.id.to_string() })
        }
    };
    Ok(jobs.iter().map(answer).collect())
}

async fn create_tasks(tx: &mut Tx, jobs: &[&NewJob]) -> Result<(), CatalogError> {
    let state = to_word(&JobState::Queued)?;
    let mut rows = Vec::with_capacity(jobs.len());
    for job in jobs {
        let unique: BTreeMap<_, _> = job.tasks.iter().cloned().collect();
        rows.extend(
            unique
                .iter()
                .map(|(agent, token)| args![job.id.as_str(), agent.as_str(), &state, token, job.created_us]),
        );
    }
    tx.execute_many(
        "WITH v (job, agent, state, token, updated_us) AS (",
        rows,
        ") INSERT INTO task (job, agent, state, terminal, attempts, token, queued, published, updated_us) \
         SELECT job, agent, state, 0, 0, token, 0, 0, updated_us FROM v",
    )
    .await?;
    Ok(())
}

async fn body_hashes(tx: &mut Tx, ids: &[&str]) -> Result<HashMap<String, String>, CatalogError> {
    let mut hashes = HashMap::new();
    for chunk in ids.chunks(500) {
        let sql = format!("SELECT id, body_hash FROM job WHERE id IN ({})", placeholders(chunk.len()));
        let ids = chunk.iter().map(|id| Arg::from(*id)).collect();
        for row in tx.fetch(AssertSqlSafe(sql), ids).await? {
            let mut columns = Columns::of(&row);
            hashes.insert(columns.text()?, columns.text()?);
        }
    }
    Ok(hashes)
}

/// Applies transitions in order by compare-and-set; for each, whether it took effect.
pub(super) async fn transition(tx: &mut Tx, changes: &[&TaskTransition]) -> Result<Vec<bool>, CatalogError> {
    let mut applied = Vec::with_capacity(changes.len());
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
        let changed = tx
            .fetch_many(
                "WITH v (v_job, v_agent, v_state, v_terminal, v_attempts, v_instance, v_result, v_updated_us) AS (",
                rows,
                ") UPDATE task SET state = v_state, terminal = v_terminal, \
                 attempts = CASE WHEN attempts < v_attempts THEN v_attempts ELSE attempts END, \
                 instance = COALESCE(v_instance, instance), result = v_result, updated_us = v_updated_us \
                 FROM v WHERE job = v_job AND agent = v_agent AND terminal = 0 RETURNING job, agent",
            )
            .await?;
        let mut took: HashSet<(String, String)> = HashSet::with_capacity(changed.len());
        for row in &changed {
            let mut columns = Columns::of(row);
            took.insert((columns.text()?, columns.text()?));
        }
        let key = |change: &&TaskTransition| (change.job.to_string(), change.agent.to_string());
        applied.extend(now.iter().map(|change| took.contains(&key(change))));
    }
    Ok(applied)
}

pub(super) async fn mark_queued(tx: &mut Tx, tasks: &[&(JobId, AgentId)]) -> Result<(), CatalogError> {
    mark(tx, tasks, "UPDATE task SET queued = 1 WHERE (job, agent) IN (").await
}

pub(super) async fn mark_published(tx: &mut Tx, tasks: &[&(JobId, AgentId)]) -> Result<(), CatalogError> {
    mark(tx, tasks, "UPDATE task SET published = 1 WHERE (job, agent) IN (").await
}

async fn mark(tx: &mut Tx, tasks: &[&(JobId, AgentId)], update: &str) -> Result<(), CatalogError> {
    let keys = tasks.iter().map(|(job, agent)| args![job.as_str(), agent.as_str()]).collect();
    tx.execute_many(update, keys, ")").await?;
    Ok(())
}

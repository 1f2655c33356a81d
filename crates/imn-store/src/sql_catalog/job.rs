//! Jobs and tasks. Their writes are committed in groups.

mod queue;
mod write;

use imn_contract::JobId;
use sqlx::AssertSqlSafe;

use super::{Columns, page};
use crate::{
    catalog::CatalogError,
    model::{Job, Page, TaskRow},
    sql::{Arg, Database, Row, args, placeholders},
};
pub(super) use queue::Queue;

const SELECT_JOB: &str =
    "SELECT id, type, target, params, body_hash, created_us, deadline_us, max_attempts, traceparent FROM job";
const SELECT_TASK: &str = "SELECT task.job, task.agent, task.state, task.attempts, task.instance, task.token, \
                           task.queued, task.result, task.published, task.updated_us FROM task";

pub(super) async fn get(database: &Database, id: &JobId) -> Result<Option<Job>, CatalogError> {
    let sql = format!("{SELECT_JOB} WHERE id = $1");
    let rows = database.fetch("get job", AssertSqlSafe(sql), args![id.as_str()]).await?;
    Ok(with_tasks(database, &rows).await?.pop())
}

pub(super) async fn list(
    database: &Database,
    after: Option<&str>,
    limit: usize,
) -> Result<Page<Job>, CatalogError> {
    // `~` sorts behind every character of an identifier.
    let sql = format!("{SELECT_JOB} WHERE id < $1 ORDER BY id DESC LIMIT $2");
    let rows = database
        .fetch("list jobs", AssertSqlSafe(sql), args![after.unwrap_or("~"), limit as u64 + 1])
        .await?;
    Ok(page(with_tasks(database, &rows).await?, limit, |job: &Job| job.id.to_string()))
}

async fn with_tasks(database: &Database, rows: &[Row]) -> Result<Vec<Job>, CatalogError> {
    let mut jobs = rows.iter().map(job_from_row).collect::<Result<Vec<_>, _>>()?;
    for chunk in jobs.chunks_mut(500) {
        let sql = format!("{SELECT_TASK} WHERE job IN ({}) ORDER BY job, agent", placeholders(chunk.len()));
        let ids = chunk.iter().map(|job| Arg::from(job.id.as_str())).collect();
        for row in database.fetch("list tasks", AssertSqlSafe(sql), ids).await? {
            let task = task_from_row(&row)?;
            if let Some(job) = chunk.iter_mut().find(|job| job.id == task.job) {
                job.tasks.push(task);
            }
        }
    }
    Ok(jobs)
}

pub(super) async fn unqueued(database: &Database, limit: usize) -> Result<Vec<TaskRow>, CatalogError> {
    let sql = format!("{SELECT_TASK} WHERE terminal = 0 AND queued = 0 ORDER BY job, agent LIMIT $1");
    tasks(database, "list unqueued tasks", sql, args![limit as u64]).await
}

pub(super) async fn unpublished(database: &Database, limit: usize) -> Result<Vec<TaskRow>, CatalogError> {
    let sql = format!("{SELECT_TASK} WHERE terminal = 1 AND published = 0 ORDER BY job, agent LIMIT $1");
    tasks(database, "list unpublished tasks", sql, args![limit as u64]).await
}

pub(super) async fn overdue(
    database: &Database,
    now_us: i64,
    limit: usize,
) -> Result<Vec<TaskRow>, CatalogError> {
    let sql = format!(
        "{SELECT_TASK} JOIN job ON job.id = task.job WHERE task.terminal = 0 AND job.deadline_us < $1 \
         ORDER BY task.job, task.agent LIMIT $2"
    );
    tasks(database, "list overdue tasks", sql, args![now_us, limit as u64]).await
}

async fn tasks(
    database: &Database,
    operation: &'static str,
    sql: String,
    args: Vec<Arg>,
) -> Result<Vec<TaskRow>, CatalogError> {
    database.fetch(operation, AssertSqlSafe(sql), args).await?.iter().map(task_from_row).collect()
}

pub(super) async fn prune(database: &Database, before_us: i64) -> Result<u64, CatalogError> {
    let mut tx = database.begin("prune jobs").await?;
    let pruned = tx
        .execute(
            "DELETE FROM job WHERE created_us < $1 \
             AND NOT EXISTS (SELECT 1 FROM task WHERE task.job = job.id AND task.terminal = 0)",
            args![before_us],
        )
        .await?;
    tx.commit().await?;
    Ok(pruned)
}

fn job_from_row(row: &Row) -> Result<Job, CatalogError> {
    let mut columns = Columns::of(row);
    Ok(Job {
        id: columns.id()?,
        kind: columns.id()?,
        target: columns.text()?,
        params: columns.json()?,
        body_hash: columns.text()?,
        created_us: columns.int()?,
        deadline_us: columns.int()?,
        max_attempts: columns.int()? as u32,
        traceparent: columns.optional_text()?,
        tasks: Vec::new(),
    })
}

fn task_from_row(row: &Row) -> Result<TaskRow, CatalogError> {
    let mut columns = Columns::of(row);
    Ok(TaskRow {
        job: columns.id()?,
        agent: columns.id()?,
        state: columns.word()?,
        attempts: columns.int()? as u32,
        instance: columns
            .optional_text()?
            .map(|text| text.parse())
            .transpose()
            .map_err(|error| super::corrupt("decode", error))?,
        token: columns.text()?,
        queued: columns.flag()?,
        result: columns.optional_json()?,
        published: columns.flag()?,
        updated_us: columns.int()?,
    })
}

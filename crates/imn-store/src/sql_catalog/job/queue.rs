//! Group commit: writes that wait at the same time share one transaction, hence one fsync.
//!
//! There is no task that writes. Every caller queues its write and asks for the lead; who has it writes all that is
//! queued. A leader that is dropped before it is done puts the writes back for the next.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imn_contract::{AgentId, JobId};

use super::{create, transition};
use crate::{
    catalog::CatalogError,
    model::{NewJob, TaskTransition},
    sql::{Database, Tx, args},
};

/// Writes in one transaction: enough to share an fsync, few enough to answer soon.
const GROUP: usize = 256;

#[derive(Debug)]
enum Write {
    Create(NewJob),
    Transition(Vec<TaskTransition>),
    MarkQueued(Vec<(JobId, AgentId)>),
    MarkPublished(Vec<(JobId, AgentId)>),
}

/// For a creation or a mark one flag, for transitions one each.
type Answer = Result<Vec<bool>, CatalogError>;

#[derive(Debug)]
struct Entry {
    write: Write,
    answer: Mutex<Option<Answer>>,
}

#[derive(Debug, Default)]
pub(in super::super) struct Queue {
    waiting: Mutex<VecDeque<Arc<Entry>>>,
    lead: tokio::sync::Mutex<()>,
}

impl Queue {
    pub(in super::super) async fn create(
        &self,
        database: &Database,
        job: &NewJob,
    ) -> Result<bool, CatalogError> {
        let answer = self.write(database, Write::Create(job.clone())).await?;
        Ok(answer.first().copied().unwrap_or_default())
    }

    pub(in super::super) async fn transition(
        &self,
        database: &Database,
        transitions: &[TaskTransition],
    ) -> Result<Vec<bool>, CatalogError> {
        self.write(database, Write::Transition(transitions.to_vec())).await
    }

    pub(in super::super) async fn mark_queued(
        &self,
        database: &Database,
        tasks: &[(JobId, AgentId)],
    ) -> Result<(), CatalogError> {
        self.write(database, Write::MarkQueued(tasks.to_vec())).await.map(drop)
    }

    pub(in super::super) async fn mark_published(
        &self,
        database: &Database,
        tasks: &[(JobId, AgentId)],
    ) -> Result<(), CatalogError> {
        self.write(database, Write::MarkPublished(tasks.to_vec())).await.map(drop)
    }

    async fn write(&self, database: &Database, write: Write) -> Answer {
        let entry = Arc::new(Entry { write, answer: Mutex::new(None) });
        lock(&self.waiting).push_back(Arc::clone(&entry));
        loop {
            let lead = self.lead.lock().await;
            if let Some(answer) = lock(&entry.answer).take() {
                return answer;
            }
            self.write_group(database).await;
            drop(lead);
        }
    }

    fn take_group(&self) -> Vec<Arc<Entry>> {
        let mut waiting = lock(&self.waiting);
        let count = waiting.len().min(GROUP);
        waiting.drain(..count).collect()
    }

    /// Writes what waits first and answers it.
    async fn write_group(&self, database: &Database) {
        let mut group = Group { queue: self, entries: self.take_group() };
        let answers = write_all(database, &group.entries).await;
        let entries = std::mem::take(&mut group.entries);
        match answers {
            Ok(answers) => {
                for (entry, answer) in entries.iter().zip(answers) {
                    *lock(&entry.answer) = Some(answer);
                }
            }
            // The transaction failed for all of them.
            Err(error) => {
                for entry in &entries {
                    *lock(&entry.answer) = Some(Err(error.clone()));
                }
            }
        }
    }
}

/// The writes of a leader; what is left when it is dropped goes back to the head of the queue.
struct Group<'a> {
    queue: &'a Queue,
    entries: Vec<Arc<Entry>>,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.queue.waiting);
        for entry in self.entries.drain(..).rev() {
            waiting.push_front(entry);
        }
    }
}

async fn write_all(database: &Database, entries: &[Arc<Entry>]) -> Result<Vec<Answer>, CatalogError> {
    let mut tx = database.begin("write jobs").await?;
    let mut answers = Vec::with_capacity(entries.len());
    for entry in entries {
        answers.push(write_one(&mut tx, &entry.write).await?);
    }
    tx.commit().await?;
    Ok(answers)
}

/// The outer error fails the transaction, the inner one is the answer to this write alone.
async fn write_one(tx: &mut Tx, write: &Write) -> Result<Answer, CatalogError> {
    match write {
        Write::Create(job) => Ok(create(tx, job).await?.map(|added| vec![added])),
        Write::Transition(transitions) => {
            let mut applied = Vec::with_capacity(transitions.len());
            for change in transitions {
                applied.push(transition(tx, change).await?);
            }
            Ok(Ok(applied))
        }
        Write::MarkQueued(tasks) => {
            mark(tx, tasks, "UPDATE task SET queued = 1 WHERE (job, agent) IN (").await
        }
        Write::MarkPublished(tasks) => {
            mark(tx, tasks, "UPDATE task SET published = 1 WHERE (job, agent) IN (").await
        }
    }
}

async fn mark(tx: &mut Tx, tasks: &[(JobId, AgentId)], update: &str) -> Result<Answer, CatalogError> {
    let keys = tasks.iter().map(|(job, agent)| args![job.as_str(), agent.as_str()]).collect();
    tx.execute_many(update, keys, ")").await?;
    Ok(Ok(Vec::new()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

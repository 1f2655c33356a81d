//! Group commit: writes that wait at the same time share one transaction, hence one fsync.
//!
//! There is no task that writes. Every caller queues its write and asks for the lead; who has it writes all that is
//! queued. A leader that is dropped before it is done puts the writes back for the next.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imn_contract::{AgentId, JobId};
use tokio::sync::oneshot;

use super::write;
use crate::{
    catalog::CatalogError,
    model::{NewJob, TaskTransition},
    sql::Database,
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
    /// Taken when it is answered.
    answer: Mutex<Option<oneshot::Sender<Answer>>>,
}

impl Entry {
    fn answer(&self, answer: Answer) {
        if let Some(sender) = lock(&self.answer).take() {
            // A caller that was dropped does not want to know.
            let _ = sender.send(answer);
        }
    }
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
        if tasks.is_empty() {
            return Ok(());
        }
        self.write(database, Write::MarkQueued(tasks.to_vec())).await.map(drop)
    }

    pub(in super::super) async fn mark_published(
        &self,
        database: &Database,
        tasks: &[(JobId, AgentId)],
    ) -> Result<(), CatalogError> {
        if tasks.is_empty() {
            return Ok(());
        }
        self.write(database, Write::MarkPublished(tasks.to_vec())).await.map(drop)
    }

    async fn write(&self, database: &Database, write: Write) -> Answer {
        let (sender, mut answer) = oneshot::channel();
        lock(&self.waiting).push_back(Arc::new(Entry { write, answer: Mutex::new(Some(sender)) }));
        loop {
            // Who has its answer does not stand in the way of the next leader. What leading takes, only a leader has room for.
            tokio::select! {
                biased;
                Ok(answer) = &mut answer => return answer,
                _lead = self.lead.lock() => Box::pin(self.write_group(database)).await,
            }
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
                    entry.answer(answer);
                }
            }
            // The transaction failed for all of them.
            Err(error) => {
                for entry in &entries {
                    entry.answer(Err(error.clone()));
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

/// Writes of one kind go together, in this order: jobs, what becomes of their tasks, what is noted of them. The outer
/// error fails the transaction, the inner ones are the answers to single writes.
async fn write_all(database: &Database, entries: &[Arc<Entry>]) -> Result<Vec<Answer>, CatalogError> {
    let (mut jobs, mut changes) = (Vec::new(), Vec::new());
    let (mut queued, mut published) = (Vec::new(), Vec::new());
    for entry in entries {
        match &entry.write {
            Write::Create(job) => jobs.push(job),
            Write::Transition(transitions) => changes.extend(transitions),
            Write::MarkQueued(tasks) => queued.extend(tasks),
            Write::MarkPublished(tasks) => published.extend(tasks),
        }
    }
    let [added, tasks] = write::create(&jobs)?;
    let transitions = write::transition(&changes)?;
    let counts: Vec<usize> = transitions.iter().map(|many| many.rows.len()).collect();
    let mut statements = vec![added, tasks];
    statements.extend(transitions);
    statements.extend([write::mark_queued(&queued), write::mark_published(&published)]);
    let answers = database.transact("write jobs", statements).await?;
    let [added, _tasks, changed @ ..] = &*answers else { return Err(unanswered()) };
    let mut created = write::created(database, &jobs, added).await?.into_iter();
    let mut applied = write::applied(&counts, &changes, changed)?.into_iter();
    let answer = |entry: &Arc<Entry>| match &entry.write {
        Write::Create(_) => created.next().unwrap_or(Ok(false)).map(|added| vec![added]),
        Write::Transition(transitions) => Ok(applied.by_ref().take(transitions.len()).collect()),
        Write::MarkQueued(_) | Write::MarkPublished(_) => Ok(Vec::new()),
    };
    Ok(entries.iter().map(answer).collect())
}

fn unanswered() -> CatalogError {
    CatalogError::Backend { operation: "write jobs", message: "fewer answers than statements".to_owned() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What is known of jobs that this agent has had in its hands.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use imn_contract::{InstanceId, JobId};
use imn_runtime::telemetry::TraceParent;
use tokio::sync::watch;

/// Tasks known to be terminal that are remembered, so that a late queue message is not begun.
const DONE_REMEMBERED: usize = 4_096;
/// Jobs returned to the queue that are remembered.
const RETURNED_REMEMBERED: usize = 16_384;
/// How long past its deadline a returned job is remembered.
const RETURNED_FOR: Duration = Duration::from_mins(1);

/// What has been heard of a job in work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// Nothing.
    Working,
    /// Its instance has reported the verdict of this attempt.
    Reported(u32),
    /// The server says that it is terminal.
    Done,
}

/// What this agent did with a job so far; kept while the job is back in the queue.
#[derive(Clone, Debug)]
pub(super) struct Memo {
    /// When its time is over, by the monotonic clock from the first receipt.
    pub(super) deadline: Instant,
    /// Attempts begun.
    pub(super) attempts: u32,
    /// An attempt may have been accepted without this agent knowing: it has to be looked for first.
    pub(super) unclear: bool,
    /// `attempts` is all there were; otherwise the server has to be asked.
    pub(super) counted: bool,
    /// An instance has reported a verdict of an attempt that this agent did not know of.
    pub(super) reported: bool,
    /// The step of a trace in which it was last handed out.
    pub(super) handed_out: Option<TraceParent>,
}

#[derive(Debug, Default)]
pub(super) struct Board {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    followed: HashMap<JobId, Followed>,
    returned: HashMap<JobId, Memo>,
    done: HashSet<JobId>,
    done_order: VecDeque<JobId>,
}

#[derive(Debug)]
struct Followed {
    note: watch::Sender<Note>,
    instance: Option<InstanceId>,
    /// Its instance has reported the attempt that it has now.
    reported: bool,
}

/// A job that is being followed, until this is dropped.
#[derive(Debug)]
pub(super) struct Following<'a> {
    board: &'a Board,
    pub(super) job: JobId,
    pub(super) memo: Memo,
    note: watch::Receiver<Note>,
    finished: bool,
}

impl Board {
    /// Begins to follow a job; `None` when it is followed already. One that is `redelivered` and not known here was in
    /// the hands of the agent before.
    pub(super) fn follow(&self, job: &JobId, ttl: Duration, redelivered: bool) -> Option<Following<'_>> {
        let mut state = self.lock();
        if state.followed.contains_key(job) {
            return None;
        }
        let first = if state.done.contains(job) { Note::Done } else { Note::Working };
        let (sender, note) = watch::channel(first);
        state.followed.insert(job.clone(), Followed { note: sender, instance: None, reported: false });
        let returned = state.returned.remove(job);
        let fresh = Memo {
            deadline: Instant::now() + ttl,
            attempts: 0,
            unclear: redelivered,
            counted: !redelivered,
            reported: false,
            handed_out: None,
        };
        let memo = returned.unwrap_or(fresh);
        Some(Following { board: self, job: job.clone(), memo, note, finished: false })
    }

    /// Tells whoever follows a job; gives what was known before and its instance, or `None` when nobody does.
    pub(super) fn tell(&self, job: &JobId, note: Note) -> Option<(Note, Option<InstanceId>)> {
        let mut state = self.lock();
        if let (Note::Reported(_), Some(memo)) = (note, state.returned.get_mut(job)) {
            memo.reported = true;
        }
        let followed = state.followed.get_mut(job)?;
        followed.reported |= matches!(note, Note::Reported(_));
        let before = *followed.note.borrow();
        // Nothing follows upon `Done`.
        if before != Note::Done {
            followed.note.send_replace(note);
        }
        Some((before, followed.instance.clone()))
    }

    /// Remembers for a while that a job is terminal.
    pub(super) fn remember_done(&self, job: &JobId) {
        let mut state = self.lock();
        if state.done.insert(job.clone()) {
            state.done_order.push_back(job.clone());
        }
        if state.done_order.len() > DONE_REMEMBERED
            && let Some(oldest) = state.done_order.pop_front()
        {
            state.done.remove(&oldest);
        }
    }

    /// Jobs being followed.
    pub(super) fn followed(&self) -> usize {
        self.lock().followed.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Following<'_> {
    /// The latest note.
    pub(super) fn note(&self) -> Note {
        *self.note.borrow()
    }

    /// Waits for the next note. Cancel-safe.
    pub(super) async fn noted(&mut self) -> Note {
        match self.note.changed().await {
            Ok(()) => *self.note.borrow_and_update(),
            // The sender lives as long as this does.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits up to `within` for the server's word; tells whether it came.
    pub(super) async fn done_within(&mut self, within: Duration) -> bool {
        matches!(
            tokio::time::timeout(within, self.note.wait_for(|note| *note == Note::Done)).await,
            Ok(Ok(_))
        )
    }

    /// Names the instance that has it now, and its attempt.
    pub(super) fn is_with(&self, with: Option<(&InstanceId, u32)>) {
        if let Some(followed) = self.board.lock().followed.get_mut(&self.job) {
            followed.instance = with.map(|(instance, _)| instance.clone());
            if let Some((_, attempt)) = with {
                // A report of an earlier attempt says nothing of this one, whose own may be here already.
                followed.note.send_if_modified(|note| {
                    let stale = matches!(note, Note::Reported(of) if *of != attempt);
                    if stale {
                        *note = Note::Working;
                    }
                    stale
                });
            }
        }
    }

    /// Whether an instance has reported the end of an attempt.
    pub(super) fn was_reported(&self) -> bool {
        self.board.lock().followed.get(&self.job).is_some_and(|followed| followed.reported)
    }

    /// It will not be seen again.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Time left.
    pub(super) fn left(&self) -> Duration {
        self.memo.deadline.saturating_duration_since(Instant::now())
    }
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        let mut state = self.board.lock();
        state.followed.remove(&self.job);
        if self.finished {
            return;
        }
        if state.returned.len() >= RETURNED_REMEMBERED {
            let now = Instant::now();
            state.returned.retain(|_, memo| memo.deadline + RETURNED_FOR > now);
        }
        if state.returned.len() < RETURNED_REMEMBERED {
            let mut memo = self.memo.clone();
            memo.reported |= matches!(*self.note.borrow(), Note::Reported(_));
            state.returned.insert(self.job.clone(), memo);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_never_forgotten_for_its_timing() {
        let (board, job) = (Board::default(), JobId::generate());
        let instance = InstanceId::new("i").unwrap();
        let ttl = Duration::from_secs(10);
        let follow = || board.follow(&job, ttl, false).unwrap();
        // Before anybody has noted who has the job.
        let following = follow();
        board.tell(&job, Note::Reported(1));
        following.is_with(Some((&instance, 1)));
        assert_eq!(following.note(), Note::Reported(1));
        following.is_with(Some((&instance, 2)));
        assert_eq!(following.note(), Note::Working, "one of an earlier attempt");
        // While it is on its way back into the queue.
        board.tell(&job, Note::Reported(1));
        drop(following);
        assert!(follow().memo.reported);
        // In the queue.
        board.tell(&job, Note::Reported(1));
        assert!(follow().memo.reported);
    }
}

//! Which requests have been seen, for ten minutes.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use imn_contract::latest::SimpleRequest;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_128;

use super::Answer;

/// How long a mark is remembered.
const REMEMBERED_FOR: Duration = Duration::from_mins(10);
/// Marks remembered; more are refused, because forgetting one early would break the promise.
const MOST: usize = 20_000;

#[derive(Debug, Default)]
pub(super) struct Memory {
    seen: Mutex<HashMap<String, Seen>>,
}

#[derive(Debug)]
struct Seen {
    body: u128,
    since: Instant,
    answer: watch::Receiver<Option<Answer>>,
}

/// Where a request stands among those seen.
#[derive(Debug)]
pub(super) enum Place {
    /// Not seen before: it is to be answered through this.
    First(Entry),
    /// Seen before.
    Repetition(Earlier),
    /// Its mark was used with another body.
    Conflict,
    /// Too many are remembered.
    Full,
}

#[derive(Debug)]
pub(super) struct Entry(watch::Sender<Option<Answer>>);

impl Entry {
    pub(super) fn settle(self, answer: &Answer) {
        self.0.send_replace(Some(answer.clone()));
    }
}

#[derive(Debug)]
pub(super) struct Earlier(watch::Receiver<Option<Answer>>);

impl Earlier {
    /// The first one's answer, when it is there; `None` when it was given up.
    pub(super) async fn answer(mut self) -> Option<Answer> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl Memory {
    pub(super) fn enter(&self, id: &str, request: &SimpleRequest) -> Place {
        let body = xxh3_128(&serde_json::to_vec(request).unwrap_or_default());
        let mut seen = self.lock();
        if let Some(known) = seen.get(id)
            && known.since.elapsed() < REMEMBERED_FOR
        {
            if known.body != body {
                return Place::Conflict;
            }
            return Place::Repetition(Earlier(known.answer.clone()));
        }
        if seen.len() >= MOST {
            seen.retain(|_, known| known.since.elapsed() < REMEMBERED_FOR);
            if seen.len() >= MOST {
                return Place::Full;
            }
        }
        let (sender, answer) = watch::channel(None);
        seen.insert(id.to_owned(), Seen { body, since: Instant::now(), answer });
        Place::First(Entry(sender))
    }

    /// Forgets a mark, as if it had not been used.
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Names of targets: resolved ahead of their rounds, remembered for a minute.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use imn_runtime::task::Stop;
use tokio::sync::mpsc;

use super::Family;

/// An answer is asked for anew after this time; until then, and until the new one is there, it is used.
const FRESH: Duration = Duration::from_mins(1);
/// A failure is asked for anew after this time.
const RETRY: Duration = Duration::from_secs(5);
/// Questions that wait at most; what finds no room is asked again with the next round.
const QUEUE: usize = 4096;
/// Questions to the system's resolver at once.
const AT_ONCE: usize = 16;

type Key = (Arc<str>, Family);

#[derive(Clone, Debug, Default)]
struct Entry {
    /// The last good answer.
    address: Option<IpAddr>,
    /// Why the last question failed.
    error: Option<String>,
    answered: Option<Instant>,
    asked: bool,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Address(IpAddr),
    Failed(String),
    Pending,
}

/// The names that standing work has asked for.
pub(super) struct Names {
    known: Arc<Mutex<HashMap<Key, Entry>>>,
    questions: mpsc::Sender<Key>,
}

/// The other end of [`Names`]: a task that asks the system's resolver.
pub(super) struct Resolver {
    known: Arc<Mutex<HashMap<Key, Entry>>>,
    questions: mpsc::Receiver<Key>,
}

impl Names {
    pub(super) fn new() -> (Self, Resolver) {
        let known = Arc::new(Mutex::new(HashMap::new()));
        let (sender, receiver) = mpsc::channel(QUEUE);
        let names = Self { known: Arc::clone(&known), questions: sender };
        (names, Resolver { known, questions: receiver })
    }

    /// What is known now; asks if that is nothing or old.
    pub(super) fn look_up(&self, name: &Arc<str>, family: Family) -> Answer {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry((Arc::clone(name), family)).or_default();
        let lasts = if entry.error.is_some() { RETRY } else { FRESH };
        if !entry.asked && entry.answered.is_none_or(|at| at.elapsed() >= lasts) {
            entry.asked = self.questions.try_send((Arc::clone(name), family)).is_ok();
        }
        match (entry.address, &entry.error) {
            (_, Some(error)) => Answer::Failed(error.clone()),
            (Some(address), None) => Answer::Address(address),
            (None, None) => Answer::Pending,
        }
    }

    /// Forgets names that no assignment has any more.
    pub(super) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|(name, _), _| wanted(name));
    }
}

impl Resolver {
    pub(super) async fn run(mut self, stop: Stop) {
        let mut asking = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.requested() => return,
                Some((key, answer)) = asking.next() => self.note(&key, answer),
                question = self.questions.recv(), if asking.len() < AT_ONCE => match question {
                    Some(key) => asking.push(ask(key)),
                    None => return,
                },
            }
        }
    }

    fn note(&self, key: &Key, answer: Result<Vec<IpAddr>, String>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = known.get_mut(key) else { return };
        entry.asked = false;
        entry.answered = Some(Instant::now());
        match answer {
            Ok(addresses) => {
                // One that is still among them stays, so that the path does not change with the order of answers.
                let stays = entry.address.filter(|address| addresses.contains(address));
                entry.address = stays.or(addresses.first().copied());
                entry.error = None;
            }
            Err(error) => entry.error = Some(error),
        }
    }
}

async fn ask(key: Key) -> (Key, Result<Vec<IpAddr>, String>) {
    let answer = resolve(&key.0, key.1).await;
    (key, answer)
}

/// The addresses of a name in a family; never an empty list.
pub(crate) async fn resolve(name: &str, family: Family) -> Result<Vec<IpAddr>, String> {
    let found = tokio::net::lookup_host((name, 0)).await.map_err(|e| format!("resolve {name}: {e}"))?;
    let addresses: Vec<IpAddr> = found.map(|a| a.ip()).filter(|ip| family.admits(*ip)).collect();
    match (addresses.is_empty(), family) {
        (false, _) => Ok(addresses),
        (true, Family::Any) => Err(format!("resolve {name}: no address")),
        (true, Family::V4) => Err(format!("resolve {name}: no IPv4 address")),
        (true, Family::V6) => Err(format!("resolve {name}: no IPv6 address")),
    }
}

//! What happens, to whoever watches: committed rounds, results of jobs, transitions.

use std::sync::{Arc, Mutex, PoisonError};

use imn_contract::latest::JobResult;
use imn_store::{RoundRow, StateChange};
use tokio::sync::broadcast::{self, error::RecvError};

/// Events that a slow watcher may fall behind before it misses some.
const CAPACITY: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Rounds were committed; in order of their due times.
    Rounds(Arc<Vec<RoundRow>>),
    /// A task is terminal, and that is committed.
    Result(Arc<JobResult>),
    /// Targets changed their monitoring state.
    States(Arc<Vec<StateChange>>),
    /// Findings about prefixes opened, became worse, or ended.
    Routing(Arc<Vec<crate::bgp::Found>>),
}

impl Event {
    fn items(&self) -> u64 {
        match self {
            Self::Rounds(rounds) => rounds.len() as u64,
            Self::Result(_) => 1,
            Self::States(changes) => changes.len() as u64,
            Self::Routing(found) => found.len() as u64,
        }
    }
}

/// What a watcher receives.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// The next event.
    Event(Event),
    /// So many rounds, results and transitions were missed, because the watcher was too slow.
    Dropped(u64),
}

/// Hands every event to every watcher; never waits for one. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    sender: broadcast::Sender<(u64, Event)>,
    /// Items told so far; held while sending, so that the numbers arrive in order.
    items: Arc<Mutex<u64>>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::Sender::new(CAPACITY), items: Arc::default() }
    }

    /// Whether anybody watches, so that nobody builds events for none.
    pub(crate) fn is_watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Tells all watchers.
    pub(crate) fn tell(&self, event: Event) {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *items;
        *items += event.items();
        // Nobody watching is no failure.
        let _ = self.sender.send((before, event));
    }

    /// Watches from now on.
    pub(crate) fn watch(&self) -> Watcher {
        Watcher { receiver: self.sender.subscribe(), next: None, held: None }
    }
}

/// One watcher's view.
#[derive(Debug)]
pub(crate) struct Watcher {
    receiver: broadcast::Receiver<(u64, Event)>,
    next: Option<u64>,
    held: Option<Event>,
}

impl Watcher {
    /// The next event, or how much was missed before it; `None` when the server ends. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        if let Some(event) = self.held.take() {
            return Some(Item::Event(event));
        }
        loop {
            match self.receiver.recv().await {
                Ok((at, event)) => {
                    let missed = self.next.map_or(0, |next| at.saturating_sub(next));
                    self.next = Some(at + event.items());
                    if missed == 0 {
                        return Some(Item::Event(event));
                    }
                    self.held = Some(event);
                    return Some(Item::Dropped(missed));
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

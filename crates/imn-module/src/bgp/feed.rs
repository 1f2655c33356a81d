//! Live sources shared by all that want something of them: one connection, one listener, however many prefixes.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use imn_contract::{ErrorCode, Fault, latest::BgpOutcome};
use imn_probe::bgp::{Event, Filter, SessionState};
use tokio::{sync::Notify, time::sleep};

use super::{BgpSource, BgpSpec, Following, Heard, Tally, follow};

/// New prefixes are gathered so long before a service is subscribed to anew.
const GATHER: Duration = Duration::from_millis(500);

/// The live sources of this process.
#[derive(Debug, Default)]
pub(crate) struct Feeds(Mutex<HashMap<BgpSource, Weak<Feed>>>);

/// One live source.
#[derive(Debug)]
struct Feed {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Poked when other prefixes are wanted, or nothing any more.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    windows: HashMap<u64, Open>,
    /// Over the windows, and their numbers by the numbers of its rules.
    filter: Filter,
    numbers: Vec<u64>,
    next: u64,
    /// Counts changes of what is wanted.
    version: u64,
    ended: bool,
    routers: HashSet<Arc<str>>,
    up: bool,
    /// Time without a connection that is over, and since when there is none now.
    away: Duration,
    away_since: Option<Instant>,
    reason: Option<String>,
}

#[derive(Debug)]
struct Open {
    spec: BgpSpec,
    tally: Tally,
    since: Instant,
    /// What [`State::away`] came to when it began.
    away: Duration,
}

/// What is heard of one prefix from now on. Dropping it ends that; the last one of a source ends the source.
#[derive(Debug)]
pub(crate) struct Window {
    feed: Arc<Feed>,
    number: u64,
}

impl Feeds {
    /// Begins to gather what a spec wants of its source, which is started if nobody else has it.
    pub(crate) fn open(&self, spec: &BgpSpec) -> Result<Window, Fault> {
        let mut feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let known = feeds.get(&spec.source).and_then(Weak::upgrade).filter(|feed| !feed.shared.lock().ended);
        let feed = if let Some(feed) = known {
            feed
        } else {
            let feed = Arc::new(Feed::start(&spec.source)?);
            feeds.insert(spec.source.clone(), Arc::downgrade(&feed));
            feed
        };
        drop(feeds);
        let number = feed.shared.open(spec);
        Ok(Window { feed, number })
    }
}

impl Window {
    /// What was gathered since it was opened or last asked.
    pub(crate) fn take(&self) -> BgpOutcome {
        self.feed.shared.take(self.number)
    }

    /// Updates gathered so far.
    pub(crate) fn seen(&self) -> u64 {
        self.feed.shared.lock().windows.get(&self.number).map_or(0, |open| open.tally.seen())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut state = self.feed.shared.lock();
        state.windows.remove(&self.number);
        state.index();
        drop(state);
        self.feed.shared.changed.notify_one();
    }
}

impl Feed {
    fn start(source: &BgpSource) -> Result<Self, Fault> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                windows: HashMap::new(),
                filter: Filter::everything(),
                numbers: Vec::new(),
                next: 0,
                version: 0,
                ended: false,
                routers: HashSet::new(),
                up: false,
                away: Duration::ZERO,
                away_since: Some(Instant::now()),
                reason: None,
            }),
            changed: Notify::new(),
        });
        // A listener listens at once, to everything: what is wanted of it changes, and routers should stay.
        let listener = match source {
            BgpSource::Bmp(_) => Some(follow(source, Filter::everything())?),
            BgpSource::RisLive(_) => None,
            BgpSource::Mrt(_) => {
                return Err(Fault::invalid("params.source", "a file is read by a job, not followed"));
            }
        };
        let fault =
            |error: std::io::Error| Fault::new(ErrorCode::Unavailable, format!("start thread: {error}"));
        let (own, source) = (Arc::clone(&shared), source.clone());
        let thread = std::thread::Builder::new()
            .name("imn-bgp-feed".to_owned())
            .spawn(move || {
                match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime.block_on(own.run(&source, listener)),
                    Err(error) => tracing::error!(%error, "no runtime for a bgp feed"),
                }
                own.lock().ended = true;
            })
            .map_err(fault)?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the source until the feed is dropped.
    async fn run(&self, source: &BgpSource, mut following: Option<Following>) {
        let is_subscribed = following.is_none();
        loop {
            let mut version = None;
            if is_subscribed {
                // Gathers what is wanted, then subscribes to all of it.
                sleep(GATHER).await;
                let filter = {
                    let mut state = self.lock();
                    if state.ended {
                        return;
                    }
                    if following.is_some() {
                        state.connected(false, Some("other prefixes are subscribed to".to_owned()));
                    }
                    version = Some(state.version);
                    (!state.windows.is_empty()).then(|| state.filter.clone())
                };
                drop(following.take());
                following = match filter.map(|filter| follow(source, filter)) {
                    None => None,
                    Some(Ok(following)) => Some(following),
                    Some(Err(fault)) => {
                        self.lock().reason = Some(fault.message);
                        None
                    }
                };
            }
            loop {
                let heard = async {
                    match &mut following {
                        Some(following) => following.events.recv().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = self.changed.notified() => {
                        let state = self.lock();
                        if state.ended {
                            return;
                        }
                        if version.is_some_and(|version| version != state.version) {
                            break;
                        }
                    }
                    heard = heard => match heard {
                        Some(Heard::Event(event)) => self.lock().hear(event),
                        Some(Heard::End(_)) => {}
                        // Its thread ended, which it does not by itself.
                        None => {
                            self.lock().connected(false, Some("the source has ended".to_owned()));
                            return;
                        }
                    },
                }
            }
        }
    }

    fn open(&self, spec: &BgpSpec) -> u64 {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        let open = Open {
            spec: spec.clone(),
            tally: Tally::new(spec.carried),
            since: Instant::now(),
            away: state.total_away(),
        };
        state.windows.insert(number, open);
        state.index();
        drop(state);
        self.changed.notify_one();
        number
    }

    fn take(&self, number: u64) -> BgpOutcome {
        let mut state = self.lock();
        let (now, away, reason) = (Instant::now(), state.total_away(), state.reason.clone());
        let Some(open) = state.windows.get_mut(&number) else { return BgpOutcome::default() };
        let tally = std::mem::replace(&mut open.tally, Tally::new(open.spec.carried));
        let span = now.duration_since(std::mem::replace(&mut open.since, now));
        let down = away.saturating_sub(std::mem::replace(&mut open.away, away)).min(span);
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let error = (down > Duration::ZERO).then(|| {
            let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("the source was not connected for {} of {} ms{why}", ms(down), ms(span))
        });
        tally.finish(&open.spec, ms(span), ms(down), error)
    }
}

impl State {
    /// Makes the filter anew.
    fn index(&mut self) {
        self.version += 1;
        self.filter = Filter::everything();
        self.numbers.clear();
        for (number, open) in &self.windows {
            self.filter.add(open.spec.prefix, open.spec.how);
            self.numbers.push(*number);
        }
    }

    fn total_away(&self) -> Duration {
        self.away + self.away_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Updates(updates) => {
                let mut touched = HashSet::new();
                for update in &updates {
                    for rule in self.filter.matching(&update.prefix) {
                        let number = self.numbers.get(rule as usize).copied();
                        if let Some((number, open)) =
                            number.and_then(|number| Some((number, self.windows.get_mut(&number)?)))
                        {
                            open.tally.update(update);
                            touched.insert(number);
                        }
                    }
                }
                for number in touched {
                    if let Some(open) = self.windows.get_mut(&number) {
                        open.tally.records += 1;
                    }
                }
            }
            Event::Session(session) => {
                if session.peer.is_none() {
                    match &session.state {
                        SessionState::Up => {
                            self.routers.insert(Arc::clone(&session.collector));
                            self.connected(true, None);
                        }
                        SessionState::Down(reason) => {
                            self.routers.remove(&session.collector);
                            let is_up = !self.routers.is_empty();
                            self.connected(is_up, Some(reason.clone()));
                        }
                        SessionState::Routes { .. } => {}
                    }
                }
                for open in self.windows.values_mut() {
                    open.tally.session(&session);
                }
            }
            Event::Fault(fault) => {
                for open in self.windows.values_mut() {
                    open.tally.fault(&fault);
                }
            }
        }
    }

    fn connected(&mut self, up: bool, reason: Option<String>) {
        if up {
            if let Some(since) = self.away_since.take() {
                self.away += since.elapsed();
            }
        } else if self.up || self.away_since.is_none() {
            self.away_since.get_or_insert_with(Instant::now);
        }
        if reason.is_some() {
            self.reason = reason;
        }
        self.up = up;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_away_until_it_is_connected() {
        let feed = Feed::start(&"bmp:127.0.0.1:0".parse().unwrap()).unwrap();
        let mut state = feed.shared.lock();
        assert!(state.away_since.is_some());
        state.connected(true, None);
        let before = state.total_away();
        assert_eq!(state.total_away(), before);
        state.connected(false, Some("gone".to_owned()));
        std::thread::sleep(Duration::from_millis(5));
        assert!(state.total_away() > before);
    }
}

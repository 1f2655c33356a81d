//! The engine, and the thread that brings what comes out of it to whom it belongs.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, select};
use imn_contract::{ErrorCode, Fault};
use imn_probe::{
    SubmitError,
    trace::{Config, Engine, Event, Outcome, Spec, StartError},
};
use tokio::sync::{mpsc, oneshot};

/// Events of one trace that wait for it; more are dropped, as progress may be.
const EVENTS: usize = 1024;

struct Route {
    events: mpsc::Sender<Event>,
    done: oneshot::Sender<Outcome>,
}

type Table = Arc<Mutex<HashMap<u64, Route>>>;

pub(super) struct Routes {
    engine: Option<Engine>,
    table: Table,
    next: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

/// A trace in work; dropping it ends it.
pub(super) struct Flight<'a> {
    routes: &'a Routes,
    key: u64,
    pub events: mpsc::Receiver<Event>,
    pub done: oneshot::Receiver<Outcome>,
}

impl Routes {
    pub(super) fn start() -> Result<Self, Fault> {
        let engine = Engine::start(&Config::default()).map_err(|error| {
            let code = match error {
                StartError::NotPermitted(_) => ErrorCode::Denied,
                StartError::System { .. } => ErrorCode::Unavailable,
            };
            Fault::new(code, error.to_string())
        })?;
        let table = Table::default();
        let (outcomes, events) = (engine.outcomes().clone(), engine.events().clone());
        let own = Arc::clone(&table);
        let thread = std::thread::Builder::new()
            .name("imn-traces".to_owned())
            .spawn(move || dispatch(&outcomes, &events, &own))
            .map_err(|error| Fault::new(ErrorCode::Unavailable, format!("start thread: {error}")))?;
        Ok(Self { engine: Some(engine), table, next: AtomicU64::new(1), thread: Some(thread) })
    }

    /// Begins the trace that is made with its key.
    pub(super) fn begin(&self, spec: impl FnOnce(u64) -> Spec) -> Result<Flight<'_>, Fault> {
        let key = self.next.fetch_add(1, Relaxed);
        let (event_sender, events) = mpsc::channel(EVENTS);
        let (done_sender, done) = oneshot::channel();
        lock(&self.table).insert(key, Route { events: event_sender, done: done_sender });
        let flight = Flight { routes: self, key, events, done };
        if let Some(engine) = &self.engine {
            engine.submit(vec![spec(key)]).map_err(|error| {
                let code = match error {
                    SubmitError::Invalid { .. } => ErrorCode::Invalid,
                    _ => ErrorCode::Unavailable,
                };
                Fault::new(code, error.to_string())
            })?;
        }
        Ok(flight)
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        // Without the engine the channels end, and with them the thread.
        self.engine = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if lock(&self.routes.table).remove(&self.key).is_some()
            && let Some(engine) = &self.routes.engine
        {
            // The engine is full or has stopped: the trace ends by itself.
            let _ = engine.cancel(vec![self.key]);
        }
    }
}

fn lock(table: &Table) -> MutexGuard<'_, HashMap<u64, Route>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dispatch(outcomes: &Receiver<Outcome>, events: &Receiver<Event>, table: &Table) {
    let tell = |event: Event| {
        if let Some(route) = lock(table).get(&event.key) {
            // Full: progress is lossy.
            let _ = route.events.try_send(event);
        }
    };
    loop {
        select! {
            recv(events) -> event => match event {
                Ok(event) => tell(event),
                Err(_) => return,
            },
            recv(outcomes) -> outcome => {
                // Events of this trace were sent before its outcome.
                events.try_iter().for_each(tell);
                let Ok(outcome) = outcome else { return };
                if let Some(route) = lock(table).remove(&outcome.key) {
                    // The job may be gone meanwhile.
                    let _ = route.done.send(outcome);
                }
            }
        }
    }
}

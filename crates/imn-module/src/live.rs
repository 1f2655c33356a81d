//! An engine for jobs: each waits for its own outcome and sees its own events.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, select};
use imn_contract::{ErrorCode, Fault};
use imn_probe::{Batch, Event, Outcome, Packet, Timestamp};
use tokio::sync::{mpsc, oneshot};

use crate::{
    engine::{Engine, Pace, Shot},
    ping::{Kind, PingSpec},
};

/// Events of one job that wait for it; more are dropped, as progress may be.
const EVENTS: usize = 1024;

/// An outcome with its packets.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub outcome: Outcome,
    pub packets: Vec<Packet>,
}

struct Route {
    events: mpsc::Sender<Event>,
    done: oneshot::Sender<Measured>,
}

type Routes = Arc<Mutex<HashMap<u64, Route>>>;

/// The engine and the thread that brings what comes out of it to whom it belongs.
pub(crate) struct Live {
    engine: Option<Engine>,
    routes: Routes,
    next: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

/// A measurement in work; dropping it ends it.
pub(crate) struct Flight<'a> {
    live: &'a Live,
    key: u64,
    pub events: mpsc::Receiver<Event>,
    pub done: oneshot::Receiver<Measured>,
}

impl Live {
    pub(crate) fn start(kind: Kind, pace: Pace) -> Result<Self, Fault> {
        let engine = Engine::start(kind, pace)?;
        let routes = Routes::default();
        let (outcomes, events) = (engine.outcomes().clone(), engine.events().clone());
        let own = Arc::clone(&routes);
        let thread = std::thread::Builder::new()
            .name("imn-jobs".to_owned())
            .spawn(move || dispatch(&outcomes, &events, &own))
            .map_err(|error| Fault::new(ErrorCode::Unavailable, format!("start thread: {error}")))?;
        Ok(Self { engine: Some(engine), routes, next: AtomicU64::new(0), thread: Some(thread) })
    }

    /// Begins a measurement, at once.
    pub(crate) fn begin(&self, target: IpAddr, spec: &PingSpec) -> Result<Flight<'_>, Fault> {
        let key = self.next.fetch_add(1, Relaxed);
        let (event_sender, events) = mpsc::channel(EVENTS);
        let (done_sender, done) = oneshot::channel();
        lock(&self.routes).insert(key, Route { events: event_sender, done: done_sender });
        let flight = Flight { live: self, key, events, done };
        let shot = Shot { key, target, due: Timestamp::now(), spec, flow: 0, progress: true };
        if let Some(engine) = &self.engine {
            engine.submit(std::iter::once(shot)).map_err(|error| {
                let code = match error {
                    imn_probe::SubmitError::Invalid { .. } => ErrorCode::Invalid,
                    _ => ErrorCode::Unavailable,
                };
                Fault::new(code, error.to_string())
            })?;
        }
        Ok(flight)
    }
}

impl Drop for Live {
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
        if lock(&self.live.routes).remove(&self.key).is_some()
            && let Some(engine) = &self.live.engine
        {
            engine.cancel(self.key);
        }
    }
}

fn lock(routes: &Routes) -> MutexGuard<'_, HashMap<u64, Route>> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dispatch(outcomes: &Receiver<Batch>, events: &Receiver<Event>, routes: &Routes) {
    let tell = |event: Event| {
        if let Some(route) = lock(routes).get(&event.key) {
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
            recv(outcomes) -> batch => {
                // Events of these rounds were sent before their outcomes.
                events.try_iter().for_each(tell);
                let Ok(batch) = batch else { return };
                for (outcome, packets) in batch.iter() {
                    if let Some(route) = lock(routes).remove(&outcome.key) {
                        // The job may be gone meanwhile.
                        let _ = route.done.send(Measured { outcome: outcome.clone(), packets: packets.to_vec() });
                    }
                }
            }
        }
    }
}

//! Standing work of measurements that are futures: each is begun when it is due, a bounded number at a time.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    net::IpAddr,
    num::NonZeroUsize,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use futures::FutureExt;
use imn_contract::{
    ErrorCode, Fault,
    latest::{Assignment, Round},
};
use imn_probe::LatenessHistogram;
use imn_runtime::clock;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::{self, error::TrySendError},
    task::JoinSet,
    time::Instant,
};

use super::{Found, Measure, Signs, plan::Plans};
use crate::{Done, Due, Plan, Standing, standing::LATEST};

/// Chunks of rounds on their way to the thread that begins them.
const CHUNKS: usize = 1024;
/// What a measurement may take beyond twice its timeout and a second per packet, before it is dropped: its own
/// timeouts should have ended it long ago.
const NEVER: Duration = Duration::from_secs(30);
/// An outcome whose text is longer is told without it, so that every round fits into a batch.
const LONGEST_OUTCOME: usize = 256 * 1024;

/// How much is taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Measurements at once, at least 1. One that is due while as many are under way waits up to half a second for
    /// its turn, and is a gap after that.
    pub at_once: usize,
    /// Rounds taken in advance and under way, at least 1; those beyond are gaps at once.
    pub taken: usize,
    /// Threads that measure.
    pub threads: usize,
}

impl Default for Config {
    /// 1024 at once, 65,536 taken, as many threads as this host has processors but four at most.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(4);
        Self { at_once: 1024, taken: 65_536, threads }
    }
}

/// The standing work of a type. Dropping it drops the measurements under way.
pub struct Rounds<M: Measure> {
    measure: Arc<M>,
    plans: Plans<M::Spec>,
    orders: Option<mpsc::Sender<Vec<Order<M>>>>,
    landed: Arc<Landed>,
    /// Rounds handed over and not yet collected.
    taken: usize,
    most: usize,
    thread: Option<JoinHandle<()>>,
}

/// A round to be made.
struct Order<M: Measure> {
    key: u64,
    due: Instant,
    address: Option<IpAddr>,
    spec: Arc<M::Spec>,
    /// It takes no longer than this.
    limit: Duration,
}

/// What has come of rounds. Holds no more than were taken.
struct Landed {
    ended: Mutex<Ended>,
    started: Instant,
}

struct Ended {
    done: Vec<Done>,
    refused: Vec<u64>,
    lateness: LatenessHistogram,
}

impl<M: Measure> Rounds<M> {
    /// Starts the threads.
    ///
    /// # Errors
    /// A fault when threads cannot be had.
    pub fn start(measure: Arc<M>, config: Config) -> Result<Self, Fault> {
        let fault =
            |error: std::io::Error| Fault::new(ErrorCode::Unavailable, format!("start thread: {error}"));
        let runtime = Builder::new_multi_thread()
            .worker_threads(config.threads.max(1))
            .thread_name("imn-measure")
            .enable_all()
            .build()
            .map_err(fault)?;
        let (orders, incoming) = mpsc::channel(CHUNKS);
        let landed = Arc::new(Landed {
            ended: Mutex::new(Ended {
                done: Vec::new(),
                refused: Vec::new(),
                lateness: LatenessHistogram::new(0),
            }),
            started: Instant::now(),
        });
        let pilot = Pilot {
            measure: Arc::clone(&measure),
            landed: Arc::clone(&landed),
            waiting: BinaryHeap::new(),
            flying: JoinSet::new(),
            at_once: config.at_once.max(1),
        };
        let thread = std::thread::Builder::new()
            .name("imn-flights".to_owned())
            .spawn(move || fly(runtime, pilot, incoming))
            .map_err(fault)?;
        Ok(Self {
            measure,
            plans: Plans::default(),
            orders: Some(orders),
            landed,
            taken: 0,
            most: config.taken.max(1),
            thread: Some(thread),
        })
    }

    fn order(&self, round: &Due, now_us: i64, now: Instant) -> Option<Order<M>> {
        let span = Duration::from_micros(round.due_us.abs_diff(now_us));
        let due = if round.due_us >= now_us { now.checked_add(span) } else { now.checked_sub(span) };
        let packets = round.timeout.saturating_mul(2) + Duration::from_secs(u64::from(round.count));
        Some(Order {
            key: round.key,
            due: due.unwrap_or(now),
            address: round.address,
            spec: Arc::clone(self.plans.get(round.plan)?),
            limit: packets.saturating_add(NEVER),
        })
    }
}

impl<M: Measure> Standing for Rounds<M> {
    fn plan(&mut self, assignment: &Assignment) -> Result<Plan, Fault> {
        let (spec, addressing) = self.measure.plan(assignment)?;
        Ok(Plan { number: self.plans.number(spec), addressing })
    }

    fn begin(&mut self, rounds: &[Due]) -> usize {
        let Some(orders) = &self.orders else { return 0 };
        let rounds = &rounds[..rounds.len().min(self.most.saturating_sub(self.taken))];
        let (now_us, now) = (clock::now_us(), Instant::now());
        // A plan that is not known cannot happen; what follows it would not be made in order.
        let chunk: Vec<Order<M>> = rounds.iter().map_while(|round| self.order(round, now_us, now)).collect();
        let count = chunk.len();
        match orders.try_send(chunk) {
            Ok(()) => {
                self.taken += count;
                count
            }
            Err(TrySendError::Full(_)) => 0,
            Err(TrySendError::Closed(_)) => {
                tracing::error!(rounds = count, "the thread that measures has ended");
                0
            }
        }
    }

    fn collect(&mut self, done: &mut Vec<Done>) {
        let mut ended = self.landed.lock();
        self.taken -= ended.done.len();
        done.append(&mut ended.done);
    }

    fn refused(&mut self, keys: &mut Vec<u64>) {
        let mut ended = self.landed.lock();
        self.taken -= ended.refused.len();
        keys.append(&mut ended.refused);
    }

    fn retain(&mut self, used: &dyn Fn(u32) -> bool) {
        self.plans.retain(used);
    }

    fn late_p99(&self) -> Duration {
        self.landed.lock().lateness.snapshot().p99
    }
}

impl<M: Measure> Drop for Rounds<M> {
    fn drop(&mut self) {
        // Without orders to come the thread ends.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Landed {
    fn lock(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_late(&self, late: Duration, now: Instant) {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.lock().lateness.note(nanos(late), nanos(now.duration_since(self.started)));
    }
}

/// What begins rounds when they are due.
struct Pilot<M: Measure> {
    measure: Arc<M>,
    landed: Arc<Landed>,
    waiting: BinaryHeap<Reverse<Order<M>>>,
    flying: JoinSet<()>,
    at_once: usize,
}

fn fly<M: Measure>(runtime: Runtime, pilot: Pilot<M>, orders: mpsc::Receiver<Vec<Order<M>>>) {
    runtime.block_on(pilot.run(orders));
    // A resolver of the system that hangs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
}

impl<M: Measure> Pilot<M> {
    async fn run(mut self, mut orders: mpsc::Receiver<Vec<Order<M>>>) {
        loop {
            let wake = self.begin_due();
            tokio::select! {
                chunk = orders.recv() => match chunk {
                    Some(chunk) => self.waiting.extend(chunk.into_iter().map(Reverse)),
                    None => return,
                },
                Some(_) = self.flying.join_next() => {}
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    /// Begins what is due, as far as there is room; tells when there is more to do.
    fn begin_due(&mut self) -> Option<Instant> {
        while self.flying.try_join_next().is_some() {}
        loop {
            let due = self.waiting.peek()?.0.due;
            let now = Instant::now();
            if due > now {
                return Some(due);
            }
            let late = now.duration_since(due);
            if late <= LATEST && self.flying.len() >= self.at_once {
                return Some(due + LATEST + Duration::from_millis(1));
            }
            let Reverse(order) = self.waiting.pop()?;
            if late > LATEST {
                self.landed.lock().refused.push(order.key);
                continue;
            }
            self.landed.note_late(late, now);
            let flight = flight(Arc::clone(&self.measure), order, now, late);
            let landed = Arc::clone(&self.landed);
            self.flying.spawn(async move {
                let done = flight.await;
                landed.lock().done.push(done);
            });
        }
    }
}

/// Makes one round, whatever the measurement does.
async fn flight<M: Measure>(measure: Arc<M>, order: Order<M>, now: Instant, late: Duration) -> Done {
    let Order { key, address, spec, limit, .. } = order;
    let began_us = clock::now_us();
    let signs = Signs::none();
    let work = AssertUnwindSafe(measure.measure(&spec, address, now, &signs)).catch_unwind();
    let failed = |error: String| {
        tracing::error!(kind = measure.kind(), error);
        let address = address.map(|address| address.to_string().into()).unwrap_or_default();
        Round { address, time_us: began_us, error: Some(error), ..Round::default() }
    };
    let mut round = match tokio::time::timeout(limit, work).await {
        Ok(Ok(Found { round, outcome })) => match serde_json::to_string(&outcome) {
            Ok(text) if text.len() <= LONGEST_OUTCOME => Round { outcome: Some(text), ..round },
            Ok(text) => {
                tracing::error!(kind = measure.kind(), bytes = text.len(), "outcome too long to be kept");
                round
            }
            Err(error) => {
                tracing::error!(kind = measure.kind(), %error, "outcome cannot be written");
                round
            }
        },
        Ok(Err(_)) => failed("the measurement panicked; this is a fault of the program".to_owned()),
        Err(_) => failed(format!("the measurement did not end within {} s", limit.as_secs())),
    };
    if round.time_us == 0 {
        round.time_us = began_us;
    }
    round.late_us = round.late_us.max(u32::try_from(late.as_micros()).unwrap_or(u32::MAX));
    Done { key, round }
}

impl<M: Measure> Ord for Order<M> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.key).cmp(&(other.due, other.key))
    }
}

impl<M: Measure> PartialOrd for Order<M> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<M: Measure> PartialEq for Order<M> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<M: Measure> Eq for Order<M> {}

#[cfg(test)]
mod tests;

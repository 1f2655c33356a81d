//! Standing work: rounds that are due again and again, whether or not the server or NATS can be reached.
//!
//! One thread does it all: it follows the assignment file, hands rounds to the engine a little ahead of their time,
//! gathers outcomes, and writes them to the spool. There is no task and no timer per target.

mod debt;
mod keeper;
mod name;
mod roster;
mod schedule;

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use imn_contract::{
    Fault,
    latest::{Assignment, ModuleConfig, Round},
};
use imn_runtime::{
    nats::Client,
    spool::{self, Shipper, Spool},
    task::{Shutdown, Stop, Tasks},
};
use tokio::time::Instant;

use crate::{Error, module::Module};
use keeper::Keeper;
use name::Names;

pub(crate) use name::resolve;

/// A round that could not be begun in time is still made this late; its lateness is told. Later, it is a gap.
pub(crate) const LATEST: Duration = Duration::from_millis(500);
/// The least that is left of the drain for the spool.
const LEAST_FLUSH: Duration = Duration::from_millis(200);

/// What a type does with standing work. Its methods are called by one thread, some 25 times a second, and must not
/// block.
pub trait Standing: Send {
    /// Takes in how an assignment is to be measured. Many assignments share few plans: equal parameters should give
    /// equal numbers.
    ///
    /// # Errors
    /// A fault that names the field that is wrong; the assignment's rounds then carry it as their error.
    fn plan(&mut self, assignment: &Assignment) -> Result<Plan, Fault>;

    /// Starts rounds, each to be made when it is due, one or two seconds from now; tells how many, from the front,
    /// could be taken. The others become gaps.
    fn begin(&mut self, rounds: &[Due]) -> usize;

    /// Adds what has been completed since the last call.
    fn collect(&mut self, done: &mut Vec<Done>);

    /// Adds the keys of rounds that were taken and, since the last call, could not be made in time after all. They
    /// become gaps.
    fn refused(&mut self, keys: &mut Vec<u64>) {
        let _ = keys;
    }

    /// Tells which plan numbers are still used, after assignments changed. The others may be forgotten and given
    /// again.
    fn retain(&mut self, used: &dyn Fn(u32) -> bool) {
        let _ = used;
    }

    /// 99th percentile of sent − due over the last ten to twenty seconds.
    fn late_p99(&self) -> Duration {
        Duration::ZERO
    }
}

/// How an assignment is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The implementor's own number for the parameters.
    pub number: u32,
    /// What the assignment's address stands for.
    pub addressing: Addressing,
}

/// What the address of an assignment stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addressing {
    /// An address, or a name that is to be resolved to one.
    Resolved(Family),
    /// Something of the type's own, such as a URL. It stands in the round's record unless the round has an address.
    Opaque,
}

/// Which address of a name is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// The first that the resolver gives.
    #[default]
    Any,
    /// The first of IPv4.
    V4,
    /// The first of IPv6.
    V6,
}

impl Family {
    /// Whether an address is of this family.
    pub fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// A round that falls due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Comes back in [`Done`].
    pub key: u64,
    /// When, in microseconds since the Unix epoch.
    pub due_us: i64,
    /// The address, unless the plan's addressing is opaque.
    pub address: Option<IpAddr>,
    /// [`Plan::number`].
    pub plan: u32,
    /// Packets.
    pub count: u32,
    /// Tmax of each packet.
    pub timeout: Duration,
}

/// A round that is complete.
#[derive(Clone, Debug)]
pub struct Done {
    /// From [`Due`].
    pub key: u64,
    /// What was found; the SDK fills in target, due time and Tmax.
    pub round: Round,
}

/// Counts of the rounds of this process.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    counts: Mutex<Counts>,
}

/// See [`Stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub due: u64,
    pub done: u64,
    pub skipped: u64,
    pub late_p99_us: u64,
}

impl Stats {
    pub(crate) fn read(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, counts: Counts) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}

/// What standing work needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// The assignment file.
    pub assignments: PathBuf,
    /// The spool's directory.
    pub directory: PathBuf,
    pub config: ModuleConfig,
}

/// Standing work that has been started.
pub(crate) struct Work {
    pub spool: Arc<Spool>,
    pub stats: Arc<Stats>,
    settled: Arc<AtomicBool>,
}

/// Starts the standing work of a module, if it has such, as a task of `services`.
pub(crate) fn start(
    module: &dyn Module,
    spec: Spec,
    services: &mut Tasks,
    stop: &Stop,
) -> Result<Option<Work>, Error> {
    let Some(standing) = module.standing().map_err(Error::Module)? else { return Ok(None) };
    let config = &spec.config;
    let open = spool::Config {
        dir: spec.directory.clone(),
        agent: config.agent.clone(),
        instance: config.instance.clone(),
        kind: config.kind.clone(),
        partitions: config.partitions,
        max_bytes: config
            .config
            .get("spool_max_bytes")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(spool::Config::MAX_BYTES),
    };
    let spool = Arc::new(Spool::open(open)?);
    let stats = Arc::new(Stats::default());
    let settled = Arc::new(AtomicBool::new(false));
    let (names, resolver) = Names::new();
    services.spawn("resolver", resolver.run(stop.clone()));
    let keeper = Keeper::new(spec, standing, Arc::clone(&spool), names, Arc::clone(&stats));
    let (stop, flag) = (stop.clone(), Arc::clone(&settled));
    services.spawn_blocking("standing", move || {
        keeper.run(&stop);
        flag.store(true, Relaxed);
    });
    Ok(Some(Work { spool, stats, settled }))
}

impl Work {
    /// Whether, after the stop was asked for, all rounds in flight have been written to the spool.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Relaxed)
    }

    /// Ships what is left while there is time and a connection, then closes the spool in order.
    pub(crate) async fn end(
        self,
        services: Tasks,
        shipping: Shutdown,
        client: Option<&Client>,
        end: Instant,
    ) {
        shipping.request();
        if client.is_some() {
            services.drain(LEAST_FLUSH).await;
        } else {
            // No time is left: rounds in flight become gaps at the next start.
            drop(services);
        }
        if let Some(client) = client.filter(|client| client.events().is_connected()) {
            let left = end.saturating_duration_since(Instant::now()).max(LEAST_FLUSH);
            // Whoever started this process waits for it: what the server does not confirm soon stays on disk.
            let patience = left.min(Duration::from_secs(3));
            if let Err(error) = Shipper::flush(Arc::clone(&self.spool), client.clone(), patience).await {
                tracing::warn!(%error, "spool not flushed; it stays on disk");
            }
        }
        if let Err(error) = self.spool.close() {
            tracing::error!(%error, "spool not closed in order");
        }
    }
}

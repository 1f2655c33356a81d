//! `dns`: what a resolver answers to a question, and how long each part of it takes.

mod params;

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::FuturesUnordered};
use imn_contract::{
    Fault,
    latest::{Assignment, DnsOutcome, ProgressKind},
};
use imn_probe::dns::{Config, Engine, Failure, system_resolvers};
use imn_runtime::clock;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    Addressing, Pace,
    convert::dns::{self as convert, Shot},
    flight::{Found, Measure, Signs},
    module,
    standing::resolve,
};

pub(crate) use params::{Expectation, Host, Spec};

/// Time between queries if nothing is said.
const SPACING: Duration = Duration::from_secs(1);

/// The type, with the engine that jobs and standing work share.
#[derive(Default)]
pub(super) struct Dns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pace: Pace,
    /// Started with the first measurement.
    engine: Option<Arc<Engine>>,
}

impl Dns {
    fn engine(&self) -> Arc<Engine> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Pace { rate, prefix_rate } = state.pace;
        let start = || Arc::new(Engine::new(&Config { rate, prefix_rate, ..Config::default() }));
        Arc::clone(state.engine.get_or_insert_with(start))
    }
}

#[async_trait]
impl Measure for Dns {
    type Spec = Spec;
    type Outcome = DnsOutcome;

    fn kind(&self) -> &'static str {
        "dns"
    }

    fn params_schema(&self) -> Value {
        module::schema::<params::Params>()
    }

    fn slots(&self) -> u32 {
        64
    }

    /// `rate` and `prefix_rate`, in queries per second, 0 for unlimited; in force for queries made later.
    fn configure(&self, config: &Map<String, Value>) -> Result<(), Fault> {
        let mut pace = Pace::default();
        for (name, slot) in [("rate", &mut pace.rate), ("prefix_rate", &mut pace.prefix_rate)] {
            if let Some(value) = config.get(name) {
                let rate = value.as_u64().and_then(|rate| u32::try_from(rate).ok());
                let wrong =
                    || Fault::invalid(format!("config.{name}"), "use queries per second, 0 for unlimited");
                *slot = NonZeroU32::new(rate.ok_or_else(wrong)?);
            }
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.pace != pace {
            *state = State { pace, engine: None };
        }
        Ok(())
    }

    /// The target is the name to look up; or the resolver, where the parameters have a `query`.
    fn spec(&self, target: &str, params: &Map<String, Value>) -> Result<(Spec, Addressing), Fault> {
        Ok((Spec::read(target, params)?, Addressing::Opaque))
    }

    fn plan(&self, assignment: &Assignment) -> Result<(Spec, Addressing), Fault> {
        Ok((Spec::standing(assignment)?, Addressing::Opaque))
    }

    fn unmeasured(&self, spec: &Spec, error: String) -> DnsOutcome {
        convert::unmeasured(spec, error)
    }

    async fn measure(&self, spec: &Spec, _: Option<IpAddr>, _: Instant, signs: &Signs) -> Found<DnsOutcome> {
        let begun = Instant::now();
        let found = match timeout(spec.query.timeout, address(spec)).await {
            Ok(found) => found,
            Err(_) => Err("resolve the resolver's name: no answer within tmax".to_owned()),
        };
        let resolver = match found {
            Ok(resolver) => resolver,
            Err(error) => return convert::unresolved(spec, error),
        };
        let is_name = matches!(spec.resolver, Some((Host::Name(_), _)));
        let resolve = is_name.then(|| begun.elapsed());
        // What its name took is told as a phase, and is no lateness.
        let (start, start_us) = (Instant::now(), clock::now_us());
        let engine = self.engine();
        let ask = |number: u32| {
            let engine = &engine;
            async move {
                let wait = spec.interval * number;
                sleep_until(start + wait).await;
                let due_us = start_us + wait.as_micros() as i64;
                Shot { number, due_us, outcome: engine.query(resolver, &spec.query).await }
            }
        };
        let mut asking: FuturesUnordered<_> = (0..spec.count).map(ask).collect();
        let mut shots = Vec::with_capacity(spec.count as usize);
        while let Some(shot) = asking.next().await {
            let detail = convert::progress(spec, &shot);
            let place = shots.partition_point(|before: &Shot| before.number < shot.number);
            shots.insert(place, shot);
            let so_far = || convert::found(spec, resolver, resolve, &shots).outcome;
            signs.step(ProgressKind::Packet, detail, so_far);
        }
        convert::found(spec, resolver, resolve, &shots)
    }
}

/// Where the resolver is.
async fn address(spec: &Spec) -> Result<SocketAddr, String> {
    let family = spec.family;
    let port = spec.port;
    match &spec.resolver {
        None => {
            let mut all = system_resolvers().into_iter();
            let mut found = all
                .find(|resolver| family.admits(resolver.ip()))
                .ok_or_else(|| "this host has no resolver of the address family asked for".to_owned())?;
            found.set_port(port);
            Ok(found)
        }
        Some((Host::Address(address), _)) => Ok(SocketAddr::new(*address, port)),
        Some((Host::Name(name), _)) => {
            let addresses = resolve(name, family).await?;
            let first = addresses.first().ok_or_else(|| format!("resolve {name}: no address"))?;
            Ok(SocketAddr::new(*first, port))
        }
    }
}

/// What is left of a failure for the words of an outcome: ICMP's are the same for all types.
pub(crate) fn words(failure: &Failure, resolver: IpAddr) -> String {
    match failure {
        Failure::Unreachable { from, kind, code } => crate::convert::unreachable(*from, *kind, *code),
        Failure::Refused => format!("connection refused by {resolver}"),
        failure => failure.to_string(),
    }
}

//! `trace`: the path to a target, once or in cycles.

mod names;
mod routes;

use std::{
    net::IpAddr,
    sync::{Mutex, OnceLock, PoisonError},
};

use async_trait::async_trait;
use imn_contract::{
    Fault,
    latest::{Assignment, TraceOutcome},
};
use imn_probe::{Timestamp, trace::Tally};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{
    Addressing, ProgressKind, convert,
    flight::{Found, Measure, Signs},
    module,
    trace::{TraceParams, TraceSpec, Wanted},
};
use names::Names;
use routes::Routes;

/// The module. Its engine is started by the first trace and serves all.
#[derive(Default)]
pub(crate) struct Trace {
    routes: OnceLock<Routes>,
    names: OnceLock<Names>,
    starting: Mutex<()>,
}

impl Trace {
    fn routes(&self) -> Result<&Routes, Fault> {
        let _one_at_a_time = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(routes) = self.routes.get() {
            return Ok(routes);
        }
        let routes = Routes::start()?;
        Ok(self.routes.get_or_init(|| routes))
    }
}

#[async_trait]
impl Measure for Trace {
    type Spec = TraceSpec;
    type Outcome = TraceOutcome;

    fn kind(&self) -> &'static str {
        "trace"
    }

    fn params_schema(&self) -> Value {
        module::schema::<TraceParams>()
    }

    fn spec(&self, target: &str, params: &Map<String, Value>) -> Result<(TraceSpec, Addressing), Fault> {
        let spec = TraceSpec::read(target, params)?;
        let addressing = Addressing::Resolved(spec.family);
        Ok((spec, addressing))
    }

    fn plan(&self, assignment: &Assignment) -> Result<(TraceSpec, Addressing), Fault> {
        let spec = TraceSpec::standing(assignment)?;
        let addressing = Addressing::Resolved(spec.family);
        Ok((spec, addressing))
    }

    fn unmeasured(&self, spec: &TraceSpec, error: String) -> TraceOutcome {
        convert::trace::unmeasured(spec, error)
    }

    async fn measure(
        &self,
        spec: &TraceSpec,
        address: Option<IpAddr>,
        due: Instant,
        signs: &Signs,
    ) -> Found<TraceOutcome> {
        let nothing = |error: String| Found {
            round: imn_contract::latest::Round {
                address: address.map(|address| address.to_string().into()).unwrap_or_default(),
                error: Some(error.clone()),
                ..Default::default()
            },
            outcome: convert::trace::unmeasured(spec, error),
        };
        let Some(target) = address else { return nothing("no address".to_owned()) };
        let routes = match self.routes() {
            Ok(routes) => routes,
            Err(fault) => return nothing(fault.message),
        };
        let late = Instant::now().saturating_duration_since(due);
        let due = Timestamp::from_nanos(
            Timestamp::now().as_nanos().saturating_sub(u64::try_from(late.as_nanos()).unwrap_or(0)),
        );
        let mut flight = match routes.begin(|key| spec.engine(key, target, due, signs.wanted())) {
            Ok(flight) => flight,
            Err(fault) => return nothing(fault.message),
        };
        let mut tally = Tally::new(&spec.engine(0, target, due, true));
        let found = loop {
            tokio::select! {
                biased;
                Some(event) = flight.events.recv() => {
                    tally.take(&event);
                    let detail = convert::trace::progress(&event, tally.hop(event.ttl));
                    let so_far = || convert::trace::outcome(spec, &tally.outcome());
                    signs.step(ProgressKind::Hop, detail, so_far);
                }
                found = &mut flight.done => match found {
                    Ok(found) => break found,
                    Err(_) => return nothing("the engine has stopped".to_owned()),
                },
            }
        };
        let mut outcome = convert::trace::outcome(spec, &found);
        if spec.wanted != Wanted::default() {
            self.names.get_or_init(Names::new).fill(&mut outcome, &spec.wanted).await;
        }
        Found { round: convert::trace::round(&found, &outcome), outcome }
    }
}

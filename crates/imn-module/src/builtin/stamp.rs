//! `stamp`: sessions with STAMP reflectors, one future each.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use imn_contract::{
    Fault,
    latest::{Assignment, ProgressKind, StampOutcome},
};
use imn_probe::{
    Event, Timestamp,
    stamp::{Key, Outcome, Pacing, Sender, Spec},
};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{
    Addressing, Pace, convert,
    flight::{Found, Measure, Signs},
    module,
    stamp::{Params, StampSpec, clock_quality},
};

/// The module. All its sessions share one sender, which keeps to the rates.
#[derive(Default)]
pub(super) struct Stamp {
    state: Mutex<State>,
}

struct State {
    pace: Pace,
    sender: Arc<Sender>,
    /// Directory with the files that parameters name as keys.
    key_dir: Option<PathBuf>,
}

impl Default for State {
    fn default() -> Self {
        let pace = Pace::default();
        Self { pace, sender: sender(pace), key_dir: None }
    }
}

fn sender(pace: Pace) -> Arc<Sender> {
    Arc::new(Sender::new(&Pacing { rate: pace.rate, prefix_rate: pace.prefix_rate }))
}

impl Stamp {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the key of a spec, if it has one; anew for each session, so that a key can be changed.
    fn key(&self, spec: &StampSpec) -> Result<Option<Key>, String> {
        let Some(name) = &spec.key_file else { return Ok(None) };
        let directory = self.state().key_dir.clone();
        let directory =
            directory.ok_or("this vantage point has no directory of keys (key_dir) to find key_file in")?;
        Key::read(&directory.join(name)).map(Some).map_err(|error| error.to_string())
    }

    async fn session(
        &self,
        spec: &StampSpec,
        address: Option<IpAddr>,
        due: Instant,
        signs: &Signs,
    ) -> Result<Found<StampOutcome>, String> {
        let address = address.ok_or("the target has no address")?;
        let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let session = Spec {
            count: spec.count,
            interval: spec.interval,
            timeout: spec.timeout,
            size: spec.size,
            dscp: spec.dscp,
            ssid: spec.ssid,
            format: spec.format,
            key: self.key(spec)?,
            peer: spec.peer,
            source: spec.source_port.map(|port| SocketAddr::new(any, port)),
            clock: clock_quality(),
            progress: signs.wanted(),
            ..Spec::new(SocketAddr::new(address, spec.port))
        };
        let late = Instant::now().saturating_duration_since(due);
        let due =
            u64::try_from(late.as_nanos()).map_or(0, |late| Timestamp::now().as_nanos().saturating_sub(late));
        let sender = Arc::clone(&self.state().sender);
        let tell = |event: Event, so_far: &dyn Fn() -> Outcome| {
            let so_far = || convert::stamp::found(spec, &session.clock, &so_far()).outcome;
            signs.step(ProgressKind::Packet, convert::progress(&event), so_far);
        };
        let outcome = sender.measure(&session, Timestamp::from_nanos(due), tell).await;
        let outcome = outcome.map_err(|error| error.to_string())?;
        Ok(convert::stamp::found(spec, &session.clock, &outcome))
    }
}

#[async_trait]
impl Measure for Stamp {
    type Spec = StampSpec;
    type Outcome = StampOutcome;

    fn kind(&self) -> &'static str {
        "stamp"
    }

    fn params_schema(&self) -> Value {
        module::schema::<Params>()
    }

    fn slots(&self) -> u32 {
        64
    }

    /// `rate` and `prefix_rate`, in packets per second, 0 for unlimited; `key_dir`, the directory of the files that
    /// parameters name as keys.
    fn configure(&self, config: &Map<String, Value>) -> Result<(), Fault> {
        let pace = Pace::of(config)?;
        let key_dir = match config.get("key_dir") {
            None | Some(Value::Null) => None,
            Some(Value::String(path)) => Some(PathBuf::from(path)),
            Some(_) => return Err(Fault::invalid("config.key_dir", "use the path of a directory")),
        };
        let mut state = self.state();
        state.key_dir = key_dir;
        if state.pace != pace {
            state.pace = pace;
            state.sender = sender(pace);
        }
        Ok(())
    }

    fn spec(&self, target: &str, params: &Map<String, Value>) -> Result<(StampSpec, Addressing), Fault> {
        let spec = StampSpec::new(target, params)?;
        let family = spec.family;
        Ok((spec, Addressing::Resolved(family)))
    }

    fn plan(&self, assignment: &Assignment) -> Result<(StampSpec, Addressing), Fault> {
        let spec = StampSpec::standing(assignment)?;
        let family = spec.family;
        Ok((spec, Addressing::Resolved(family)))
    }

    fn unmeasured(&self, spec: &StampSpec, error: String) -> StampOutcome {
        convert::stamp::unmeasured(spec, error)
    }

    async fn measure(
        &self,
        spec: &StampSpec,
        address: Option<IpAddr>,
        due: Instant,
        signs: &Signs,
    ) -> Found<StampOutcome> {
        match self.session(spec, address, due, signs).await {
            Ok(found) => found,
            Err(error) => convert::stamp::failed(spec, address, error),
        }
    }
}

//! The engines of `imn-probe` behind one face.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use crossbeam_channel::Receiver;
use imn_contract::{ErrorCode, Fault};
use imn_probe::{Batch, Event, SubmitError, Timestamp, icmp, tcp};
use serde_json::{Map, Value};

use crate::ping::{Kind, PingSpec, Protocol};

/// How fast an engine may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Packets per second to anywhere but loopback; `None` is unlimited.
    pub rate: Option<NonZeroU32>,
    /// Packets per second to one /24 or /48 other than loopback; `None` is unlimited.
    pub prefix_rate: Option<NonZeroU32>,
}

impl Default for Pace {
    /// 20,000 packets per second, 200 to one prefix.
    fn default() -> Self {
        Self { rate: NonZeroU32::new(20_000), prefix_rate: NonZeroU32::new(200) }
    }
}

impl Pace {
    /// Reads `rate` and `prefix_rate` of a module's configuration: packets per second, 0 for unlimited.
    pub(crate) fn of(config: &Map<String, Value>) -> Result<Self, Fault> {
        let mut pace = Self::default();
        for (name, slot) in [("rate", &mut pace.rate), ("prefix_rate", &mut pace.prefix_rate)] {
            if let Some(value) = config.get(name) {
                let rate = value.as_u64().and_then(|rate| u32::try_from(rate).ok());
                let wrong =
                    || Fault::invalid(format!("config.{name}"), "use packets per second, 0 for unlimited");
                *slot = NonZeroU32::new(rate.ok_or_else(wrong)?);
            }
        }
        Ok(pace)
    }
}

/// One measurement of one address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shot<'a> {
    pub key: u64,
    pub target: IpAddr,
    pub due: Timestamp,
    pub spec: &'a PingSpec,
    /// Flow identifier; 0 is the usual one.
    pub flow: u8,
    pub progress: bool,
}

/// A running engine of either kind.
pub(crate) enum Engine {
    Icmp(icmp::Engine),
    Tcp(tcp::Engine),
}

impl Engine {
    pub(crate) fn start(kind: Kind, pace: Pace) -> Result<Self, Fault> {
        let fault = |error: &dyn std::error::Error| {
            let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            Fault::new(ErrorCode::Unavailable, format!("{error}{cause}"))
        };
        match kind {
            Kind::Icmp => {
                let config = icmp::Config {
                    rate: pace.rate,
                    prefix_rate: pace.prefix_rate,
                    ..icmp::Config::default()
                };
                icmp::Engine::start(&config).map(Self::Icmp).map_err(|error| match &error {
                    icmp::StartError::NotPermitted(_) => Fault::new(ErrorCode::Denied, error.to_string()),
                    icmp::StartError::System { .. } => fault(&error),
                })
            }
            Kind::Tcp => {
                let config =
                    tcp::Config { rate: pace.rate, prefix_rate: pace.prefix_rate, ..tcp::Config::default() };
                tcp::Engine::start(&config).map(Self::Tcp).map_err(|error| fault(&error))
            }
        }
    }

    /// Hands over measurements: all of them, or none and an error.
    pub(crate) fn submit<'a>(&self, shots: impl Iterator<Item = Shot<'a>>) -> Result<(), SubmitError> {
        match self {
            Self::Icmp(engine) => engine.submit(shots.map(|shot| icmp_round(&shot)).collect()),
            Self::Tcp(engine) => engine.submit(shots.map(|shot| tcp_round(&shot)).collect()),
        }
    }

    pub(crate) fn cancel(&self, key: u64) {
        let done = match self {
            Self::Icmp(engine) => engine.cancel(vec![key]),
            Self::Tcp(engine) => engine.cancel(vec![key]),
        };
        if let Err(error) = done {
            tracing::debug!(key, %error, "not cancelled; it ends by its timeout");
        }
    }

    pub(crate) fn outcomes(&self) -> &Receiver<Batch> {
        match self {
            Self::Icmp(engine) => engine.outcomes(),
            Self::Tcp(engine) => engine.outcomes(),
        }
    }

    pub(crate) fn events(&self) -> &Receiver<Event> {
        match self {
            Self::Icmp(engine) => engine.events(),
            Self::Tcp(engine) => engine.events(),
        }
    }

    /// Whether flow identifiers are of effect.
    pub(crate) fn has_flows(&self) -> bool {
        matches!(self, Self::Icmp(engine) if engine.is_raw())
    }

    pub(crate) fn late_p99(&self) -> Duration {
        match self {
            Self::Icmp(engine) => engine.stats().lateness.p99,
            Self::Tcp(engine) => engine.stats().lateness.p99,
        }
    }
}

fn icmp_round(shot: &Shot<'_>) -> icmp::Round {
    let spec = shot.spec;
    let default = icmp::Round::new(shot.key, shot.target);
    let (size, ttl) = match spec.protocol {
        Protocol::Icmp { size, ttl } => (size, ttl),
        Protocol::Tcp { .. } => (default.size, default.ttl),
    };
    icmp::Round {
        due: shot.due,
        count: spec.count,
        interval: spec.interval,
        timeout: spec.timeout,
        size,
        dscp: spec.dscp,
        ttl,
        flow: shot.flow,
        progress: shot.progress,
        ..default
    }
}

fn tcp_round(shot: &Shot<'_>) -> tcp::Round {
    let spec = shot.spec;
    let port = match spec.protocol {
        Protocol::Tcp { port } => port,
        Protocol::Icmp { .. } => 0,
    };
    tcp::Round {
        due: shot.due,
        count: spec.count,
        interval: spec.interval,
        timeout: spec.timeout,
        dscp: spec.dscp,
        progress: shot.progress,
        ..tcp::Round::new(shot.key, shot.target, port)
    }
}

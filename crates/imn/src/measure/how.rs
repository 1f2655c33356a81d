//! How targets are measured: many by one engine, or one at a time by a module's job.

use std::{num::NonZeroU32, time::Duration};

use anyhow::Result;
use imn_contract::{ModuleType, canonical_type, latest::Outcome};
use imn_module::{Family, Pace, PingSpec, Protocol};
use serde_json::{Map, Value, json};

use super::partial;
use crate::exit::Exit;

/// Longest deadline that the server takes.
const LONGEST: Duration = Duration::from_hours(1);
/// Time for a job to reach its agents and come back, beyond what it measures.
const WAY: Duration = Duration::from_secs(10);

pub(super) enum How {
    Batch(Batch),
    Ask(Ask),
}

/// ICMP or TCP, by one engine for all targets.
pub(super) struct Batch {
    pub(super) spec: PingSpec,
    pub(super) pace: Pace,
    /// Packets per second, also toward loopback.
    pub(super) rate: Option<NonZeroU32>,
}

/// A job of a module type for each target.
pub(super) struct Ask {
    pub(super) kind: ModuleType,
    pub(super) params: Map<String, Value>,
    /// Configuration of the module, where it measures in this process.
    pub(super) config: Map<String, Value>,
    /// The longest that one target takes.
    pub(super) takes: Duration,
    /// Time for a job to reach its agents and come back, beyond that.
    pub(super) way: Duration,
    /// How long each answer is waited for.
    pub(super) tmax: Duration,
    /// Targets begun per second.
    pub(super) rate: Option<NonZeroU32>,
    /// What stands before a parameter's name on the command line.
    pub(super) flag: &'static str,
}

impl Ask {
    /// A measurement of a type that takes no longer than this, with no parameters yet.
    pub(super) fn new(kind: &str, takes: Duration) -> Result<Self> {
        let kind = ModuleType::new(canonical_type(kind)).map_err(|error| Exit::usage(error.to_string()))?;
        Ok(Self {
            kind,
            params: Map::new(),
            config: Map::new(),
            takes,
            way: WAY,
            tmax: takes,
            rate: None,
            flag: "--",
        })
    }
}

impl How {
    pub(super) fn kind(&self) -> Result<ModuleType> {
        let kind = match self {
            Self::Ask(ask) => return Ok(ask.kind.clone()),
            Self::Batch(Batch { spec: PingSpec { protocol: Protocol::Icmp { .. }, .. }, .. }) => "icmp",
            Self::Batch(Batch { spec: PingSpec { protocol: Protocol::Tcp { .. }, .. }, .. }) => "tcp",
        };
        Ok(ModuleType::new(kind)?)
    }

    /// The parameters of the job that measures so.
    pub(super) fn params(&self) -> Map<String, Value> {
        match self {
            Self::Ask(ask) => ask.params.clone(),
            Self::Batch(batch) => params(&batch.spec),
        }
    }

    /// What stands before a parameter's name on the command line.
    pub(super) fn flag(&self) -> &'static str {
        match self {
            Self::Ask(ask) => ask.flag,
            Self::Batch(_) => "--",
        }
    }

    /// Time for the measurement, and the way there and back.
    pub(super) fn deadline(&self) -> Result<Duration> {
        let (takes, way, flags) = match self {
            Self::Ask(ask) => (ask.takes, ask.way, "this".to_owned()),
            Self::Batch(Batch { spec, .. }) => (
                spec.interval * u32::from(spec.count.saturating_sub(1)) + spec.timeout,
                WAY,
                format!("--count {} at --interval {:?}", spec.count, spec.interval),
            ),
        };
        let deadline = takes + way;
        if deadline > LONGEST {
            let text = format!("{flags} takes longer than the hour that a job may; lower the flags");
            return Err(Exit::usage(text).into());
        }
        Ok(deadline)
    }

    /// The outcome of a target of which nothing was measured, and why.
    pub(super) fn unmeasured(&self, target: &str, error: String) -> Outcome {
        match self {
            Self::Ask(ask) => Outcome::unmeasured(&ask.kind, target, ask.tmax.as_millis() as u64, error),
            Self::Batch(Batch { spec, .. }) => partial::unmeasured(target, spec, Some(error)).into(),
        }
    }
}

/// The same outcome, which says of which target it is: that of an unknown type need not.
pub(super) fn named(mut outcome: Outcome, target: &str) -> Outcome {
    let nameless = outcome.head().target.is_empty();
    if let Outcome::Other(Value::Object(fields)) = &mut outcome
        && nameless
    {
        fields.insert("target".to_owned(), json!(target));
    }
    outcome
}

fn params(spec: &PingSpec) -> Map<String, Value> {
    let mut params = Map::new();
    let mut set = |name: &str, value: Value| params.insert(name.to_owned(), value);
    set("count", json!(spec.count));
    set("interval", json!(span(spec.interval)));
    set("timeout", json!(span(spec.timeout)));
    match spec.protocol {
        Protocol::Icmp { size, .. } => set("size", json!(size)),
        Protocol::Tcp { port } => set("port", json!(port)),
    };
    match spec.family {
        Family::Any => None,
        Family::V4 => set("family", json!(4)),
        Family::V6 => set("family", json!(6)),
    };
    params
}

/// A duration as parameters write it.
pub(super) fn span(span: Duration) -> String {
    let us = span.as_micros();
    if us.is_multiple_of(1000) { format!("{}ms", us / 1000) } else { format!("{us}us") }
}

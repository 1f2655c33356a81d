//! What a probe measures in each run.

use std::time::Duration;

use imn_contract::{ModuleType, latest::Outcome};
use serde_json::{Map, Value, json};

use super::SLACK;
use crate::cli::IcmpProbe;

/// The types that a probe of this program can measure.
pub(super) const METRICS: [&str; 1] = ["icmp"];

pub(super) struct Plan {
    /// Module type.
    pub(super) kind: &'static str,
    /// What records call it.
    pub(super) metric: &'static str,
    pub(super) jobs: Vec<Job>,
    /// The longest that one target takes.
    pub(super) takes: Duration,
    /// How long each answer is waited for.
    pub(super) tmax: Duration,
}

/// One thing that is measured, and how.
pub(super) struct Job {
    pub(super) target: String,
    pub(super) params: Map<String, Value>,
}

impl Plan {
    pub(super) fn icmp(args: &IcmpProbe) -> Self {
        // A run is over before the next one is due.
        let count = u32::from(args.count);
        let spacing = Duration::from_secs(1).min(args.run.interval / (2 * count));
        let params = params(json!({
            "count": count,
            "interval": micros(spacing),
            "timeout": micros(args.timeout),
        }));
        Self {
            kind: "icmp",
            metric: "icmp",
            jobs: jobs(&args.targets, &params),
            takes: spacing * count + args.timeout + SLACK,
            tmax: args.timeout,
        }
    }

    /// The outcome of a target of which nothing was measured, and why.
    pub(super) fn unmeasured(&self, kind: &ModuleType, target: &str, error: String) -> Outcome {
        Outcome::unmeasured(kind, target, self.tmax.as_millis() as u64, error)
    }
}

/// All targets, measured alike.
fn jobs(targets: &[String], params: &Map<String, Value>) -> Vec<Job> {
    targets.iter().map(|target| Job { target: target.clone(), params: params.clone() }).collect()
}

/// A duration as parameters write it.
fn micros(span: Duration) -> String {
    format!("{}us", span.as_micros())
}

fn params(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

//! What a probe measures in each run.

use std::time::Duration;

use imn_contract::{ModuleType, latest::Outcome};
use serde_json::{Map, Value, json};

use super::SLACK;
use crate::cli::{BgpProbe, DnsProbe, HttpProbe, IcmpProbe, MtrProbe};

/// The types that a probe of this program can measure.
pub(super) const METRICS: [&str; 5] = ["icmp", "dns", "http", "mtr", "bgp"];
/// Updates of a prefix that a run carries; more are counted and left out.
const MOST_UPDATES: u32 = 10_000;

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
    /// It is observed all the time, and a run tells what has been seen since the one before.
    pub(super) standing: bool,
}

/// One thing that is measured, and how.
pub(super) struct Job {
    pub(super) target: String,
    pub(super) params: Map<String, Value>,
}

impl Plan {
    pub(super) fn icmp(args: &IcmpProbe) -> Self {
        let spacing = spacing(args.run.interval, args.count);
        let params = params(json!({
            "count": args.count,
            "interval": micros(spacing),
            "timeout": micros(args.timeout),
        }));
        Self {
            kind: "icmp",
            metric: "icmp",
            jobs: jobs(&args.targets, &params),
            takes: spacing * u32::from(args.count) + args.timeout + SLACK,
            tmax: args.timeout,
            standing: false,
        }
    }

    pub(super) fn dns(args: &DnsProbe) -> Self {
        let base = json!({
            "type": args.record,
            "transport": args.transport,
            "timeout": micros(args.timeout),
        });
        let params = params(base);
        let jobs = if args.resolvers.is_empty() {
            jobs(&args.targets, &params)
        } else {
            let asked = |resolver: &String| {
                let mut params = params.clone();
                params.insert("resolver".to_owned(), json!(resolver));
                jobs(&args.targets, &params)
            };
            args.resolvers.iter().flat_map(asked).collect()
        };
        Self {
            kind: "dns",
            metric: "dns",
            jobs,
            takes: args.timeout + SLACK,
            tmax: args.timeout,
            standing: false,
        }
    }

    pub(super) fn http(args: &HttpProbe) -> Self {
        let params = params(json!({ "method": args.method, "timeout": micros(args.timeout) }));
        Self {
            kind: "http",
            metric: "http",
            jobs: jobs(&args.urls, &params),
            takes: args.timeout + SLACK,
            tmax: args.timeout,
            standing: false,
        }
    }

    pub(super) fn mtr(args: &MtrProbe) -> Self {
        let spacing = spacing(args.run.interval, args.count);
        let params = params(json!({
            "count": args.count,
            "interval": micros(spacing),
            "timeout": micros(args.timeout),
            "protocol": args.protocol,
            "max_hops": args.max_hops,
        }));
        Self {
            kind: "trace",
            metric: "mtr",
            jobs: jobs(&args.targets, &params),
            takes: spacing * u32::from(args.count) + args.timeout * 2 + SLACK,
            tmax: args.timeout,
            standing: false,
        }
    }

    pub(super) fn bgp(args: &BgpProbe) -> Self {
        let source = match (&args.ris_live, args.bmp_listen) {
            (_, Some(address)) => format!("bmp:{address}"),
            (Some(url), None) if !url.is_empty() => format!("ris-live:{url}"),
            _ => "ris-live".to_owned(),
        };
        let params = params(json!({ "source": source, "max_updates": MOST_UPDATES }));
        Self {
            kind: "bgp",
            metric: "bgp",
            jobs: jobs(&args.prefixes, &params),
            takes: SLACK,
            tmax: args.run.interval,
            standing: true,
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

/// Time between the packets of a run: a second, or less so that a run is over before the next one is due.
fn spacing(interval: Duration, count: u16) -> Duration {
    Duration::from_secs(1).min(interval / (2 * u32::from(count)))
}

/// A duration as parameters write it.
fn micros(span: Duration) -> String {
    format!("{}us", span.as_micros())
}

/// The parameters that are given.
fn params(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

//! Records of standalone probes: one JSON object each, with the fields of page interface and no others.
//!
//! The fields of a type are those of its form. What carries a record (a line of a file, a NATS message, a Kafka
//! message) takes its topic and headers from it.

mod form;
mod icmp;

use std::io;

use imn_contract::latest::{Head, Outcome};
use imn_runtime::clock;
use serde::Serialize;

use crate::format::Row;
use form::Form;

/// Topic of registry messages.
const REGISTRY: &str = "agent.registry";
/// Topic of health messages.
const HEALTH: &str = "probe.health";

/// Whose records they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its identifier.
    pub id: String,
    /// Where it is.
    pub location: String,
}

/// One record, written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it belongs, such as `icmp.metrics`.
    pub topic: &'static str,
    /// What it is of: `icmp`, `dns`, `http`, `mtr`, `bgp`; `agent` for messages of the probe itself.
    pub kind: &'static str,
    /// What was measured; empty for messages of the probe itself.
    pub target: String,
    /// One line of JSON, without its end.
    pub text: String,
}

impl Record {
    /// The headers that a message with this record carries.
    pub fn headers<'a>(&'a self, probe: &'a Probe) -> [(&'static str, &'a str); 4] {
        [
            ("probe_id", &probe.id),
            ("probe_type", self.kind),
            ("geo_location", &probe.location),
            ("target", &self.target),
        ]
    }
}

/// What every record of a measurement has.
#[derive(Serialize)]
struct Line<'a, F> {
    probe_id: &'a str,
    probe_type: &'static str,
    geo_location: &'a str,
    timestamp: String,
    target: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(flatten)]
    fields: F,
}

/// What a probe says of itself when it starts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Registry<'a> {
    /// Its identifier.
    pub probe_id: &'a str,
    /// Its address.
    pub ip: String,
    /// Where it is.
    pub location: &'a str,
    /// The types that it measures.
    pub available_metrics: Vec<&'static str>,
    /// Its version.
    pub version: &'static str,
    /// Seconds since it started.
    pub uptime: u64,
}

/// How a probe fares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Health<'a> {
    /// Its identifier.
    pub probe_id: &'a str,
    /// When a measurement last succeeded, RFC 3339 UTC.
    pub last_successful_run: Option<String>,
    /// Seconds since it started.
    pub uptime: u64,
    /// Measurements of the last hour that failed.
    pub failures_last_hour: u64,
}

impl Registry<'_> {
    /// The message.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn record(&self) -> io::Result<Record> {
        Ok(Record {
            topic: REGISTRY,
            kind: "agent",
            target: String::new(),
            text: serde_json::to_string(self)?,
        })
    }
}

impl Health<'_> {
    /// The message.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn record(&self) -> io::Result<Record> {
        Ok(Record { topic: HEALTH, kind: "agent", target: String::new(), text: serde_json::to_string(self)? })
    }
}

/// The records of one measurement; several where the type has one for each of its parts.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] for a type without records.
pub fn records(probe: &Probe, row: &Row) -> io::Result<Vec<Record>> {
    let head = row.outcome.head();
    if let Outcome::Ping(outcome) = &row.outcome {
        let status = icmp::status(outcome);
        return Ok(vec![line(probe, &head, ("icmp.metrics", "icmp"), status, icmp::fields(outcome))?]);
    }
    let name = row.outcome.name();
    let unsupported =
        || io::Error::new(io::ErrorKind::Unsupported, format!("there are no records of the type {name}"));
    let form = Form::of(name).ok_or_else(unsupported)?;
    form.records(probe, &head, &serde_json::to_value(&row.outcome)?)
}

fn line(
    probe: &Probe,
    head: &Head<'_>,
    (topic, kind): (&'static str, &'static str),
    status: &str,
    fields: impl Serialize,
) -> io::Result<Record> {
    let text = serde_json::to_string(&Line {
        probe_id: &probe.id,
        probe_type: kind,
        geo_location: &probe.location,
        timestamp: head.time.map_or_else(clock::now_rfc3339, str::to_owned),
        target: head.target,
        status,
        error: head.error,
        fields,
    })?;
    Ok(Record { topic, kind, target: head.target.to_owned(), text })
}

/// How a measurement ended, as far as the counts tell: `success`, `unknown` when this host lost all that it sent,
/// `timeout` when nothing answered, `error` for the rest.
fn status(head: &Head<'_>) -> &'static str {
    match head {
        Head { success: true, .. } => "success",
        Head { sent: 0, .. } => "error",
        Head { sent, unknown, .. } if sent == unknown => "unknown",
        Head { received: 0, .. } => "timeout",
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use imn_contract::latest::{PingOutcome, Typed};
    use serde_json::{Value, json};

    use super::*;

    fn probe() -> Probe {
        Probe { id: "p1".to_owned(), location: "London, UK".to_owned() }
    }

    fn keys(text: &str) -> Vec<String> {
        serde_json::from_str::<Value>(text).unwrap().as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn a_ping_is_one_record_of_the_named_fields() {
        let mut outcome = PingOutcome::unmeasured("192.0.2.1", 1000, String::new());
        (outcome.sent, outcome.received, outcome.error) = (4, 3, None);
        outcome.loss_pct = Some(25.0);
        outcome.rtt_ms.avg = Some(1.5);
        outcome.time = Some("2026-11-20T08:00:00.000001Z".to_owned());
        let [record] = records(&probe(), &Row::new(outcome)).unwrap().try_into().unwrap();
        let value: Value = serde_json::from_str(&record.text).unwrap();
        let expected = json!({
            "probe_id": "p1", "probe_type": "icmp", "geo_location": "London, UK",
            "timestamp": "2026-11-20T08:00:00.000001Z", "target": "192.0.2.1", "status": "success",
            "rtt_ms": 1.5, "rtt_min_ms": null, "rtt_max_ms": null, "stddev_ms": null, "jitter_ms": null,
            "loss_pct": 25.0, "packets_sent": 4, "packets_received": 3,
        });
        assert_eq!((value, record.topic), (expected, "icmp.metrics"));
        let probe = probe();
        let headers = record.headers(&probe);
        assert_eq!(
            headers[1..],
            [("probe_type", "icmp"), ("geo_location", "London, UK"), ("target", "192.0.2.1")]
        );
    }

    #[test]
    fn a_failure_has_a_status_and_words() {
        for (sent, unknown, error, status) in [
            (0, 0, "resolve x: no address", "unresolved"),
            (2, 0, "no answer within tmax", "timeout"),
            (2, 2, "unknown: this host may have lost the packets itself", "unknown"),
            (2, 0, "destination host unreachable from 192.0.2.1", "unreachable"),
            (2, 0, "connection refused by 192.0.2.1", "refused"),
            (2, 0, "administratively prohibited from 192.0.2.1", "unreachable"),
        ] {
            let outcome =
                PingOutcome { sent, unknown, ..PingOutcome::unmeasured("x", 1000, error.to_owned()) };
            let record = &records(&probe(), &Row::new(outcome)).unwrap()[0];
            let value: Value = serde_json::from_str(&record.text).unwrap();
            assert_eq!((&value["status"], &value["error"]), (&status.into(), &error.into()));
        }
    }

    #[test]
    fn messages_of_the_probe_itself() {
        let registry = Registry {
            probe_id: "p1",
            ip: "192.0.2.9".to_owned(),
            location: "here",
            available_metrics: vec!["icmp"],
            version: "0.1.0",
            uptime: 0,
        };
        let record = registry.record().unwrap();
        assert_eq!(
            keys(&record.text),
            ["available_metrics", "ip", "location", "probe_id", "uptime", "version"]
        );
        let health = Health { probe_id: "p1", last_successful_run: None, uptime: 1, failures_last_hour: 2 };
        let record = health.record().unwrap();
        assert_eq!(keys(&record.text), ["failures_last_hour", "last_successful_run", "probe_id", "uptime"]);
        assert_eq!(record.topic, "probe.health");
    }

    #[test]
    fn a_type_without_records_says_so() {
        let error = records(&probe(), &Row::new(Outcome::Other(Value::Null))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}

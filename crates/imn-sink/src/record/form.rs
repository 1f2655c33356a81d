//! Which fields the records of a type have, and where each stands in its outcome.

use std::io;

use imn_contract::latest::Head;
use serde_json::{Map, Value};

use super::{Probe, Record, line, status};

/// The records of a type.
pub(super) struct Form {
    topic: &'static str,
    kind: &'static str,
    /// Where the list stands of which each element has a record; absent: the outcome has one.
    each: Option<&'static str>,
    /// Where an element says when it was, if it does.
    time: Option<&'static str>,
    /// Name and place (RFC 6901) of each field; `*` stands for every element of a list.
    fields: &'static [(&'static str, &'static str)],
}

const HTTP: Form = Form {
    topic: "http.metrics",
    kind: "http",
    each: None,
    time: None,
    fields: &[
        ("url", "/target"),
        ("status_code", "/status"),
        ("response_time_ms", "/response_ms/avg"),
        ("dns_ms", "/phases_ms/resolve"),
        ("connect_ms", "/phases_ms/connect"),
        ("tls_ms", "/phases_ms/tls"),
        ("ttfb_ms", "/phases_ms/processing"),
        ("bytes", "/body_bytes"),
    ],
};

const DNS: Form = Form {
    topic: "dns.metrics",
    kind: "dns",
    each: None,
    time: None,
    fields: &[
        ("resolver", "/resolver"),
        ("query", "/query"),
        ("record_type", "/record_type"),
        ("rcode", "/rcode"),
        ("latency_ms", "/latency_ms"),
        ("answers", "/answers/*/data"),
    ],
};

const MTR: Form = Form {
    topic: "mtr.metrics",
    kind: "mtr",
    each: Some("/hops"),
    time: None,
    fields: &[
        ("hop", "/hop"),
        ("ip", "/address"),
        ("host", "/host"),
        ("loss_pct", "/loss_pct"),
        ("sent", "/sent"),
        ("last_rtt_ms", "/last_ms"),
        ("avg_rtt_ms", "/avg_ms"),
        ("best_rtt_ms", "/best_ms"),
        ("worst_rtt_ms", "/worst_ms"),
        ("stddev_ms", "/stddev_ms"),
    ],
};

const BGP: Form = Form {
    topic: "bgp.updates",
    kind: "bgp",
    each: Some("/updates"),
    time: Some("/timestamp"),
    fields: &[
        ("prefix", "/prefix"),
        ("type", "/type"),
        ("peer_asn", "/peer_asn"),
        ("origin_asn", "/origin_asn"),
        ("as_path", "/as_path"),
        ("next_hop", "/next_hop"),
        ("communities", "/communities"),
        ("collector", "/collector"),
    ],
};

impl Form {
    /// The form for outcomes of this name.
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        match name {
            "http" => Some(&HTTP),
            "dns" => Some(&DNS),
            "trace" => Some(&MTR),
            "bgp" => Some(&BGP),
            _ => None,
        }
    }

    /// The records of an outcome. One that has failed has at least one, whose fields are null where nothing is known.
    pub(super) fn records(&self, probe: &Probe, head: &Head<'_>, outcome: &Value) -> io::Result<Vec<Record>> {
        let Some(each) = self.each else {
            let status = coded(head, outcome);
            return Ok(vec![line(probe, head, (self.topic, self.kind), status, self.fields_of(outcome))?]);
        };
        let elements = outcome.pointer(each).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut records = Vec::with_capacity(elements.len());
        for element in elements {
            let time = self.time.and_then(|place| element.pointer(place)?.as_str());
            // What was heard at a time of its own is no error, whatever happened afterwards.
            let (status, head) = match time {
                Some(_) => ("success", Head { time, error: None, ..*head }),
                None => (coded(head, outcome), *head),
            };
            records.push(line(probe, &head, (self.topic, self.kind), status, self.fields_of(element))?);
        }
        let left_out = outcome["updates_omitted"].as_u64().filter(|count| *count > 0);
        let left_out = left_out.map(|count| format!("{count} updates came too fast and are left out"));
        let error = left_out.as_deref().or(head.error);
        if error.is_some() && (self.time.is_some() || elements.is_empty()) {
            let status = if left_out.is_some() { "error" } else { coded(head, outcome) };
            let head = Head { error, ..*head };
            records.push(line(probe, &head, (self.topic, self.kind), status, self.fields_of(&Value::Null))?);
        }
        Ok(records)
    }

    fn fields_of(&self, value: &Value) -> Map<String, Value> {
        self.fields.iter().map(|(name, place)| ((*name).to_owned(), find(value, place))).collect()
    }
}

/// What stands at a place; null if nothing does.
fn find(value: &Value, place: &str) -> Value {
    let Some((list, within)) = place.split_once("/*") else {
        return value.pointer(place).cloned().unwrap_or(Value::Null);
    };
    let elements = value.pointer(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    elements.iter().map(|element| find(element, within)).collect()
}

/// How a measurement ended, by the code that its type gives an error.
fn coded<'a>(head: &Head<'_>, outcome: &'a Value) -> &'a str {
    match outcome["error_code"].as_str() {
        _ if head.success => "success",
        Some("resolve" | "resolve_failed" | "no_address") => "unresolved",
        Some("status" | "header" | "body" | "rcode" | "answer") => "unexpected",
        Some(code) => code,
        None => status(head),
    }
}

#[cfg(test)]
mod tests {
    use imn_contract::latest::{PingOutcome, Typed};
    use serde_json::json;

    use super::*;

    /// The records of an outcome that stands for one of the type: as the fields of page interface, sorted.
    fn written(name: &str, error: Option<&str>, outcome: &Value) -> Vec<Value> {
        let ping = PingOutcome { error: None, ..PingOutcome::unmeasured("t", 1000, String::new()) };
        let success = error.is_none();
        let head = Head { success, error, time: Some("2026-11-20T08:00:00Z"), ..ping.head() };
        let probe = Probe { id: "p".to_owned(), location: "l".to_owned() };
        let records = Form::of(name).unwrap().records(&probe, &head, outcome).unwrap();
        records.iter().map(|record| serde_json::from_str(&record.text).unwrap()).collect()
    }

    fn common(kind: &str, status: &str, fields: &Value) -> Value {
        let mut record = json!({"probe_id": "p", "probe_type": kind, "geo_location": "l", "target": "t",
            "timestamp": "2026-11-20T08:00:00Z", "status": status});
        record.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        record
    }

    #[test]
    fn one_outcome_is_one_record() {
        let http = json!({"target": "http://t/", "status": 404, "response_ms": {"avg": 9.5}, "body_bytes": 5,
            "phases_ms": {"resolve": 1.0, "connect": 2.0, "tls": null, "processing": 3.0, "transfer": 0.5},
            "error_code": "status"});
        let fields = json!({"url": "http://t/", "status_code": 404, "response_time_ms": 9.5, "dns_ms": 1.0,
            "connect_ms": 2.0, "tls_ms": null, "ttfb_ms": 3.0, "bytes": 5, "error": "status 404"});
        assert_eq!(written("http", Some("status 404"), &http), [common("http", "unexpected", &fields)]);
        let dns = json!({"resolver": "9.9.9.9", "query": "t", "record_type": "A", "rcode": "NOERROR",
            "latency_ms": 1.5, "answers": [{"data": "192.0.2.1"}, {"data": "192.0.2.2"}]});
        let fields = json!({"resolver": "9.9.9.9", "query": "t", "record_type": "A", "rcode": "NOERROR",
            "latency_ms": 1.5, "answers": ["192.0.2.1", "192.0.2.2"]});
        assert_eq!(written("dns", None, &dns), [common("dns", "success", &fields)]);
    }

    #[test]
    fn a_path_has_a_record_for_each_hop_and_one_where_there_is_none() {
        let hop = |hop: u8, ip: Value| {
            json!({"hop": hop, "ip": ip, "host": null, "loss_pct": 0.0, "sent": 3, "last_rtt_ms": 1.0,
                "avg_rtt_ms": 2.0, "best_rtt_ms": 0.5, "worst_rtt_ms": 4.0, "stddev_ms": 0.1})
        };
        let own = |hop: u8, address: Value| {
            json!({"hop": hop, "address": address, "loss_pct": 0.0, "sent": 3, "last_ms": 1.0, "avg_ms": 2.0,
                "best_ms": 0.5, "worst_ms": 4.0, "stddev_ms": 0.1})
        };
        let trace = json!({"hops": [own(1, "192.0.2.1".into()), own(2, Value::Null)]});
        let expected =
            [hop(1, "192.0.2.1".into()), hop(2, Value::Null)].map(|fields| common("mtr", "success", &fields));
        assert_eq!(written("trace", None, &trace), expected);
        let failed = written("trace", Some("resolve t: no address"), &json!({"hops": []}));
        assert_eq!(
            (failed.len(), &failed[0]["hop"], &failed[0]["status"]),
            (1, &Value::Null, &"error".into())
        );
    }

    #[test]
    fn every_update_has_a_record_with_its_own_time_and_nothing_is_left_out_in_silence() {
        let update = json!({"timestamp": "2026-11-20T07:59:59Z", "prefix": "192.0.2.0/24", "type": "A",
            "peer_asn": 64500, "origin_asn": 64501, "as_path": "64500 64501", "next_hop": "192.0.2.9",
            "communities": ["64500:1"], "collector": "rrc00", "peer_address": "192.0.2.8"});
        let bgp = json!({"updates": [update], "updates_omitted": 7});
        let records = written("bgp", Some("connection closed"), &bgp);
        assert_eq!(records.len(), 2);
        let fields = json!({"prefix": "192.0.2.0/24", "type": "A", "peer_asn": 64500, "origin_asn": 64501,
            "as_path": "64500 64501", "next_hop": "192.0.2.9", "communities": ["64500:1"], "collector": "rrc00",
            "timestamp": "2026-11-20T07:59:59Z"});
        assert_eq!(records[0], common("bgp", "success", &fields));
        assert_eq!(records[1]["error"], "7 updates came too fast and are left out");
        assert_eq!((&records[1]["status"], &records[1]["prefix"]), (&"error".into(), &Value::Null));
        assert_eq!(written("bgp", None, &json!({"updates": []})), [] as [Value; 0]);
    }
}

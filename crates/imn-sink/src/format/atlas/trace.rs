//! Results of the type `traceroute`.

use std::io;

use imn_contract::latest::{IcmpExtension, TraceHop, TraceOutcome, TraceResponder};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Common, Row, json, time_us};

/// Our probes keep their flow: to Atlas, a Paris identifier other than 0.
const PARIS: u32 = 1;

#[derive(Serialize)]
struct Traceroute<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    proto: &'static str,
    dst_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_addr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_addr: Option<String>,
    paris_id: u32,
    size: u32,
    endtime: i64,
    result: Vec<Value>,
}

pub(super) fn result(row: &Row, outcome: &TraceOutcome) -> io::Result<String> {
    let common = Common::new(row, "traceroute", "Traceroute");
    let begun = time_us(&row.outcome.head()).unwrap_or_else(|| common.timestamp * 1_000_000);
    let took = outcome.elapsed_ms.map_or(0, |ms| (ms * 1e3) as i64);
    let mut result: Vec<Value> = outcome.hops.iter().map(hop).collect();
    if let (Some(error), true) = (&outcome.error, result.is_empty()) {
        result.push(json!({ "hop": 1, "error": error }));
    }
    json::text(&Traceroute {
        common,
        proto: match outcome.protocol.as_str() {
            "udp" => "UDP",
            "tcp" => "TCP",
            _ => "ICMP",
        },
        dst_name: &outcome.target,
        dst_addr: outcome.address.as_deref(),
        src_addr: outcome.source.clone().or_else(|| row.source.map(|source| source.to_string())),
        paris_id: PARIS,
        size: outcome.size.unwrap_or(0),
        endtime: (begun + took).div_euclid(1_000_000),
        result,
    })
}

fn hop(hop: &TraceHop) -> Value {
    let packets = hop.rtts_ms.iter().enumerate().map(|(at, rtt)| {
        let Some(rtt) = rtt else { return json!({ "x": "*" }) };
        let index = match hop.answered_by.get(at) {
            Some(index) => index.map(usize::from),
            None => Some(0),
        };
        match index.and_then(|index| hop.responders.get(index)) {
            Some(node) => packet(node, *rtt),
            None => json!({ "rtt": rtt }),
        }
    });
    json!({ "hop": hop.hop, "result": packets.collect::<Vec<_>>() })
}

fn packet(node: &TraceResponder, rtt: f64) -> Value {
    let mut packet = Map::new();
    let mut set = |name: &str, value: Value| {
        packet.insert(name.to_owned(), value);
    };
    set("from", json!(node.address));
    set("rtt", json!(rtt));
    if let Some(ttl) = node.reply_ttl {
        set("ttl", json!(ttl));
    }
    if let Some(size) = node.reply_size {
        set("size", json!(size));
    }
    if let Some(ttl) = node.quoted_ttl.filter(|ttl| *ttl != 1) {
        set("ittl", json!(ttl));
    }
    if let Some(sign) = &node.sign {
        set("err", error(node, sign));
    }
    if let Some(extension) = &node.extension {
        set("icmpext", icmpext(extension));
    }
    Value::Object(packet)
}

/// Atlas has letters for the most common errors, and the code for the rest.
fn error(node: &TraceResponder, sign: &str) -> Value {
    match sign {
        "!N" => json!("N"),
        "!H" => json!("H"),
        "!X" => json!("A"),
        "!P" => json!("P"),
        "!S" if node.icmp_type == Some(1) => json!("h"),
        _ => json!(node.icmp_code.unwrap_or(0)),
    }
}

fn icmpext(extension: &IcmpExtension) -> Value {
    let objects = extension.objects.iter().map(|object| {
        let mut value = json!({ "class": object.class, "type": object.kind });
        if !object.mpls.is_empty() {
            value["mpls"] = json!(object.mpls);
        }
        value
    });
    json!({
        "version": 2,
        "rfc4884": u8::from(extension.rfc4884),
        "obj": objects.collect::<Vec<_>>(),
    })
}

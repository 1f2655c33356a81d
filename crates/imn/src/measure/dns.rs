//! `imn dns`: its flags as parameters of the type.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::how::{Ask, span};
use crate::cli::DnsArgs;

/// What a measurement takes beyond its queries: the resolver's own name, and waiting for its turn.
const SLACK: Duration = Duration::from_secs(5);

pub(super) fn ask(args: &DnsArgs) -> Result<Ask> {
    let queries = args.interval * u32::from(args.count.saturating_sub(1)) + args.timeout;
    let mut ask = Ask::new("dns", queries + args.timeout + SLACK)?;
    ask.params = params(args);
    ask.tmax = args.timeout;
    ask.rate = args.rate;
    Ok(ask)
}

fn params(args: &DnsArgs) -> Map<String, Value> {
    let given = [
        ("type", args.kind.as_ref().map(|text| json!(text))),
        ("class", args.class.as_ref().map(|text| json!(text))),
        ("resolver", args.resolver.as_ref().map(|text| json!(text))),
        ("transport", args.transport.as_ref().map(|text| json!(text))),
        ("port", args.port.map(|port| json!(port))),
        ("dnssec", args.dnssec.then_some(Value::Bool(true))),
        ("recursion", args.no_recursion.then_some(Value::Bool(false))),
        ("edns", args.no_edns.then_some(Value::Bool(false))),
        ("udp_size", args.udp_size.map(|size| json!(size))),
        ("retry_tcp", args.no_retry_tcp.then_some(Value::Bool(false))),
        ("server_name", args.server_name.as_ref().map(|text| json!(text))),
        ("insecure", args.insecure.then_some(Value::Bool(true))),
        ("expect_rcode", args.expect_rcode.as_ref().map(|text| json!(text))),
        ("expect_answer", args.expect_answer.as_ref().map(|text| json!(text))),
        ("family", args.measure.ipv4.then(|| json!(4)).or(args.measure.ipv6.then(|| json!(6)))),
        ("count", Some(json!(args.count))),
        ("interval", Some(json!(span(args.interval)))),
        ("timeout", Some(json!(span(args.timeout)))),
    ];
    given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

//! `imn http`, and `imn tcp --tls`: flags as the parameters of a job.

use std::time::Duration;

use anyhow::Result;
use imn_sink::format::Format;
use serde_json::{Map, Value, json};

use super::{
    how::{Ask, How, span},
    run,
};
use crate::{
    cli::{HttpArgs, MeasureArgs, TcpArgs, TlsArgs},
    exit::{Code, Exit},
};

/// Time for what no Tmax is for: the module's own start and end.
const SLACK: Duration = Duration::from_secs(1);
const CONNECTIONS: u16 = 4;

pub(crate) fn http(args: HttpArgs) -> Result<Code> {
    let mut ask = Ask::new("http", takes(args.count, args.interval, args.timeout))?;
    ask.tmax = args.timeout;
    ask.rate = args.rate;
    let mut params = common(args.count, args.interval, args.timeout, &args.measure);
    secured(&mut params, &args.secured)?;
    let mut set = |name: &str, value: Value| params.insert(name.to_owned(), value);
    set("method", json!(args.method));
    set("redirects", json!(args.redirects));
    for (name, pairs) in [
        ("headers", args.headers),
        ("expect_header", args.expect_header),
        ("refuse_header", args.refuse_header),
    ] {
        if !pairs.is_empty() {
            set(name, pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect());
        }
    }
    for (name, list) in [
        ("expect_status", args.expect_status),
        ("expect_body", args.expect_body),
        ("refuse_body", args.refuse_body),
    ] {
        if !list.is_empty() {
            set(name, json!(list));
        }
    }
    for (name, value) in [
        ("body", args.body.map(Value::String)),
        ("http", args.http.map(Value::String)),
        ("max_body", args.max_body.map(Value::from)),
        ("resolve", args.resolve.map(|address| json!(address))),
    ] {
        if let Some(value) = value {
            set(name, value);
        }
    }
    ask.params = params;
    run(How::Ask(ask), args.measure)
}

/// `imn tcp --tls`.
pub(super) fn tls(args: TcpArgs) -> Result<Code> {
    let packets = &args.packets;
    let count = packets.count.unwrap_or(CONNECTIONS);
    let mut ask = Ask::new("tcp", takes(count, packets.interval, packets.timeout))?;
    ask.tmax = packets.timeout;
    ask.rate = packets.rate;
    let mut params = common(count, packets.interval, packets.timeout, &args.measure);
    secured(&mut params, &args.secured)?;
    params.insert("tls".to_owned(), json!(true));
    if let Some(port) = args.port {
        params.insert("port".to_owned(), json!(port));
    }
    ask.params = params;
    run(How::Ask(ask), args.measure)
}

fn takes(count: u16, interval: Duration, timeout: Duration) -> Duration {
    interval * u32::from(count.saturating_sub(1)) + timeout + SLACK
}

fn common(count: u16, interval: Duration, timeout: Duration, args: &MeasureArgs) -> Map<String, Value> {
    let mut params = Map::new();
    let mut set = |name: &str, value: Value| params.insert(name.to_owned(), value);
    set("count", json!(count));
    set("interval", json!(span(interval)));
    set("timeout", json!(span(timeout)));
    match (args.ipv4, args.ipv6) {
        (true, _) => set("family", json!(4)),
        (_, true) => set("family", json!(6)),
        _ => None,
    };
    // Atlas' results of certificates are the certificates.
    if args.output == Some(Format::Atlas) {
        set("certificates", json!(true));
    }
    params
}

fn secured(params: &mut Map<String, Value>, args: &TlsArgs) -> Result<()> {
    if let Some(name) = &args.server_name {
        params.insert("server_name".to_owned(), json!(name));
    }
    if args.insecure {
        params.insert("insecure".to_owned(), json!(true));
    }
    if let Some(path) = &args.ca_file {
        let pem = std::fs::read_to_string(path)
            .map_err(|error| Exit::usage(format!("--ca-file {}: {error}", path.display())))?;
        params.insert("ca".to_owned(), json!(pem));
    }
    Ok(())
}

//! `imn stamp send`.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use imn_probe::stamp::PORT;
use serde_json::{Value, json};

use super::{Ask, How, how::span, run};
use crate::{
    cli::{Numbering, StampSendArgs, Timestamps},
    exit::{Code, Exit},
};

/// What a session takes beyond its packets.
const SLACK: Duration = Duration::from_secs(2);
/// The default rate to one prefix allows a packet in this time.
const LEAST_GAP: Duration = Duration::from_millis(5);

pub(crate) fn stamp(args: StampSendArgs) -> Result<Code> {
    let mut measure = args.measure;
    let mut port = None;
    for target in &mut measure.targets {
        let (address, own) = split(target)?;
        if port.is_some_and(|port| port != own) {
            return Err(Exit::usage("TARGET: give all targets one port, or measure them one by one").into());
        }
        port = Some(own);
        *target = address;
    }
    let takes = args.interval.max(LEAST_GAP) * u32::from(args.count) + args.timeout + SLACK;
    let mut ask = Ask::new("stamp", takes)?;
    ask.tmax = args.timeout;
    let mut set = |name: &str, value: Value| ask.params.insert(name.to_owned(), value);
    set("port", json!(port.unwrap_or(PORT)));
    set("count", json!(args.count));
    set("interval", json!(span(args.interval)));
    set("timeout", json!(span(args.timeout)));
    if let Some(size) = args.size {
        set("size", json!(size));
    }
    if let Some(dscp) = args.dscp {
        set("dscp", json!(dscp));
    }
    if let Some(ssid) = args.ssid {
        set("ssid", json!(ssid));
    }
    if let Some(port) = args.source_port {
        set("source_port", json!(port));
    }
    if args.timestamps == Timestamps::Ptp {
        set("timestamps", json!("ptp"));
    }
    match args.reflector {
        Numbering::Auto => {}
        Numbering::Stateful => drop(set("reflector", json!("stateful"))),
        Numbering::Stateless => drop(set("reflector", json!("stateless"))),
    }
    match (measure.ipv4, measure.ipv6) {
        (true, _) => drop(set("family", json!(4))),
        (_, true) => drop(set("family", json!(6))),
        _ => {}
    }
    if let Some(path) = args.key_file {
        if measure.from.is_some() {
            // Of the agents' own directory; the module says so if this is no name.
            set("key_file", json!(path));
        } else {
            let name = path.file_name().ok_or_else(|| Exit::usage("--key-file: is no file"))?;
            let directory = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => ".".as_ref(),
            };
            // What cannot be read is said before anything is sent.
            imn_probe::stamp::Key::read(&path)
                .map_err(|error| Exit::usage(format!("--key-file: {error}")))?;
            set("key_file", json!(name.to_string_lossy()));
            ask.config.insert("key_dir".to_owned(), json!(directory));
        }
    }
    run(How::Ask(ask), measure)
}

/// Reads `ADDR`, `ADDR:PORT`, `[V6]:PORT` or a bare IPv6 address.
fn split(target: &str) -> Result<(String, u16)> {
    if target.parse::<IpAddr>().is_ok() {
        return Ok((target.to_owned(), PORT));
    }
    let wrong = || Exit::usage(format!("TARGET: {target:?}: write ADDR, ADDR:PORT or [V6]:PORT"));
    match target.rsplit_once(':') {
        Some((address, port)) if !address.is_empty() => {
            let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
            let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
            Ok((bare.to_owned(), port))
        }
        Some(_) => Err(wrong().into()),
        None => Ok((target.to_owned(), PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_a_port_or_not() {
        for (text, address, port) in [
            ("192.0.2.1", "192.0.2.1", 862),
            ("192.0.2.1:8620", "192.0.2.1", 8620),
            ("2001:db8::1", "2001:db8::1", 862),
            ("[2001:db8::1]:8620", "2001:db8::1", 8620),
            ("reflector.example.net:1", "reflector.example.net", 1),
        ] {
            assert_eq!(split(text).unwrap(), (address.to_owned(), port), "{text}");
        }
        for text in ["192.0.2.1:", "192.0.2.1:0", ":862", "a:b", "a:65536"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}

//! Simple requests: what is taken, and what becomes of it.

use std::{net::IpAddr, time::Duration};

use imn_contract::{Fault, ModuleType, canonical_type, latest::SimpleRequest};
use serde_json::Value;

use crate::job::DirectOrder;

/// Longest mark of a client, in characters.
pub(super) const LONGEST_ID: usize = 128;
/// Longest target, in bytes.
const LONGEST_TARGET: usize = 2_048;
/// Packets, unless the request says otherwise.
const COUNT: u32 = 4;
const COUNTS: std::ops::RangeInclusive<u32> = 1..=1_000;
/// Time for what is not packets: resolving, waiting for a slot, the answer.
const BASE: Duration = Duration::from_secs(10);
/// The longest time that an order may ask for.
const LONGEST: Duration = Duration::from_hours(1);

/// The order that a request makes.
///
/// # Errors
/// A fault that names the field that is wrong.
pub(super) fn order(request: &SimpleRequest) -> Result<DirectOrder, Fault> {
    if let Some(id) = &request.request_id
        && (id.is_empty() || id.chars().count() > LONGEST_ID)
    {
        return Err(Fault::invalid("request_id", format!("use 1 to {LONGEST_ID} characters")));
    }
    let name = request.module.as_deref().unwrap_or("ping");
    let kind =
        ModuleType::new(canonical_type(name)).map_err(|error| Fault::invalid("module", error.to_string()))?;
    let is_ping = matches!(kind.as_str(), "icmp" | "tcp");
    target(&request.target, is_ping).map_err(|message| Fault::invalid("target", message))?;
    let asked =
        request.params.get("count").and_then(Value::as_u64).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let count = request.count.or(asked);
    if let Some(count) = count
        && !COUNTS.contains(&count)
    {
        return Err(Fault::invalid("count", format!("{count} is not within 1 to 1000")));
    }
    if request.port == Some(0) {
        return Err(Fault::invalid("port", "0 is not within 1 to 65535"));
    }
    let mut params = request.params.clone();
    if is_ping || request.count.is_some() {
        params.insert("count".to_owned(), count.unwrap_or(COUNT).into());
    }
    // ICMP knows no ports; a port given with a ping is for the reader.
    if let Some(port) = request.port.filter(|_| kind.as_str() != "icmp") {
        params.insert("port".to_owned(), port.into());
    }
    let millis = |name: &str, default: u64| params.get(name).and_then(Value::as_u64).unwrap_or(default);
    let packets = u64::from(count.unwrap_or(COUNT));
    let sending = packets.saturating_mul(millis("interval_ms", 1_000));
    let ttl = BASE + Duration::from_millis(sending.saturating_add(millis("timeout_ms", 1_000)));
    Ok(DirectOrder { kind, target: request.target.clone(), params, ttl: ttl.min(LONGEST) })
}

fn target(target: &str, is_ping: bool) -> Result<(), String> {
    if target.is_empty() {
        return Err("name an address or a host".to_owned());
    }
    if target.len() > LONGEST_TARGET || target.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("use up to {LONGEST_TARGET} characters without blanks"));
    }
    if !is_ping || target.parse::<IpAddr>().is_ok() || is_scoped(target) || is_host(target) {
        return Ok(());
    }
    let shown: String = target.chars().take(80).collect();
    Err(format!("{shown:?} is neither an IP address nor a host name"))
}

/// An IPv6 address with a zone, such as `fe80::1%eth0`.
fn is_scoped(target: &str) -> bool {
    target.split_once('%').is_some_and(|(address, zone)| {
        matches!(address.parse(), Ok(IpAddr::V6(_))) && !zone.is_empty() && zone.len() < 16
    })
}

/// A host name as resolvers take it: labels of letters, digits, `-` and `_`. One that looks like an IPv4 address that
/// is none is none either.
fn is_host(target: &str) -> bool {
    let name = target.strip_suffix('.').unwrap_or(target);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253
        && name.split('.').all(label)
        && !name.rsplit('.').next().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(json: &str) -> Result<DirectOrder, Fault> {
        order(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn requests_become_orders() {
        let ping =
            request(r#"{"target":"example.net","count":4,"port":80,"request_id":"test-123"}"#).unwrap();
        assert_eq!((ping.kind.as_str(), &ping.params["count"]), ("icmp", &4.into()));
        assert!(!ping.params.contains_key("port"));
        assert_eq!(ping.ttl, Duration::from_secs(15));
        let tcp = request(r#"{"target":"2001:db8::1","port":443,"module":"tcping"}"#).unwrap();
        assert_eq!((tcp.kind.as_str(), &tcp.params["port"]), ("tcp", &443.into()));
        let echo = request(r#"{"target":"anything/at:all","module":"echo","params":{"a":1}}"#).unwrap();
        assert_eq!(Value::Object(echo.params), serde_json::json!({"a": 1}));
        let within = request(r#"{"target":"::1","type":"tcp","params":{"count":1}}"#).unwrap();
        assert_eq!((within.kind.as_str(), &within.params["count"]), ("tcp", &1.into()));
        let long = request(r#"{"target":"::1","count":1000,"params":{"interval_ms":18446744073709551615}}"#);
        assert_eq!(long.unwrap().ttl, LONGEST);
    }

    #[test]
    fn misfits_name_their_field() {
        for (json, field) in [
            (r#"{"target":""}"#, "target"),
            (r#"{"target":"a b"}"#, "target"),
            (r#"{"target":"300.1.1.1"}"#, "target"),
            (r#"{"target":"-x.example"}"#, "target"),
            (r#"{"target":"http://example.net/"}"#, "target"),
            (r#"{"target":"::1","count":0}"#, "count"),
            (r#"{"target":"::1","count":1001}"#, "count"),
            (r#"{"target":"::1","params":{"count":5000000000}}"#, "count"),
            (r#"{"target":"::1","port":0}"#, "port"),
            (r#"{"target":"::1","module":"a.b"}"#, "module"),
            (r#"{"target":"::1","request_id":""}"#, "request_id"),
        ] {
            let fault = request(json).unwrap_err();
            assert_eq!((fault.field.as_deref(), fault.code), (Some(field), 400), "{json}");
        }
    }

    #[test]
    fn many_texts_are_targets_or_worded_refusals() {
        let pieces = [
            "a",
            "192.0.2.1",
            "::1",
            "[",
            "]",
            ":",
            "/",
            ".",
            "http://",
            " ",
            "\n",
            "\0",
            "\u{e4}",
            "80",
            "%",
            "@",
        ];
        for text in imn_testkit::hostile::texts(&pieces) {
            for is_ping in [true, false] {
                if let Err(message) = target(&text, is_ping) {
                    assert!(!message.is_empty() && message.len() < 1_000, "{text:?}: {message}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_target_or_a_worded_refusal(text in any::<String>(), is_ping: bool) {
            if let Err(message) = target(&text, is_ping) {
                prop_assert!(!message.is_empty() && message.len() < 1_000);
            }
        }
    }
}

//! `/probe`: what a module of blackbox_exporter's interface measures.
//!
//! A definition names a prober, that is a module type, and its parameters. The names `icmp`, `tcp_connect`, `http_2xx`
//! and so on are defined as blackbox_exporter's own configuration defines them; definitions of the same name replace
//! them.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use imn_contract::{Fault, ModuleType, canonical_type};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value, json};

/// What is kept of Prometheus' own timeout for the way there and back.
const OFFSET: Duration = Duration::from_millis(500);
/// How long a measurement may take when neither the definition nor Prometheus says.
const USUAL: Duration = Duration::from_millis(9_500);
const LONGEST: Duration = Duration::from_mins(2);
/// Longest target, in bytes.
const LONGEST_TARGET: usize = 2_048;
/// Longest `hostname`, in bytes.
const LONGEST_HOSTNAME: usize = 255;
/// Parameters whose values are nobody's to see who may only measure.
const SECRET: [&str; 4] = ["headers", "body", "key", "password"];

/// One definition.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrapeModule {
    /// Module type: `icmp`, `tcp`, `http`, `dns` or any other.
    prober: String,
    /// How long a measurement may take, at most; else as long as Prometheus waits.
    #[serde(default, deserialize_with = "span")]
    timeout: Option<Duration>,
    /// Parameters of the type. Of `dns` with `query`, the name to ask for: the target is who is asked.
    #[serde(default)]
    params: Map<String, Value>,
}

/// The definitions, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct ScrapeModules(BTreeMap<String, ScrapeModule>);

/// What a request says.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScrapeRequest<'a> {
    /// Name of a definition; `http_2xx` when it is not said.
    pub module: Option<&'a str>,
    /// What to measure.
    pub target: Option<&'a str>,
    /// The name by which the target is asked for, where it is known by an address: of `http` the header `Host` and
    /// the name of the certificate, of `tcp` with TLS the latter. Other types have no use for it.
    pub hostname: Option<&'a str>,
    /// How long Prometheus waits.
    pub patience: Option<Duration>,
}

/// A measurement to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape {
    /// Module type.
    pub kind: ModuleType,
    /// What the module measures.
    pub target: String,
    /// Its parameters.
    pub params: Map<String, Value>,
    /// How long it may take.
    pub limit: Duration,
}

impl Default for ScrapeModules {
    /// The usual ones.
    fn default() -> Self {
        let usual = [
            ("icmp", "icmp", json!({})),
            ("icmp_ttl5", "icmp", json!({ "ttl": 5 })),
            ("tcp_connect", "tcp", json!({})),
            ("http_2xx", "http", json!({})),
            ("http_post_2xx", "http", json!({ "method": "POST" })),
            ("dns", "dns", json!({ "query": ".", "type": "NS" })),
            ("dns_udp", "dns", json!({ "query": ".", "type": "NS", "transport": "udp" })),
            ("dns_tcp", "dns", json!({ "query": ".", "type": "NS", "transport": "tcp" })),
        ];
        let module = |prober: &str, params: Value| ScrapeModule {
            prober: prober.to_owned(),
            timeout: None,
            params: params.as_object().cloned().unwrap_or_default(),
        };
        Self(usual.map(|(name, prober, params)| (name.to_owned(), module(prober, params))).into())
    }
}

impl ScrapeModules {
    /// The usual definitions, with these over them.
    ///
    /// # Errors
    /// The name of the definition that is wrong, and why.
    pub fn with(modules: BTreeMap<String, ScrapeModule>) -> Result<Self, String> {
        let mut all = Self::default();
        for (name, module) in modules {
            ModuleType::new(canonical_type(&module.prober)).map_err(|error| format!("{name}: {error}"))?;
            if module.timeout.is_some_and(|span| span.is_zero() || span > LONGEST) {
                return Err(format!("{name}: timeout: use more than 0 and at most {LONGEST:?}"));
            }
            all.0.insert(name, module);
        }
        Ok(all)
    }

    /// What a request asks for.
    ///
    /// # Errors
    /// A 400 that names `target`, `module` or `hostname`.
    pub fn scrape(&self, request: &ScrapeRequest<'_>) -> Result<Scrape, Fault> {
        let ScrapeRequest { module, target, hostname, patience } = *request;
        let name = module.unwrap_or("http_2xx");
        let module = self.0.get(name).ok_or_else(|| {
            let known = self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let shown: String = name.chars().take(80).collect();
            Fault::invalid("module", format!("Unknown module {shown:?}; there are {known}"))
        })?;
        let target = target.filter(|target| !target.is_empty());
        let target = target.ok_or_else(|| Fault::invalid("target", "Target parameter is missing"))?;
        if target.len() > LONGEST_TARGET || target.chars().any(|c| c.is_control() || c.is_whitespace()) {
            let text = format!("use up to {LONGEST_TARGET} characters without blanks");
            return Err(Fault::invalid("target", text));
        }
        let hostname = hostname.filter(|name| !name.is_empty());
        if let Some(name) = hostname
            && (name.len() > LONGEST_HOSTNAME || !name.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            let text = format!("use up to {LONGEST_HOSTNAME} letters, digits, dots and dashes");
            return Err(Fault::invalid("hostname", text));
        }
        let limit = match (module.timeout, patience.map(|patience| patience.saturating_sub(OFFSET))) {
            (Some(own), Some(left)) if !left.is_zero() => own.min(left),
            (Some(own), _) => own,
            (None, Some(left)) if !left.is_zero() => left.min(LONGEST),
            (None, _) => USUAL,
        };
        let mut scrape = module.scrape(target, limit)?;
        if let Some(name) = hostname {
            scrape.ask_for(name)?;
        }
        Ok(scrape)
    }
}

impl Scrape {
    /// Has the target asked for by a name.
    fn ask_for(&mut self, name: &str) -> Result<(), Fault> {
        match self.kind.as_str() {
            "http" => {
                let headers = self.params.entry("headers").or_insert_with(|| json!({}));
                let Some(headers) = headers.as_object_mut() else {
                    return Err(Fault::invalid("module", "its params have headers that are no table"));
                };
                let own = headers.iter().find(|(header, _)| header.eq_ignore_ascii_case("host"));
                match own {
                    Some((_, value)) if value.as_str() != Some(name) => {
                        let text = format!("{name:?} is not the Host that the module's own headers name");
                        return Err(Fault::invalid("hostname", text));
                    }
                    Some(_) => {}
                    None => drop(headers.insert("Host".to_owned(), json!(name))),
                }
                self.params.entry("server_name").or_insert(json!(bare(name)));
            }
            "tcp" if self.params.get("tls").is_some_and(|tls| *tls != Value::Bool(false)) => {
                self.params.entry("server_name").or_insert(json!(bare(name)));
            }
            _ => {}
        }
        Ok(())
    }

    /// What `debug=true` shows in place of `page`, in the sections that blackbox_exporter has: what was done, the page,
    /// the definition. Values that may be secret are left out.
    pub fn debug_page(&self, outcome: &Value, took: Duration, page: &str) -> String {
        let mut text = String::from("Logs for the probe:\n");
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "measured target={:?} type={} timeout_seconds={} duration_seconds={}",
            self.target,
            self.kind,
            self.limit.as_secs_f64(),
            took.as_secs_f64()
        );
        let _ = writeln!(text, "outcome {outcome:#}");
        let _ = writeln!(text, "\n\nMetrics that would have been returned:\n{page}");
        let _ = writeln!(text, "\nModule configuration:\nprober: {}", self.kind);
        let shown = self.params.iter().map(|(name, value)| {
            let secret = SECRET.contains(&name.as_str());
            (name.clone(), if secret { json!("<secret>") } else { value.clone() })
        });
        let _ = writeln!(text, "params: {:#}", Value::Object(shown.collect()));
        text
    }
}

/// A name without its port.
fn bare(name: &str) -> &str {
    name.rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(name, |(n, _)| n)
}

impl ScrapeModule {
    fn scrape(&self, target: &str, limit: Duration) -> Result<Scrape, Fault> {
        let kind = ModuleType::new(canonical_type(&self.prober))
            .map_err(|error| Fault::invalid("module", error.to_string()))?;
        let mut params = self.params.clone();
        let timeout = |params: &mut Map<String, Value>| {
            let given = ["timeout", "timeout_ms"].iter().any(|name| params.contains_key(*name));
            if !given {
                params.insert("timeout".to_owned(), json!(format!("{}ms", limit.as_millis())));
            }
        };
        let target = match kind.as_str() {
            "icmp" => {
                params.entry("count").or_insert(json!(1));
                timeout(&mut params);
                target.to_owned()
            }
            "tcp" => {
                params.entry("count").or_insert(json!(1));
                timeout(&mut params);
                let (host, port) = host_and_port(target)?;
                if let Some(port) = port {
                    params.entry("port").or_insert(json!(port));
                } else if !params.contains_key("port") {
                    return Err(Fault::invalid("target", "name a port, such as example.net:443"));
                }
                host
            }
            "http" => {
                timeout(&mut params);
                if target.contains("://") { target.to_owned() } else { format!("http://{target}") }
            }
            "dns" => {
                timeout(&mut params);
                // Under blackbox_exporter's names, too.
                for (theirs, ours) in
                    [("query_name", "query"), ("query_type", "type"), ("transport_protocol", "transport")]
                {
                    if let Some(value) = params.remove(theirs) {
                        params.entry(ours).or_insert(value);
                    }
                }
                if !params.contains_key("query") {
                    return Err(Fault::invalid("module", "its params want a query: the name to ask for"));
                }
                target.to_owned()
            }
            _ => target.to_owned(),
        };
        Ok(Scrape { kind, target, params, limit })
    }
}

/// `example.net:443`, `192.0.2.1:443`, `[2001:db8::1]:443`; also without a port.
fn host_and_port(target: &str) -> Result<(String, Option<u16>), Fault> {
    let wrong = || Fault::invalid("target", "the port is not within 1 to 65535");
    let bare = target.bytes().filter(|byte| *byte == b':').count() != 1 && !target.contains("]:");
    let split = if bare { None } else { target.rsplit_once(':') };
    let Some((host, port)) = split else {
        return Ok((target.trim_start_matches('[').trim_end_matches(']').to_owned(), None));
    };
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), Some(port)))
}

/// `5s`, `500ms`, `1m`, or a number of seconds.
fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let wrong = || de::Error::custom("write a number and its unit, such as 500ms, 5s or 1m");
    let seconds = match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_f64().ok_or_else(wrong)?,
        Value::String(text) => {
            let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = text[..at].parse().map_err(|_| wrong())?;
            let unit = match text[at..].trim() {
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                _ => return Err(wrong()),
            };
            number * unit
        }
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map(Some).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(text: &str) -> Result<ScrapeModules, String> {
        ScrapeModules::with(toml::from_str(text).map_err(|error| error.to_string())?)
    }

    #[test]
    fn requests_of_prometheus_become_measurements() {
        let modules = modules(
            "[slow_ping]\nprober = 'ping'\ntimeout = '3s'\nparams = { count = 5, interval = '100ms' }\n\
             [soa]\nprober = 'dns'\nparams = { query_name = 'example.net', type = 'SOA' }\n",
        )
        .unwrap();
        let ask = |module: &str, target: &str, patience: f64| {
            let request = ScrapeRequest {
                module: Some(module),
                target: Some(target),
                patience: Some(Duration::from_secs_f64(patience)),
                ..ScrapeRequest::default()
            };
            let scrape = modules.scrape(&request).unwrap();
            (scrape.kind.to_string(), scrape.target, Value::Object(scrape.params), scrape.limit.as_millis())
        };
        let row =
            |kind: &str, target: &str, params: Value, ms| (kind.to_owned(), target.to_owned(), params, ms);
        assert_eq!(
            ask("icmp", "example.net", 10.0),
            row("icmp", "example.net", json!({"count": 1, "timeout": "9500ms"}), 9_500)
        );
        assert_eq!(
            ask("slow_ping", "::1", 10.0),
            row("icmp", "::1", json!({"count": 5, "interval": "100ms", "timeout": "3000ms"}), 3_000)
        );
        assert_eq!(
            ask("tcp_connect", "[2001:db8::1]:443", 2.0),
            row("tcp", "2001:db8::1", json!({"count": 1, "port": 443, "timeout": "1500ms"}), 1_500)
        );
        assert_eq!(
            ask("soa", "192.0.2.53", 5.0),
            row(
                "dns",
                "192.0.2.53",
                json!({"query": "example.net", "type": "SOA", "timeout": "4500ms"}),
                4_500
            )
        );
        assert_eq!(ask("http_2xx", "example.net/x", 10.0).1, "http://example.net/x");
        assert_eq!(ask("http_2xx", "https://example.net", 0.2).3, 9_500);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let usual = ScrapeModules::default();
        let field = |module: &str, target: Option<&str>| {
            let request = ScrapeRequest { module: Some(module), target, ..ScrapeRequest::default() };
            usual.scrape(&request).unwrap_err().field.unwrap()
        };
        assert_eq!(field("nonsense", Some("x")), "module");
        assert_eq!(field("icmp", None), "target");
        assert_eq!(field("icmp", Some("a b")), "target");
        assert_eq!(field("tcp_connect", Some("example.net")), "target");
        assert_eq!(field("tcp_connect", Some("example.net:70000")), "target");
        assert!(modules("[x]\nprober = 'icmp'\ntimeout = '0s'").unwrap_err().starts_with("x: timeout"));
        assert!(modules("[x]\nprober = 'a.b'").unwrap_err().starts_with("x: "));
        assert!(modules("[x]\nprober = 'icmp'\ncount = 3").unwrap_err().contains("unknown field `count`"));
        assert!(
            modules("[x]\nprober = 'icmp'\ntimeout = '5 parsecs'").unwrap_err().contains("write a number")
        );
    }

    #[test]
    fn a_hostname_is_what_the_target_is_asked_for_by() {
        let modules = modules(
            "[tls]\nprober = 'tcp'\nparams = { tls = true }\n\
             [own]\nprober = 'http'\nparams = { headers = { host = 'a.example', authorization = 'Bearer x' } }\n",
        )
        .unwrap();
        let ask = |module: &str, target: &str, hostname: &str| {
            let (module, target, hostname) = (Some(module), Some(target), Some(hostname));
            modules.scrape(&ScrapeRequest { module, target, hostname, patience: None })
        };
        let web = ask("http_2xx", "https://192.0.2.1", "www.example:8443").unwrap().params;
        assert_eq!(web["headers"], json!({"Host": "www.example:8443"}));
        assert_eq!(web["server_name"], "www.example");
        assert_eq!(ask("tls", "192.0.2.1:443", "www.example").unwrap().params["server_name"], "www.example");
        for (module, target) in [("tcp_connect", "192.0.2.1:443"), ("icmp", "192.0.2.1")] {
            assert!(!ask(module, target, "www.example").unwrap().params.contains_key("server_name"));
        }
        let same = ask("own", "192.0.2.1", "a.example").unwrap();
        assert_eq!(same.params["headers"]["host"], "a.example");
        for hostname in ["b.example", "a b", "a\r\nx: y", &"x".repeat(300)] {
            assert_eq!(ask("own", "192.0.2.1", hostname).unwrap_err().field.unwrap(), "hostname");
        }
        // Who may measure may not read what the module is asked with.
        let shown = same.debug_page(&json!({"status": 200}), Duration::from_millis(3), "probe_success 1\n");
        assert!(shown.starts_with("Logs for the probe:\n") && !shown.contains("Bearer"), "{shown}");
        for part in
            ["Metrics that would have been returned:\nprobe_success 1\n", "Module configuration:", "<secret>"]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn many_requests_are_measured_or_refused() {
        let modules = ScrapeModules::default();
        let pieces = [
            "http://",
            "https://",
            "192.0.2.1",
            "2001:db8::1",
            "[",
            "]",
            "]:",
            ":",
            "/",
            "example.net",
            "80",
            "0",
            "65536",
            "-1",
            " ",
            "\r\n",
            "\0",
            "%00",
            "\u{e4}",
            "icmp",
            "tcp_connect",
            "dns",
            "|",
        ];
        for text in imn_testkit::hostile::texts(&pieces) {
            let (target, hostname) = text.split_once('|').unwrap_or((&text, ""));
            for module in ["icmp", "tcp_connect", "http_2xx", "dns", target] {
                let request = ScrapeRequest {
                    module: Some(module),
                    target: Some(target),
                    hostname: Some(hostname),
                    patience: None,
                };
                match modules.scrape(&request) {
                    Ok(scrape) => {
                        assert!(
                            !scrape.target.chars().any(|c| c.is_control() || c.is_whitespace()),
                            "{text:?}"
                        );
                        assert!(
                            scrape.params.get("port").is_none_or(|port| port.as_u64() != Some(0)),
                            "{text:?}"
                        );
                    }
                    Err(fault) => {
                        assert!(fault.field.is_some() && fault.message.len() < 1_000, "{text:?}: {fault}");
                    }
                }
            }
        }
    }
}

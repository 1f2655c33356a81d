//! Where traces, logs and metrics are sent, by the variables of OpenTelemetry's specification and our own.

use std::{fmt, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, Uri};

use super::Signal;

/// The specification's own default of `OTEL_EXPORTER_OTLP_TIMEOUT`.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The specification's own default of `OTEL_METRIC_EXPORT_INTERVAL`.
const INTERVAL: Duration = Duration::from_mins(1);
/// Ports on which collectors take gRPC.
const GRPC_PORTS: [u16; 2] = [4317, 5081];

/// A variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {message}")]
pub struct ConfigError {
    variable: String,
    message: String,
}

impl ConfigError {
    pub(super) fn new(variable: &str, message: String) -> Self {
        Self { variable: variable.to_owned(), message }
    }
}

/// How requests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// POST of protocol buffers over HTTP/1.1.
    Http,
}

/// Where one signal goes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The variable that says so.
    pub(super) variable: String,
    pub(super) url: Uri,
    pub(super) protocol: Protocol,
    /// They may hold secrets.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) timeout: Duration,
    /// Certificates of authorities in a PEM file, in place of the system's.
    pub(super) certificate: Option<PathBuf>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.url)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// What is exported, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub(super) traces: Option<Endpoint>,
    pub(super) logs: Option<Endpoint>,
    pub(super) metrics: Option<Endpoint>,
    /// How often metrics are sent.
    pub(super) interval: Duration,
}

impl Config {
    /// What variables say: `OTEL_EXPORTER_OTLP_*`, `OTLP_TRACE_ENDPOINT`, `OTLP_LOGS_ENDPOINT`, and the settings
    /// `IMN_OTLP_ENDPOINT` and `IMN_OTLP_PROTOCOL`. `None` where they name no endpoint.
    ///
    /// # Errors
    /// [`ConfigError`], which names the variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ConfigError> {
        let given =
            |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if given("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let [traces, logs, metrics] =
            [Signal::Traces, Signal::Logs, Signal::Metrics].map(|signal| endpoint(signal, &given));
        let interval = milliseconds("OTEL_METRIC_EXPORT_INTERVAL", &given)?.unwrap_or(INTERVAL);
        let config = Self { traces: traces?, logs: logs?, metrics: metrics?, interval };
        let any = config.traces.is_some() || config.logs.is_some() || config.metrics.is_some();
        Ok(any.then_some(config))
    }
}

/// The variables by which what is exported, and how it is shown, are told to processes that get no other environment.
pub fn handed_on() -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    let ours = |name: &str| {
        name.starts_with("OTEL_")
            || name.starts_with("OTLP_")
            || name.starts_with("IMN_OTLP_")
            || matches!(name, "IMN_LOG" | "IMN_LOG_FORMAT" | "IMN_REDACT_PII")
    };
    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)).collect()
}

fn endpoint(
    signal: Signal,
    given: &impl Fn(&str) -> Option<String>,
) -> Result<Option<Endpoint>, ConfigError> {
    let upper = signal.name().to_ascii_uppercase();
    if given(&format!("OTEL_{upper}_EXPORTER")).as_deref() == Some("none") {
        return Ok(None);
    }
    let of = |what: &str| {
        [format!("OTEL_EXPORTER_OTLP_{upper}_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")]
            .into_iter()
            .find_map(|name| Some((given(&name)?, name)))
    };
    let own = |name: &str| Some((given(name)?, name.to_owned()));
    // Those that name the whole URL of one signal, and then those that name the collector.
    let whole = own(&format!("OTEL_EXPORTER_OTLP_{upper}_ENDPOINT")).or_else(|| match signal {
        Signal::Traces => own("OTLP_TRACE_ENDPOINT"),
        Signal::Logs => own("OTLP_LOGS_ENDPOINT"),
        Signal::Metrics => None,
    });
    let is_whole = whole.is_some();
    let found = whole.or_else(|| own("IMN_OTLP_ENDPOINT")).or_else(|| own("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let Some((text, variable)) = found else { return Ok(None) };
    let wrong = ConfigError::new;
    let url = url(&text).map_err(|message| wrong(&variable, message))?;
    let named = of("PROTOCOL").or_else(|| own("IMN_OTLP_PROTOCOL"));
    let protocol = match named.as_ref().map(|(text, name)| (text.as_str(), name)) {
        Some(("grpc", _)) => Protocol::Grpc,
        Some(("http/protobuf", _)) => Protocol::Http,
        Some((other, name)) => return Err(wrong(name, format!("{other}: use grpc or http/protobuf"))),
        None if url.port_u16().is_some_and(|port| GRPC_PORTS.contains(&port)) => Protocol::Grpc,
        None => Protocol::Http,
    };
    if let Some((text, name)) = of("COMPRESSION").filter(|(text, _)| text != "none") {
        return Err(wrong(&name, format!("{text}: nothing is compressed here; use none")));
    }
    let headers = match of("HEADERS") {
        // What is wrong with it is said without its text, which may be a secret.
        Some((text, name)) => headers(&text).map_err(|message| wrong(&name, message))?,
        None => Vec::new(),
    };
    let timeout = [format!("OTEL_EXPORTER_OTLP_{upper}_TIMEOUT"), "OTEL_EXPORTER_OTLP_TIMEOUT".to_owned()];
    let timeout =
        timeout.iter().map(|name| milliseconds(name, given)).find_map(Result::transpose).transpose()?;
    let url = if protocol == Protocol::Http { path(url, signal, is_whole) } else { Ok(url) };
    Ok(Some(Endpoint {
        url: url.map_err(|message| wrong(&variable, message))?,
        variable,
        protocol,
        headers,
        timeout: timeout.unwrap_or(TIMEOUT),
        certificate: of("CERTIFICATE").map(|(path, _)| path.into()),
    }))
}

fn url(text: &str) -> Result<Uri, String> {
    let shown = super::super::redact(text);
    let expected = "use a URL such as http://127.0.0.1:4318";
    let url: Uri = text.parse().map_err(|error| format!("{shown:?}: {error}; {expected}"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
        return Err(format!("{shown:?}: {expected}"));
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(format!("{shown:?}: give user and password as a header, in OTEL_EXPORTER_OTLP_HEADERS"));
    }
    Ok(url)
}

/// The URL that a signal is posted to: a collector's has `/v1/traces` and so on appended, one of a signal is whole.
fn path(url: Uri, signal: Signal, is_whole: bool) -> Result<Uri, String> {
    let base = url.path().trim_end_matches('/');
    if is_whole && !base.is_empty() {
        return Ok(url);
    }
    let mut parts = url.clone().into_parts();
    let path = format!("{base}/v1/{}", signal.name());
    parts.path_and_query = Some(path.parse().map_err(|error| format!("{path}: {error}"))?);
    Uri::from_parts(parts).map_err(|error| format!("{url}: {error}"))
}

fn milliseconds(
    name: &str,
    given: &impl Fn(&str) -> Option<String>,
) -> Result<Option<Duration>, ConfigError> {
    let Some(text) = given(name) else { return Ok(None) };
    match text.parse() {
        Ok(ms @ 1..=86_400_000) => Ok(Some(Duration::from_millis(ms))),
        _ => Err(ConfigError::new(name, format!("{text}: use milliseconds, 1 to 86400000"))),
    }
}

/// Headers as W3C Baggage writes them: `name=value`, separated by commas, values percent-encoded.
fn headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).enumerate();
    pairs
        .map(|(at, pair)| {
            let wrong = || format!("entry {} is no header: write them as name=value,name=value", at + 1);
            let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
            let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
            let mut value = HeaderValue::from_bytes(&decoded(value.trim())).map_err(|_| wrong())?;
            value.set_sensitive(true);
            Ok((name, value))
        })
        .collect()
}

fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        let escaped = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        out.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Config>, String> {
        let found = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Config::read(found).map_err(|error| error.to_string())
    }

    fn told(endpoint: Option<&Endpoint>) -> String {
        endpoint.map_or_else(|| "-".to_owned(), |e| format!("{:?} {}", e.protocol, e.url))
    }

    #[test]
    fn the_nearest_variable_counts() {
        assert_eq!(read(&[("OTEL_SERVICE_NAME", "x"), ("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok(None));
        let all = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/otel/"),
            ("OTLP_TRACE_ENDPOINT", "http://t:5081"),
        ];
        let config = read(&all).unwrap().unwrap();
        assert_eq!(told(config.traces.as_ref()), "Grpc http://t:5081/");
        assert_eq!(told(config.logs.as_ref()), "Http http://c:4318/otel/v1/logs");
        assert_eq!(told(config.metrics.as_ref()), "Http http://c:4318/otel/v1/metrics");
        assert!(read(&[all[0], ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
        let config = read(&[
            all[0],
            ("IMN_OTLP_ENDPOINT", "https://own"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://l/in"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc, x-scope=1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ]);
        let config = config.unwrap().unwrap();
        assert_eq!(told(config.traces.as_ref()), "Grpc https://own/");
        assert_eq!(told(config.logs.as_ref()), "Http http://l/in");
        assert_eq!(config.metrics, None);
        let logs = config.logs.unwrap();
        assert_eq!(
            (logs.timeout, logs.headers[0].1.to_str().unwrap()),
            (Duration::from_millis(250), "Bearer abc")
        );
        assert!(!format!("{logs:?}").contains("abc"));
    }

    #[test]
    fn what_cannot_be_used_is_worded_without_secrets() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        let wrong = |name: &'static str, value: &'static str| read(&[endpoint, (name, value)]).unwrap_err();
        assert!(
            wrong("IMN_OTLP_ENDPOINT", "collector:4317")
                .starts_with("IMN_OTLP_ENDPOINT: \"collector:4317\": use")
        );
        assert!(wrong("OTLP_LOGS_ENDPOINT", "nats://x").contains("use a URL such as"));
        let secret = wrong("OTLP_LOGS_ENDPOINT", "http://me:hush@x");
        assert!(secret.contains("OTEL_EXPORTER_OTLP_HEADERS") && !secret.contains("hush"), "{secret}");
        assert!(wrong("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json").ends_with("use grpc or http/protobuf"));
        let secret = wrong("OTEL_EXPORTER_OTLP_HEADERS", "a=b,hush");
        assert!(secret.contains("entry 2") && !secret.contains("hush"), "{secret}");
        assert!(wrong("OTEL_EXPORTER_OTLP_TIMEOUT", "soon").contains("use milliseconds"));
        assert!(wrong("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip").contains("use none"));
    }

    proptest! {
        #[test]
        fn any_value_gives_a_configuration_or_words(value in ".{0,40}") {
            for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTLP_TRACE_ENDPOINT"] {
                let _ = read(&[("IMN_OTLP_ENDPOINT", "http://c"), (name, &value)]);
            }
        }
    }
}

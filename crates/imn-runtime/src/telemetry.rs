//! What a process says of itself: logs on standard error, in the journal or to syslog, metrics for Prometheus, all of it
//! and traces over OTLP, and no secret in any of them.

mod exposition;
mod journal;
mod line;
mod metric;
mod otlp;
mod redact;
mod syslog;
mod trace;

use std::{fmt, path::Path};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{LevelFilter, Targets},
    fmt::format,
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use otlp::{Exporter, Inlets, Who};

pub use exposition::negotiated;
pub use metric::{Figure, Metrics, Value};
pub use otlp::{Config as Otlp, ConfigError as OtlpError, Exports, export_page, handed_on};
pub use redact::{Redactor, Secret, redact};
pub use trace::{Messaging, Side, Step, TraceParent};

/// What is logged when nothing else is asked for.
pub const DEFAULT_FILTER: &str = "info,async_nats=warn,fjall=warn,lsm_tree=warn";
/// The variable that asks for something else, such as `debug` or `info,imn_agent=trace`.
pub const FILTER_VARIABLE: &str = "IMN_LOG";
/// The variable that names the form of lines.
const FORMAT_VARIABLE: &str = "IMN_LOG_FORMAT";
/// The variable that has addresses and names of hosts hidden.
const REDACT_VARIABLE: &str = "IMN_REDACT_PII";

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Standard error.
    #[default]
    Stderr,
    /// The journal of systemd, with the fields of each event.
    Journal,
    /// The syslog daemon of this host.
    Syslog,
}

impl Place {
    /// The journal, when systemd has connected standard error to it (`JOURNAL_STREAM`, systemd.exec(5)); else standard
    /// error.
    pub fn detect() -> Self {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let own = rustix::fs::fstat(std::io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
        if !stream.is_empty() && own.is_ok_and(|own| own == stream) { Self::Journal } else { Self::Stderr }
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The filter is no filter.
    #[error(
        "log filter {filter:?}: {message}; use a level such as info, or target=level, separated by commas"
    )]
    Filter {
        /// The text.
        filter: String,
        /// What is wrong with it.
        message: String,
    },
    /// There is nobody to take it.
    #[error("log to {place}: {source}; log to stderr instead")]
    Place {
        /// The journal's or syslog's socket.
        place: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A variable says nothing that could be done.
    #[error("{name}={value}: use {expected}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Nothing can be exported so.
    #[error(transparent)]
    Endpoint(OtlpError),
    /// The exporting thread cannot be had.
    #[error("start the export of telemetry: {message}")]
    Export {
        /// Why not.
        message: String,
    },
    /// This process logs already.
    #[error("start the log: {0}")]
    Twice(String),
}

/// How a process tells of itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the program is, such as `imn-agent`; `OTEL_SERVICE_NAME` goes before it.
    pub service: String,
    /// Which one of its kind it is.
    pub instance: String,
    /// Where log lines go.
    pub place: Place,
    /// What is logged; absent: what `IMN_LOG` says, else [`DEFAULT_FILTER`].
    pub filter: Option<String>,
    /// The form of lines on standard error.
    pub format: Format,
    /// Whether addresses and names of hosts are hidden.
    pub redact_pii: bool,
    /// Where all of it is exported; absent: nowhere.
    pub otlp: Option<Otlp>,
}

impl Config {
    /// Lines for people on standard error, secrets hidden, nothing exported.
    pub fn new(service: impl Into<String>, instance: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            instance: instance.into(),
            place: Place::default(),
            filter: None,
            format: Format::default(),
            redact_pii: false,
            otlp: None,
        }
    }

    /// As [`Config::new`], and what variables say: `IMN_LOG_FORMAT`, `IMN_REDACT_PII` and those of [`Otlp::read`].
    ///
    /// # Errors
    /// [`Error::Variable`] and [`Error::Endpoint`], which name the variable.
    pub fn read(
        service: impl Into<String>,
        instance: impl Into<String>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let variable = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        let mut config = Self::new(service, instance);
        let wrong = |name, value, expected| Error::Variable { name, value, expected };
        config.format = match variable(FORMAT_VARIABLE).as_deref() {
            Some("json") => Format::Json,
            Some("text") | None => Format::Text,
            Some(other) => return Err(wrong(FORMAT_VARIABLE, other.to_owned(), "text or json")),
        };
        config.redact_pii = match variable(REDACT_VARIABLE).as_deref() {
            Some("true" | "1") => true,
            Some("false" | "0") | None => false,
            Some(other) => return Err(wrong(REDACT_VARIABLE, other.to_owned(), "true or false")),
        };
        config.otlp = Otlp::read(variable).map_err(Error::Endpoint)?;
        Ok(config)
    }
}

/// Changes what is logged while the process runs. Dropping the last one sends what waits to be exported.
#[derive(Debug)]
pub struct Telemetry {
    filters: Filters,
    _exporter: Option<Exporter>,
}

struct Filters(Vec<reload::Handle<EnvFilter, Registry>>);

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filters").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Replaces the filter.
    ///
    /// # Errors
    /// [`Error::Filter`]; then the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), Error> {
        for handle in &self.filters.0 {
            handle
                .reload(parse(filter)?)
                .map_err(|error| Error::Filter { filter: filter.to_owned(), message: error.to_string() })?;
        }
        Ok(())
    }
}

/// Starts the log of this process and the export of what it says. What is returned is to be kept until its end.
///
/// # Errors
/// [`Error`].
pub fn start(config: Config) -> Result<Telemetry, Error> {
    let redactor = Redactor::new(config.redact_pii);
    redactor.enforce();
    let variable = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let text = config.filter.or(variable).unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let (filter, handle) = reload::Layer::new(parse(&text)?);
    let mut filters = vec![handle];
    let mut layers = vec![lines(config.place, config.format, redactor)?.with_filter(filter).boxed()];
    let who = Who { service: config.service, instance: config.instance };
    let exported = config.otlp.map(|otlp| Exporter::start(otlp, &who)).transpose()?;
    let (exporter, Inlets { tracer, logs }) = match exported {
        Some((exporter, inlets)) => (Some(exporter), inlets),
        None => (None, Inlets { tracer: None, logs: None }),
    };
    if let Some(logs) = logs {
        let (filter, handle) = reload::Layer::new(parse(&text)?);
        filters.push(handle);
        layers.push(logs.with_filter(filter).boxed());
    }
    if let Some(tracer) = tracer {
        trace::exported();
        let only = Targets::new().with_target(trace::TARGET, LevelFilter::INFO);
        let layer =
            tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
        let layer = layer.with_tracked_inactivity(false).with_target(false).with_level(false);
        layers.push(layer.with_filter(only).boxed());
    }
    let started = tracing_subscriber::registry().with(layers).try_init();
    started.map_err(|error| Error::Twice(error.to_string()))?;
    Ok(Telemetry { filters: Filters(filters), _exporter: exporter })
}

type Lines<S> = Box<dyn Layer<S> + Send + Sync>;

fn lines<S>(place: Place, form: Format, redactor: Redactor) -> Result<Lines<S>, Error>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let refused = |place| move |source| Error::Place { place, source };
    let stderr = || tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    Ok(match (place, form) {
        (Place::Stderr, Format::Text) => {
            let form = format().with_ansi(is_terminal);
            let layer = stderr().with_ansi(is_terminal).fmt_fields(line::Fields(redactor));
            layer.event_format(line::Text(form)).boxed()
        }
        (Place::Stderr, Format::Json) => {
            let form = format().json().flatten_event(true);
            let layer = stderr().with_ansi(false).fmt_fields(format::JsonFields::new());
            layer.event_format(line::Json(form, redactor)).boxed()
        }
        (Place::Journal, _) => {
            journal::layer(Path::new(journal::SOCKET), redactor).map_err(refused("the journal"))?.boxed()
        }
        (Place::Syslog, _) => {
            syslog::layer(Path::new(syslog::SOCKET), redactor).map_err(refused(syslog::SOCKET))?
        }
    })
}

/// Spans that are exported are no part of lines.
fn parse(filter: &str) -> Result<EnvFilter, Error> {
    let wrong = |message: String| Error::Filter { filter: filter.to_owned(), message };
    let quiet = format!("{}=off", trace::TARGET).parse();
    let parsed = EnvFilter::builder().parse(filter).map_err(|error| wrong(error.to_string()))?;
    Ok(parsed.add_directive(
        quiet.map_err(|error: tracing_subscriber::filter::ParseError| wrong(error.to_string()))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_worded() {
        assert!(parse("info,imn_agent=trace").is_ok());
        let error = parse("imn=loud").unwrap_err().to_string();
        assert!(error.contains("imn=loud") && error.contains("use a level such as info"), "{error}");
    }
}

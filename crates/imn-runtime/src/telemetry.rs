//! What a process says of itself: logs on standard error, in the journal or to syslog, metrics for Prometheus, and no
//! secret in either.

mod exposition;
mod metric;
mod syslog;

use std::{fmt, path::Path};

use serde::{Deserialize, Deserializer};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt, registry::LookupSpan, reload, util::SubscriberInitExt,
};

pub use exposition::negotiated;
pub use metric::Metrics;

/// What is logged when nothing else is asked for.
pub const DEFAULT_FILTER: &str = "info,async_nats=warn,fjall=warn,lsm_tree=warn";
/// The variable that asks for something else, such as `debug` or `info,imn_agent=trace`.
pub const FILTER_VARIABLE: &str = "IMN_LOG";

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
    /// This process logs already.
    #[error("start the log: {0}")]
    Twice(String),
}

/// Changes what is logged while the process runs.
#[derive(Clone)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFilter").finish_non_exhaustive()
    }
}

impl LogFilter {
    /// Replaces the filter.
    ///
    /// # Errors
    /// [`Error::Filter`]; then the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), Error> {
        let parsed = parse(filter)?;
        self.handle
            .reload(parsed)
            .map_err(|error| Error::Filter { filter: filter.to_owned(), message: error.to_string() })
    }
}

/// Starts the log of this process on standard error. `filter` of the caller goes before `IMN_LOG`, that before
/// [`DEFAULT_FILTER`].
///
/// # Errors
/// [`Error`].
pub fn init(filter: Option<&str>, format: Format) -> Result<LogFilter, Error> {
    init_at(Place::Stderr, filter, format)
}

/// Starts the log of this process, as [`init`]; `format` is that of lines on standard error.
///
/// # Errors
/// [`Error`].
pub fn init_at(place: Place, filter: Option<&str>, format: Format) -> Result<LogFilter, Error> {
    let variable = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let text = filter.map(str::to_owned).or(variable).unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let (layer, handle) = reload::Layer::new(parse(&text)?);
    let registry = tracing_subscriber::registry().with(layer);
    let started = registry.with(lines(place, format)?).try_init();
    started.map_err(|error| Error::Twice(error.to_string()))?;
    Ok(LogFilter { handle })
}

type Lines<S> = Box<dyn Layer<S> + Send + Sync>;

fn lines<S>(place: Place, format: Format) -> Result<Lines<S>, Error>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let refused = |place| move |source| Error::Place { place, source };
    let stderr = || tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    Ok(match (place, format) {
        (Place::Stderr, Format::Text) => {
            stderr().with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed()
        }
        (Place::Stderr, Format::Json) => stderr().json().flatten_event(true).boxed(),
        (Place::Journal, _) => tracing_journald::layer().map_err(refused("the journal"))?.boxed(),
        (Place::Syslog, _) => syslog::layer(Path::new(syslog::SOCKET)).map_err(refused(syslog::SOCKET))?,
    })
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| Error::Filter { filter: filter.to_owned(), message: error.to_string() })
}

/// A text that is never shown: `{:?}` and `{}` give `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// A text of others, with `***` in the place of what looks like a secret: seeds of nkeys, JWTs, and the user and
/// password of a URL.
pub fn redact(text: &str) -> String {
    let part_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(part_of_word) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !part_of_word(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(before);
        out.push_str(if is_secret(word) { "***" } else { word });
        rest = after;
        if let Some(authority) = after.strip_prefix("://") {
            out.push_str("://");
            rest = authority;
            // A password may hold a `/` or `@` that should have been escaped: the last `@` before a gap counts.
            let gap = authority
                .find(|c: char| c.is_whitespace() || matches!(c, ',' | '"'))
                .unwrap_or(authority.len());
            if let Some(at) = authority[..gap].rfind('@') {
                out.push_str("***");
                rest = &authority[at..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn is_secret(word: &str) -> bool {
    let base32 = |c: char| c.is_ascii_uppercase() || ('2'..='7').contains(&c);
    let seed = word.len() == 58 && word.starts_with('S') && word.chars().all(base32);
    let jwt = word.starts_with("eyJ") && word.matches('.').count() == 2;
    seed || jwt
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_not_shown_and_the_rest_is() {
        let user = nkeys::KeyPair::new_user();
        let seed = user.seed().unwrap();
        let text =
            format!("user {} seed \"{seed}\" jwt=eyJ0eXAi.eyJqdGki.c2ln, at 10:20.", user.public_key());
        let shown = format!("user {} seed \"***\" jwt=***, at 10:20.", user.public_key());
        assert_eq!(redact(&text), shown);
        assert_eq!(
            redact("nats://u:p/w@h:4222,tls://x:y@z see http://h/@a"),
            "nats://***@h:4222,tls://***@z see http://***@a"
        );
        let secret = Secret::new("open sesame");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.expose(), "open sesame");
    }

    #[test]
    fn a_filter_that_is_none_is_worded() {
        assert!(parse("info,imn_agent=trace").is_ok());
        let error = parse("imn=loud").unwrap_err().to_string();
        assert!(error.contains("imn=loud") && error.contains("use a level such as info"), "{error}");
    }

    proptest! {
        #[test]
        fn what_holds_no_secret_stays_as_it_is(text in "[ a-z0-9.:/é\"-]{0,60}") {
            prop_assume!(!text.contains("eyj"));
            prop_assert_eq!(redact(&text), text);
        }

        #[test]
        fn any_text_can_be_redacted(text in ".{0,80}") {
            let once = redact(&text);
            prop_assert_eq!(redact(&once), once.clone());
        }
    }
}

//! The log of a module process: lines on standard error, their level changeable while it runs.

use imn_contract::{ErrorCode, Fault};
use imn_runtime::telemetry::LogFilter;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

const DEFAULT: &str = "info,async_nats=warn";

/// Changes the level of the log.
pub(crate) enum Level {
    /// The SDK has started the log.
    Own(reload::Handle<EnvFilter, Registry>),
    /// The program has, and lets its filter be changed.
    Program(LogFilter),
    /// The program has, by means of its own.
    Elsewhere,
}

impl Level {
    /// Starts the log at `IMN_LOG`, else at info. Where the program has set up a log, that one stays.
    pub(crate) fn start() -> Self {
        let filter = std::env::var("IMN_LOG")
            .ok()
            .and_then(|text| EnvFilter::try_new(text).ok())
            .unwrap_or_else(|| EnvFilter::new(DEFAULT));
        let (filter, handle) = reload::Layer::new(filter);
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
        if started.is_ok() { Self::Own(handle) } else { Self::Elsewhere }
    }

    /// Puts a filter such as `debug` or `imn_module=trace` in force.
    pub(crate) fn set(&self, text: &str) -> Result<(), Fault> {
        let filter = EnvFilter::try_new(text).map_err(|error| {
            Fault::invalid(
                "level",
                format!("{text:?} is no log filter such as info or imn_module=debug: {error}"),
            )
        })?;
        let unavailable = |message: String| Fault::new(ErrorCode::Unavailable, message);
        match self {
            Self::Own(handle) => handle.reload(filter).map_err(|error| unavailable(error.to_string())),
            Self::Program(log) => log.set(text).map_err(|error| unavailable(error.to_string())),
            Self::Elsewhere => Err(unavailable("the log belongs to the host program".to_owned())),
        }
    }
}

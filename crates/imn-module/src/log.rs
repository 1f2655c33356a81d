//! The log of a module process: lines on standard error, their level changeable while it runs.

use imn_contract::{ErrorCode, Fault};
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

const DEFAULT: &str = "info,async_nats=warn";

/// Changes the level of the log.
pub(crate) struct Level(Option<reload::Handle<EnvFilter, Registry>>);

impl Level {
    /// Starts the log at `IMN_LOG`, else at info. Where the host program has set up a log, that one stays.
    pub(crate) fn start() -> Self {
        let filter = std::env::var("IMN_LOG")
            .ok()
            .and_then(|text| EnvFilter::try_new(text).ok())
            .unwrap_or_else(|| EnvFilter::new(DEFAULT));
        let (filter, handle) = reload::Layer::new(filter);
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
        Self(started.is_ok().then_some(handle))
    }

    /// Puts a filter such as `debug` or `imn_module=trace` in force.
    pub(crate) fn set(&self, text: &str) -> Result<(), Fault> {
        let filter = EnvFilter::try_new(text).map_err(|error| {
            Fault::invalid(
                "level",
                format!("{text:?} is no log filter such as info or imn_module=debug: {error}"),
            )
        })?;
        let Some(handle) = &self.0 else {
            return Err(Fault::new(ErrorCode::Unavailable, "the log belongs to the host program"));
        };
        handle.reload(filter).map_err(|error| Fault::new(ErrorCode::Unavailable, error.to_string()))
    }
}

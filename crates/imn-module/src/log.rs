//! The log of a module process: its level can be changed while it runs.

use imn_contract::{ErrorCode, Fault};
use imn_runtime::telemetry::{self, Telemetry};

use crate::Error;

/// Changes the level of the log; dropping it sends what waits to be exported.
pub(crate) struct Level(Option<Telemetry>);

impl Level {
    /// Starts the log and what the environment says of its export. Where the host program has set up a log, that one
    /// stays.
    pub(crate) fn start() -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok();
        // Its agent names it so for everybody.
        let instance = variable("IMN_INSTANCE").unwrap_or_else(|| "module".to_owned());
        let started = telemetry::Config::read("imn-module", instance, variable).and_then(telemetry::start);
        match started {
            Ok(telemetry) => Ok(Self(Some(telemetry))),
            Err(telemetry::Error::Twice(_)) => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a filter such as `debug` or `imn_module=trace` in force.
    pub(crate) fn set(&self, text: &str) -> Result<(), Fault> {
        let Some(telemetry) = &self.0 else {
            return Err(Fault::new(ErrorCode::Unavailable, "the log belongs to the host program"));
        };
        telemetry.set_filter(text).map_err(|error| Fault::invalid("level", error.to_string()))
    }
}

//! CSV (RFC 4180): one measurement per line (of a trace, one hop), its columns those of its type.

mod dns;
mod http;
mod other;
mod ping;
mod stamp;
mod trace;

use std::{
    io::{self, Write},
    iter::once,
};

use imn_contract::latest::Outcome;

use super::Row;

/// The columns of an outcome behind that of the agent.
fn columns(outcome: &Outcome) -> &'static [&'static str] {
    match outcome {
        Outcome::Ping(_) => &ping::COLUMNS,
        Outcome::Dns(_) => &dns::COLUMNS,
        Outcome::Http(_) => &http::COLUMNS,
        Outcome::Stamp(_) => &stamp::COLUMNS,
        Outcome::Trace(_) => &trace::COLUMNS,
        _ => &other::COLUMNS,
    }
}

pub(super) fn header(out: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
    record(out, once("agent").chain(columns(outcome).iter().copied()).map(str::to_owned))
}

pub(super) fn row(out: &mut impl Write, row: &Row) -> io::Result<()> {
    let fields = match &row.outcome {
        Outcome::Ping(outcome) => ping::fields(outcome)?.to_vec(),
        Outcome::Dns(outcome) => dns::fields(outcome)?.to_vec(),
        Outcome::Http(outcome) => http::fields(outcome)?.to_vec(),
        Outcome::Stamp(outcome) => stamp::fields(outcome)?,
        Outcome::Trace(outcome) => {
            for fields in trace::rows(outcome)? {
                record(out, once(row.agent.clone().unwrap_or_default()).chain(fields))?;
            }
            return Ok(());
        }
        outcome => other::fields(outcome)?.to_vec(),
    };
    record(out, once(row.agent.clone().unwrap_or_default()).chain(fields))
}

/// A number, or nothing.
fn number(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// One line of fields, quoted where they need it.
pub(super) fn record(out: &mut impl Write, fields: impl IntoIterator<Item = String>) -> io::Result<()> {
    let mut writer = ::csv::Writer::from_writer(out);
    writer.write_record(fields)?;
    writer.flush()
}

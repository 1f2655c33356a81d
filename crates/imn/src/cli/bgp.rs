//! Updates of BGP.

use std::{net::SocketAddr, time::Duration};

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use imn_sink::format::update::Format;
use ipnet::IpNet;

use super::measure::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum BgpVerb {
    /// Show updates as they come, and what they mean for prefixes.
    Watch(WatchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Prefix to watch, with those within it; repeatable. Without one all updates are shown and none is judged.
    #[arg(long = "prefix", value_name = "PREFIX", value_parser = prefix)]
    pub(crate) prefixes: Vec<IpNet>,
    /// AS that may originate the prefixes; repeatable [default: what is seen while learning].
    #[arg(long = "origin", value_name = "ASN", value_parser = asn, requires = "prefixes")]
    pub(crate) origins: Vec<u32>,
    /// How long origins and more specific prefixes are learned, by the times of the updates.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration, conflicts_with = "origins")]
    pub(crate) learn: Duration,
    /// End after this time; a file ends by itself.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) span: Option<Duration>,
    /// End after so many updates.
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Form of the output [default: table].
    #[arg(short, long, value_name = "FORMAT", value_parser = format())]
    pub(crate) output: Option<Format>,
}

fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| "write a prefix such as 192.0.2.0/24 or 2001:db8::/32".to_owned())
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SourceArgs {
    /// MRT file or http(s) URL: plain, gzip or bzip2.
    #[arg(long, value_name = "FILE|URL")]
    pub(crate) mrt: Option<String>,
    /// RIPE RIS Live, or another service that speaks its protocol.
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    pub(crate) ris_live: Option<String>,
    /// Listen here for routers that speak BMP.
    #[arg(long, value_name = "ADDR:PORT", value_parser = super::socket)]
    pub(crate) bmp_listen: Option<SocketAddr>,
}

/// An AS number, plain or behind `AS`.
fn asn(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("AS").or_else(|| text.strip_prefix("as")).unwrap_or(text);
    digits.parse().map_err(|_| "an AS number is 64500 or AS64500".to_owned())
}

fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name)).try_map(|name| name.parse::<Format>())
}

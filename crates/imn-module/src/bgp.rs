//! `bgp`: parameters, sources, and what is gathered of them.

mod feed;
mod follow;
mod tally;

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use imn_contract::Fault;
use imn_probe::bgp::{self as engine, Match, ris};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use crate::{module, ping::Span};

pub(crate) use feed::{Feeds, Window};
pub use follow::{BgpFollow, BgpNews};
pub(crate) use follow::{Following, Heard, follow};
pub(crate) use tally::Tally;

/// Updates carried by one outcome, unless the parameters say otherwise, and at most.
const CARRIED: usize = 500;
const MOST_CARRIED: usize = 10_000;
/// How long a job follows a live source.
const DURATION: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_hours(1);

/// Where updates come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BgpSource {
    /// A file of MRT records, or a URL of one.
    Mrt(engine::Source),
    /// RIPE RIS Live, or what speaks its protocol.
    RisLive(Box<Url>),
    /// Routers that connect to this address and speak BMP.
    Bmp(SocketAddr),
}

impl fmt::Display for BgpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mrt(source) => write!(f, "mrt:{source}"),
            Self::RisLive(url) => write!(f, "ris-live:{url}"),
            Self::Bmp(address) => write!(f, "bmp:{address}"),
        }
    }
}

impl FromStr for BgpSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "mrt" => rest.parse().map(Self::Mrt).map_err(|error: engine::OpenError| error.to_string()),
            "ris-live" | "ris_live" => {
                let url = if rest.is_empty() { ris::RIPE } else { rest };
                let url: Url = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
                if matches!(url.scheme(), "ws" | "wss") && url.has_host() {
                    Ok(Self::RisLive(Box::new(url)))
                } else {
                    Err(format!("{url} is neither a ws nor a wss URL"))
                }
            }
            "bmp" => rest.parse().map(Self::Bmp).map_err(|_| format!("{rest:?} is no address:port")),
            _ => Err("use mrt:FILE or mrt:URL, ris-live or ris-live:URL, or bmp:ADDRESS:PORT".to_owned()),
        }
    }
}

/// Parameters of `bgp`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BgpParams {
    /// Where updates come from: `mrt:FILE` or `mrt:URL` (plain, gzip or bzip2; jobs only), `ris-live` or
    /// `ris-live:URL`, `bmp:ADDRESS:PORT`.
    source: String,
    /// Which prefixes are meant: the target itself, with those within it (the default), with those that cover it,
    /// or with both.
    #[serde(default, rename = "match")]
    how: How,
    /// How long a job follows a live source; 10 seconds if absent. Standing work follows it all the time.
    #[serde(default)]
    duration: Option<Span>,
    /// Updates that an outcome carries; the rest is counted. 500 if absent.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10_000))]
    max_updates: Option<i64>,
    /// ASes that may originate the prefix; learned if absent. For the server, which judges.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4_294_967_295_u32))]
    #[expect(dead_code, reason = "it is checked here and used by whoever judges")]
    origins: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum How {
    Exact,
    #[default]
    MoreSpecific,
    Covering,
    Any,
}

/// What is wanted, from where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BgpSpec {
    /// The target as it was named.
    pub target: String,
    pub prefix: IpNet,
    pub source: BgpSource,
    pub how: Match,
    pub duration: Duration,
    pub carried: usize,
}

impl BgpSpec {
    /// Reads target and parameters.
    pub(crate) fn read(target: &str, params: &Map<String, Value>) -> Result<Self, Fault> {
        let prefix: IpNet = target.trim().parse().map_err(|_| {
            Fault::invalid("target", format!("{target:?} is no prefix: write, for example, 192.0.2.0/24"))
        })?;
        let params: BgpParams = module::params(params)?;
        let source = params.source.parse().map_err(|text: String| Fault::invalid("params.source", text))?;
        let duration = params.duration.map_or(DURATION, |span| span.0);
        if duration.is_zero() || duration > LONGEST {
            return Err(Fault::invalid("params.duration", "use 1 ms to 1 hour"));
        }
        let carried = match params.max_updates {
            None => CARRIED,
            Some(count) => usize::try_from(count)
                .ok()
                .filter(|count| *count <= MOST_CARRIED)
                .ok_or_else(|| Fault::invalid("params.max_updates", format!("use 0 to {MOST_CARRIED}")))?,
        };
        let how = match params.how {
            How::Exact => Match::Exact,
            How::MoreSpecific => Match::MoreSpecific,
            How::Covering => Match::Covering,
            How::Any => Match::Any,
        };
        Ok(Self { target: target.to_owned(), prefix: prefix.trunc(), source, how, duration, carried })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(target: &str, params: &Value) -> Result<BgpSpec, Fault> {
        BgpSpec::read(target, params.as_object().unwrap())
    }

    #[test]
    fn a_source_is_written_as_it_is_read() {
        for text in
            ["mrt:/tmp/a.bz2", "mrt:https://example.net/rib.gz", "bmp:[::1]:11019", "ris-live:wss://x/v1/ws/"]
        {
            let spec = read("192.0.2.1/24", &json!({ "source": text })).unwrap();
            assert_eq!(spec.source.to_string(), text);
            assert_eq!(spec.prefix.to_string(), "192.0.2.0/24");
        }
        let ripe = read("::/0", &json!({ "source": "ris-live", "match": "any", "origins": [1] })).unwrap();
        assert_eq!(ripe.source.to_string(), format!("ris-live:{}", ris::RIPE));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (target, params, field) in [
            ("192.0.2.1", json!({ "source": "ris-live" }), "target"),
            ("::/0", json!({}), "params.source"),
            ("::/0", json!({ "source": "file:x" }), "params.source"),
            ("::/0", json!({ "source": "mrt:" }), "params.source"),
            ("::/0", json!({ "source": "mrt:ftp://x/y" }), "params.source"),
            ("::/0", json!({ "source": "ris-live:http://x/" }), "params.source"),
            ("::/0", json!({ "source": "bmp:1" }), "params.source"),
            ("::/0", json!({ "source": "ris-live", "match": "some" }), "params.match"),
            ("::/0", json!({ "source": "ris-live", "duration": "2h" }), "params.duration"),
            ("::/0", json!({ "source": "ris-live", "max_updates": 10_001 }), "params.max_updates"),
            ("::/0", json!({ "source": "ris-live", "origins": ["AS1"] }), "params.origins[0]"),
            ("::/0", json!({ "source": "ris-live", "depth": 1 }), "params.depth"),
        ] {
            assert_eq!(read(target, &params).unwrap_err().field.as_deref(), Some(field), "{params}");
        }
    }
}

//! What updates of BGP mean for a watched prefix: changes of origin, more specific announcements, flaps, withdrawals.
//!
//! One [`Watch`] follows one prefix as the peers of route collectors see it. It is told updates in the order of their
//! times and answers with findings as they open, worsen and end. Its state is bounded, whatever it is told; what did
//! not fit is counted.

mod finding;
mod flap;
mod watch;

pub use finding::{End, Evidence, Finding, Kind, State};
pub use watch::{Policy, Status, Watch};

use std::{net::IpAddr, sync::Arc};

use imn_contract::latest::BgpUpdate;
use ipnet::IpNet;

/// A peer of a collector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The collector.
    pub collector: Arc<str>,
    /// The peer's address.
    pub address: IpAddr,
    /// Its AS number.
    pub asn: u32,
}

/// One prefix announced or withdrawn by one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// When, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// The prefix.
    pub prefix: IpNet,
    /// Which of the peer's paths, where it tells several.
    pub path_id: Option<u32>,
    /// Who says so.
    pub peer: Peer,
    /// What is announced; `None` withdraws the prefix.
    pub route: Option<Route>,
}

/// What is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// ASes that may originate it: one, the members of a set, or none where the path is empty.
    pub origins: Vec<u32>,
    /// The path as text.
    pub as_path: String,
}

impl Update {
    /// An update as a module tells it, received at `time_us`; `None` for one that is none.
    pub fn read(update: &BgpUpdate, time_us: i64) -> Option<Self> {
        let origins = match (update.origin_asn, &update.origin_set) {
            (Some(asn), _) => vec![asn],
            (None, set) => set.clone(),
        };
        let route = match update.kind.as_str() {
            "A" => Some(Route { origins, as_path: update.as_path.clone().unwrap_or_default() }),
            "W" => None,
            _ => return None,
        };
        Some(Self {
            time_us,
            prefix: update.prefix.parse::<IpNet>().ok()?.trunc(),
            path_id: update.path_id,
            peer: Peer {
                collector: update.collector.as_str().into(),
                address: update.peer_address.parse().ok()?,
                asn: update.peer_asn,
            },
            route,
        })
    }
}

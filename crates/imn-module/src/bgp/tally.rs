//! What is counted and kept of updates on their way to an outcome.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    net::IpAddr,
    sync::Arc,
};

use imn_contract::latest::{BgpOrigin, BgpOutcome, BgpPath, BgpSession, BgpUpdate};
use imn_probe::bgp::{Fault, Session, SessionState, Update};
use imn_runtime::clock;
use ipnet::IpNet;

use super::{BgpSource, BgpSpec};
use crate::convert;

/// Different origins, paths, prefixes and peers that are told apart, at most.
const MOST_KINDS: usize = 65_536;
/// Origins and paths told, at most.
const TOLD: usize = 32;
/// News of sessions kept, at most.
const MOST_SESSIONS: usize = 200;
/// Bytes of kept updates, at most: an outcome is to fit into a message.
const MOST_BYTES: usize = 144 * 1024;

/// Counts of one prefix from one source; bounded, whatever comes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    carried: usize,
    bytes: usize,
    announcements: u64,
    withdrawals: u64,
    snapshots: u64,
    omitted: u64,
    prefixes: HashSet<IpNet>,
    peers: HashSet<(Arc<str>, IpAddr)>,
    origins: HashMap<u32, u64>,
    paths: HashMap<String, u64>,
    updates: Vec<BgpUpdate>,
    sessions: Vec<BgpSession>,
    faults: BTreeMap<String, u64>,
    error: Option<String>,
    first_ns: Option<u64>,
    last_ns: u64,
    pub(crate) records: u64,
}

impl Tally {
    pub(crate) fn new(carried: usize) -> Self {
        Self { carried, ..Self::default() }
    }

    pub(crate) fn update(&mut self, update: &Update) {
        match (&update.route, update.snapshot) {
            (_, true) => self.snapshots += 1,
            (Some(_), false) => self.announcements += 1,
            (None, false) => self.withdrawals += 1,
        }
        let ns = update.time.as_nanos();
        self.first_ns = Some(self.first_ns.map_or(ns, |first| first.min(ns)));
        self.last_ns = self.last_ns.max(ns);
        add(&mut self.prefixes, update.prefix);
        add(&mut self.peers, (Arc::clone(&update.collector), update.peer_address));
        if let Some(route) = &update.route {
            for origin in route.origins() {
                count(&mut self.origins, origin);
            }
            count(&mut self.paths, route.as_path());
        }
        if self.updates.len() >= self.carried || self.bytes >= MOST_BYTES {
            self.omitted += 1;
            return;
        }
        let update = convert::bgp::update(update);
        self.bytes += 330
            + update.as_path.as_ref().map_or(0, String::len)
            + update.communities.iter().map(|community| community.len() + 3).sum::<usize>();
        self.updates.push(update);
    }

    pub(crate) fn session(&mut self, session: &Session) {
        if self.sessions.len() < MOST_SESSIONS && !matches!(session.state, SessionState::Routes { .. }) {
            self.sessions.push(convert::bgp::session(session));
        }
    }

    pub(crate) fn fault(&mut self, fault: &Fault) {
        *self.faults.entry(fault.code.as_str().to_owned()).or_default() += 1;
        self.error.get_or_insert_with(|| fault.to_string());
    }

    /// Updates seen, listed or not.
    pub(crate) fn seen(&self) -> u64 {
        self.announcements + self.withdrawals + self.snapshots
    }

    /// What it comes to. `down_ms` is how long the source was away, `away` why.
    pub(crate) fn finish(
        self,
        spec: &BgpSpec,
        tmax_ms: u64,
        down_ms: u64,
        away: Option<String>,
    ) -> BgpOutcome {
        let faults: u64 = self.faults.values().sum();
        let unread = self.error.map(|first| match faults {
            0 | 1 => first,
            more => format!("{more} faults, the first: {first}"),
        });
        let time = |ns: u64| clock::rfc3339((ns / 1000) as i64);
        BgpOutcome {
            target: spec.target.clone(),
            source: spec.source.to_string(),
            how: convert::bgp::how(spec.how).to_owned(),
            time: self.first_ns.map(time),
            last: self.first_ns.map(|_| time(self.last_ns)),
            announcements: self.announcements,
            withdrawals: self.withdrawals,
            snapshots: self.snapshots,
            prefixes: self.prefixes.len() as u64,
            peers: self.peers.len() as u64,
            origins: most(self.origins).into_iter().map(|(asn, count)| BgpOrigin { asn, count }).collect(),
            paths: most(self.paths)
                .into_iter()
                .map(|(as_path, count)| BgpPath { as_path: convert::bgp::clip(as_path), count })
                .collect(),
            updates: self.updates,
            updates_omitted: self.omitted,
            sessions: self.sessions,
            faults: self.faults,
            records: self.records,
            down_ms,
            error_us: match spec.source {
                // Seconds; of some files microseconds, which is not worse.
                BgpSource::Mrt(_) => 1e6,
                BgpSource::RisLive(_) => 1e4,
                BgpSource::Bmp(_) => 1.0,
            },
            tmax_ms,
            // What could not be read of a file is in its outcome; a source that was away is told first.
            error: away.or(unread),
            ..BgpOutcome::default()
        }
    }
}

fn add<T: Eq + Hash>(set: &mut HashSet<T>, value: T) {
    if set.len() < MOST_KINDS {
        set.insert(value);
    }
}

fn count<T: Eq + Hash>(map: &mut HashMap<T, u64>, value: T) {
    if map.len() < MOST_KINDS || map.contains_key(&value) {
        *map.entry(value).or_default() += 1;
    }
}

/// The most frequent, the same in every run.
fn most<T: Ord + Clone>(map: HashMap<T, u64>) -> Vec<(T, u64)> {
    let mut all: Vec<(T, u64)> = map.into_iter().collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(TOLD);
    all
}

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{End, Evidence, Finding, Kind, State, Update, flap::Flaps};
use crate::tier::AlertSeverity;

/// Peers (and their further paths) that are followed, at most.
const MAX_PEERS: usize = 4_096;
/// More specific prefixes that are followed, at most.
const MAX_INNER: usize = 1_024;
/// Routes to more specific prefixes that are followed, at most.
const MAX_INNER_ROUTES: usize = 16_384;
/// Findings open at once, at most.
const MAX_OPEN: usize = 256;
/// Origins of one route that are looked at: sets are short, or somebody plays.
const MAX_ORIGINS: usize = 16;

/// What is expected of a prefix, and how patient the watch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// ASes that may originate it. When empty, they are learned.
    pub origins: BTreeSet<u32>,
    /// What is seen so long after the first update is learned as expected, in microseconds; at least the first
    /// update itself.
    pub learn_us: i64,
    /// An origin or more specific prefix that nobody declared, seen without a break for so long, is expected from
    /// then on, in microseconds.
    pub adopt_us: i64,
    /// Window of flaps, in microseconds.
    pub flap_window_us: i64,
    /// Withdrawals by one peer within the window that make a prefix flap, 2 to 64 (RFC 2439 counts them so too).
    pub flaps: usize,
}

impl Default for Policy {
    /// Origins are learned for a minute and adopted after a week; five withdrawals in ten minutes are flapping.
    fn default() -> Self {
        const SECOND: i64 = 1_000_000;
        Self {
            origins: BTreeSet::new(),
            learn_us: 60 * SECOND,
            adopt_us: 7 * 24 * 3600 * SECOND,
            flap_window_us: 600 * SECOND,
            flaps: 5,
        }
    }
}

/// Follows one prefix.
#[derive(Clone, Debug)]
pub struct Watch {
    prefix: IpNet,
    policy: Policy,
    expected: BTreeSet<u32>,
    first_us: Option<i64>,
    last_us: i64,
    updates: u64,
    overflow: u64,
    peers: BTreeMap<Key, Held>,
    inner: BTreeMap<IpNet, BTreeMap<Key, Vec<u32>>>,
    inner_routes: usize,
    known_inner: BTreeSet<(IpNet, u32)>,
    open: BTreeMap<Id, Open>,
}

/// How a prefix is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Expected origins, declared or learned.
    pub expected: Vec<u32>,
    /// Each origin seen now, with the number of peers that see it.
    pub origins: BTreeMap<u32, usize>,
    /// Peers that have a route.
    pub visible: usize,
    /// Peers that had one since their session is up.
    pub peers: usize,
    /// More specific prefixes announced now.
    pub more_specifics: Vec<IpNet>,
    /// Withdrawals within the window, of all peers.
    pub flaps: usize,
    /// Updates seen.
    pub updates: u64,
    /// The last one, in microseconds since the Unix epoch.
    pub last_us: Option<i64>,
    /// Updates that did not fit into the bounded state; where this is not 0 the rest is incomplete.
    pub overflow: u64,
}

/// Collector, peer, path: one place that can hold a route.
type Key = (Arc<str>, IpAddr, Option<u32>);
/// Kind, prefix, origin.
type Id = (Kind, IpNet, Option<u32>);

#[derive(Clone, Debug, Default)]
struct Held {
    /// `None` once withdrawn.
    origins: Option<Vec<u32>>,
    flaps: Flaps,
}

#[derive(Clone, Debug)]
struct Open {
    finding: Finding,
    holders: BTreeSet<Key>,
}

impl Watch {
    /// A watch that has seen nothing yet.
    pub fn new(prefix: IpNet, policy: Policy) -> Self {
        Self {
            prefix: prefix.trunc(),
            expected: policy.origins.clone(),
            policy,
            first_us: None,
            last_us: i64::MIN,
            updates: 0,
            overflow: 0,
            peers: BTreeMap::new(),
            inner: BTreeMap::new(),
            inner_routes: 0,
            known_inner: BTreeSet::new(),
            open: BTreeMap::new(),
        }
    }

    /// The prefix.
    pub fn prefix(&self) -> IpNet {
        self.prefix
    }

    /// Takes an update; gives the findings that opened, became worse, or ended with it. Updates of prefixes that are
    /// neither the watched one nor within it say nothing of it.
    pub fn observe(&mut self, update: &Update) -> Vec<Finding> {
        let prefix = update.prefix.trunc();
        if !self.prefix.contains(&prefix) {
            return Vec::new();
        }
        let now_us = update.time_us.max(self.last_us);
        self.first_us.get_or_insert(update.time_us);
        self.last_us = now_us;
        self.updates += 1;
        let mut found = self.expire(now_us);
        if prefix == self.prefix {
            self.exact(update, now_us, &mut found);
        } else {
            self.within(prefix, update, now_us, &mut found);
        }
        found
    }

    /// Lets time pass: ends flapping that has calmed down, and takes for expected what has long been so.
    pub fn advance(&mut self, now_us: i64) -> Vec<Finding> {
        self.last_us = self.last_us.max(now_us);
        self.expire(self.last_us)
    }

    /// Forgets what a peer told, or all peers of a collector: the session is down or begins anew. That is no
    /// withdrawal; findings that nobody else sees end as unseen.
    pub fn lose(&mut self, collector: &str, peer: Option<IpAddr>, now_us: i64) -> Vec<Finding> {
        let is_lost = |key: &Key| &*key.0 == collector && peer.is_none_or(|address| key.1 == address);
        self.peers.retain(|key, _| !is_lost(key));
        for routes in self.inner.values_mut() {
            let before = routes.len();
            routes.retain(|key, _| !is_lost(key));
            self.inner_routes -= before - routes.len();
        }
        self.inner.retain(|_, routes| !routes.is_empty());
        let mut found = Vec::new();
        self.open.retain(|id, open| {
            let before = open.holders.len();
            open.holders.retain(|key| !is_lost(key));
            let ends = before > 0 && open.holders.is_empty() && id.0 != Kind::Withdrawal;
            if ends {
                found.push(ended(&open.finding, End::Unseen, now_us));
            }
            !ends
        });
        if let Some(open) = self.open.get_mut(&(Kind::Withdrawal, self.prefix, None)) {
            let (visible, all) = visibility(&self.peers);
            if visible * 2 > all || all == 0 {
                let end = if all == 0 { End::Unseen } else { End::Over };
                found.push(ended(&open.finding, end, now_us));
                self.open.remove(&(Kind::Withdrawal, self.prefix, None));
            }
        }
        self.last_us = self.last_us.max(now_us);
        found
    }

    /// The findings that are open, with all that speaks for them so far.
    pub fn open(&self) -> impl Iterator<Item = &Finding> {
        self.open.values().map(|open| &open.finding)
    }

    /// How the prefix is doing at `now_us`, in microseconds since the Unix epoch.
    pub fn status(&mut self, now_us: i64) -> Status {
        let (visible, peers) = visibility(&self.peers);
        let mut origins: BTreeMap<u32, BTreeSet<(&str, IpAddr)>> = BTreeMap::new();
        for ((collector, address, _), held) in &self.peers {
            for origin in held.origins.iter().flatten() {
                origins.entry(*origin).or_default().insert((collector, *address));
            }
        }
        let origins = origins.into_iter().map(|(origin, peers)| (origin, peers.len())).collect();
        let window_us = self.policy.flap_window_us;
        Status {
            expected: self.expected.iter().copied().collect(),
            origins,
            visible,
            peers,
            more_specifics: self.inner.keys().copied().collect(),
            flaps: self.peers.values_mut().map(|held| held.flaps.within(now_us, window_us)).sum(),
            updates: self.updates,
            last_us: self.first_us.map(|_| self.last_us),
            overflow: self.overflow,
        }
    }

    /// The watched prefix itself.
    fn exact(&mut self, update: &Update, now_us: i64, found: &mut Vec<Finding>) {
        let key = key(update);
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&key) {
            self.overflow += 1;
            return;
        }
        let origins = origins(update);
        if update.route.is_none() && !self.peers.contains_key(&key) {
            // It withdraws what we never saw: nothing changes.
            return;
        }
        let held = self.peers.entry(key.clone()).or_default();
        let before = held.origins.take();
        held.origins.clone_from(&origins);
        let flapped = before.is_some() && origins.is_none();
        if flapped {
            held.flaps.add(now_us);
        }
        let gone = before.iter().flatten().filter(|asn| !origins.iter().flatten().any(|new| new == *asn));
        for asn in gone {
            self.release((Kind::OriginChange, self.prefix, Some(*asn)), &key, found);
        }
        for asn in origins.iter().flatten() {
            if self.expected.contains(asn) {
                continue;
            }
            // Something must be expected before anything can be unexpected.
            if self.is_learning(now_us) || self.expected.is_empty() {
                self.expected.insert(*asn);
                continue;
            }
            let moas = self.sees_expected();
            self.raise((Kind::OriginChange, self.prefix, Some(*asn)), &key, update, moas, found);
        }
        if flapped {
            self.flap(&key, update, now_us, found);
        }
        self.withdrawal(&key, update, found);
    }

    /// A prefix within the watched one.
    fn within(&mut self, prefix: IpNet, update: &Update, now_us: i64, found: &mut Vec<Finding>) {
        let key = key(update);
        let origins = origins(update);
        let Some(origins) = origins else {
            let before = self.inner.get_mut(&prefix).and_then(|routes| routes.remove(&key));
            if before.is_some() {
                self.inner_routes -= 1;
            }
            if self.inner.get(&prefix).is_some_and(BTreeMap::is_empty) {
                self.inner.remove(&prefix);
            }
            for asn in before.into_iter().flatten() {
                self.release((Kind::MoreSpecific, prefix, Some(asn)), &key, found);
            }
            return;
        };
        let is_known = self.inner.get(&prefix).is_some_and(|routes| routes.contains_key(&key));
        let is_full = self.inner_routes >= MAX_INNER_ROUTES
            || (self.inner.len() >= MAX_INNER && !self.inner.contains_key(&prefix));
        if is_full && !is_known {
            self.overflow += 1;
            return;
        }
        let before = self.inner.entry(prefix).or_default().insert(key.clone(), origins.clone());
        if before.is_none() {
            self.inner_routes += 1;
        }
        for asn in before.iter().flatten().filter(|asn| !origins.contains(asn)) {
            self.release((Kind::MoreSpecific, prefix, Some(*asn)), &key, found);
        }
        for asn in origins {
            if self.known_inner.contains(&(prefix, asn)) {
                continue;
            }
            if self.is_learning(now_us) && self.known_inner.len() < MAX_INNER {
                self.known_inner.insert((prefix, asn));
                continue;
            }
            let moas = self.sees_expected();
            self.raise((Kind::MoreSpecific, prefix, Some(asn)), &key, update, moas, found);
        }
    }

    fn flap(&mut self, key: &Key, update: &Update, now_us: i64, found: &mut Vec<Finding>) {
        let window_us = self.policy.flap_window_us;
        let held = self.peers.get_mut(key);
        if held.is_none_or(|held| held.flaps.within(now_us, window_us) < self.policy.flaps.clamp(2, 64)) {
            return;
        }
        let id = (Kind::Flapping, self.prefix, None);
        self.raise(id, key, update, false, found);
        let flaps = self.peers.values_mut().map(|held| held.flaps.within(now_us, window_us)).sum();
        if let Some(open) = self.open.get_mut(&id) {
            open.finding.flaps = Some(flaps);
        }
        for finding in found.iter_mut().filter(|finding| finding.kind == Kind::Flapping) {
            finding.flaps = Some(flaps);
        }
    }

    fn withdrawal(&mut self, key: &Key, update: &Update, found: &mut Vec<Finding>) {
        let id = (Kind::Withdrawal, self.prefix, None);
        let (visible, all) = visibility(&self.peers);
        if visible * 2 > all {
            if let Some(open) = self.open.remove(&id) {
                let finding = Finding { visible: Some((visible, all)), ..open.finding };
                found.push(ended(&finding, End::Over, update.time_us));
            }
            return;
        }
        if update.route.is_some() {
            // Better than before, yet not well.
            if let Some(open) = self.open.get_mut(&id) {
                open.holders.remove(key);
                open.finding.visible = Some((visible, all));
            }
            return;
        }
        let worst = if visible == 0 { AlertSeverity::Critical } else { AlertSeverity::Warning };
        let was = self.open.get(&id).map(|open| open.finding.severity);
        self.raise(id, key, update, false, found);
        let Some(open) = self.open.get_mut(&id) else { return };
        open.finding.visible = Some((visible, all));
        open.finding.severity = worst;
        open.finding.time_us = update.time_us;
        if let Some(finding) = found.iter_mut().find(|finding| finding.kind == Kind::Withdrawal) {
            *finding = open.finding.clone();
        } else if was.is_some_and(|was| was != worst) {
            found.push(open.finding.clone());
        }
    }

    /// Opens a finding, or adds to what speaks for it.
    fn raise(&mut self, id: Id, key: &Key, update: &Update, moas: bool, found: &mut Vec<Finding>) {
        if let Some(open) = self.open.get_mut(&id) {
            let is_new = open.holders.insert(key.clone());
            // Further paths of a peer are not further peers.
            let same = |other: &&Key| (&other.0, other.1) == (&key.0, key.1);
            let is_new = is_new && open.holders.iter().filter(same).count() == 1;
            open.finding.evidence.add(update, is_new);
            return;
        }
        if self.open.len() >= MAX_OPEN {
            self.overflow += 1;
            return;
        }
        let (kind, prefix, origin) = id;
        let is_expected = origin.is_some_and(|origin| self.expected.contains(&origin));
        let severity = match kind {
            Kind::MoreSpecific if is_expected => AlertSeverity::Info,
            Kind::OriginChange | Kind::MoreSpecific => AlertSeverity::Critical,
            Kind::Flapping | Kind::Withdrawal => AlertSeverity::Warning,
        };
        let finding = Finding {
            kind,
            watched: self.prefix,
            prefix,
            origin,
            expected: self.expected.iter().copied().collect(),
            moas,
            severity,
            state: State::Open,
            end: None,
            time_us: update.time_us,
            visible: None,
            flaps: None,
            evidence: Evidence::new(update),
        };
        found.push(finding.clone());
        self.open.insert(id, Open { finding, holders: BTreeSet::from([key.clone()]) });
    }

    /// One place less where it is so; the last one ends the finding.
    fn release(&mut self, id: Id, key: &Key, found: &mut Vec<Finding>) {
        let Some(open) = self.open.get_mut(&id) else { return };
        open.holders.remove(key);
        if open.holders.is_empty() {
            found.push(ended(&open.finding, End::Over, self.last_us));
            self.open.remove(&id);
        }
    }

    fn expire(&mut self, now_us: i64) -> Vec<Finding> {
        let mut found = Vec::new();
        let (window_us, adopt_us) = (self.policy.flap_window_us, self.policy.adopt_us);
        let learns = self.policy.origins.is_empty();
        let (expected, known_inner) = (&mut self.expected, &mut self.known_inner);
        self.open.retain(|id, open| {
            let evidence = &open.finding.evidence;
            let end = match id.0 {
                Kind::Flapping if evidence.last_us.saturating_add(window_us) <= now_us => End::Over,
                Kind::OriginChange | Kind::MoreSpecific
                    if learns && evidence.first_us.saturating_add(adopt_us) <= now_us =>
                {
                    match (id.0, id.2) {
                        (Kind::OriginChange, Some(asn)) => drop(expected.insert(asn)),
                        (_, Some(asn)) if known_inner.len() < MAX_INNER => {
                            known_inner.insert((id.1, asn));
                        }
                        _ => {}
                    }
                    End::Adopted
                }
                _ => return true,
            };
            found.push(ended(&open.finding, end, now_us));
            false
        });
        found
    }

    /// Whether what is seen now is learned.
    fn is_learning(&self, now_us: i64) -> bool {
        let until = self.first_us.map_or(i64::MAX, |first| first.saturating_add(self.policy.learn_us.max(0)));
        self.policy.origins.is_empty() && now_us < until
    }

    /// Whether any peer has a route of an expected origin.
    fn sees_expected(&self) -> bool {
        self.peers.values().any(|held| held.origins.iter().flatten().any(|asn| self.expected.contains(asn)))
    }
}

/// Peers with a route, and all; several paths of a peer count once.
fn visibility(peers: &BTreeMap<Key, Held>) -> (usize, usize) {
    let (mut visible, mut all) = (0, 0);
    let mut last: Option<(&Arc<str>, IpAddr)> = None;
    let mut has_route = false;
    // Paths of a peer stand beside each other.
    for ((collector, address, _), held) in peers {
        if last != Some((collector, *address)) {
            last = Some((collector, *address));
            (all, has_route) = (all + 1, false);
        }
        if held.origins.is_some() && !has_route {
            (visible, has_route) = (visible + 1, true);
        }
    }
    (visible, all)
}

fn key(update: &Update) -> Key {
    (Arc::clone(&update.peer.collector), update.peer.address, update.path_id)
}

/// The origins of an announcement; a route without a path begins in the peer's own AS. `None` for a withdrawal.
fn origins(update: &Update) -> Option<Vec<u32>> {
    let route = update.route.as_ref()?;
    if route.origins.is_empty() {
        return Some(vec![update.peer.asn]);
    }
    Some(route.origins.iter().take(MAX_ORIGINS).copied().collect())
}

fn ended(finding: &Finding, end: End, now_us: i64) -> Finding {
    Finding { state: State::Ended, end: Some(end), time_us: now_us, ..finding.clone() }
}

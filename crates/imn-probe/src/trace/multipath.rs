//! Looking for parallel paths: the multipath detection algorithm (Augustin, Friedman, Teixeira, 2007) with its failure
//! bounded over the whole path (Veitch, Augustin, Friedman, Teixeira, 2009).
//!
//! A load balancer keeps a flow on one path, so every flow is traced through all hops like a Paris trace, and varying
//! the flow varies the path. A node whose *k* successors are known may have one more: *n(k)* flows through it without
//! seeing another rule that out, with a chance of error that is spread evenly over the hops of the path.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use super::config::Multipath;
use super::course::{HopState, Track};
use super::outcome::Path;

/// Time between the first probes of flows, so that routers which limit their answers give them.
const FLOW_GAP: u64 = 4_000_000;
/// Times that a hop is asked for one flow's answer.
const TRIES: usize = 3;
/// Time between such questions.
const RETRY_GAP: u64 = 10_000_000;
/// More successors of a node are not looked for.
const BRANCHES: usize = 16;

/// How many flows are open, and how many are wanted.
#[derive(Debug)]
pub(crate) struct Fan {
    max_flows: u16,
    /// Flows through a node with `k + 1` known successors that rule another out.
    rule: Vec<u16>,
    opened: u16,
    wanted: u16,
    open_at: u64,
    retries: VecDeque<(u16, u8)>,
    retry_at: u64,
    /// The rule is satisfied everywhere.
    pub complete: bool,
}

impl Fan {
    pub(crate) fn new(multipath: Multipath, hops: u8) -> Self {
        let rule = stopping_rule(multipath.confidence, hops);
        Self {
            max_flows: multipath.max_flows,
            wanted: rule.first().copied().unwrap_or(1).min(multipath.max_flows),
            rule,
            opened: 0,
            open_at: 0,
            retries: VecDeque::new(),
            retry_at: 0,
            complete: false,
        }
    }

    /// Opens the next flow if it may, and says when another may be.
    pub(crate) fn open(&mut self, now: u64, begun: bool, length_known: bool) -> (Option<u16>, Option<u64>) {
        if self.opened >= self.wanted || !begun || (self.opened > 0 && !length_known) {
            return (None, None);
        }
        if self.open_at > now {
            return (None, Some(self.open_at));
        }
        let flow = self.opened;
        self.opened += 1;
        self.open_at = now + FLOW_GAP;
        let next = (self.opened < self.wanted && length_known).then_some(self.open_at);
        (Some(flow), next)
    }

    /// The next flow and TTL to ask again, or when it may be asked.
    pub(crate) fn retry(&mut self, now: u64) -> Option<Result<(u16, u8), u64>> {
        if self.retries.is_empty() {
            return None;
        }
        if self.retry_at > now {
            return Some(Err(self.retry_at));
        }
        self.retry_at = now + RETRY_GAP;
        self.retries.pop_front().map(Ok)
    }

    /// When all that was sent is settled: whether there is more to send. A hop that answers other flows is asked again
    /// first, then more flows are opened where the rule wants them.
    pub(crate) fn review(&mut self, hops: &[HopState], tracks: &[Track], first: u8) -> bool {
        if self.opened == 0 || tracks[0].end.is_none() {
            // A path without a known end would cost all hops for each flow.
            return false;
        }
        let last = tracks.iter().filter_map(|track| track.end).max().unwrap_or(first);
        for (at, hop) in hops.iter().enumerate().take(usize::from(last - first) + 1) {
            if hop.responders.is_empty() {
                continue;
            }
            let mut tries: BTreeMap<u16, (usize, bool)> = BTreeMap::new();
            for probe in &hop.probes {
                let entry = tries.entry(probe.cycle).or_default();
                *entry = (entry.0 + 1, entry.1 || probe.responder.is_some());
            }
            let answered = tries.values().filter(|(_, answered)| *answered).count();
            if 2 * answered < tries.len() {
                // It limits its answers: asking again would only take them from other flows.
                continue;
            }
            for (flow, (count, answered)) in tries {
                let ttl = first + at as u8;
                let beyond =
                    tracks.get(usize::from(flow)).is_none_or(|track| track.end.is_some_and(|end| ttl > end));
                if !answered && !beyond && count < TRIES {
                    self.retries.push_back((flow, ttl));
                }
            }
        }
        if !self.retries.is_empty() {
            return true;
        }
        let missing = self.missing(hops, tracks, first);
        self.complete = missing == 0;
        self.wanted = self.opened.saturating_add(missing).min(self.max_flows);
        self.wanted > self.opened
    }

    /// Flows that the least explored node still lacks.
    fn missing(&self, hops: &[HopState], tracks: &[Track], first: u8) -> u16 {
        let mut through: BTreeMap<(usize, Option<IpAddr>), (u16, BTreeSet<IpAddr>)> = BTreeMap::new();
        for flow in 0..tracks.len() as u16 {
            let addresses = sequence(hops, flow, tracks[usize::from(flow)].end, first);
            let mut node = (0, None);
            for (at, address) in addresses.iter().enumerate() {
                if let Some(address) = address {
                    let entry = through.entry(node).or_default();
                    entry.0 += 1;
                    entry.1.insert(*address);
                    node = (at + 1, Some(*address));
                }
            }
        }
        let lack = |(flows, successors): &(u16, BTreeSet<IpAddr>)| {
            let known = successors.len().clamp(1, self.rule.len());
            self.rule[known - 1].saturating_sub(*flows)
        };
        through.values().map(lack).max().unwrap_or(0)
    }
}

/// For 1 to 16 known successors, the number of flows by which another would have shown itself.
fn stopping_rule(confidence: f64, hops: u8) -> Vec<u16> {
    // The bound on failure, over the path: 1 − (1 − f)^hops = 1 − confidence.
    let failure = 1.0 - confidence.powf(1.0 / f64::from(hops.max(1)));
    let mut flows = 1;
    let mut rule = Vec::with_capacity(BRANCHES);
    for known in 1..=BRANCHES as u16 {
        while unseen(known + 1, flows) > failure && flows < u16::MAX {
            flows += 1;
        }
        rule.push(flows);
    }
    rule
}

/// Probability that `flows` flows miss at least one of `branches` equally likely branches.
fn unseen(branches: u16, flows: u16) -> f64 {
    // The chance of having seen exactly `seen` branches, flow by flow: no cancellation as in inclusion and exclusion.
    let branches = usize::from(branches);
    let mut chance = vec![0.0; branches + 1];
    chance[0] = 1.0;
    for _ in 0..flows {
        for seen in (0..=branches).rev() {
            let stays = chance[seen] * seen as f64 / branches as f64;
            let grows = if seen == 0 {
                0.0
            } else {
                chance[seen - 1] * (branches - seen + 1) as f64 / branches as f64
            };
            chance[seen] = stays + grows;
        }
    }
    1.0 - chance[branches]
}

/// The addresses of one flow, hop by hop: of several answers to it at one hop the first.
fn sequence(hops: &[HopState], flow: u16, end: Option<u8>, first: u8) -> Vec<Option<IpAddr>> {
    let length = end.map_or(hops.len(), |end| usize::from(end.saturating_sub(first)) + 1);
    let answer = |hop: &HopState| {
        let probe = hop.probes.iter().find(|probe| probe.cycle == flow && probe.responder.is_some())?;
        hop.responders.get(usize::from(probe.responder?)).map(|responder| responder.address)
    };
    hops.iter().take(length).map(answer).collect()
}

/// The paths that the flows took, the most used first. A flow with holes where others have answers joins a path that it
/// agrees with.
pub(crate) fn paths(hops: &[HopState], tracks: &[Track], first: u8) -> Vec<Path> {
    let mut found: Vec<(Vec<Option<IpAddr>>, Vec<u16>)> = Vec::new();
    let mut sequences: Vec<(u16, Vec<Option<IpAddr>>)> = (0..tracks.len() as u16)
        .map(|flow| (flow, sequence(hops, flow, tracks[usize::from(flow)].end, first)))
        .collect();
    let holes = |addresses: &[Option<IpAddr>]| addresses.iter().filter(|address| address.is_none()).count();
    // Those with the fewest holes first: they are what others are compared with.
    sequences.sort_by_key(|(flow, addresses)| (holes(addresses), *flow));
    for (flow, mut addresses) in sequences {
        while addresses.last() == Some(&None) {
            addresses.pop();
        }
        if addresses.is_empty() {
            continue;
        }
        let agrees = |other: &[Option<IpAddr>]| {
            other.len() >= addresses.len()
                && addresses.iter().zip(other).all(|(mine, its)| mine.is_none() || mine == its)
        };
        match found.iter_mut().find(|(other, _)| agrees(other)) {
            Some((_, flows)) => flows.push(flow),
            None => found.push((addresses, vec![flow])),
        }
    }
    let mut paths: Vec<Path> = found
        .into_iter()
        .map(|(addresses, mut flows)| {
            flows.sort_unstable();
            Path::new(addresses, flows)
        })
        .collect();
    paths.sort_by_key(|path| (usize::MAX - path.flows.len(), path.id));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_the_published_one() {
        // Augustin et al., table 1, for one node at 95 %.
        let rule = stopping_rule(0.95, 1);
        assert_eq!(rule[..15], [6, 11, 16, 21, 27, 33, 38, 44, 51, 57, 63, 70, 76, 83, 90]);
        // Over thirty hops each node needs more.
        let rule = stopping_rule(0.95, 30);
        assert!(rule[0] == 11 && (36..40).contains(&rule[3]), "{:?}", &rule[..4]);
    }

    #[test]
    fn unseen_branches_by_inclusion_and_exclusion() {
        let exact = 3.0 * (2.0_f64 / 3.0).powi(11) - 3.0 * (1.0_f64 / 3.0).powi(11);
        assert!((unseen(3, 11) - exact).abs() < 1e-12);
        assert!((unseen(2, 1) - 1.0).abs() < 1e-12);
    }
}

//! Who measures what: agents are chosen for each target by rendezvous hashing, so that an agent that comes or goes
//! moves only the share that must move.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use imn_contract::{AgentId, ModuleType, TargetId};
use xxhash_rust::xxh3::xxh3_64;

use crate::tier::{AgentSelection, Strategy};

/// An agent as far as the choice depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vantage {
    /// Identifier.
    pub id: AgentId,
    /// Coarse place.
    pub region: Option<String>,
    /// Network or cloud.
    pub provider: Option<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Types with standing work that it offers.
    pub types: BTreeSet<ModuleType>,
    /// Whether it is heard of.
    pub online: bool,
    /// Most assignments that it may be given; absent: no limit.
    pub max_targets: Option<u64>,
}

/// A demand of a tier that could not be met for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unmet {
    /// No agent fits at all.
    NoAgent,
    /// Every agent that fits has all the targets it may have, or some of those wanted do.
    Full,
    /// Fewer regions than demanded.
    Regions {
        /// Demanded.
        wanted: u32,
        /// Reached.
        found: u32,
    },
    /// Fewer providers than demanded.
    Providers {
        /// Demanded.
        wanted: u32,
        /// Reached.
        found: u32,
    },
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAgent => f.write_str("no agent fits the tier's selection and offers the type"),
            Self::Full => f.write_str("agents that fit have all the targets that they may have"),
            Self::Regions { wanted, found } => write!(f, "{found} regions of {wanted} demanded"),
            Self::Providers { wanted, found } => write!(f, "{found} providers of {wanted} demanded"),
        }
    }
}

/// The agents chosen for one target and type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Their places in the list of vantages, ascending.
    pub chosen: Vec<usize>,
    /// What could not be met.
    pub unmet: Vec<Unmet>,
}

/// How one agent stands to one target and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The agent.
    pub agent: AgentId,
    /// Whether it was chosen.
    pub chosen: bool,
    /// Why, in words.
    pub why: String,
}

/// How many assignments each vantage has, against its limit.
#[derive(Clone, Debug)]
pub struct Room {
    left: Vec<u64>,
}

impl Room {
    /// Everybody's whole limit.
    pub fn new(vantages: &[Vantage]) -> Self {
        Self { left: vantages.iter().map(|v| v.max_targets.unwrap_or(u64::MAX)).collect() }
    }

    /// Whether a vantage may be given another.
    pub fn has(&self, at: usize) -> bool {
        self.left.get(at).is_some_and(|left| *left > 0)
    }

    /// Takes one place, if there is one.
    pub fn take(&mut self, at: usize) {
        if let Some(left) = self.left.get_mut(at) {
            *left = left.saturating_sub(1);
        }
    }

    /// Gives one place back.
    pub fn give(&mut self, at: usize) {
        if let Some(left) = self.left.get_mut(at) {
            *left = left.saturating_add(1);
        }
    }
}

/// A tier's selection for one type, applied to the vantages there are; prepared once for many targets.
#[derive(Clone, Debug)]
pub struct Selector {
    selection: AgentSelection,
    fitting: Vec<Fit>,
}

#[derive(Clone, Debug)]
struct Fit {
    at: usize,
    hash: u64,
    online: bool,
    region: Option<String>,
    provider: Option<String>,
}

impl Selector {
    /// Finds the vantages that fit.
    pub fn new(selection: &AgentSelection, kind: &ModuleType, vantages: &[Vantage]) -> Self {
        let fit = |(at, v): (usize, &Vantage)| {
            misfit(selection, kind, v).is_none().then(|| Fit {
                at,
                hash: xxh3_64(v.id.as_str().as_bytes()),
                online: v.online,
                region: v.region.clone(),
                provider: v.provider.clone(),
            })
        };
        let fitting = vantages.iter().enumerate().filter_map(fit).collect();
        Self { selection: selection.clone(), fitting }
    }

    /// Chooses for one target, from vantages that have room. The same question has the same answer.
    ///
    /// For `all`: every one that fits, online or not, since an agent measures on while it cannot be heard. For
    /// `distributed`: the `count` with the greatest weight, those online first; regions and providers are covered
    /// before the rest is filled up.
    pub fn choose(&self, target: &TargetId, room: &Room) -> Choice {
        let mut choice = Choice::default();
        let available = || self.fitting.iter().filter(|fit| room.has(fit.at));
        let full = self.fitting.iter().any(|fit| !room.has(fit.at));
        let count = self.selection.count.unwrap_or(1).max(1) as usize;
        let chosen: Vec<&Fit> = match self.selection.strategy {
            Strategy::All => available().collect(),
            Strategy::Distributed => {
                self.spread(ranked(target, available(), count, self.is_diverse()), count)
            }
        };
        let wanted = match self.selection.strategy {
            Strategy::All => self.fitting.len(),
            Strategy::Distributed => count.min(self.fitting.len()),
        };
        if self.fitting.is_empty() {
            choice.unmet.push(Unmet::NoAgent);
        } else if full && chosen.len() < wanted {
            choice.unmet.push(Unmet::Full);
        }
        self.judge(&chosen, &mut choice.unmet);
        choice.chosen = chosen.into_iter().map(|fit| fit.at).collect();
        choice.chosen.sort_unstable();
        choice
    }

    fn is_diverse(&self) -> bool {
        self.selection.diversity.min_regions > 1 || self.selection.diversity.min_providers > 1
    }

    /// Takes `count` of the ranked: first those that bring a region or provider still missing, then by rank.
    fn spread<'a>(&self, ranked: Vec<&'a Fit>, count: usize) -> Vec<&'a Fit> {
        if !self.is_diverse() {
            return ranked.into_iter().take(count).collect();
        }
        let wanted = &self.selection.diversity;
        let (mut regions, mut providers) = (BTreeSet::new(), BTreeSet::new());
        let (mut chosen, mut rest): (Vec<&Fit>, Vec<&Fit>) = (Vec::new(), Vec::new());
        for fit in ranked {
            let region = fit.region.is_some()
                && regions.len() < wanted.min_regions as usize
                && !regions.contains(&fit.region);
            let provider = fit.provider.is_some()
                && providers.len() < wanted.min_providers as usize
                && !providers.contains(&fit.provider);
            if chosen.len() < count && (region || provider) {
                regions.insert(fit.region.clone());
                providers.insert(fit.provider.clone());
                chosen.push(fit);
            } else {
                rest.push(fit);
            }
        }
        let missing = count.saturating_sub(chosen.len());
        chosen.extend(rest.into_iter().take(missing));
        chosen
    }

    fn judge(&self, chosen: &[&Fit], unmet: &mut Vec<Unmet>) {
        let wanted = &self.selection.diversity;
        let regions: BTreeSet<&String> = chosen.iter().filter_map(|fit| fit.region.as_ref()).collect();
        let providers: BTreeSet<&String> = chosen.iter().filter_map(|fit| fit.provider.as_ref()).collect();
        if (regions.len() as u32) < wanted.min_regions {
            unmet.push(Unmet::Regions { wanted: wanted.min_regions, found: regions.len() as u32 });
        }
        if (providers.len() as u32) < wanted.min_providers {
            unmet.push(Unmet::Providers { wanted: wanted.min_providers, found: providers.len() as u32 });
        }
    }
}

/// Why each agent was chosen for a target and type, or was not.
pub fn explain(
    selection: &AgentSelection,
    kind: &ModuleType,
    target: &TargetId,
    vantages: &[Vantage],
    room: &Room,
) -> Vec<Reason> {
    let selector = Selector::new(selection, kind, vantages);
    let chosen = selector.choose(target, room).chosen;
    let order = ranked(target, selector.fitting.iter(), usize::MAX, true);
    let why = |at: usize, vantage: &Vantage| {
        if let Some(misfit) = misfit(selection, kind, vantage) {
            return misfit;
        }
        let rank = order.iter().position(|fit| fit.at == at).map_or(0, |rank| rank + 1);
        let of = order.len();
        match selection.strategy {
            _ if !room.has(at) && !chosen.contains(&at) => "has all the targets that it may have".to_owned(),
            Strategy::All => "the tier takes every agent that fits".to_owned(),
            Strategy::Distributed => format!(
                "rank {rank} of {of} by rendezvous hash; the tier takes {}",
                selection.count.unwrap_or(1)
            ),
        }
    };
    let reason = |(at, vantage): (usize, &Vantage)| Reason {
        agent: vantage.id.clone(),
        chosen: chosen.contains(&at),
        why: why(at, vantage),
    };
    vantages.iter().enumerate().map(reason).collect()
}

/// Why a vantage does not fit, if it does not.
fn misfit(selection: &AgentSelection, kind: &ModuleType, vantage: &Vantage) -> Option<String> {
    let region = vantage.region.as_deref().unwrap_or_default();
    let provider = vantage.provider.as_deref().unwrap_or_default();
    if !vantage.types.contains(kind) {
        return Some(format!("offers no standing work of type {kind}"));
    }
    if !selection.regions.is_empty() && !selection.regions.iter().any(|r| r == region) {
        return Some(format!("region {region:?} is not among those of the tier"));
    }
    if selection.exclude_regions.iter().any(|r| r == region) {
        return Some(format!("region {region:?} is excluded by the tier"));
    }
    if !selection.providers.is_empty() && !selection.providers.iter().any(|p| p == provider) {
        return Some(format!("provider {provider:?} is not among those of the tier"));
    }
    let lacks = selection.require_tags.iter().find(|(key, value)| vantage.tags.get(*key) != Some(*value));
    if let Some((key, value)) = lacks {
        return Some(format!("lacks the tag {key}={value}"));
    }
    let carries = selection.exclude_tags.iter().find(|(key, value)| vantage.tags.get(*key) == Some(*value));
    carries.map(|(key, value)| format!("carries the excluded tag {key}={value}"))
}

/// The first `count` by (online, weight), all of them where the whole order is wanted.
fn ranked<'a>(
    target: &TargetId,
    fitting: impl Iterator<Item = &'a Fit>,
    count: usize,
    whole: bool,
) -> Vec<&'a Fit> {
    let seed = xxh3_64(target.as_str().as_bytes());
    let mut weighted: Vec<((bool, u64), &Fit)> =
        fitting.map(|fit| ((!fit.online, !weight(seed, fit.hash)), fit)).collect();
    if !whole && count < weighted.len() {
        weighted.select_nth_unstable_by_key(count, |(key, fit)| (*key, fit.at));
        weighted.truncate(count);
    }
    weighted.sort_unstable_by_key(|(key, fit)| (*key, fit.at));
    weighted.into_iter().map(|(_, fit)| fit).collect()
}

/// Mixes two hashes (the finalizer of SplitMix64), so that one multiplication chain replaces a hash per pair.
const fn weight(target: u64, agent: u64) -> u64 {
    let mut x = target ^ agent.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tier::Strategy;

    fn icmp() -> ModuleType {
        ModuleType::new("icmp").unwrap()
    }

    fn vantages(n: usize) -> Vec<Vantage> {
        (0..n)
            .map(|i| Vantage {
                id: AgentId::new(format!("agent{i}")).unwrap(),
                region: Some(["eu", "us", "ap"][i % 3].to_owned()),
                provider: Some(["p", "q"][i % 2].to_owned()),
                tags: BTreeMap::new(),
                types: BTreeSet::from([icmp()]),
                online: true,
                max_targets: None,
            })
            .collect()
    }

    fn spread(count: u32) -> AgentSelection {
        AgentSelection { strategy: Strategy::Distributed, count: Some(count), ..AgentSelection::default() }
    }

    fn target(n: u32) -> TargetId {
        TargetId::new(format!("t{n}")).unwrap()
    }

    fn choices(selection: &AgentSelection, vantages: &[Vantage], targets: u32) -> Vec<Vec<AgentId>> {
        let selector = Selector::new(selection, &icmp(), vantages);
        let room = Room::new(vantages);
        (0..targets)
            .map(|n| {
                let chosen = selector.choose(&target(n), &room).chosen;
                chosen.into_iter().map(|at| vantages[at].id.clone()).collect()
            })
            .collect()
    }

    #[test]
    fn shares_are_even() {
        let all = vantages(10);
        let mut share = BTreeMap::new();
        for agent in choices(&spread(4), &all, 10_000).into_iter().flatten() {
            *share.entry(agent).or_insert(0_u32) += 1;
        }
        assert_eq!(share.len(), 10);
        assert!(share.values().all(|n| (3_800..4_200).contains(n)), "{share:?}");
    }

    #[test]
    fn a_lost_agent_moves_only_its_share() {
        let all = vantages(10);
        let mut without = all.clone();
        without[3].online = false;
        let (before, after) = (choices(&spread(4), &all, 5_000), choices(&spread(4), &without, 5_000));
        for (before, after) in before.iter().zip(&after) {
            let kept = before.iter().filter(|agent| after.contains(agent)).count();
            let lost = usize::from(before.contains(&all[3].id));
            assert_eq!(kept, 4 - lost, "{before:?} {after:?}");
            assert!(!after.contains(&all[3].id));
        }
    }

    #[test]
    fn fewer_agents_than_wanted_are_all_taken_even_offline() {
        let mut few = vantages(2);
        few[0].online = false;
        assert_eq!(choices(&spread(4), &few, 1)[0].len(), 2);
        assert_eq!(choices(&AgentSelection::default(), &few, 1)[0].len(), 2);
    }

    #[test]
    fn diversity_is_met_or_reported() {
        let all = vantages(9);
        let room = Room::new(&all);
        let mut selection = spread(3);
        selection.diversity.min_regions = 3;
        let selector = Selector::new(&selection, &icmp(), &all);
        for n in 0..200 {
            let choice = selector.choose(&target(n), &room);
            let regions: BTreeSet<_> = choice.chosen.iter().map(|at| all[*at].region.clone()).collect();
            assert_eq!((choice.chosen.len(), regions.len(), choice.unmet.len()), (3, 3, 0));
        }
        selection.exclude_regions = vec!["ap".to_owned()];
        let choice = Selector::new(&selection, &icmp(), &all).choose(&target(1), &room);
        assert_eq!(choice.unmet, [Unmet::Regions { wanted: 3, found: 2 }]);
    }

    #[test]
    fn what_does_not_fit_is_explained() {
        let mut all = vantages(3);
        all[1].types.clear();
        all[2].tags.insert("lab".to_owned(), "yes".to_owned());
        let mut selection = spread(1);
        selection.exclude_tags.insert("lab".to_owned(), "yes".to_owned());
        let room = Room::new(&all);
        let why = explain(&selection, &icmp(), &target(1), &all, &room);
        let chosen: Vec<bool> = why.iter().map(|reason| reason.chosen).collect();
        assert_eq!(chosen, [true, false, false]);
        assert!(why[0].why.contains("rank 1 of 1"), "{why:?}");
        assert!(why[1].why.contains("offers no standing work"), "{why:?}");
        assert!(why[2].why.contains("excluded tag lab=yes"), "{why:?}");
        let nobody = Selector::new(&selection, &ModuleType::new("dns").unwrap(), &all);
        assert_eq!(nobody.choose(&target(1), &room).unmet, [Unmet::NoAgent]);
    }

    proptest! {
        #[test]
        fn limits_hold(limit in 0_u64..20, agents in 1_usize..8, count in 1_u32..5) {
            let mut all = vantages(agents);
            for vantage in &mut all {
                vantage.max_targets = Some(limit);
            }
            let selector = Selector::new(&spread(count), &icmp(), &all);
            let mut room = Room::new(&all);
            let mut given = vec![0_u64; agents];
            for n in 0..50 {
                let choice = selector.choose(&target(n), &room);
                let wanted = agents.min(count as usize);
                prop_assert!(choice.chosen.len() == wanted || choice.unmet == [Unmet::Full]);
                for at in choice.chosen {
                    room.take(at);
                    given[at] += 1;
                }
            }
            prop_assert!(given.iter().all(|n| *n <= limit));
        }
    }
}

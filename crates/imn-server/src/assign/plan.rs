//! The plan in memory: every measured target with its owners, about 24 bytes per assignment.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use imn_contract::{AgentId, ModuleType, TargetId, latest::Assignment};
use imn_domain::{
    MonitoringState, Reason, Room, Selector, Target, TargetKind, Tier, Unmet, Vantage, explain,
};
use imn_store::AssignmentRow;
use serde_json::{Map, Value};

use super::Shortfall;
use crate::status::Policy;

/// New assignments are owed from so long after they were decided, so that the agent has them by then.
const HEAD_START_US: i64 = 2_000_000;
/// And by this much longer for each target that there is: many take a while to be written and read.
const HEAD_START_EACH_US: i64 = 30;

/// Who measures what, and what follows from changes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    targets: HashMap<TargetId, Measured>,
    tiers: HashMap<String, Arc<Tier>>,
    selectors: HashMap<(String, ModuleType), Selector>,
    vantages: Vec<Vantage>,
    agents: Vec<AgentId>,
    kinds: Vec<ModuleType>,
    room: Option<Room>,
}

#[derive(Debug)]
struct Measured {
    kind: TargetKind,
    address: Box<str>,
    tier: Arc<Tier>,
    params: Option<Box<Map<String, Value>>>,
    state: MonitoringState,
    state_since_us: i64,
    owners: Vec<Owner>,
    unmet: Vec<Unmet>,
}

/// Places in the plan's lists of agents and types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    agent: u32,
    kind: u32,
    since_us: i64,
}

/// How every agent stands to one target, for one type.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) kind: ModuleType,
    /// Each agent, chosen or not, and why.
    pub(crate) reasons: Vec<Reason>,
    /// The demands that are not met.
    pub(crate) unmet: Vec<Unmet>,
}

/// What a change of the plan means for others.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) add: Vec<AssignmentRow>,
    pub(super) remove: Vec<AssignmentRow>,
    /// Targets whose entries are to be written anew, by agent.
    pub(super) touched: BTreeMap<AgentId, BTreeSet<TargetId>>,
    /// What the board must know.
    pub(super) policies: Vec<(TargetId, Policy)>,
    /// Targets that are not measured any more.
    pub(super) gone: Vec<TargetId>,
}

impl Plan {
    /// Takes the rows of the catalog as they are; gives back those of targets that are not measured.
    pub(super) fn load(&mut self, rows: Vec<AssignmentRow>) -> Vec<AssignmentRow> {
        let (rows, stale): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| self.targets.contains_key(&row.target));
        for row in rows {
            let owner = Owner {
                agent: place(&mut self.agents, &row.agent),
                kind: place(&mut self.kinds, &row.kind),
                since_us: row.since_us,
            };
            if let Some(measured) = self.targets.get_mut(&row.target) {
                measured.owners.push(owner);
            }
        }
        stale
    }

    pub(super) fn set_tiers(&mut self, tiers: Vec<Tier>) {
        self.tiers = tiers.into_iter().map(|tier| (tier.name.clone(), Arc::new(tier))).collect();
        self.selectors.clear();
    }

    pub(super) fn knows_tier(&self, name: &str) -> bool {
        self.tiers.contains_key(name)
    }

    /// Takes the vantages there are; whether they differ from those before.
    pub(super) fn set_vantages(&mut self, vantages: Vec<Vantage>) -> bool {
        if self.vantages == vantages && self.room.is_some() {
            return false;
        }
        self.vantages = vantages;
        self.selectors.clear();
        self.recount();
        true
    }

    /// All targets of the plan.
    pub(super) fn ids(&self) -> Vec<TargetId> {
        self.targets.keys().cloned().collect()
    }

    /// Number of assignments.
    pub(super) fn len(&self) -> usize {
        self.targets.values().map(|measured| measured.owners.len()).sum()
    }

    /// Adds a target or takes its changed definition; what follows from it comes with [`Self::decide`]. Whether its
    /// agents must be told, even if they stay the same.
    pub(super) fn put(&mut self, target: Target) -> bool {
        let tier =
            self.tiers.get(&target.tier).filter(|_| target.monitoring_state != MonitoringState::Inactive);
        let Some(tier) = tier.cloned() else { return false };
        let params = (!target.params.is_empty()).then(|| Box::new(target.params));
        if let Some(known) = self.targets.get_mut(&target.id) {
            let same = *known.address == *target.address && known.tier == tier && known.params == params;
            (known.address, known.tier, known.params) = (target.address.into(), tier, params);
            known.kind = target.kind;
            return !same;
        }
        let measured = Measured {
            kind: target.kind,
            address: target.address.into(),
            tier,
            params,
            state: target.monitoring_state,
            state_since_us: target.state_since_us,
            owners: Vec::new(),
            unmet: Vec::new(),
        };
        self.targets.insert(target.id, measured);
        true
    }

    /// Takes a target out.
    pub(super) fn remove(&mut self, target: &TargetId, delta: &mut Delta) {
        let Some(measured) = self.targets.remove(target) else { return };
        for owner in measured.owners {
            self.release(owner.agent);
            delta.remove.push(self.row(target, owner));
            delta.touch(&self.agents[owner.agent as usize], target);
        }
        delta.gone.push(target.clone());
    }

    /// Decides anew who measures a target. Owners that stay keep their `since`; `rewrite` says that its definition
    /// changed.
    pub(super) fn decide(&mut self, target: &TargetId, rewrite: bool, now_us: i64, delta: &mut Delta) {
        let Some(mut measured) = self.targets.remove(target) else { return };
        let before = std::mem::take(&mut measured.owners);
        for owner in &before {
            self.release(owner.agent);
        }
        measured.unmet.clear();
        let tier = measured.tier.clone();
        let owed_us = now_us + HEAD_START_US + HEAD_START_EACH_US * self.targets.len() as i64;
        // A URL in a tier that also pings is not pinged.
        for probe in tier.probes.iter().filter(|probe| probe.may_measure(measured.kind)) {
            let kind = place(&mut self.kinds, &probe.kind);
            let choice = self.choose(&tier, &probe.kind, target);
            for at in choice.chosen {
                let agent = place(&mut self.agents, &self.vantages[at].id.clone());
                if let Some(room) = &mut self.room {
                    room.take(at);
                }
                let kept = before.iter().find(|owner| owner.agent == agent && owner.kind == kind);
                let since_us = kept.map_or(owed_us, |owner| owner.since_us);
                measured.owners.push(Owner { agent, kind, since_us });
            }
            measured.unmet.extend(choice.unmet);
        }
        for owner in before.iter().filter(|owner| !measured.owners.contains(owner)) {
            delta.remove.push(self.row(target, *owner));
            delta.touch(&self.agents[owner.agent as usize], target);
        }
        for owner in &measured.owners {
            let new = !before.contains(owner);
            if new {
                delta.add.push(self.row(target, *owner));
            }
            if new || rewrite {
                delta.touch(&self.agents[owner.agent as usize], target);
            }
        }
        delta.policies.push((target.clone(), policy(&measured)));
        self.targets.insert(target.clone(), measured);
    }

    /// The entries of one agent that lie in `shards` of `of` shards, by shard, sorted.
    pub(super) fn entries(
        &self,
        agent: &AgentId,
        shards: Option<&BTreeSet<u32>>,
        of: u32,
    ) -> BTreeMap<u32, Vec<Assignment>> {
        let mut found: BTreeMap<u32, Vec<Assignment>> = BTreeMap::new();
        let Some(place) = self.agents.iter().position(|known| known == agent) else { return found };
        for (id, measured) in &self.targets {
            for owner in measured.owners.iter().filter(|owner| owner.agent as usize == place) {
                let shard = imn_contract::shard(id, of);
                if shards.is_none_or(|shards| shards.contains(&shard)) {
                    let entry = measured.entry(id, &self.kinds[owner.kind as usize], owner.since_us);
                    found.entry(shard).or_default().push(entry);
                }
            }
        }
        for entries in found.values_mut() {
            entries.sort_by(|a, b| (&a.target, &a.kind).cmp(&(&b.target, &b.kind)));
        }
        found
    }

    /// The number of assignments of each agent that has any.
    pub(super) fn counts(&self) -> HashMap<AgentId, usize> {
        let mut counts = vec![0; self.agents.len()];
        for owner in self.targets.values().flat_map(|measured| &measured.owners) {
            counts[owner.agent as usize] += 1;
        }
        self.agents.iter().cloned().zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// What the board must know of every target.
    pub(super) fn policies(&self) -> Vec<(TargetId, Policy)> {
        self.targets.iter().map(|(id, measured)| (id.clone(), policy(measured))).collect()
    }

    /// The greatest interval of any tier in use, in microseconds.
    pub(super) fn longest_interval_us(&self) -> i64 {
        self.targets.values().map(|m| m.tier.probe_interval_ms as i64 * 1000).max().unwrap_or(0)
    }

    /// The demands that are not met.
    pub(super) fn shortfalls(&self) -> Vec<Shortfall> {
        let mut counts: BTreeMap<(&str, Unmet), u64> = BTreeMap::new();
        for measured in self.targets.values() {
            for unmet in &measured.unmet {
                *counts.entry((&measured.tier.name, *unmet)).or_default() += 1;
            }
        }
        let shortfall = |((tier, unmet), targets): ((&str, Unmet), u64)| Shortfall {
            tier: tier.to_owned(),
            unmet,
            targets,
        };
        counts.into_iter().map(shortfall).collect()
    }

    /// How every agent stands to a target, by type.
    pub(super) fn explain(&self, target: &TargetId) -> Option<Vec<Standing>> {
        let (measured, mut room) = (self.targets.get(target)?, self.room.clone()?);
        // As when it was decided upon: what it has itself takes nobody's place.
        for owner in &measured.owners {
            let id = &self.agents[owner.agent as usize];
            if let Ok(at) = self.vantages.binary_search_by(|v| v.id.cmp(id)) {
                room.give(at);
            }
        }
        let tier = &measured.tier;
        let probes = tier.probes.iter().filter(|probe| probe.may_measure(measured.kind));
        let standing = |kind: &ModuleType| {
            let selection = &tier.agent_selection;
            let choice = Selector::new(selection, kind, &self.vantages).choose(target, &room);
            let reasons = explain(selection, kind, target, &self.vantages, &room);
            choice.chosen.iter().for_each(|at| room.take(*at));
            Standing { kind: kind.clone(), reasons, unmet: choice.unmet }
        };
        Some(probes.map(|probe| &probe.kind).map(standing).collect())
    }

    fn choose(&mut self, tier: &Tier, kind: &ModuleType, target: &TargetId) -> imn_domain::Choice {
        let Some(room) = &self.room else { return imn_domain::Choice::default() };
        let key = (tier.name.clone(), kind.clone());
        let selector = self
            .selectors
            .entry(key)
            .or_insert_with(|| Selector::new(&tier.agent_selection, kind, &self.vantages));
        selector.choose(target, room)
    }

    /// Counts anew what every vantage may still be given.
    fn recount(&mut self) {
        let mut room = Room::new(&self.vantages);
        for (agent, count) in self.counts() {
            if let Some(at) = self.vantages.iter().position(|v| v.id == agent) {
                (0..count).for_each(|_| room.take(at));
            }
        }
        self.room = Some(room);
    }

    fn release(&mut self, agent: u32) {
        let id = &self.agents[agent as usize];
        if let (Ok(at), Some(room)) = (self.vantages.binary_search_by(|v| v.id.cmp(id)), &mut self.room) {
            room.give(at);
        }
    }

    fn row(&self, target: &TargetId, owner: Owner) -> AssignmentRow {
        AssignmentRow {
            agent: self.agents[owner.agent as usize].clone(),
            target: target.clone(),
            kind: self.kinds[owner.kind as usize].clone(),
            since_us: owner.since_us,
        }
    }
}

impl Measured {
    fn entry(&self, id: &TargetId, kind: &ModuleType, since_us: i64) -> Assignment {
        let probe = self.tier.probes.iter().find(|probe| probe.kind == *kind);
        let (none, own) = (Map::new(), self.params.as_deref());
        let params = probe.map(|probe| self.tier.params(probe, own.unwrap_or(&none))).unwrap_or_default();
        Assignment {
            target: id.clone(),
            kind: kind.clone(),
            address: self.address.to_string(),
            interval_ms: self.tier.probe_interval_ms,
            timeout_ms: self.tier.probe_timeout_ms,
            count: self.tier.count,
            params,
            since_us,
            until_us: None,
        }
    }
}

impl Delta {
    fn touch(&mut self, agent: &AgentId, target: &TargetId) {
        match self.touched.get_mut(agent) {
            Some(targets) => {
                targets.insert(target.clone());
            }
            None => {
                self.touched.insert(agent.clone(), BTreeSet::from([target.clone()]));
            }
        }
    }
}

fn policy(measured: &Measured) -> Policy {
    let mut agents: Vec<u32> = measured.owners.iter().map(|owner| owner.agent).collect();
    agents.sort_unstable();
    agents.dedup();
    Policy {
        interval_us: measured.tier.probe_interval_ms as i64 * 1000,
        timeout_us: measured.tier.probe_timeout_ms as i64 * 1000,
        assigned: agents.len() as u32,
        state: measured.state,
        state_since_us: measured.state_since_us,
    }
}

/// The place of something in a list that only grows.
fn place<T: Clone + PartialEq>(list: &mut Vec<T>, wanted: &T) -> u32 {
    let at = list.iter().position(|known| known == wanted).unwrap_or_else(|| {
        list.push(wanted.clone());
        list.len() - 1
    });
    at as u32
}

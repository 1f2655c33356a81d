//! How every target is doing now: the latest round of each (target, type, agent), and what they say together.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use imn_contract::{AgentId, ModuleType, TargetId, latest::Round};
use imn_domain::{Consensus, Finding, Monitor, MonitoringState, Vote, consensus};
use imn_store::{RoundRow, StateChange};

/// Rounds older than so many intervals say nothing about now.
const FRESH_INTERVALS: i64 = 3;
/// ... but rounds younger than this always do, in microseconds.
const FRESH_AT_LEAST_US: i64 = 15_000_000;

/// The latest round of one agent and type.
#[derive(Clone, Debug)]
pub(crate) struct PairStatus {
    pub(crate) agent: AgentId,
    pub(crate) kind: ModuleType,
    /// When the round was due, in microseconds since the Unix epoch.
    pub(crate) due_us: i64,
    /// When its first packet was sent, in microseconds since the Unix epoch.
    pub(crate) time_us: i64,
    pub(crate) sent: u32,
    pub(crate) received: u32,
    pub(crate) unknown: u32,
    pub(crate) success: bool,
    pub(crate) rtt_avg_us: Option<f64>,
    pub(crate) loss_pct: Option<f64>,
    pub(crate) error: Option<String>,
    /// Whether the round is recent enough to say anything about now.
    pub(crate) fresh: bool,
}

/// How one target is doing.
#[derive(Clone, Debug)]
pub(crate) struct TargetStatus {
    pub(crate) consensus: Consensus,
    pub(crate) monitoring_state: MonitoringState,
    /// Since when, in microseconds since the Unix epoch.
    pub(crate) state_since_us: i64,
    /// Agents assigned.
    pub(crate) assigned: usize,
    /// Of them, with a fresh round.
    pub(crate) fresh: usize,
    /// Latest rounds, by agent and type.
    pub(crate) pairs: Vec<PairStatus>,
}

/// What the board must know of a target, from its tier and assignments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) interval_us: i64,
    pub(crate) timeout_us: i64,
    /// Number of agents assigned.
    pub(crate) assigned: u32,
    /// State and since when, used when the target is new to the board.
    pub(crate) state: MonitoringState,
    pub(crate) state_since_us: i64,
}

/// What the board takes of a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    agent: &'a AgentId,
    kind: &'a ModuleType,
    target: &'a TargetId,
    due_us: i64,
    time_us: i64,
    sent: u32,
    received: u32,
    unknown: u32,
    success: bool,
    rtt_avg_us: Option<f64>,
    error: Option<&'a str>,
}

impl<'a> Seen<'a> {
    /// Of a round as it arrives.
    pub(crate) fn of_round(
        agent: &'a AgentId,
        kind: &'a ModuleType,
        target: &'a TargetId,
        round: &'a Round,
    ) -> Self {
        Self {
            agent,
            kind,
            target,
            due_us: round.due_us,
            time_us: round.time_us,
            sent: round.sent,
            received: round.received,
            unknown: round.unknown,
            success: round.success,
            rtt_avg_us: round.rtt_avg_ns.map(|ns| ns as f64 / 1e3),
            error: round.error.as_deref(),
        }
    }

    /// Of a round as it is stored.
    pub(crate) fn of_row(row: &'a RoundRow) -> Self {
        Self {
            agent: &row.agent,
            kind: &row.kind,
            target: &row.target,
            due_us: row.due_us,
            time_us: row.time_us,
            sent: row.sent,
            received: row.received,
            unknown: row.unknown,
            success: row.success,
            rtt_avg_us: row.rtt_avg_us,
            error: row.error.as_deref(),
        }
    }
}

type PairKey = Arc<(AgentId, ModuleType)>;

#[derive(Debug)]
struct Pair {
    key: PairKey,
    due_us: i64,
    time_us: i64,
    sent: u32,
    received: u32,
    unknown: u32,
    success: bool,
    rtt_avg_us: Option<f32>,
    error: Option<Box<str>>,
}

#[derive(Debug)]
struct Cell {
    monitor: Monitor,
    interval_us: i64,
    timeout_us: i64,
    assigned: u32,
    /// The due time of the round that is being collected; 0 before the first.
    slot_us: i64,
    /// Whether that round has been judged.
    judged: bool,
    pairs: Vec<Pair>,
}

/// The board; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    cells: Arc<RwLock<HashMap<TargetId, Cell>>>,
    keys: Arc<Mutex<HashSet<PairKey>>>,
}

impl Board {
    /// How a target is doing; `None` for one that is not measured.
    pub(crate) fn status(&self, target: &TargetId, now_us: i64) -> Option<TargetStatus> {
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        cells.get(target).map(|cell| cell.status(now_us))
    }

    /// Number of targets in each monitoring state.
    pub(crate) fn counts(&self) -> HashMap<MonitoringState, u64> {
        let mut counts = HashMap::new();
        for cell in self.cells.read().unwrap_or_else(PoisonError::into_inner).values() {
            *counts.entry(cell.monitor.state()).or_default() += 1;
        }
        counts
    }

    /// Adds targets or changes what is known of them.
    pub(crate) fn apply(&self, policies: impl IntoIterator<Item = (TargetId, Policy)>) {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        for (target, policy) in policies {
            let cell = cells.entry(target).or_insert_with(|| Cell {
                monitor: Monitor::new(policy.state, policy.state_since_us),
                interval_us: policy.interval_us,
                timeout_us: policy.timeout_us,
                assigned: policy.assigned,
                slot_us: 0,
                judged: true,
                pairs: Vec::new(),
            });
            cell.interval_us = policy.interval_us;
            cell.timeout_us = policy.timeout_us;
            cell.assigned = policy.assigned;
        }
    }

    /// Takes targets off.
    pub(crate) fn remove<'a>(&self, targets: impl IntoIterator<Item = &'a TargetId>) {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        for target in targets {
            cells.remove(target);
        }
    }

    /// Takes in rounds that were committed before this process began; no transition follows.
    pub(crate) fn restore<'a>(&self, rounds: impl IntoIterator<Item = Seen<'a>>, now_us: i64) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        for round in rounds {
            if let Some(cell) = cells.get_mut(round.target).filter(|cell| !cell.is_ahead(&round, now_us)) {
                cell.put(&round, &mut keys);
                cell.slot_us = cell.slot_us.max(round.due_us);
            }
        }
    }

    /// Takes in committed rounds, in order of their due times; the transitions that follow. Rounds of targets that
    /// are not measured any more are ignored, and rounds drained late never change a state.
    pub(crate) fn commit<'a>(
        &self,
        rounds: impl IntoIterator<Item = Seen<'a>>,
        now_us: i64,
    ) -> Vec<StateChange> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::new();
        for round in rounds {
            let Some(cell) = cells.get_mut(round.target) else { continue };
            if let Some(transition) = cell.take(&round, &mut keys, now_us) {
                changes.push(StateChange {
                    target: round.target.clone(),
                    time_us: now_us,
                    from: transition.from,
                    to: transition.to,
                    reason: transition.reason,
                });
            }
        }
        changes
    }

    /// Takes in that time has passed; the transitions that follow from that alone.
    pub(crate) fn tick(&self, now_us: i64) -> Vec<StateChange> {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::new();
        for (target, cell) in cells.iter_mut() {
            if let Some(transition) = cell.monitor.tick(now_us) {
                changes.push(StateChange {
                    target: target.clone(),
                    time_us: now_us,
                    from: transition.from,
                    to: transition.to,
                    reason: transition.reason,
                });
            }
        }
        changes
    }
}

impl Cell {
    fn take(
        &mut self,
        round: &Seen<'_>,
        keys: &mut HashSet<PairKey>,
        now_us: i64,
    ) -> Option<imn_domain::Transition> {
        if self.is_ahead(round, now_us) || !self.put(round, keys) {
            return None;
        }
        if round.due_us < now_us - self.fresh_us() {
            return None;
        }
        let mut transition = None;
        if round.due_us > self.slot_us {
            // The round before is closed: whoever has not answered for it yet is late.
            if !self.judged {
                transition = self.judge(now_us);
            }
            (self.slot_us, self.judged) = (round.due_us, false);
        }
        let complete = self.pairs.iter().all(|p| p.due_us >= self.slot_us || !self.is_fresh(p, now_us));
        if !self.judged && complete {
            transition = self.judge(now_us).or(transition);
        }
        transition
    }

    /// Keeps a round if it is the latest of its pair; whether it is.
    fn put(&mut self, round: &Seen<'_>, keys: &mut HashSet<PairKey>) -> bool {
        let at = self.pairs.iter().position(|p| p.key.0 == *round.agent && p.key.1 == *round.kind);
        let pair = Pair {
            key: match at {
                Some(at) => self.pairs[at].key.clone(),
                None => interned(keys, round),
            },
            due_us: round.due_us,
            time_us: round.time_us,
            sent: round.sent,
            received: round.received,
            unknown: round.unknown,
            success: round.success,
            rtt_avg_us: round.rtt_avg_us.map(|us| us as f32),
            error: round.error.map(Into::into),
        };
        match at {
            Some(at) if self.pairs[at].due_us >= round.due_us => return false,
            Some(at) => self.pairs[at] = pair,
            None => self.pairs.push(pair),
        }
        true
    }

    fn judge(&mut self, now_us: i64) -> Option<imn_domain::Transition> {
        self.judged = true;
        let (consensus, loss_pct) = self.consensus(now_us);
        self.monitor.observe(Finding { consensus, loss_pct }, now_us)
    }

    fn consensus(&self, now_us: i64) -> (Consensus, Option<f64>) {
        let (mut counts, mut agents) = (imn_metric::Counts::default(), Vec::<&AgentId>::new());
        for pair in self.pairs.iter().filter(|p| self.is_fresh(p, now_us)) {
            counts += imn_metric::Counts {
                sent: pair.sent.into(),
                received: pair.received.into(),
                unknown: pair.unknown.into(),
            };
            if !agents.contains(&&pair.key.0) {
                agents.push(&pair.key.0);
            }
        }
        let votes = agents.iter().filter_map(|agent| {
            let of_agent = self.pairs.iter().filter(|p| p.key.0 == **agent && self.is_fresh(p, now_us));
            // A round in which nothing was sent, such as one of parameters that no module takes, says nothing of the
            // target.
            Vote::of(of_agent.filter(|p| p.sent > 0).map(|p| p.success))
        });
        (consensus(votes, self.assigned as usize), counts.loss_pct())
    }

    fn fresh_us(&self) -> i64 {
        (FRESH_INTERVALS * self.interval_us + self.timeout_us).max(FRESH_AT_LEAST_US)
    }

    /// Whether a round is of a time that has not come: its agent's clock is wrong. Taken for the latest, it would stop
    /// the judgement of all others until then.
    fn is_ahead(&self, round: &Seen<'_>, now_us: i64) -> bool {
        round.due_us > now_us.saturating_add(self.fresh_us())
    }

    fn is_fresh(&self, pair: &Pair, now_us: i64) -> bool {
        pair.due_us >= now_us - self.fresh_us()
    }

    fn status(&self, now_us: i64) -> TargetStatus {
        let mut pairs: Vec<PairStatus> = self.pairs.iter().map(|p| self.pair(p, now_us)).collect();
        pairs.sort_by(|a, b| (&a.agent, &a.kind).cmp(&(&b.agent, &b.kind)));
        let mut fresh: Vec<&AgentId> = pairs.iter().filter(|p| p.fresh).map(|p| &p.agent).collect();
        fresh.dedup();
        TargetStatus {
            consensus: self.consensus(now_us).0,
            monitoring_state: self.monitor.state(),
            state_since_us: self.monitor.since_us(),
            assigned: self.assigned as usize,
            fresh: fresh.len(),
            pairs,
        }
    }

    fn pair(&self, pair: &Pair, now_us: i64) -> PairStatus {
        let counts = imn_metric::Counts {
            sent: pair.sent.into(),
            received: pair.received.into(),
            unknown: pair.unknown.into(),
        };
        PairStatus {
            agent: pair.key.0.clone(),
            kind: pair.key.1.clone(),
            due_us: pair.due_us,
            time_us: pair.time_us,
            sent: pair.sent,
            received: pair.received,
            unknown: pair.unknown,
            success: pair.success,
            rtt_avg_us: pair.rtt_avg_us.map(f64::from),
            loss_pct: counts.loss_pct(),
            error: pair.error.as_deref().map(str::to_owned),
            fresh: self.is_fresh(pair, now_us),
        }
    }
}

/// Every (agent, type) is kept once, however many targets it measures.
fn interned(keys: &mut HashSet<PairKey>, round: &Seen<'_>) -> PairKey {
    let key = (round.agent.clone(), round.kind.clone());
    if let Some(known) = keys.get(&key) {
        return known.clone();
    }
    let key = Arc::new(key);
    keys.insert(key.clone());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_ahead_stops_nobody_elses_judgement() {
        const NOW_US: i64 = 1_800_000_000_000_000;
        let (target, kind) = (TargetId::new("t").unwrap(), ModuleType::new("icmp").unwrap());
        let agents = ["right", "wrong"].map(|name| AgentId::new(name).unwrap());
        let board = Board::default();
        let policy = Policy {
            interval_us: 1_000_000,
            timeout_us: 1_000_000,
            assigned: 2,
            state: MonitoringState::Unknown,
            state_since_us: 0,
        };
        board.apply([(target.clone(), policy)]);
        let see = |agent: &AgentId, due_us: i64, success: bool, now_us: i64| {
            let received = u32::from(success);
            let round = Round { due_us, time_us: due_us, sent: 1, received, success, ..Round::default() };
            board.commit([Seen::of_round(agent, &kind, &target, &round)], now_us)
        };
        see(&agents[1], NOW_US + 3_600_000_000, true, NOW_US);
        see(&agents[1], i64::MAX, true, NOW_US);
        let mut changes = Vec::new();
        for second in 0..60 {
            let now_us = NOW_US + second * 1_000_000;
            changes.extend(see(&agents[0], now_us, second < 30, now_us));
        }
        assert!(!changes.is_empty(), "no transition: the target is not judged");
        let status = board.status(&target, NOW_US + 60_000_000).unwrap();
        assert_eq!(status.pairs.len(), 1);
        // Set right again, its rounds count at once.
        see(&agents[1], NOW_US + 60_000_000, true, NOW_US + 60_000_000);
        assert_eq!(board.status(&target, NOW_US + 60_000_000).unwrap().fresh, 2);
    }

    #[test]
    fn a_round_in_which_nothing_was_sent_says_nothing_of_the_target() {
        const NOW_US: i64 = 1_800_000_000_000_000;
        let target = TargetId::new("t").unwrap();
        let [icmp, http] = ["icmp", "http"].map(|kind| ModuleType::new(kind).unwrap());
        let agent = AgentId::new("a").unwrap();
        let board = Board::default();
        let policy = Policy {
            interval_us: 1_000_000,
            timeout_us: 1_000_000,
            assigned: 1,
            state: MonitoringState::Unknown,
            state_since_us: 0,
        };
        board.apply([(target.clone(), policy)]);
        let see = |kind: &ModuleType, sent: u32| {
            let round = Round {
                due_us: NOW_US,
                time_us: NOW_US,
                sent,
                received: sent,
                success: sent > 0,
                error: (sent == 0).then(|| "params.count: use 1 to 100".to_owned()),
                ..Round::default()
            };
            board.commit([Seen::of_round(&agent, kind, &target, &round)], NOW_US);
            board.status(&target, NOW_US).unwrap().consensus
        };
        assert_eq!(see(&http, 0), Consensus::Unknown);
        assert_eq!(see(&icmp, 1), Consensus::Reachable);
    }
}

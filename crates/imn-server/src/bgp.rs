//! What the updates in rounds of `bgp` mean: the domain's watches, fed as rounds are committed, and from the store.
//!
//! Findings are a function of the stored rounds and of what the target declares. A watch that is not in memory, after
//! a start or because it is new, is made again of the rounds of the last day.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use imn_contract::{
    AgentId, ModuleType, TargetId,
    latest::{Batch, BgpSession, BgpUpdate, Round},
};
use imn_domain::{
    Target,
    bgp::{Finding, Policy, Status, Update, Watch},
};
use imn_store::{Results, ResultsError, RoundQuery, RoundRow};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{context::Context, live::Event};

pub(crate) const KIND: &str = "bgp";
/// How far back a watch is made again, in microseconds.
pub(crate) const BACK_US: i64 = 24 * 3600 * 1_000_000;
/// Rounds older than this are taken in and not told of as if they were news, in microseconds.
const STALE_US: i64 = 5 * 60 * 1_000_000;
/// Watches held, at most; the one that was fed longest ago goes.
const MAX_WATCHES: usize = 10_000;
/// Findings of one answer, at most.
pub(crate) const MAX_FINDINGS: usize = 1_000;

/// A finding, of whose view.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) target: TargetId,
    pub(crate) agent: AgentId,
    pub(crate) finding: Finding,
}

/// The watches in memory; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routing(Arc<Mutex<HashMap<(TargetId, AgentId), Held>>>);

#[derive(Debug)]
struct Held {
    watch: Watch,
    policy: Policy,
    due_us: i64,
}

/// What one agent sees of a prefix.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) agent: AgentId,
    pub(crate) status: Status,
    pub(crate) open: Vec<Finding>,
    /// Every change in the time asked for, oldest first; the last ones if there are too many.
    pub(crate) found: Vec<Finding>,
    pub(crate) omitted: usize,
}

/// What the domain takes of an outcome, whole or by columns.
#[derive(Debug, Default, Deserialize)]
struct Told {
    #[serde(default)]
    updates: Vec<BgpUpdate>,
    #[serde(default)]
    sessions: Vec<BgpSession>,
}

/// Looks at committed rounds, which are in the order of their due times, and tells what is found.
pub(crate) async fn judge(context: &Context, rounds: &[(&Batch, &Round)], now_us: i64) {
    let mut all = Vec::new();
    for (batch, round) in rounds.iter().filter(|(batch, _)| batch.kind.as_str() == KIND) {
        let Some(id) = &round.target else { continue };
        let target = match context.catalog.target(id.as_str()).await {
            Ok(Some(target)) => target,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(target = %id, %error, "updates not judged");
                continue;
            }
        };
        let told = round.outcome.as_deref().map(Told::of_text).unwrap_or_default();
        match context.routing.feed(&context.results, &target, &batch.agent, round.due_us, &told).await {
            Ok(found) if round.due_us >= now_us - STALE_US => {
                all.extend(found.into_iter().map(|finding| Found {
                    target: id.clone(),
                    agent: batch.agent.clone(),
                    finding,
                }));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(target = %id, %error, "updates not judged"),
        }
    }
    if all.is_empty() {
        return;
    }
    for Found { target, agent, finding } in &all {
        let text = finding.text();
        tracing::info!(%target, %agent, kind = finding.kind.as_str(), state = finding.state.as_str(), text, "bgp finding");
    }
    context.live.tell(Event::Routing(Arc::new(all)));
}

/// What each agent sees of a prefix, from its rounds due in `[from_us, to_us)`.
pub(crate) async fn views(
    results: &dyn Results,
    target: &Target,
    from_us: i64,
    to_us: i64,
) -> Result<Vec<View>, ResultsError> {
    let Some(policy) = policy(target) else { return Ok(Vec::new()) };
    let mut watches: HashMap<AgentId, (Watch, Vec<Finding>, usize)> = HashMap::new();
    replay(results, target, None, from_us, to_us, &mut |row, told| {
        let Ok(prefix) = target.address.parse() else { return };
        let (watch, found, omitted) = watches
            .entry(row.agent.clone())
            .or_insert_with(|| (Watch::new(prefix, policy.clone()), Vec::new(), 0));
        found.extend(told.feed(watch));
        if found.len() > MAX_FINDINGS {
            let surplus = found.len() - MAX_FINDINGS;
            found.drain(..surplus);
            *omitted += surplus;
        }
    })
    .await?;
    let mut views: Vec<View> = watches
        .into_iter()
        .map(|(agent, (mut watch, found, omitted))| {
            let last_us = watch.status(i64::MIN).last_us.unwrap_or(to_us);
            let status = watch.status(last_us);
            View { agent, status, open: watch.open().cloned().collect(), found, omitted }
        })
        .collect();
    views.sort_by(|a, b| a.agent.cmp(&b.agent));
    Ok(views)
}

impl Routing {
    /// Feeds a round to its watch, which is made first if it is not there; gives what it finds.
    async fn feed(
        &self,
        results: &Arc<dyn Results>,
        target: &Target,
        agent: &AgentId,
        due_us: i64,
        told: &Told,
    ) -> Result<Vec<Finding>, ResultsError> {
        let Some(policy) = policy(target) else { return Ok(Vec::new()) };
        let Ok(prefix) = target.address.parse() else { return Ok(Vec::new()) };
        let key = (target.id.clone(), agent.clone());
        let is_known = self.with(|held| held.get(&key).is_some_and(|held| held.policy == policy));
        if !is_known {
            let mut watch = Watch::new(prefix, policy.clone());
            let before = due_us.saturating_sub(BACK_US);
            replay(&**results, target, Some(agent), before, due_us, &mut |_, told| {
                drop(told.feed(&mut watch));
            })
            .await?;
            self.with(|held| {
                if held.len() >= MAX_WATCHES
                    && let Some(oldest) =
                        held.iter().min_by_key(|(_, held)| held.due_us).map(|(key, _)| key.clone())
                {
                    held.remove(&oldest);
                }
                held.insert(key.clone(), Held { watch, policy, due_us: i64::MIN });
            });
        }
        Ok(self.with(|held| match held.get_mut(&key) {
            // What came late is in the store; the past is not judged anew.
            Some(held) if due_us > held.due_us => {
                held.due_us = due_us;
                told.feed(&mut held.watch)
            }
            _ => Vec::new(),
        }))
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<(TargetId, AgentId), Held>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Gives the stored rounds to `visit`, of each agent in the order of their due times.
async fn replay(
    results: &dyn Results,
    target: &Target,
    agent: Option<&AgentId>,
    from_us: i64,
    to_us: i64,
    visit: &mut (dyn FnMut(&RoundRow, &Told) + Send),
) -> Result<(), ResultsError> {
    let query = RoundQuery {
        target: Some(target.id.clone()),
        agent: agent.cloned(),
        kind: ModuleType::new(KIND).ok(),
        from_us: Some(from_us),
        to_us: Some(to_us),
        ..RoundQuery::default()
    };
    results
        .scan(&query, &mut |row| {
            visit(&row, &Told::of_row(&row));
            ControlFlow::Continue(())
        })
        .await
}

/// What a target declares: `origins`, and how patient to be. `None` for a target that is no prefix.
fn policy(target: &Target) -> Option<Policy> {
    target.address.parse::<ipnet::IpNet>().ok()?;
    let origins = target.params.get("origins").and_then(Value::as_array);
    let origins = origins.into_iter().flatten().filter_map(|asn| u32::try_from(asn.as_u64()?).ok());
    Some(Policy { origins: origins.collect(), ..Policy::default() })
}

impl Told {
    fn of_text(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// From columns, in which what is not there is null.
    fn of_row(row: &RoundRow) -> Self {
        let mut told = Map::new();
        for name in ["updates", "sessions"] {
            told.insert(name.to_owned(), without_nulls(row.columns.get(name)));
        }
        let rest = row.outcome.as_deref().map(Self::of_text).unwrap_or_default();
        let mut told: Self = serde_json::from_value(without_nulls(Value::Object(told))).unwrap_or_default();
        // A list that its column could not hold is whole in the rest.
        if !rest.updates.is_empty() {
            told.updates = rest.updates;
        }
        if !rest.sessions.is_empty() {
            told.sessions = rest.sessions;
        }
        told
    }

    /// Feeds all of it to a watch, in the order of time.
    fn feed(&self, watch: &mut Watch) -> Vec<Finding> {
        enum One<'a> {
            Update(Box<Update>),
            Session(&'a BgpSession),
        }
        let micros = |text: &str| text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond);
        let updates = self.updates.iter().filter_map(|update| {
            let time_us = micros(&update.timestamp)?;
            Some((time_us, One::Update(Box::new(Update::read(update, time_us)?))))
        });
        let sessions = self
            .sessions
            .iter()
            .filter_map(|session| Some((micros(&session.timestamp)?, One::Session(session))));
        let mut all: Vec<(i64, One<'_>)> = sessions.chain(updates).collect();
        all.sort_by_key(|(time_us, _)| *time_us);
        let mut found = Vec::new();
        for (time_us, one) in all {
            match one {
                One::Update(update) => found.extend(watch.observe(&update)),
                // Up or down: what a peer told before is void. A service that went away keeps its peers.
                One::Session(session) => {
                    let peer = session.peer_address.as_deref().and_then(|address| address.parse().ok());
                    if peer.is_some() || !session.up {
                        found.extend(watch.lose(&session.collector, peer, time_us));
                    }
                }
            }
        }
        found
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name, without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use imn_contract::latest::BgpOutcome;
    use imn_domain::bgp::Kind;

    use super::*;

    fn update(second: u32, kind: &str, origin: u32) -> BgpUpdate {
        BgpUpdate {
            timestamp: format!("2026-11-20T08:00:{second:02}.000000Z"),
            prefix: "203.0.113.0/24".to_owned(),
            kind: kind.to_owned(),
            peer_asn: 64_510,
            peer_address: "192.0.2.1".to_owned(),
            origin_asn: Some(origin),
            as_path: Some(format!("64510 {origin}")),
            collector: "rrc00".to_owned(),
            ..BgpUpdate::default()
        }
    }

    fn round(updates: Vec<BgpUpdate>, sessions: Vec<BgpSession>) -> Round {
        let outcome = BgpOutcome { updates, sessions, ..BgpOutcome::default() };
        Round {
            target: Some(TargetId::new("t1").unwrap()),
            outcome: Some(serde_json::to_string(&outcome).unwrap()),
            ..Round::default()
        }
    }

    #[test]
    fn a_round_says_the_same_as_it_comes_and_as_it_is_stored() {
        let down = BgpSession {
            timestamp: "2026-11-20T08:00:05.000000Z".to_owned(),
            collector: "rrc00".to_owned(),
            peer_address: Some("192.0.2.1".to_owned()),
            up: false,
            reason: None,
        };
        let round = round(vec![update(1, "A", 64_500), update(2, "A", 64_666)], vec![down]);
        let (agent, kind) = (AgentId::new("a").unwrap(), ModuleType::new(KIND).unwrap());
        let row = RoundRow::of(&agent, &kind, &round).unwrap();
        let policy = Policy { origins: [64_500].into(), ..Policy::default() };
        let prefix = "203.0.113.0/24".parse().unwrap();
        let mut found = Vec::new();
        for told in [Told::of_text(round.outcome.as_deref().unwrap()), Told::of_row(&row)] {
            assert_eq!((told.updates.len(), told.sessions.len()), (2, 1));
            found.push(told.feed(&mut Watch::new(prefix, policy.clone())));
        }
        assert_eq!(found[0], found[1]);
        let kinds: Vec<_> = found[0].iter().map(|finding| (finding.kind, finding.state.as_str())).collect();
        assert_eq!(kinds, [(Kind::OriginChange, "open"), (Kind::OriginChange, "ended")]);
    }
}

//! Agents and module instances, by what they say of themselves.

mod listen;
mod offer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use imn_contract::{
    AgentId, InstanceId, ModuleType,
    latest::{Announce, AnnounceEvent, Health, Heartbeat, ModuleState, ModuleSummary},
};
use imn_domain::{Agent, Liveness};
use serde_json::Value;

pub(crate) use listen::{SCHEMAS, keep, listen, queues};
pub(crate) use offer::Vantage;

/// Silence after which an instance is degraded, in microseconds.
const DEGRADED_AFTER_US: i64 = 15_000_000;
/// Silence after which an instance is lost, in microseconds.
const LOST_AFTER_US: i64 = 30_000_000;
/// Silence after which an agent is offline, in microseconds.
const OFFLINE_AFTER_US: i64 = 60_000_000;
/// Age at which what is stored of an agent is written anew, in microseconds.
const STORE_EVERY_US: i64 = 15_000_000;
/// Types whose parameters are remembered at most.
const MAX_SCHEMAS: usize = 256;
/// Instances known at most, so that forged announcements cannot fill the memory.
const MAX_INSTANCES: usize = 100_000;

/// An agent and how it is doing now.
#[derive(Clone, Debug)]
pub(crate) struct AgentView {
    /// The agent with its last heartbeat.
    pub(crate) agent: Agent,
    /// How it is doing.
    pub(crate) liveness: Liveness,
    /// Types for which it takes standing work, or did so within the last minute: a module that is started again
    /// keeps its assignments.
    pub(crate) standing: BTreeSet<ModuleType>,
}

/// A module instance, as announced, as its agent tells, and as it tells itself.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) instance: InstanceId,
    pub(crate) agent: AgentId,
    pub(crate) kind: ModuleType,
    pub(crate) version: String,
    pub(crate) state: ModuleState,
    pub(crate) inflight: u32,
    pub(crate) slots: u32,
    pub(crate) pid: Option<u32>,
    pub(crate) restarts: u32,
    pub(crate) standing: bool,
    pub(crate) reason: Option<String>,
    /// Its last health message.
    pub(crate) health: Option<Health>,
    /// When anything was last heard of it, in microseconds since the Unix epoch.
    pub(crate) seen_us: i64,
}

/// What a heartbeat changed that others must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// The agent is new, back, or its place, tags or provider are others: assignments may move.
    pub(crate) agent: bool,
    /// It runs other module types than before.
    pub(crate) types: bool,
}

#[derive(Debug)]
struct Entry {
    agent: Agent,
    /// Found offline; ends with the next heartbeat.
    lost: bool,
    /// When the agent was last written to the catalog.
    stored_us: i64,
    changed: bool,
    /// Types with standing work, and when each was last told of.
    standing: BTreeMap<ModuleType, i64>,
}

#[derive(Debug, Default)]
struct State {
    agents: BTreeMap<AgentId, Entry>,
    instances: BTreeMap<InstanceId, Instance>,
    /// What modules of each type have last said of their parameters: they say so at their start alone, and outlive
    /// their agent and this server.
    schemas: BTreeMap<ModuleType, Value>,
    schemas_changed: bool,
    /// Silence before this time is not held against anybody: the server could not listen.
    listening_since_us: i64,
}

/// All agents and instances; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    state: Arc<RwLock<State>>,
}

impl Registry {
    /// Takes what the catalog knows. Agents that had fallen silent before the others are offline until they are
    /// heard of; the others are given time to be heard of.
    pub(crate) fn load(&self, agents: Vec<Agent>, now_us: i64) {
        let newest = agents.iter().map(|a| a.last_heartbeat_us).max().unwrap_or(0);
        let mut state = self.write();
        state.listening_since_us = now_us;
        for agent in agents {
            let lost = newest - agent.last_heartbeat_us >= OFFLINE_AFTER_US;
            let mut entry =
                Entry { lost, stored_us: now_us, changed: false, standing: BTreeMap::new(), agent };
            note_standing(&mut entry, now_us);
            state.agents.insert(entry.agent.id.clone(), entry);
        }
    }

    /// All agents, by id.
    pub(crate) fn agents(&self, now_us: i64) -> Vec<AgentView> {
        let state = self.read();
        state.agents.values().map(|entry| view(entry, state.listening_since_us, now_us)).collect()
    }

    /// One agent.
    pub(crate) fn agent(&self, id: &AgentId, now_us: i64) -> Option<AgentView> {
        let state = self.read();
        state.agents.get(id).map(|entry| view(entry, state.listening_since_us, now_us))
    }

    /// All module instances, by name.
    pub(crate) fn instances(&self, now_us: i64) -> Vec<Instance> {
        self.read().instances.values().map(|instance| aged(instance, now_us)).collect()
    }

    /// The module instances of one agent, by name.
    pub(crate) fn instances_of(&self, agent: &AgentId, now_us: i64) -> Vec<Instance> {
        let state = self.read();
        state.instances.values().filter(|i| i.agent == *agent).map(|i| aged(i, now_us)).collect()
    }

    /// The known agent whose instance this is by its name: of those that it may be of, the one with the longest id.
    pub(crate) fn owner(&self, instance: &InstanceId) -> Option<AgentId> {
        let name = instance.as_str();
        let of = |id: &&AgentId| name.strip_prefix(id.as_str()).is_some_and(|rest| rest.starts_with('-'));
        self.read().agents.keys().filter(of).max_by_key(|id| id.as_str().len()).cloned()
    }

    /// The types that any agent has, or had when it was last heard of.
    pub(crate) fn types(&self) -> BTreeSet<ModuleType> {
        let state = self.read();
        let heartbeats = state.agents.values().filter_map(|entry| entry.agent.heartbeat.as_ref());
        let told =
            heartbeats.flat_map(|heartbeat| heartbeat.modules.iter().map(|module| module.kind.clone()));
        told.chain(state.instances.values().map(|instance| instance.kind.clone())).collect()
    }

    /// What modules of a type say of their parameters: the latest word of any instance.
    pub(crate) fn params_schema(&self, kind: &ModuleType) -> Option<Value> {
        self.read().schemas.get(kind).cloned()
    }

    /// Takes what an earlier server has written down of parameters.
    pub(crate) fn remember_schemas(&self, text: &str) {
        match serde_json::from_str(text) {
            Ok(schemas) => self.write().schemas = schemas,
            Err(error) => tracing::warn!(%error, "schemas of parameters unreadable; modules tell them anew"),
        }
    }

    /// All schemas of parameters, if there is anything new in them.
    pub(crate) fn changed_schemas(&self) -> Option<String> {
        let mut state = self.write();
        let changed = std::mem::take(&mut state.schemas_changed);
        changed.then(|| serde_json::to_string(&state.schemas).unwrap_or_default())
    }

    /// They could not be written down: they are to be asked for again.
    pub(crate) fn schemas_not_kept(&self) {
        self.write().schemas_changed = true;
    }

    /// Forgets an agent and its instances, until it is heard of again.
    pub(crate) fn forget(&self, id: &AgentId) {
        let mut state = self.write();
        state.agents.remove(id);
        state.instances.retain(|_, instance| instance.agent != *id);
    }

    /// An agent is shut out: it is offline at once, and its instances are gone.
    pub(crate) fn shut_out(&self, id: &AgentId) {
        let mut state = self.write();
        if let Some(entry) = state.agents.get_mut(id) {
            (entry.lost, entry.changed) = (true, true);
        }
        state.instances.retain(|_, instance| instance.agent != *id);
    }

    /// The connection came up: silence until now says nothing.
    pub(crate) fn listening(&self, now_us: i64) {
        self.write().listening_since_us = now_us;
    }

    /// Takes in a heartbeat.
    pub(crate) fn heartbeat(&self, heartbeat: Heartbeat, now_us: i64) -> Changed {
        let mut state = self.write();
        let mut types: Vec<&ModuleType> = heartbeat.modules.iter().map(|m| &m.kind).collect();
        types.sort();
        types.dedup();
        let known = state.agents.get(&heartbeat.agent);
        let before = known.and_then(|entry| entry.agent.heartbeat.as_ref());
        let changed = Changed {
            agent: known.is_none_or(|entry| entry.lost)
                || before.is_none_or(|before| {
                    (&before.region, &before.provider, &before.tags, &before.name)
                        != (&heartbeat.region, &heartbeat.provider, &heartbeat.tags, &heartbeat.name)
                }),
            types: before.is_none_or(|before| {
                let mut old: Vec<&ModuleType> = before.modules.iter().map(|m| &m.kind).collect();
                old.sort();
                old.dedup();
                old != types
            }),
        };
        let instances: Vec<Instance> = heartbeat
            .modules
            .iter()
            .map(|m| summarized(m, &heartbeat.agent, state.instances.get(&m.instance), now_us))
            .collect();
        for instance in instances {
            admit(&mut state, instance);
        }
        // What the agent has told of and tells no more is gone.
        let gone = state.agents.get(&heartbeat.agent).and_then(|entry| entry.agent.heartbeat.as_ref());
        let gone: Vec<InstanceId> = gone
            .iter()
            .flat_map(|before| &before.modules)
            .filter(|module| heartbeat.modules.iter().all(|now| now.instance != module.instance))
            .map(|module| module.instance.clone())
            .collect();
        for instance in gone {
            if state.instances.get(&instance).is_some_and(|known| known.agent == heartbeat.agent) {
                state.instances.remove(&instance);
            }
        }
        let entry = state.agents.entry(heartbeat.agent.clone()).or_insert_with(|| Entry {
            agent: blank(&heartbeat.agent, now_us),
            lost: false,
            stored_us: 0,
            changed: true,
            standing: BTreeMap::new(),
        });
        entry.lost = false;
        entry.changed |= changed.agent;
        update(&mut entry.agent, heartbeat, now_us);
        note_standing(entry, now_us);
        changed
    }

    /// Takes in an announcement.
    pub(crate) fn announce(&self, announce: Announce, now_us: i64) {
        let mut state = self.write();
        if announce.event == AnnounceEvent::Bye {
            // One that its agent supervises is still there without its process: the next heartbeat says how it is.
            let supervised = |instance: &InstanceId| {
                let agent = state.agents.get(&announce.agent)?;
                Some(
                    agent.agent.heartbeat.as_ref()?.modules.iter().any(|module| module.instance == *instance),
                )
            };
            if supervised(&announce.instance) == Some(true) {
                if let Some(known) = state.instances.get_mut(&announce.instance) {
                    known.state = ModuleState::Draining;
                }
            } else {
                state.instances.remove(&announce.instance);
            }
            return;
        }
        note_schema(&mut state, &announce);
        // The last words of one that is gone already do not bring it back.
        if announce.event == AnnounceEvent::Draining && !state.instances.contains_key(&announce.instance) {
            return;
        }
        let module_state = match announce.event {
            AnnounceEvent::Hello => ModuleState::Starting,
            AnnounceEvent::Ready => ModuleState::Ready,
            AnnounceEvent::Draining | AnnounceEvent::Bye => ModuleState::Draining,
        };
        let known = state.instances.get(&announce.instance);
        let instance = Instance {
            state: module_state,
            inflight: known.map_or(0, |i| i.inflight),
            restarts: known.map_or(0, |i| i.restarts),
            standing: known.is_some_and(|i| i.standing),
            health: known.and_then(|i| i.health.clone()),
            reason: None,
            instance: announce.instance,
            agent: announce.agent,
            kind: announce.kind,
            version: announce.version,
            slots: announce.slots,
            pid: announce.pid,
            seen_us: now_us,
        };
        admit(&mut state, instance);
    }

    /// Takes in a health message.
    pub(crate) fn health(&self, health: Health, now_us: i64) {
        let mut state = self.write();
        let known = state.instances.get(&health.instance);
        if known.is_none() && health.state == ModuleState::Draining {
            return;
        }
        let instance = Instance {
            state: health.state,
            inflight: health.inflight,
            slots: health.slots,
            pid: known.and_then(|i| i.pid),
            restarts: known.map_or(0, |i| i.restarts),
            standing: known.is_some_and(|i| i.standing),
            // What its agent says of one that runs holds until the agent says otherwise.
            reason: known.filter(|i| is_well(i.state)).and_then(|i| i.reason.clone()),
            instance: health.instance.clone(),
            agent: health.agent.clone(),
            kind: health.kind.clone(),
            version: health.version.clone(),
            health: Some(health),
            seen_us: now_us,
        };
        admit(&mut state, instance);
    }

    /// Marks agents that have fallen silent as lost, and forgets instances gone for long; whether any agent was
    /// lost just now.
    pub(crate) fn sweep(&self, now_us: i64) -> bool {
        let mut state = self.write();
        state.instances.retain(|_, i| now_us - i.seen_us < 20 * LOST_AFTER_US);
        let since = state.listening_since_us;
        let mut any = false;
        for entry in state.agents.values_mut().filter(|entry| !entry.lost) {
            if now_us - entry.agent.last_heartbeat_us.max(since) >= OFFLINE_AFTER_US {
                tracing::warn!(agent = %entry.agent.id, "agent offline");
                (entry.lost, entry.changed, any) = (true, true, true);
            }
        }
        any
    }

    /// Agents that are to be written to the catalog now: changed ones, and others every 15 s.
    pub(crate) fn to_store(&self, now_us: i64) -> Vec<Agent> {
        let mut due = Vec::new();
        for entry in self.write().agents.values_mut() {
            let heard = entry.agent.last_heartbeat_us > entry.stored_us;
            if entry.changed || heard && now_us - entry.stored_us >= STORE_EVERY_US {
                (entry.changed, entry.stored_us) = (false, now_us);
                due.push(entry.agent.clone());
            }
        }
        due
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn liveness(entry: &Entry, listening_since_us: i64, now_us: i64) -> Liveness {
    if entry.lost {
        return Liveness::Offline;
    }
    entry.agent.liveness_since(listening_since_us, now_us)
}

fn view(entry: &Entry, listening_since_us: i64, now_us: i64) -> AgentView {
    let liveness = liveness(entry, listening_since_us, now_us);
    // Of an agent that is not heard of, what it last told holds.
    let recent = |told_us: &i64| entry.agent.last_heartbeat_us - told_us < OFFLINE_AFTER_US;
    let standing = entry.standing.iter().filter(|(_, told_us)| recent(told_us)).map(|(kind, _)| kind.clone());
    AgentView { standing: standing.collect(), agent: entry.agent.clone(), liveness }
}

fn note_standing(entry: &mut Entry, now_us: i64) {
    let modules = entry.agent.heartbeat.iter().flat_map(|heartbeat| &heartbeat.modules);
    for module in modules.filter(|module| module.standing) {
        entry.standing.insert(module.kind.clone(), now_us);
    }
}

fn aged(instance: &Instance, now_us: i64) -> Instance {
    Instance { state: state_at(instance, now_us), ..instance.clone() }
}

/// The state of an instance, given how long it has been silent.
fn state_at(instance: &Instance, now_us: i64) -> ModuleState {
    let silent = now_us - instance.seen_us;
    match instance.state {
        ModuleState::Ready | ModuleState::Saturated | ModuleState::Draining if silent >= LOST_AFTER_US => {
            ModuleState::Lost
        }
        ModuleState::Ready | ModuleState::Saturated | ModuleState::Draining
            if silent >= DEGRADED_AFTER_US =>
        {
            ModuleState::Degraded
        }
        state => state,
    }
}

fn is_well(state: ModuleState) -> bool {
    matches!(state, ModuleState::Ready | ModuleState::Saturated)
}

fn admit(state: &mut State, instance: Instance) {
    if state.instances.len() < MAX_INSTANCES || state.instances.contains_key(&instance.instance) {
        state.instances.insert(instance.instance.clone(), instance);
    }
}

/// Keeps what a module says of its parameters; one that says nothing takes back what was said before.
fn note_schema(state: &mut State, announce: &Announce) {
    let Announce { kind, params_schema, .. } = announce;
    let before = state.schemas.get(kind).unwrap_or(&Value::Null);
    if before == params_schema || before.is_null() && state.schemas.len() >= MAX_SCHEMAS {
        return;
    }
    if params_schema.is_null() {
        state.schemas.remove(kind);
    } else {
        state.schemas.insert(kind.clone(), params_schema.clone());
    }
    state.schemas_changed = true;
}

fn summarized(summary: &ModuleSummary, agent: &AgentId, known: Option<&Instance>, now_us: i64) -> Instance {
    // A process is ready by its own word, which its agent may have heard later than this server: until then the
    // agent does not know its slots either.
    let ready = known
        .filter(|known| summary.state == ModuleState::Starting && is_well(known.state))
        .filter(|known| known.pid.is_some() && known.pid == summary.pid);
    let (state, version, inflight, slots) = match ready {
        Some(known) => (known.state, &known.version, known.inflight, known.slots),
        None => (summary.state, &summary.version, summary.inflight, summary.slots),
    };
    Instance {
        instance: summary.instance.clone(),
        agent: agent.clone(),
        kind: summary.kind.clone(),
        version: version.clone(),
        state,
        inflight,
        slots,
        pid: summary.pid,
        restarts: summary.restarts,
        standing: summary.standing,
        reason: summary.reason.clone(),
        health: known.and_then(|i| i.health.clone()),
        seen_us: now_us,
    }
}

fn blank(id: &AgentId, now_us: i64) -> Agent {
    Agent {
        id: id.clone(),
        name: None,
        region: None,
        location: None,
        provider: None,
        tags: BTreeMap::new(),
        public_ip: None,
        max_targets: None,
        first_seen_us: now_us,
        last_heartbeat_us: now_us,
        heartbeat: None,
    }
}

fn update(agent: &mut Agent, heartbeat: Heartbeat, now_us: i64) {
    agent.name.clone_from(&heartbeat.name);
    agent.region.clone_from(&heartbeat.region);
    agent.location.clone_from(&heartbeat.location);
    agent.provider.clone_from(&heartbeat.provider);
    agent.tags.clone_from(&heartbeat.tags);
    agent.last_heartbeat_us = now_us;
    agent.heartbeat = Some(heartbeat);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(event: &str) -> Announce {
        let text = format!(
            r#"{{"v":1,"event":"{event}","instance":"a-echo-0","agent":"a","type":"echo","version":"1","accepts":["task/1"],"slots":4,"params_schema":{{}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn beat(modules: &str) -> Heartbeat {
        let text = format!(
            r#"{{"v":1,"agent":"a","time":"2026-01-01T00:00:00Z","status":"active","version":"1","uptime_s":1,"modules":[{modules}],"targets":0,"rounds_per_s":0.0,"spool":{{"bytes":0,"rows":0,"oldest_s":0}},"assignment":{{"generation":0,"hash":""}},"clock":{{"offset_us":null,"synced":false}},"cpu_pct":0.0,"rss_mb":0.0}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn an_instance_is_of_the_agent_with_the_longest_name() {
        let registry = Registry::default();
        for agent in ["a", "a-b", "b"] {
            registry.heartbeat(Heartbeat { agent: agent.parse().unwrap(), ..beat("") }, 1);
        }
        let owner =
            |instance: &str| registry.owner(&instance.parse().unwrap()).map(|agent| agent.to_string());
        assert_eq!(owner("a-icmp-0").as_deref(), Some("a"));
        assert_eq!(owner("a-b-icmp-0").as_deref(), Some("a-b"), "be it one of a's type b-icmp");
        assert_eq!(owner("ab-icmp-0"), None);
    }

    #[test]
    fn what_a_module_says_of_its_parameters_outlives_its_agent_and_the_server() {
        let registry = Registry::default();
        let kind: ModuleType = "echo".parse().unwrap();
        registry.announce(word("ready"), 1);
        assert_eq!(registry.params_schema(&kind), Some(serde_json::json!({})));
        let stored = registry.changed_schemas().unwrap();
        assert_eq!(registry.changed_schemas(), None, "there is nothing new in it");
        // Its agent, started again, has not heard of it yet.
        registry.heartbeat(beat(""), 2);
        assert_eq!(registry.params_schema(&kind), Some(serde_json::json!({})));
        let next = Registry::default();
        next.remember_schemas(&stored);
        assert_eq!(next.params_schema(&kind), Some(serde_json::json!({})));
        // A version that takes whatever it is given.
        next.announce(Announce { params_schema: Value::Null, ..word("ready") }, 3);
        assert_eq!(next.params_schema(&kind), None);
        assert_eq!(next.changed_schemas().as_deref(), Some("{}"));
    }

    #[test]
    fn a_process_is_ready_by_its_own_word_whatever_was_heard_before() {
        let registry = Registry::default();
        let starting = |pid: u32| {
            beat(&format!(
                r#"{{"instance":"a-echo-0","type":"echo","version":"","state":"starting","inflight":0,"slots":0,"pid":{pid}}}"#
            ))
        };
        let seen = || {
            let instance = &registry.instances(3)[0];
            (instance.state, instance.version.clone(), instance.slots)
        };
        let own = Announce { pid: Some(7), ..word("ready") };
        registry.announce(own.clone(), 1);
        registry.heartbeat(starting(7), 2);
        assert_eq!(seen(), (ModuleState::Ready, own.version, own.slots), "an agent that is new heard less");
        registry.heartbeat(starting(8), 2);
        assert_eq!(seen().0, ModuleState::Starting, "of another process that word says nothing");
    }

    #[test]
    fn a_supervised_instance_outlives_its_goodbye_and_an_announced_one_does_not() {
        let registry = Registry::default();
        let echo =
            r#"{"instance":"a-echo-0","type":"echo","version":"1","state":"ready","inflight":0,"slots":4}"#;
        registry.heartbeat(beat(echo), 1);
        registry.announce(word("bye"), 2);
        let left: Vec<ModuleState> = registry.instances(3).iter().map(|i| i.state).collect();
        assert_eq!(left, [ModuleState::Draining]);
        // Its agent supervises it no more.
        registry.heartbeat(beat(""), 4);
        assert!(registry.instances(5).is_empty());
        registry.announce(word("ready"), 6);
        registry.announce(word("bye"), 7);
        assert!(registry.instances(8).is_empty());
        // What it said before may come after.
        registry.announce(word("draining"), 9);
        assert!(registry.instances(10).is_empty());
    }
}

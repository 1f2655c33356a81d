//! The reconciler of assignments: looks at what changed, decides, writes the catalog, then the bucket, then tells.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use imn_contract::{
    AgentId, TargetId,
    latest::{AgentControl, AgentOp, ModuleState},
    subject,
};
use imn_domain::{Liveness, MonitoringState, Vantage};
use imn_runtime::{nats::Client, task::Stop};
use imn_store::{AssignmentRow, Catalog};

use super::{Asked, Assigner, plan::Delta, shards::Published};
use crate::{
    clock::now_us,
    config::Config,
    error::Error,
    metrics::Metrics,
    readiness::{Part, Readiness},
    registry::{AgentView, Registry},
    status::Board,
};

/// Changes that come together are decided upon together.
const COMPANY: Duration = Duration::from_millis(50);
/// How often agents are looked at without being asked.
const LOOK: Duration = Duration::from_secs(5);
/// How often everything is read anew from the catalog, in looks.
const ALL_EVERY: u32 = 120;
const RETRY: Duration = Duration::from_secs(1);
/// Targets decided upon without giving others the processor.
const SLICE: usize = 500;
const PAGE: usize = 5_000;

/// What the publisher works with.
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) client: Client,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) registry: Registry,
    pub(crate) board: Board,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
}

/// The reconciler.
pub(crate) struct Publisher {
    parts: Parts,
    assigner: Assigner,
    published: BTreeMap<AgentId, Published>,
    /// Rows decided upon that the catalog does not have yet, in order: to be added, to be removed.
    unwritten: Vec<(Vec<AssignmentRow>, Vec<AssignmentRow>)>,
}

impl Publisher {
    pub(crate) fn new(parts: Parts, assigner: Assigner) -> Self {
        Self { parts, assigner, published: BTreeMap::new(), unwritten: Vec::new() }
    }

    /// Reads everything from the catalog, and fills the board. The greatest interval in use, in microseconds.
    pub(crate) async fn load(&mut self) -> Result<i64, Error> {
        let catalog = self.parts.catalog.clone();
        let tiers = catalog.tiers().await?;
        self.assigner.plan().set_tiers(tiers);
        let mut after = None;
        loop {
            let page = catalog.targets(after.as_deref(), PAGE).await?;
            for target in page.items {
                self.assigner.plan().put(target);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let rows = catalog.assignments().await?;
        let stale = self.assigner.plan().load(rows);
        if !stale.is_empty() {
            self.unwritten.push((Vec::new(), stale));
        }
        for (agent, generation) in catalog.generations().await? {
            self.published.insert(agent, Published::unknown(generation));
        }
        let plan = self.assigner.plan();
        self.parts.board.apply(plan.policies());
        Ok(plan.longest_interval_us())
    }

    /// Keeps assignments as they should be until `stop`.
    pub(crate) async fn run(mut self, stop: Stop) {
        let mut asked = Asked { agents: true, verify: true, ..Asked::default() };
        let mut looks = 0;
        loop {
            match stop.until(self.reconcile(&asked)).await {
                None => return,
                Some(Ok(())) => {
                    self.parts.readiness.ok(Part::Assignments);
                    asked = Asked::default();
                }
                Some(Err(error)) => {
                    self.parts.readiness.fails(Part::Assignments, error.to_string());
                    // Whatever was asked may be half done.
                    asked.agents = true;
                    if !stop.sleep(RETRY).await {
                        return;
                    }
                }
            }
            let pending = asked.agents;
            if !pending {
                let notified = self.assigner.shared.notify.notified();
                match stop.until(tokio::time::timeout(LOOK, notified)).await {
                    None => return,
                    Some(Ok(())) => {
                        if !stop.sleep(COMPANY).await {
                            return;
                        }
                    }
                    Some(Err(_)) => {
                        looks += 1;
                        asked.agents = true;
                        asked.all = looks % ALL_EVERY == 0;
                    }
                }
            }
            let more = self.assigner.take();
            asked.all |= more.all;
            asked.agents |= more.agents;
            asked.verify |= more.verify;
            asked.targets.extend(more.targets);
        }
    }

    async fn reconcile(&mut self, asked: &Asked) -> Result<(), Error> {
        let mut delta = Delta::default();
        let mut rewrite: HashSet<TargetId> = HashSet::new();
        let agents_differ = (asked.agents || asked.all) && self.look_at_agents();
        if asked.all {
            self.read_all(&mut delta, &mut rewrite).await?;
        } else {
            self.read_some(&asked.targets, &mut delta, &mut rewrite).await?;
        }
        let again: Vec<TargetId> = if asked.all || agents_differ {
            self.assigner.plan().ids()
        } else {
            rewrite.iter().cloned().collect()
        };
        let now = now_us();
        for slice in again.chunks(SLICE) {
            self.decide(slice, &rewrite, now, &mut delta);
            tokio::task::yield_now().await;
        }
        if asked.verify {
            self.published.values_mut().for_each(Published::doubt);
        }
        for (agent, targets) in &delta.touched {
            self.published.entry(agent.clone()).or_default().touch(targets);
        }
        self.parts.board.apply(std::mem::take(&mut delta.policies));
        self.parts.board.remove(&delta.gone);
        if !delta.add.is_empty() || !delta.remove.is_empty() {
            self.unwritten.push((delta.add, delta.remove));
        }
        self.write().await?;
        let (count, shortfalls) = {
            let plan = self.assigner.plan();
            (plan.len(), plan.shortfalls())
        };
        self.parts.metrics.assignments.set(count as i64);
        // Before the first agent, nothing can be met, which is no news.
        if !self.parts.registry.agents(now).is_empty() {
            self.assigner.report(shortfalls);
        }
        Ok(())
    }

    fn decide(&self, targets: &[TargetId], rewrite: &HashSet<TargetId>, now_us: i64, delta: &mut Delta) {
        let mut plan = self.assigner.plan();
        for target in targets {
            plan.decide(target, rewrite.contains(target), now_us, delta);
        }
    }

    /// Writes rows and generations, then what agents read.
    async fn write(&mut self) -> Result<(), Error> {
        let Parts { client, catalog, metrics, config, .. } = &self.parts;
        while let Some((add, remove)) = self.unwritten.first() {
            catalog.change_assignments(add, remove, &[]).await?;
            tracing::info!(added = add.len(), removed = remove.len(), "assignments changed");
            self.unwritten.remove(0);
        }
        let counts = self.assigner.plan().counts();
        for (agent, published) in self.published.iter_mut().filter(|(_, p)| !p.is_settled()) {
            if published.is_doubted() {
                published.compare(client, agent).await?;
            }
            let count = counts.get(agent).copied().unwrap_or(0);
            let packed = published.pack(agent, &self.assigner.plan(), count);
            let Some(writing) = packed.map_err(|error| Error::Config { message: error.to_string() })? else {
                published.settle();
                continue;
            };
            let generation = published.generation + 1;
            catalog.change_assignments(&[], &[], &[(agent.clone(), generation)]).await?;
            published.generation = generation;
            let shards = published.write(client, agent, config.partitions, writing).await?;
            metrics.shards_written.inc_by(shards as u64);
            let control = AgentControl { v: 1, op: AgentOp::Assignments { generation } };
            client.publish(&subject::agent_control(agent), &control).await?;
            tracing::info!(%agent, generation, shards, assignments = count, "assignments published");
        }
        Ok(())
    }

    async fn read_all(&mut self, delta: &mut Delta, rewrite: &mut HashSet<TargetId>) -> Result<(), Error> {
        let catalog = self.parts.catalog.clone();
        let tiers = catalog.tiers().await?;
        self.assigner.plan().set_tiers(tiers);
        let mut gone: HashSet<TargetId> = self.assigner.plan().ids().into_iter().collect();
        let mut after = None;
        loop {
            let page = catalog.targets(after.as_deref(), PAGE).await?;
            for target in page.items {
                if target.monitoring_state != MonitoringState::Inactive {
                    gone.remove(&target.id);
                }
                let id = target.id.clone();
                if self.assigner.plan().put(target) {
                    rewrite.insert(id);
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        for target in &gone {
            self.assigner.plan().remove(target, delta);
        }
        Ok(())
    }

    async fn read_some(
        &mut self,
        targets: &HashSet<TargetId>,
        delta: &mut Delta,
        rewrite: &mut HashSet<TargetId>,
    ) -> Result<(), Error> {
        for id in targets {
            match self.parts.catalog.target(id.as_str()).await? {
                Some(target) if target.monitoring_state != MonitoringState::Inactive => {
                    // Its tier may be newer than the tiers known.
                    let known = self.assigner.plan().knows_tier(&target.tier);
                    if !known {
                        let tiers = self.parts.catalog.tiers().await?;
                        self.assigner.plan().set_tiers(tiers);
                    }
                    if self.assigner.plan().put(target) {
                        rewrite.insert(id.clone());
                    }
                }
                _ => self.assigner.plan().remove(id, delta),
            }
        }
        Ok(())
    }

    fn look_at_agents(&mut self) -> bool {
        let now = now_us();
        let vantages: Vec<Vantage> = self.parts.registry.agents(now).into_iter().map(vantage).collect();
        for vantage in &vantages {
            self.published.entry(vantage.id.clone()).or_default();
        }
        // An agent that was deleted reads nothing any more.
        let known: BTreeSet<&AgentId> = vantages.iter().map(|v| &v.id).collect();
        let mut plan = self.assigner.plan();
        let counts = plan.counts();
        self.published.retain(|agent, _| known.contains(agent) || counts.contains_key(agent));
        plan.set_vantages(vantages)
    }
}

fn vantage(view: AgentView) -> Vantage {
    let AgentView { agent, liveness, standing } = view;
    let disabled = |kind: &imn_contract::ModuleType| {
        let modules = agent.heartbeat.iter().flat_map(|h| &h.modules);
        let mut of_kind = modules.filter(|m| m.kind == *kind).peekable();
        of_kind.peek().is_some() && of_kind.all(|m| m.state == ModuleState::Disabled)
    };
    Vantage {
        types: standing.into_iter().filter(|kind| !disabled(kind)).collect(),
        id: agent.id.clone(),
        region: agent.region.clone(),
        provider: agent.provider.clone(),
        tags: agent.tags.clone(),
        online: liveness != Liveness::Offline,
        max_targets: agent.max_targets,
    }
}

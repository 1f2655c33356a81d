//! Replacing a module type by another version of itself, under load: one instance beside the others first, then its
//! share of the jobs in waves, then the others one after the other; and back again when it does not do.

mod judge;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use imn_contract::{
    InstanceId, ModuleType,
    latest::{ModuleState, Roll as Told, RollState},
};
use imn_runtime::{clock, task::Stop};

use super::{
    Supervisor,
    catalog::Spec,
    keeper::{DRAIN_WITHIN, HAND_OVER_WITHIN},
};
use crate::{
    job::{DirectOrder, Jobs},
    roster::Tally,
};
use judge::{Seen, Verdict, judge};

/// The slot of the instance that is tried first; those of the others are below.
pub(super) const CANARY: u32 = super::catalog::MAX_INSTANCES;
/// How often a roll is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Why a roll does not go on.
enum End {
    /// The new version does not do.
    Refused(String),
    /// It is not wanted any more.
    Abandoned,
}

type Step = Result<(), End>;

/// One replacement.
pub(super) struct Roll {
    supervisor: Arc<Supervisor>,
    jobs: Arc<Jobs>,
    kind: ModuleType,
    from: Arc<Spec>,
    to: Arc<Spec>,
    canary: InstanceId,
    /// The instances of the new version, and what was known of each before.
    tried: BTreeMap<InstanceId, Tally>,
    /// What was known of the others at the beginning.
    others: BTreeMap<InstanceId, Tally>,
    /// What came of the jobs of the old version with instances that have been replaced.
    past: Tally,
    told: Told,
}

impl Roll {
    /// The slot of the instance that is tried is named like every other, or the agent could not be vouched for it.
    pub(super) fn begin(
        supervisor: &Arc<Supervisor>,
        jobs: &Arc<Jobs>,
        (kind, canary): (ModuleType, InstanceId),
        (from, to): (Arc<Spec>, Arc<Spec>),
    ) -> Self {
        let roster = &supervisor.roster;
        let others = roster.living(&kind).into_iter().filter(|instance| *instance != canary);
        let others = others.map(|instance| (instance.clone(), roster.tally(&instance))).collect();
        let told = Told {
            kind: kind.clone(),
            state: RollState::Starting,
            wave: 0,
            waves: supervisor.config.rollout.waves.len() as u32,
            share_pct: 0,
            from: from.label(),
            to: to.label(),
            started: clock::now_rfc3339(),
            reason: None,
        };
        roster.declare(&canary, &kind, &to.version, false);
        roster.on_trial(&canary, Some(0.0));
        let (supervisor, jobs) = (Arc::clone(supervisor), Arc::clone(jobs));
        let (tried, past) = (BTreeMap::new(), Tally::default());
        let roll = Self { supervisor, jobs, kind, from, to, canary, tried, others, past, told };
        roll.tell();
        roll
    }

    /// Rolls out, or back. With the agent's end the modules end, and the next agent begins anew.
    pub(super) async fn run(mut self, stop: Stop) {
        let Some(end) = stop.until(self.roll()).await else { return };
        let versions = &self.supervisor.versions;
        match end {
            Ok(()) => {
                versions.finish(&self.kind);
                self.state(RollState::Done);
            }
            Err(End::Refused(reason)) => {
                versions.refuse(&self.kind, &reason);
                self.told.reason = Some(reason);
                self.state(RollState::RolledBack);
            }
            Err(End::Abandoned) => {
                versions.abandon(&self.kind);
                self.state(RollState::Abandoned);
            }
        }
        self.supervisor.keep_versions();
        self.supervisor.poke.notify_one();
        // From here on nothing can be waited for that does not come: it is the keepers' work.
        stop.until(self.settle()).await;
        self.supervisor.roster.end_trial(&self.kind);
    }

    async fn roll(&mut self) -> Step {
        self.start().await?;
        self.state(RollState::Testing);
        self.test().await?;
        // Its own test says nothing of how it does the jobs of others.
        self.tried.insert(self.canary.clone(), self.supervisor.roster.tally(&self.canary));
        // Where nobody does the jobs, there is nothing to compare with and nothing to lose.
        if self.others.keys().any(|instance| is_ready(&self.supervisor, instance)) {
            for wave in 0..self.supervisor.config.rollout.waves.len() {
                self.shift(wave).await?;
            }
        } else {
            self.share(100);
        }
        self.state(RollState::Replacing);
        self.replace().await?;
        // The one that was tried first is not needed any more.
        self.supervisor.roster.on_trial(&self.canary, Some(0.0));
        self.finish_jobs(&self.canary).await
    }

    /// Waits for the first instance of the new version. The time that it waits for its credentials does not count.
    async fn start(&mut self) -> Step {
        self.tried.insert(self.canary.clone(), self.supervisor.roster.tally(&self.canary));
        self.supervisor.poke.notify_one();
        let within = self.supervisor.config.rollout.ready;
        let mut since = None;
        while !is_ready(&self.supervisor, &self.canary) {
            self.look()?;
            if self.supervisor.roster.has_process(&self.canary) {
                let since = since.get_or_insert_with(Instant::now);
                if since.elapsed() >= within {
                    let why = format!("it was not ready within {} s", within.as_secs());
                    return Err(End::Refused(why));
                }
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Gives the first instance a job of its own, or a question where its manifest names no job.
    async fn test(&self) -> Step {
        let ttl = self.supervisor.config.rollout.test;
        let tested = match &self.to.self_test {
            Some(test) => {
                let order = DirectOrder {
                    kind: self.kind.clone(),
                    target: test.target.clone(),
                    params: test.params.clone(),
                    ttl,
                };
                self.jobs.run_at(&self.canary, order).await.map(drop)
            }
            None => self.jobs.answers(&self.canary, ttl).await,
        };
        // What became of its process tells more.
        self.look()?;
        tested.map_err(|fault| End::Refused(format!("its self-test failed: {fault}")))
    }

    /// One wave: so much of the jobs, until they tell how the new version does.
    async fn shift(&mut self, wave: usize) -> Step {
        let rule = self.supervisor.config.rollout.clone();
        let Some(share) = rule.waves.get(wave).copied() else { return Ok(()) };
        self.told.wave = wave as u32 + 1;
        self.share(share);
        self.state(RollState::Shifting);
        let (began, before) = (Instant::now(), self.of_new().ended());
        loop {
            tokio::time::sleep(TICK).await;
            self.look()?;
            match judge(&rule, &self.seen(began.elapsed(), before)) {
                Verdict::Wait => {}
                Verdict::Pass => return Ok(()),
                Verdict::Fail(reason) => return Err(self.refused(reason)),
            }
        }
    }

    /// Replaces the instances of the old version, one after the other: each finishes what it has.
    async fn replace(&mut self) -> Step {
        let mut slot = 0;
        while slot < self.supervisor.instances(&self.kind) {
            let instance =
                self.supervisor.slot(&self.kind, slot).map_err(|error| End::Refused(error.to_string()))?;
            let roster = Arc::clone(&self.supervisor.roster);
            roster.on_trial(&instance, Some(0.0));
            roster.stand_in(&instance, Some(&self.canary));
            self.finish_jobs(&instance).await?;
            self.finish_rounds(&instance).await?;
            let so_far = roster.tally(&instance);
            if let Some(before) = self.others.remove(&instance) {
                self.past += so_far - before;
            }
            self.tried.insert(instance.clone(), so_far);
            slot += 1;
            self.supervisor.versions.replace(&self.kind, slot);
            self.supervisor.poke.notify_one();
            let end = Instant::now() + DRAIN_WITHIN + self.supervisor.config.rollout.ready;
            while !(self.supervisor.runs(&instance, &self.to) && is_ready(&self.supervisor, &instance)) {
                self.look()?;
                if Instant::now() >= end {
                    return Err(End::Refused(format!("{instance} is not ready with it")));
                }
                tokio::time::sleep(TICK).await;
            }
            roster.on_trial(&instance, Some(1.0));
            roster.stand_in(&instance, None);
        }
        // What it did for the others they do again.
        self.finish_rounds(&self.canary).await
    }

    /// Waits until an instance has no job any more; one that takes very long is drained with what it has.
    async fn finish_jobs(&self, instance: &InstanceId) -> Step {
        let end = Instant::now() + self.supervisor.config.rollout.finish;
        while self.supervisor.roster.working(instance) > 0 && Instant::now() < end {
            self.look()?;
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Waits until an instance has handed over its standing work, and the rounds that it made until then have ended.
    async fn finish_rounds(&self, instance: &InstanceId) -> Step {
        let (roster, end) = (&self.supervisor.roster, Instant::now() + HAND_OVER_WITHIN);
        // One without a process makes none.
        while roster.has_process(instance)
            && roster.has_rounds(instance, clock::now_us(), true)
            && Instant::now() < end
        {
            self.look()?;
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Whether to go on at all.
    fn look(&self) -> Step {
        if !self.supervisor.versions.is_wanted(&self.kind) || self.supervisor.is_disabled(&self.kind) {
            return Err(End::Abandoned);
        }
        // Time is the waves' business.
        match judge(&self.supervisor.config.rollout, &self.seen(Duration::ZERO, 0)) {
            Verdict::Fail(reason) => Err(self.refused(reason)),
            Verdict::Wait | Verdict::Pass => Ok(()),
        }
    }

    fn refused(&self, mut reason: String) -> End {
        let roster = &self.supervisor.roster;
        let crashed =
            |(instance, before): &(&InstanceId, &Tally)| (roster.tally(instance) - **before).crashes > 0;
        if let Some((instance, _)) = self.tried.iter().find(crashed)
            && let Some(how) = roster.last_end(instance)
        {
            reason = format!("{reason}: {how}");
        }
        if self.told.wave > 0 {
            let Told { wave, waves, share_pct, .. } = &self.told;
            reason = format!("wave {wave} of {waves}, {share_pct} % of the jobs: {reason}");
        }
        End::Refused(reason)
    }

    fn seen(&self, elapsed: Duration, before: u64) -> Seen {
        let roster = &self.supervisor.roster;
        let mut old = self.past;
        for (instance, before) in &self.others {
            old += roster.tally(instance) - *before;
        }
        let new = self.of_new();
        let working = self.tried.keys().map(|instance| roster.working(instance)).sum();
        Seen { elapsed, ended: new.ended().saturating_sub(before), working, new, old }
    }

    fn of_new(&self) -> Tally {
        let mut new = Tally::default();
        for (instance, before) in &self.tried {
            new += self.supervisor.roster.tally(instance) - *before;
        }
        new
    }

    fn share(&mut self, percent: u32) {
        self.told.share_pct = percent;
        self.supervisor.roster.on_trial(&self.canary, Some(f64::from(percent) / 100.0));
    }

    /// Waits until the instances are as the end of the roll wants them. What was turned down gets no more jobs, and an
    /// instance that is back at the old version gets them at once.
    async fn settle(&self) {
        let roster = &self.supervisor.roster;
        let back = self.told.state != RollState::Done;
        if back {
            self.tried.keys().for_each(|instance| roster.on_trial(instance, Some(0.0)));
        }
        // Nobody stands in for anybody any more, and what was turned down least of all.
        roster.end_stand_ins(&self.canary);
        let end = Instant::now() + (DRAIN_WITHIN + self.supervisor.config.rollout.ready) * 2;
        let mut waiting: Vec<&InstanceId> = self.tried.keys().collect();
        while !waiting.is_empty() && Instant::now() < end && !self.supervisor.is_disabled(&self.kind) {
            waiting.retain(|instance| {
                let as_wanted = if **instance == self.canary {
                    !roster.has_process(instance)
                } else {
                    !back || self.supervisor.runs(instance, &self.from) || roster.state(instance).is_none()
                };
                if as_wanted && back {
                    roster.on_trial(instance, None);
                }
                !as_wanted
            });
            tokio::time::sleep(TICK).await;
        }
    }

    fn state(&mut self, state: RollState) {
        self.told.state = state;
        if state == RollState::RolledBack || state == RollState::Abandoned {
            self.told.share_pct = 0;
        }
        self.tell();
    }

    /// Says where it is, to whoever reads the log, and to the heartbeat.
    fn tell(&self) {
        let Told { kind, state, wave, waves, share_pct, from, to, reason, .. } = &self.told;
        if let Some(reason) = reason {
            tracing::warn!(%kind, from, to, wave, reason, "module rolled back");
        } else {
            tracing::info!(%kind, ?state, from, to, wave, waves, share_pct, "module is rolled out");
        }
        self.supervisor.tell_roll(self.told.clone());
    }
}

fn is_ready(supervisor: &Supervisor, instance: &InstanceId) -> bool {
    matches!(supervisor.roster.state(instance), Some(ModuleState::Ready | ModuleState::Saturated))
}

//! Two versions of a type at once: which of them gets a job, and what came of the jobs of each.

use std::{
    cmp::Reverse,
    ops::{AddAssign, Sub},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use imn_contract::{
    ErrorCode, InstanceId, ModuleType,
    latest::{Attempt, AttemptStatus},
};

use super::Roster;

/// What came of what was handed to instances, while a version of their type was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Jobs that ended well.
    pub(crate) done: u64,
    /// Jobs that ended with an error, were refused for good, or were not answered when they were offered.
    pub(crate) errors: u64,
    /// Jobs that did not end in their time.
    pub(crate) overdue: u64,
    /// Ends of a process that nobody has asked for.
    pub(crate) crashes: u64,
    /// How long the jobs took that ended well, together.
    pub(crate) busy: Duration,
}

impl Tally {
    /// Jobs that ended one way or the other.
    pub(crate) fn ended(&self) -> u64 {
        self.done + self.errors + self.overdue
    }

    /// How long a job took that ended well.
    pub(crate) fn mean(&self) -> Option<Duration> {
        Some(self.busy.div_f64((self.done > 0).then_some(self.done as f64)?))
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.done += other.done;
        self.errors += other.errors;
        self.overdue += other.overdue;
        self.crashes += other.crashes;
        self.busy += other.busy;
    }
}

/// What has been added since an earlier look at the same instances.
impl Sub for Tally {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            done: self.done.saturating_sub(before.done),
            errors: self.errors.saturating_sub(before.errors),
            overdue: self.overdue.saturating_sub(before.overdue),
            crashes: self.crashes.saturating_sub(before.crashes),
            busy: self.busy.saturating_sub(before.busy),
        }
    }
}

/// What may be noted of an instance besides its reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It has refused a job for good, or has not answered an offer.
    NotTaken,
    /// It has not ended a job in its time.
    Overdue,
    /// Its process has ended by itself.
    Crashed,
}

impl Roster {
    /// Gives an instance this share of the jobs, as one of a version that is tried; `None`: it is one like the others.
    pub(crate) fn on_trial(&self, instance: &InstanceId, share: Option<f64>) {
        self.with(instance, |entry| entry.trial = share);
        self.look_for_trials();
    }

    /// All instances of a type are alike again.
    pub(crate) fn end_trial(&self, kind: &ModuleType) {
        self.update(|entries| {
            entries.values_mut().filter(|entry| entry.kind == *kind).for_each(|entry| entry.trial = None);
        });
        self.look_for_trials();
    }

    /// While a version of a type is tried, the instances that a job is to be offered to, in this order: by chance first
    /// those of the one version or of the other, as their shares are. `None` when none is tried.
    pub(crate) fn choices(&self, kind: &ModuleType) -> Option<Vec<InstanceId>> {
        if !self.trying.load(Relaxed) {
            return None;
        }
        let now = Instant::now();
        let entries = self.lock();
        let living: Vec<_> =
            entries.iter().filter(|(_, entry)| entry.kind == *kind && entry.may_live()).collect();
        let share = living.iter().filter_map(|(_, entry)| entry.trial).reduce(f64::max)?;
        let new_first = rand::random::<f64>() < share;
        let mut found: Vec<_> = living
            .into_iter()
            .filter(|(_, entry)| entry.free(now) > 0)
            .map(|(instance, entry)| {
                let later = entry.trial.is_some() != new_first;
                // Those with equal room are not always in the same order, or all at once would go to the first.
                ((later, Reverse(entry.free(now)), rand::random::<u32>()), instance.clone())
            })
            .collect();
        found.sort();
        Some(found.into_iter().map(|(_, instance)| instance).collect())
    }

    /// Takes note of how an attempt ended.
    pub(crate) fn reported(&self, attempt: &Attempt) {
        if !self.trying.load(Relaxed) {
            return;
        }
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&attempt.instance) else { return };
        let took = entry.jobs.get(&attempt.job_id).map(Instant::elapsed).unwrap_or_default();
        match (attempt.status, &attempt.error) {
            (AttemptStatus::Succeeded, _) => {
                entry.tally.done += 1;
                entry.tally.busy += took;
            }
            (AttemptStatus::Failed, Some(fault)) if fault.is(ErrorCode::Deadline) => {
                entry.tally.overdue += 1;
            }
            (AttemptStatus::Failed, _) => entry.tally.errors += 1,
            _ => {}
        }
    }

    /// Takes note of something else that speaks against an instance.
    pub(crate) fn note(&self, instance: &InstanceId, mark: Mark) {
        if let Some(entry) = self.lock().get_mut(instance) {
            match mark {
                Mark::NotTaken => entry.tally.errors += 1,
                Mark::Overdue => entry.tally.overdue += 1,
                Mark::Crashed => {
                    entry.tally.crashes += 1;
                    entry.last_end.clone_from(&entry.reason);
                }
            }
        }
    }

    /// What came of the jobs of an instance so far.
    pub(crate) fn tally(&self, instance: &InstanceId) -> Tally {
        self.lock().get(instance).map(|entry| entry.tally).unwrap_or_default()
    }

    /// How the last process of an instance ended that nobody had asked to.
    pub(crate) fn last_end(&self, instance: &InstanceId) -> Option<String> {
        self.lock().get(instance)?.last_end.clone()
    }

    /// Jobs that an instance has now.
    pub(crate) fn working(&self, instance: &InstanceId) -> usize {
        self.lock().get(instance).map_or(0, |entry| entry.jobs.len())
    }

    pub(super) fn look_for_trials(&self) {
        let any = self.lock().values().any(|entry| entry.trial.is_some());
        self.trying.store(any, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use imn_contract::{
        AgentId,
        latest::{Announce, AnnounceEvent},
    };

    fn ready(roster: &Roster, kind: &ModuleType, slot: u32) -> InstanceId {
        let agent = AgentId::new("lon1").unwrap();
        let instance = InstanceId::slot(&agent, kind, slot).unwrap();
        roster.declare(&instance, kind, "", false);
        roster.running(&instance, slot + 1, false);
        roster.announce(&Announce {
            v: 1,
            event: AnnounceEvent::Ready,
            instance: instance.clone(),
            agent,
            kind: kind.clone(),
            version: "1".into(),
            accepts: Vec::new(),
            slots: 10,
            params_schema: serde_json::Value::Null,
            pid: None,
        });
        instance
    }

    #[test]
    fn jobs_are_shared_as_the_shares_are() {
        let kind = ModuleType::new("echo").unwrap();
        let roster = Roster::new(AgentId::new("lon1").unwrap());
        let (old, new) = (ready(&roster, &kind, 0), ready(&roster, &kind, 64));
        assert_eq!(roster.choices(&kind), None, "none is tried");
        roster.on_trial(&new, Some(0.0));
        assert_eq!(roster.choices(&kind), Some(vec![old.clone()]));
        assert_eq!(roster.credit(&kind), 10, "none for the new one");
        roster.on_trial(&new, Some(0.25));
        assert_eq!(roster.credit(&kind), 13);
        let first = |n: usize| (0..n).filter(|_| roster.choices(&kind).unwrap()[0] == new).count();
        let share = first(4_000);
        assert!((800..1_200).contains(&share), "{share} of 4000");
        roster.on_trial(&new, Some(1.0));
        assert_eq!(first(100), 100);
        roster.end_trial(&kind);
        assert_eq!(roster.choices(&kind), None);
        assert_eq!(roster.credit(&kind), 20);
    }
}

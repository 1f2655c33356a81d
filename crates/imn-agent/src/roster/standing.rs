//! Who can be given standing work, and for how long each still has some.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use imn_contract::{InstanceId, ModuleType};

use super::{Entry, Roster};

/// Rounds that take longer are not waited for.
const LONGEST: Duration = Duration::from_mins(1);

/// A supervised instance of a type with standing work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) instance: InstanceId,
    pub(crate) service: Service,
    /// Who makes its rounds meanwhile.
    pub(crate) stand_in: Option<InstanceId>,
}

/// Whether an instance can be given standing work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// It has been ready; one that has ended meanwhile is started again.
    In,
    /// It has not been ready yet.
    New,
    /// It is quarantined, disabled, or leaves.
    Out,
}

/// What is known of an instance for the sake of standing work.
#[derive(Debug, Default)]
pub(super) struct Duty {
    /// It is to end for good.
    leaving: bool,
    /// It has been ready since it is in service.
    pub(super) been_ready: bool,
    stand_in: Option<InstanceId>,
}

impl Entry {
    fn service(&self) -> Service {
        match self.duty {
            _ if self.out_of_service() => Service::Out,
            Duty { leaving: true, .. } => Service::Out,
            Duty { been_ready: true, .. } => Service::In,
            Duty { .. } => Service::New,
        }
    }
}

impl Roster {
    /// The supervised instances of standing work, by type and name.
    pub(crate) fn standing(&self) -> BTreeMap<ModuleType, Vec<Member>> {
        let mut by_type: BTreeMap<ModuleType, Vec<Member>> = BTreeMap::new();
        for (instance, entry) in self.lock().iter().filter(|(_, entry)| entry.supervised && entry.standing) {
            by_type.entry(entry.kind.clone()).or_default().push(Member {
                instance: instance.clone(),
                service: entry.service(),
                stand_in: entry.duty.stand_in.clone(),
            });
        }
        by_type
    }

    /// An instance is to end for good: its standing work is for others.
    pub(crate) fn leave(&self, instance: &InstanceId, leaving: bool) {
        let differs = |entry: &Entry| entry.duty.leaving != leaving;
        if self.lock().get(instance).is_some_and(differs) {
            self.with(instance, |entry| entry.duty.leaving = leaving);
        }
    }

    /// Another instance makes the rounds of this one from now on, or it does so itself again.
    pub(crate) fn stand_in(&self, instance: &InstanceId, by: Option<&InstanceId>) {
        self.with(instance, |entry| entry.duty.stand_in = by.cloned());
    }

    /// An instance stands in for nobody any more.
    pub(crate) fn end_stand_ins(&self, by: &InstanceId) {
        self.update(|entries| {
            for Entry { duty, .. } in entries.values_mut() {
                duty.stand_in.take_if(|stand_in| stand_in == by);
            }
        });
    }

    /// Whether an instance is started again when it ends.
    pub(crate) fn is_wanted(&self, instance: &InstanceId) -> bool {
        self.lock().get(instance).is_some_and(|entry| entry.service() != Service::Out)
    }

    /// Whether others could do an instance's standing work.
    pub(crate) fn has_heir(&self, instance: &InstanceId) -> bool {
        let entries = self.lock();
        let Some(kind) = entries.get(instance).map(|entry| &entry.kind) else { return false };
        entries.iter().any(|(other, entry)| {
            let shares = entry.supervised && entry.standing && entry.kind == *kind;
            shares && other != instance && entry.service() != Service::Out
        })
    }

    /// An instance has been handed rounds that fall due until this time, in microseconds since the Unix epoch; the end of
    /// time when no other takes them over.
    pub(crate) fn owes(&self, instance: &InstanceId, until_us: Option<i64>) {
        self.lock_owed().insert(instance.clone(), until_us);
    }

    /// Whether an instance has rounds to make, or makes one if it `runs`, by what [`Self::owes`] was told. Of one of which
    /// nothing was told yet, nobody knows; it may where its type has standing work.
    pub(crate) fn has_rounds(&self, instance: &InstanceId, now_us: i64, runs: bool) -> bool {
        let owed = self.lock_owed().get(instance).copied();
        let kind = {
            let entries = self.lock();
            let Some(entry) = entries.get(instance) else { return false };
            if owed.is_none() {
                let shares = |other: &Entry| other.supervised && other.standing && other.kind == entry.kind;
                return if runs { entries.values().any(shares) } else { shares(entry) };
            }
            entry.kind.clone()
        };
        let Some(until_us) = owed.flatten() else { return false };
        if !runs {
            return now_us < until_us;
        }
        let longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner).get(&kind).copied();
        let longest = longest.unwrap_or_default().min(LONGEST);
        now_us < until_us.saturating_add(longest.as_micros() as i64)
    }

    /// The instances that are no more since this was asked last.
    pub(crate) fn take_forgotten(&self) -> BTreeSet<InstanceId> {
        std::mem::take(&mut self.lock_forgotten())
    }

    pub(super) fn lock_forgotten(&self) -> MutexGuard<'_, BTreeSet<InstanceId>> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_owed(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Option<i64>>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use imn_contract::AgentId;

    use super::*;
    use crate::roster::{Phase, entry::Word};

    #[test]
    fn work_is_for_those_who_have_been_ready_and_stay() {
        let agent = AgentId::new("lon1").unwrap();
        let kind = ModuleType::new("icmp").unwrap();
        let roster = Roster::new(agent.clone());
        let slot = |slot| InstanceId::slot(&agent, &kind, slot).unwrap();
        let (first, second) = (slot(0), slot(1));
        let ready = |instance: &InstanceId| roster.with(instance, |entry| entry.said(Word::Ready));
        let services = || roster.standing()[&kind].iter().map(|member| member.service).collect::<Vec<_>>();
        roster.declare(&first, &kind, "", true);
        roster.declare(&second, &kind, "", true);
        roster.declare(&slot(2), &kind, "", false);
        assert_eq!(services(), [Service::New, Service::New]);
        ready(&second);
        assert_eq!(services(), [Service::New, Service::In]);
        // One that crashes is started again, and has what it had.
        roster.down(&second, Phase::Backoff, None);
        assert_eq!(services(), [Service::New, Service::In]);
        assert!(roster.has_heir(&first) && roster.has_heir(&second));
        roster.down(&second, Phase::Quarantined, None);
        assert_eq!(services(), [Service::New, Service::Out]);
        assert!(!roster.has_heir(&first) && roster.has_heir(&second));
        // What it says now comes too late.
        ready(&second);
        roster.running(&second, 1, true);
        assert_eq!(services(), [Service::New, Service::New]);
        ready(&first);
        roster.leave(&first, true);
        assert_eq!(services(), [Service::Out, Service::New]);
        roster.leave(&first, false);
        roster.stand_in(&first, Some(&second));
        assert_eq!(roster.standing()[&kind][0].stand_in.as_ref(), Some(&second));
        let has_rounds = |now_us| roster.has_rounds(&first, now_us, true);
        assert!(has_rounds(0), "nobody has said anything yet");
        roster.owes(&first, None);
        assert!(!has_rounds(0));
        roster.owes(&first, Some(10));
        assert!(has_rounds(9) && !has_rounds(10));
        // One that began in time is waited for.
        roster.rounds_take(&kind, Duration::from_micros(5));
        assert!(has_rounds(14) && !has_rounds(15));
        assert!(!roster.has_rounds(&first, 10, false), "one without a process has begun none");
        roster.owes(&first, Some(i64::MAX));
        assert!(has_rounds(i64::MAX - 1));
    }
}

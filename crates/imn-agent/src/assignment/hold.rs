//! Which instance makes whose rounds, and from when on. A target that goes from one instance to another does so at a moment
//! that both are told of before it comes, so that every round is made by one of them and by one only. Pure decisions.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use imn_contract::{
    InstanceId,
    latest::{Assignment, AssignmentFile},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How far ahead a hand-over lies. A module looks at its file every half second and hands rounds to its engine a second and
/// a half before they are due; what it has handed over stands.
const LEAD_US: i64 = 4_000_000;
/// How long the one that has handed a target over has to be ready before it is no longer told until when it was its own, and
/// the one that has got it since when it is: only then has each accounted for its time, and noted so on disk.
const SETTLED_US: i64 = 180_000_000;

/// Of so many times that are over a target's instances are told at most: of the oldest, each has had occasions to account.
const MOST_TERMS: usize = 8;

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It has said so, and has since not ended.
    Ready { since_us: i64 },
    /// It has a process, or is about to.
    Alive,
    /// It has no process, and gets none by itself.
    Down,
    /// Nobody wants it.
    Gone,
}

/// Where a target's rounds come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hold {
    /// A number in the list of names; nobody: the agent ended while it handed it over.
    by: Option<u32>,
    came: Option<Came>,
}

/// How it came to the one that has it; from itself when nobody else is to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Came {
    from: u32,
    at_us: i64,
    /// Since when the one that it came from had it, if that is not long ago.
    since_us: i64,
}

impl Came {
    /// The time of the one that it came from.
    const fn term(self) -> Term {
        Term { of: self.from, since_us: self.since_us, until_us: self.at_us }
    }
}

/// A time in which a target was an instance's, and after which it has gone on to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Term {
    of: u32,
    since_us: i64,
    until_us: i64,
}

/// Who has what.
#[derive(Clone, Debug, Default)]
pub(super) struct Holds {
    names: Vec<InstanceId>,
    of: HashMap<u64, Hold>,
    /// What there was before that, by target; few have any.
    ended: HashMap<u64, Vec<Term>>,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub(super) of: BTreeMap<InstanceId, Share>,
    /// Who has a target no more that it has had so far, and is to be told so before another is told that it has it.
    pub(super) losers: BTreeSet<InstanceId>,
    /// When there is more to be written: what has to wait for another hand-over, and what is settled.
    pub(super) again_us: Option<i64>,
}

/// What one instance is to do.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// What it has had so far, in force or handed over.
    pub(super) kept: Vec<Assignment>,
    /// What it takes over from others, or is new.
    pub(super) gained: Vec<Assignment>,
    /// When the last of them is handed over; the end of time when any is not.
    pub(super) until_us: i64,
}

impl Shares {
    fn again(&mut self, at_us: i64) {
        self.again_us = Some(self.again_us.map_or(at_us, |again_us| again_us.min(at_us)));
    }
}

impl Holds {
    /// Takes in the files that an earlier agent has written.
    pub(super) fn restore(&mut self, files: &[AssignmentFile]) {
        for file in files {
            let by = self.number(&file.instance);
            for assignment in file.assignments.iter().filter(|assignment| assignment.until_us.is_none()) {
                let since_us = assignment.since_us;
                let hold = Hold { by: Some(by), came: Some(Came { from: by, at_us: since_us, since_us }) };
                let known = self.of.entry(key(assignment)).or_insert(hold);
                // Of two, one did not come to be told that it has it no more: it was to begin later.
                if known.came.is_some_and(|came| since_us < came.at_us) {
                    *known = hold;
                }
            }
        }
        for file in files {
            let of = self.number(&file.instance);
            for assignment in &file.assignments {
                let Some(until_us) = assignment.until_us else { continue };
                let term = Term { of, since_us: assignment.since_us, until_us };
                self.of.entry(key(assignment)).or_insert(Hold { by: None, came: None });
                self.ended.entry(key(assignment)).or_default().push(term);
            }
        }
        for (key, terms) in &mut self.ended {
            let Some(hold) = self.of.get_mut(key) else { continue };
            // Who had it last is whom it came from, if who has it now began then.
            terms.sort_by_key(|term| term.until_us);
            let since_us = hold.came.map_or(i64::MIN, |came| came.at_us);
            if let Some(last) = terms.pop_if(|last| hold.by != Some(last.of) && since_us <= last.until_us) {
                hold.came = Some(Came { from: last.of, at_us: last.until_us, since_us: last.since_us });
            }
        }
        self.ended.retain(|_, terms| !terms.is_empty());
    }

    /// An instance is no more, and has settled what it owed: what has its name next knows nothing of that.
    pub(super) fn forget(&mut self, instance: &InstanceId) {
        let Some(number) = self.names.iter().position(|name| name == instance) else { return };
        for hold in self.of.values_mut() {
            if let Hold { by: Some(by), came: Some(came) } = hold
                && came.from == number as u32
            {
                *came = Came { from: *by, since_us: came.at_us, ..*came };
            }
        }
        self.ended.retain(|_, terms| {
            terms.retain(|term| term.of != number as u32);
            !terms.is_empty()
        });
    }

    /// Whether an instance has any target.
    pub(super) fn has_any(&self, instance: &InstanceId) -> bool {
        let number = self.names.iter().position(|name| name == instance).map(|at| at as u32);
        number.is_some() && self.of.values().any(|hold| hold.by == number)
    }

    /// What each instance is to do, given for each piece of work who is to do it; nobody: who does it now.
    pub(super) fn share<'a>(
        &mut self,
        work: impl Iterator<Item = (&'a Assignment, Option<&'a InstanceId>)>,
        now_us: i64,
        condition: impl Fn(&InstanceId) -> Condition,
    ) -> Shares {
        let mut shares = Shares::default();
        let mut of = HashMap::with_capacity(self.of.len());
        let mut ended = HashMap::new();
        for (assignment, wanted) in work {
            let key = key(assignment);
            let wanted = wanted.map(|name| self.number(name));
            let known = self.of.get(&key).copied().unwrap_or(Hold { by: None, came: None });
            let mut hold = known;
            let mut terms = self.ended.remove(&key).unwrap_or_default();
            match (known.by, wanted) {
                (Some(by), Some(to)) if by != to => match self.hand_over(known, by, to, now_us, &condition) {
                    Ok((changed, ended)) => {
                        hold = changed;
                        terms.extend(ended);
                        shares.losers.insert(self.names[by as usize].clone());
                    }
                    Err(at_us) => shares.again(at_us),
                },
                (Some(_), _) | (None, None) => {}
                (None, Some(to)) => {
                    hold.by = Some(to);
                    // Nobody was told that it would take it over from this one.
                    if let Some(came) = hold.came.as_mut().filter(|came| came.from == to) {
                        if came.at_us <= now_us {
                            terms.push(came.term());
                            came.since_us = came.at_us;
                        } else {
                            came.at_us = came.since_us;
                        }
                    }
                }
            }
            // Who gets it back before another has begun has had it all the time.
            let is_gained = known.by != hold.by && hold.came.map(|came| came.from) != hold.by;
            terms.drain(..terms.len().saturating_sub(MOST_TERMS));
            let mut settled = |number: u32, until_us: i64| {
                let at_us = match condition(&self.names[number as usize]) {
                    Condition::Ready { since_us } => since_us.max(until_us) + SETTLED_US,
                    Condition::Gone => until_us + SETTLED_US,
                    Condition::Alive | Condition::Down => now_us + SETTLED_US,
                };
                if at_us > now_us {
                    shares.again(at_us);
                }
                at_us <= now_us
            };
            // Who has it must have accounted for its time as well, lest it take another's for its own.
            let both = |came: &Came| [came.from, hold.by.unwrap_or(came.from)];
            hold.came = hold.came.filter(|came| !both(came).into_iter().all(|one| settled(one, came.at_us)));
            terms.retain(|term| !settled(term.of, term.until_us));
            self.tell_ended(&mut shares, assignment, hold, &terms, &condition);
            self.tell_holder(&mut shares, assignment, hold, is_gained);
            of.insert(key, hold);
            if !terms.is_empty() {
                ended.insert(key, terms);
            }
        }
        (self.of, self.ended) = (of, ended);
        shares
    }

    /// The same target with another instance, and the time before the one that has it now; or when it can be.
    fn hand_over(
        &self,
        hold: Hold,
        by: u32,
        to: u32,
        now_us: i64,
        condition: impl Fn(&InstanceId) -> Condition,
    ) -> Result<(Hold, Option<Term>), i64> {
        let mut ended = None;
        let is_down = matches!(condition(&self.names[by as usize]), Condition::Down | Condition::Gone);
        let since_us = hold.came.map_or(0, |came| came.at_us);
        let came = match hold.came.filter(|came| came.at_us > now_us) {
            // Whoever has it now has not begun, and will not: it stays where it was, or goes on from there.
            Some(came) if is_down && came.from == to => Came { at_us: came.since_us, ..came },
            Some(came) if is_down => came,
            // Both have been told: it stands.
            Some(came) => return Err(came.at_us),
            // Who is down makes no round any more.
            None => {
                ended = hold.came.filter(|came| came.from != by).map(Came::term);
                Came { from: by, at_us: if is_down { now_us } else { now_us + LEAD_US }, since_us }
            }
        };
        Ok((Hold { by: Some(to), came: Some(came) }, ended))
    }

    fn tell_ended(
        &self,
        shares: &mut Shares,
        assignment: &Assignment,
        hold: Hold,
        ended: &[Term],
        condition: impl Fn(&InstanceId) -> Condition,
    ) {
        let last = hold.came.filter(|came| Some(came.from) != hold.by).map(Came::term);
        for term in ended.iter().copied().chain(last) {
            let name = &self.names[term.of as usize];
            let since_us = term.since_us.max(assignment.since_us);
            if since_us < term.until_us && condition(name) != Condition::Gone {
                let share = shares.of.entry(name.clone()).or_default();
                let left = Assignment { since_us, until_us: Some(term.until_us), ..assignment.clone() };
                share.kept.push(left);
                share.until_us = share.until_us.max(term.until_us);
            }
        }
    }

    fn tell_holder(&self, shares: &mut Shares, assignment: &Assignment, hold: Hold, is_gained: bool) {
        let Some(by) = hold.by else { return };
        let mut taken = assignment.clone();
        taken.since_us = taken.since_us.max(hold.came.map_or(i64::MIN, |came| came.at_us));
        let share = shares.of.entry(self.names[by as usize].clone()).or_default();
        let list = if is_gained { &mut share.gained } else { &mut share.kept };
        list.push(taken);
        share.until_us = i64::MAX;
    }

    fn number(&mut self, instance: &InstanceId) -> u32 {
        let known = self.names.iter().position(|name| name == instance);
        known.unwrap_or_else(|| {
            self.names.push(instance.clone());
            self.names.len() - 1
        }) as u32
    }
}

fn key(assignment: &Assignment) -> u64 {
    let seed = xxh3_64_with_seed(assignment.kind.as_str().as_bytes(), 0);
    xxh3_64_with_seed(assignment.target.as_str().as_bytes(), seed)
}

#[cfg(test)]
mod tests {
    use imn_contract::{ModuleType, TargetId};

    use super::*;

    const NOW: i64 = 1_000_000_000;
    const AT: i64 = NOW + LEAD_US;

    fn work() -> Assignment {
        Assignment {
            target: TargetId::new("t").unwrap(),
            kind: ModuleType::new("icmp").unwrap(),
            address: "192.0.2.1".into(),
            interval_ms: 1000,
            timeout_ms: 1000,
            count: 1,
            params: serde_json::Map::new(),
            since_us: 5,
            until_us: None,
        }
    }

    /// Instances by a letter; small ones are down, those before `d` exist.
    fn condition(name: &InstanceId) -> Condition {
        match name.as_str() {
            "a" | "b" | "c" => Condition::Down,
            "A" | "B" | "C" => Condition::Ready { since_us: 0 },
            _ => Condition::Gone,
        }
    }

    fn name(name: &str) -> InstanceId {
        InstanceId::new(name).unwrap()
    }

    /// `A 5..9 B 9..`: who is to do the work, from when until when.
    fn told(holds: &mut Holds, wanted: &str, now_us: i64) -> String {
        let (work, wanted) = (work(), (!wanted.is_empty()).then(|| name(wanted)));
        let shares = holds.share([(&work, wanted.as_ref())].into_iter(), now_us, condition);
        let mut words = Vec::new();
        for (instance, share) in &shares.of {
            for one in share.kept.iter().chain(&share.gained) {
                let until = one.until_us.map(|at| (at - NOW).to_string()).unwrap_or_default();
                let since = if one.since_us == 5 { String::new() } else { (one.since_us - NOW).to_string() };
                words.push(format!("{instance} {since}..{until}"));
            }
        }
        if let Some(again_us) = shares.again_us {
            words.push(format!("again {}", again_us - NOW));
        }
        words.join(", ")
    }

    #[test]
    fn a_target_goes_from_one_to_the_other_at_a_moment_that_both_know() {
        let mut holds = Holds::default();
        assert_eq!(told(&mut holds, "", NOW), "");
        assert_eq!(told(&mut holds, "A", NOW), "A ..");
        assert!(holds.has_any(&name("A")) && !holds.has_any(&name("B")));
        assert_eq!(told(&mut holds, "B", NOW), "A ..4000000, B 4000000.., again 184000000");
        // Said once, it stands; then it can go on.
        assert_eq!(told(&mut holds, "A", NOW + 1), "A ..4000000, B 4000000.., again 4000000");
        // Of the time before it had it, who gives it away knows nothing.
        let gone_on = "A ..4000000, B 4000000..8000000, C 8000000.., again 184000000";
        assert_eq!(told(&mut holds, "C", AT), gone_on);
        assert_eq!(told(&mut holds, "", AT + LEAD_US), gone_on);
        assert_eq!(told(&mut holds, "C", AT + LEAD_US + SETTLED_US), "C ..");
    }

    #[test]
    fn what_one_that_is_down_had_goes_at_once() {
        let mut holds = Holds::default();
        told(&mut holds, "a", NOW);
        assert_eq!(told(&mut holds, "B", NOW), "B 0.., a ..0, again 180000000");
        // It is told of it until it has come back.
        assert_eq!(told(&mut holds, "B", NOW + 2 * SETTLED_US), "B 0.., a ..0, again 540000000");
        let mut holds = Holds::default();
        told(&mut holds, "gone", NOW);
        assert_eq!(told(&mut holds, "B", NOW), "B 0.., again 180000000");
    }

    #[test]
    fn who_is_down_before_it_begins_leaves_it_where_it_was() {
        let begun = |wanted: &str| {
            let mut holds = Holds::default();
            told(&mut holds, "A", NOW);
            told(&mut holds, "b", NOW);
            told(&mut holds, wanted, NOW + 1)
        };
        assert_eq!(begun("A"), "A ..");
        let mut holds = Holds::default();
        told(&mut holds, "B", NOW - LEAD_US);
        told(&mut holds, "A", NOW - LEAD_US);
        told(&mut holds, "b", NOW);
        assert_eq!(told(&mut holds, "A", NOW + 1), "A 0.., B ..0, again 180000000");
        assert_eq!(begun("C"), "A ..4000000, C 4000000.., again 184000000");
    }

    #[test]
    fn who_may_have_to_account_for_it_is_told_however_far_it_has_gone() {
        let mut holds = Holds::default();
        told(&mut holds, "a", NOW);
        told(&mut holds, "B", NOW);
        // From the heir to another, and back to the one that was down.
        assert_eq!(told(&mut holds, "C", NOW + 1), "B 0..4000001, C 4000001.., a ..0, again 180000001");
        let back = NOW + 1 + LEAD_US;
        let all = "B 0..4000001, C 4000001..8000001, a ..0, a 8000001..";
        assert_eq!(told(&mut holds, "a", back), format!("{all}, again 184000001"));
        let later = "4000001..8000001, a ..0, a 8000001.., again 544000001";
        // It has not read any of it: what the others had is not its own.
        assert_eq!(told(&mut holds, "a", back + 2 * SETTLED_US), format!("C {later}"));
        holds.forget(&name("a"));
        assert_eq!(
            told(&mut holds, "a", back + 2 * SETTLED_US),
            "C 4000001..8000001, a 8000001.., again 544000001"
        );
        let mut holds = Holds::default();
        told(&mut holds, "A", NOW);
        told(&mut holds, "B", NOW);
        let all = "A ..4000000, A 8000000.., B 4000000..8000000";
        assert_eq!(told(&mut holds, "A", AT), format!("{all}, again 184000000"));
        assert_eq!(told(&mut holds, "A", AT + 2 * SETTLED_US), "A ..");
    }

    #[test]
    fn who_loses_is_known_before_who_gains() {
        let mut holds = Holds::default();
        told(&mut holds, "A", NOW);
        let (work, to) = (work(), name("B"));
        let mut share = |now_us| holds.share([(&work, Some(&to))].into_iter(), now_us, condition);
        let shares = share(NOW);
        assert_eq!(Vec::from_iter(shares.losers), [name("A")]);
        assert_eq!((shares.of[&name("A")].kept.len(), shares.of[&name("A")].gained.len()), (1, 0));
        assert_eq!((shares.of[&to].kept.len(), shares.of[&to].gained.len()), (0, 1));
        let shares = share(NOW + 1);
        assert!(shares.losers.is_empty() && shares.of[&to].gained.is_empty());
        // What it gets back it gains, unless the other has not begun and never will.
        for (heir, now_us, gained) in [("B", AT, 1), ("b", NOW + 1, 0)] {
            let mut holds = Holds::default();
            told(&mut holds, "A", NOW);
            told(&mut holds, heir, NOW);
            let shares = holds.share([(&work, Some(&name("A")))].into_iter(), now_us, condition);
            assert_eq!(Vec::from_iter(shares.losers), [name(heir)]);
            assert_eq!(shares.of[&name("A")].gained.len(), gained, "from {heir}");
        }
    }

    #[test]
    fn what_is_told_of_a_target_is_bounded() {
        let mut holds = Holds::default();
        let mut all = String::new();
        for turn in 0..4 * MOST_TERMS {
            let to = if turn % 2 == 0 { "A" } else { "B" };
            all = told(&mut holds, to, NOW + turn as i64 * LEAD_US);
        }
        // The oldest are not told any more; the last, whoever has it, and when to look again are.
        assert_eq!(all.split(", ").count(), MOST_TERMS + 3, "{all}");
        assert!(!all.contains("A ..") && all.contains("B 128000000.., again"), "{all}");
    }

    #[test]
    fn time_that_is_over_is_told_until_its_instance_has_been_ready_for_long() {
        let ready = |since_us| {
            move |name: &InstanceId| match name.as_str() {
                "a" => Condition::Ready { since_us },
                _ => condition(name),
            }
        };
        let mut holds = Holds::default();
        told(&mut holds, "a", NOW);
        told(&mut holds, "B", NOW);
        let (work, by, back_us) = (work(), name("B"), NOW + 9 * SETTLED_US);
        let mut owes = |now_us, since_us| {
            let shares = holds.share([(&work, Some(&by))].into_iter(), now_us, ready(since_us));
            (shares.of.contains_key(&name("a")), shares.again_us)
        };
        assert_eq!(owes(back_us, back_us), (true, Some(back_us + SETTLED_US)));
        assert_eq!(owes(back_us + SETTLED_US, back_us), (false, None));
    }

    #[test]
    fn another_of_the_name_owes_nothing() {
        let mut holds = Holds::default();
        told(&mut holds, "a", NOW);
        assert_eq!(told(&mut holds, "B", NOW), "B 0.., a ..0, again 180000000");
        holds.forget(&name("a"));
        assert_eq!(told(&mut holds, "B", NOW), "B 0.., again 180000000");
        assert_eq!(told(&mut holds, "B", NOW + SETTLED_US), "B ..");
    }

    #[test]
    fn the_next_agent_finds_who_has_what() {
        let file = |instance: &str, since_us, until_us| AssignmentFile {
            v: 1,
            generation: 1,
            instance: name(instance),
            assignments: vec![Assignment { since_us, until_us, ..work() }],
        };
        let mut holds = Holds::default();
        holds.restore(&[file("A", 5, Some(AT)), file("B", AT, None)]);
        assert_eq!(told(&mut holds, "A", NOW), "A ..4000000, B 4000000.., again 4000000");
        // Of two that have it, the one that had it first.
        let mut both = Holds::default();
        both.restore(&[file("A", 5, None), file("B", AT, None)]);
        assert!(both.has_any(&name("A")) && !both.has_any(&name("B")));
        // It had told the one and not yet the other.
        let half_way = |files: &[AssignmentFile], wanted: &str| {
            let mut holds = Holds::default();
            holds.restore(files);
            told(&mut holds, wanted, NOW)
        };
        let first = file("A", 5, Some(AT));
        assert_eq!(half_way(std::slice::from_ref(&first), "C"), "A ..4000000, C 4000000.., again 184000000");
        assert_eq!(half_way(std::slice::from_ref(&first), "A"), "A ..");
        // Too late to keep it: from then on it has to account for it.
        assert_eq!(half_way(&[file("A", 5, Some(NOW - 1))], "A"), "A ..-1, A -1.., again 179999999");
        // Who had it before the last is told as well; so is who has it once more, even if nobody knows of the other any more.
        let chain = |files: &[AssignmentFile]| half_way(files, "a");
        let own = AssignmentFile {
            assignments: [file("a", 5, Some(NOW - 9)), file("a", NOW - 1, None)]
                .map(|file| file.assignments)
                .concat(),
            ..file("a", 5, None)
        };
        let other = file("C", NOW - 9, Some(NOW - 1));
        assert_eq!(chain(&[own.clone(), other]), "C -9..-1, a ..-9, a -1.., again 179999999");
        assert_eq!(chain(&[own]), "a ..-9, a -1.., again 180000000");
        // Who had it last is who hands it over.
        assert_eq!(
            half_way(&[first, file("B", 5, Some(NOW + 1))], "C"),
            "A ..4000000, B ..1, C 4000000.., again 180000001"
        );
    }
}

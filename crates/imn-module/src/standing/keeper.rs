//! The thread that keeps standing work going.

use std::{
    collections::HashSet,
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use imn_contract::{
    TargetId,
    latest::{Assignment, AssignmentFile, Gap, Round},
};
use imn_runtime::{
    clock,
    spool::{Past, Spool, gap, reason},
    task::Stop,
};
use xxhash_rust::xxh3::Xxh3;

use super::{
    Addressing, Counts, Due, Spec, Standing, Stats,
    debt::{Gaps, Missed, Unsettled},
    name::{Answer, Names},
    roster::Roster,
    schedule::{Address, Entry, Schedule},
};

/// The beat of the thread; a completed round waits no longer than this for the spool.
const BEAT: Duration = Duration::from_millis(40);
/// Rounds are handed over this long before they are due.
const AHEAD_US: i64 = 1_500_000;
const LATEST_US: i64 = super::LATEST.as_micros() as i64;
/// The first round of a new assignment is at least this far away.
const LEAD_US: i64 = 50_000;
/// An assignment younger than this is owed from its beginning; an older one comes from another instance, which made
/// its rounds until now.
const YOUNG_US: i64 = 30_000_000;
const POLL: Duration = Duration::from_millis(500);
/// Gaps that may still grow are written after this time, while the spool is full after the longer one.
const WRITE_GAPS: Duration = Duration::from_secs(1);
const WRITE_GAPS_FULL: Duration = Duration::from_mins(1);
/// Real time that moves this much against the monotonic clock within a beat has been stepped.
const STEP_US: i64 = 100_000;
/// Rounds handed over at once.
const CHUNK: usize = 1024;
/// Rounds kept in memory while the disk refuses them.
const BACKLOG: usize = 100_000;
/// An outcome that is this late beyond all timeouts does not come any more.
const NEVER: Duration = Duration::from_mins(1);
/// Rounds in flight at the stop are waited for this long; those that take longer become gaps at the next start.
const STOPPING: Duration = Duration::from_secs(4);

struct InFlight {
    entry: Arc<Entry>,
    due_us: i64,
    /// What the name stood for.
    asked: Option<IpAddr>,
    /// When its outcome must have come, by the monotonic clock.
    until: Instant,
}

/// See the module.
pub(super) struct Keeper {
    spec: Spec,
    standing: Box<dyn Standing>,
    spool: Arc<Spool>,
    names: Names,
    stats: Arc<Stats>,
    roster: Roster,
    schedule: Schedule,
    past: Option<Past>,
    flights: Flights,
    /// Rounds whose address is not known, or never will be.
    waiting: Vec<u64>,
    unsettled: Unsettled,
    gaps: Gaps,
    rounds: Vec<Round>,
    counts: Counts,
    began: bool,
    polled: Option<Instant>,
    swept: Instant,
    /// Everything due before has been handed over.
    horizon_us: i64,
    gaps_written: Instant,
    pairing: clock::Pairing,
    stepped: bool,
}

/// Rounds in flight, by key: slot and generation.
#[derive(Default)]
struct Flights {
    slots: Vec<(u32, Option<InFlight>)>,
    free: Vec<u32>,
    len: usize,
}

impl Flights {
    fn add(&mut self, flight: InFlight) -> u64 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[number as usize];
        slot.1 = Some(flight);
        self.len += 1;
        u64::from(slot.0) << 32 | u64::from(number)
    }

    fn get(&self, key: u64) -> Option<&InFlight> {
        let (generation, flight) = self.slots.get((key & 0xffff_ffff) as usize)?;
        flight.as_ref().filter(|_| u64::from(*generation) == key >> 32)
    }

    fn asked(&mut self, key: u64, address: Option<IpAddr>) {
        if let Some((generation, Some(flight))) = self.slots.get_mut((key & 0xffff_ffff) as usize)
            && u64::from(*generation) == key >> 32
        {
            flight.asked = address;
        }
    }

    fn take(&mut self, key: u64) -> Option<InFlight> {
        self.get(key)?;
        let number = (key & 0xffff_ffff) as u32;
        let slot = self.slots.get_mut(number as usize)?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(number);
        self.len -= 1;
        slot.1.take()
    }

    fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.slots.iter().filter_map(|(_, flight)| flight.as_ref().map(|flight| &flight.entry))
    }

    fn overdue(&self, now: Instant) -> Vec<u64> {
        let keyed = self.slots.iter().enumerate();
        keyed
            .filter(|(_, (_, flight))| flight.as_ref().is_some_and(|f| f.until < now))
            .map(|(number, (generation, _))| u64::from(*generation) << 32 | number as u64)
            .collect()
    }
}

impl Keeper {
    pub(super) fn new(
        spec: Spec,
        standing: Box<dyn Standing>,
        spool: Arc<Spool>,
        names: Names,
        stats: Arc<Stats>,
    ) -> Self {
        let past = Past::of(spool.recovered());
        let roster = Roster::new(spec.assignments.clone(), spec.config.instance.clone());
        let now = Instant::now();
        Self {
            spec,
            standing,
            spool,
            names,
            stats,
            roster,
            schedule: Schedule::default(),
            past: Some(past),
            flights: Flights::default(),
            waiting: Vec::new(),
            unsettled: Unsettled::default(),
            gaps: Gaps::default(),
            rounds: Vec::new(),
            counts: Counts::default(),
            began: false,
            polled: None,
            swept: now,
            horizon_us: i64::MIN,
            gaps_written: now,
            pairing: clock::Pairing::now(),
            stepped: false,
        }
    }

    /// Runs until the stop, then until the rounds in flight are complete.
    pub(super) fn run(mut self, stop: &Stop) {
        let mut done = Vec::new();
        let mut refused = Vec::new();
        let mut end = None;
        loop {
            let stopping = stop.is_requested();
            self.look_at_clock();
            if stopping {
                end.get_or_insert_with(|| Instant::now() + STOPPING);
            } else {
                // Of before the file was looked at: nothing is handed over that a file of long ago gave to another.
                let now_us = clock::now_us();
                self.follow();
                self.hand_over(now_us);
            }
            self.address_waiting();
            self.standing.collect(&mut done);
            for done in done.drain(..) {
                self.complete(done.key, done.round);
            }
            self.standing.refused(&mut refused);
            for key in refused.drain(..) {
                self.give_up(key);
            }
            self.sweep();
            self.write(stopping);
            if let Some(end) = end
                && (self.flights.len == 0 || Instant::now() >= end)
            {
                self.write(true);
                tracing::info!(left = self.flights.len, "standing work stopped");
                return;
            }
            std::thread::sleep(BEAT);
        }
    }

    /// Due times are real time, so that all instances of a round agree; a step of that clock is noticed here. Set
    /// forward, it leaves rounds that could not be made; set back, nothing is due until it has caught up, because a
    /// round is made once.
    fn look_at_clock(&mut self) {
        let drift_us = self.pairing.drift_us();
        self.pairing = clock::Pairing::now();
        self.stepped = drift_us.abs() > STEP_US;
        if self.stepped {
            tracing::warn!(drift_us, "the clock was stepped");
        }
    }

    /// Takes in a new version of the assignment file.
    fn follow(&mut self) {
        if self.polled.is_some_and(|at| at.elapsed() < POLL) {
            return;
        }
        self.polled = Some(Instant::now());
        if let Some(file) = self.roster.poll() {
            let generation = file.generation;
            self.apply(file);
            tracing::info!(generation, targets = self.schedule.len(), "assignments in force");
        }
    }

    fn apply(&mut self, file: AssignmentFile) {
        let past = self.past.take();
        let now_us = clock::now_us();
        let mut wanted = HashSet::with_capacity(file.assignments.len());
        let total = file.assignments.len();
        let mut mine = file.assignments;
        mine.retain(|assignment| assignment.kind == self.spec.config.kind);
        let foreign = total - mine.len();
        mine.sort_by(|a, b| (&a.target, a.since_us).cmp(&(&b.target, b.since_us)));
        let mut mine = mine.into_iter().peekable();
        while let Some(assignment) = mine.next() {
            let has_ended = mine.peek().is_some_and(|next| next.target == assignment.target);
            if has_ended && past.is_none() {
                self.look_back(&assignment);
            } else {
                self.adopt(&assignment, past.as_ref(), now_us);
                wanted.insert(assignment.target);
            }
        }
        if foreign > 0 {
            tracing::warn!(foreign, "assignments of another type ignored");
        }
        let gone: Vec<TargetId> =
            self.schedule.targets().filter(|target| !wanted.contains(*target)).cloned().collect();
        for target in gone {
            self.schedule.remove(&target);
        }
        let mut names = HashSet::new();
        for entry in self.schedule.entries() {
            if let Address::Name(name) = &entry.address {
                names.insert(Arc::clone(name));
            }
        }
        self.names.retain(|name| names.contains(name));
        let plan = |entry: &Arc<Entry>| entry.plan.as_ref().ok().map(|plan| plan.number);
        let used: HashSet<u32> =
            self.schedule.entries().chain(self.flights.entries()).filter_map(plan).collect();
        self.standing.retain(&|number| used.contains(&number));
        self.began = true;
    }

    fn adopt(&mut self, assignment: &Assignment, past: Option<&Past>, now_us: i64) {
        let fingerprint = fingerprint(assignment);
        // At first none is: what there is of a target comes from a time of it that has ended.
        let known = self.schedule.get(&assignment.target).filter(|_| past.is_none());
        if known.is_some_and(|entry| entry.fingerprint == fingerprint) {
            return;
        }
        // Before this time its rounds have been handed over.
        let handed_us = known.map(|entry| self.horizon_us.min(entry.end_us));
        let mut from_us = (now_us + LEAD_US).max(assignment.since_us);
        let (end_us, interval_us) = (assignment.end_us(), assignment.interval_us());
        match (past, handed_us) {
            // Changed: the rounds handed over so far stand, the new ones begin behind them.
            (_, Some(handed_us)) => {
                let behind_us = handed_us.max(assignment.since_us);
                from_us = from_us.max(behind_us);
                let why = if handed_us < self.horizon_us { reason::MOVED } else { reason::OVERLOAD };
                self.gaps.extend(gap(assignment, behind_us, from_us.min(end_us), why), interval_us);
            }
            (Some(past), None) if past.is_known() => {
                from_us = from_us.max(past.last_done_us(&assignment.target).map_or(i64::MIN, |due| due + 1));
                self.gaps.extend(past.missing(assignment, from_us.min(end_us)), interval_us);
            }
            (_, None) if assignment.since_us > now_us - YOUNG_US => {
                let gap = gap(assignment, assignment.since_us, from_us.min(end_us), reason::MOVED);
                self.gaps.extend(gap, interval_us);
            }
            (_, None) => {}
        }
        let entry = self.entry(assignment, fingerprint);
        if let (Address::Name(name), Ok(plan)) = (&entry.address, &entry.plan)
            && let Addressing::Resolved(family) = plan.addressing
        {
            // Asked now, so that the answer is there when the first round is.
            self.names.look_up(name, family);
        }
        self.schedule.insert(entry, assignment.next_due_us(from_us));
    }

    /// A time of a target that has ended, and after which it was this instance's again: what was not handed over of it, if
    /// the thread was held up so long that it sees both at once, is a gap.
    fn look_back(&mut self, term: &Assignment) {
        let Some(known) = self.schedule.get(&term.target) else { return };
        let from_us = self.horizon_us.min(known.end_us).max(term.since_us);
        self.gaps.extend(gap(term, from_us, term.end_us(), reason::MOVED), term.interval_us());
    }

    fn entry(&mut self, assignment: &Assignment, fingerprint: u64) -> Entry {
        let plan = self.standing.plan(assignment).map_err(|fault| {
            tracing::warn!(target = %assignment.target, %fault, "assignment cannot be measured");
            let field = fault.field.as_deref().unwrap_or("assignment");
            Arc::from(format!("{field}: {}", fault.message))
        });
        let address = match assignment.address.parse() {
            Ok(ip) => Address::Ip(ip),
            Err(_) => Address::Name(Arc::from(assignment.address.as_str())),
        };
        Entry {
            target: assignment.target.clone(),
            written: match &address {
                Address::Ip(ip) => ip.to_string().into(),
                Address::Name(name) => Arc::clone(name),
            },
            address,
            interval_us: i64::try_from(assignment.interval_us()).unwrap_or(i64::MAX / 2),
            end_us: assignment.end_us(),
            timeout: Duration::from_millis(assignment.timeout_ms.max(1)),
            count: assignment.count.max(1),
            plan,
            fingerprint,
        }
    }

    /// Hands over what falls due soon.
    fn hand_over(&mut self, now_us: i64) {
        let mut chunk = Vec::with_capacity(CHUNK);
        let full = self.spool.is_full();
        self.horizon_us = now_us + AHEAD_US;
        while let Some(popped) = self.schedule.pop(self.horizon_us, now_us - LATEST_US) {
            self.counts.due += popped.missed.max(1);
            if popped.missed > 0 {
                let why = if self.stepped { reason::CLOCK_STEP } else { reason::OVERLOAD };
                self.skip(&popped.entry, popped.due_us, popped.missed, why);
                continue;
            }
            if full {
                self.skip(&popped.entry, popped.due_us, 1, reason::SPOOL_FULL);
                continue;
            }
            self.gaps.end(&popped.entry.target);
            self.unsettled.add(popped.due_us);
            let key = self.take_off(popped.entry, popped.due_us, now_us);
            match self.due(key) {
                Some(Ok(due)) => chunk.push(due),
                _ => self.waiting.push(key),
            }
            if chunk.len() == CHUNK {
                self.begin(&mut chunk);
            }
        }
        self.begin(&mut chunk);
    }

    fn take_off(&mut self, entry: Arc<Entry>, due_us: i64, now_us: i64) -> u64 {
        let ahead = Duration::from_micros((due_us - now_us).max(0) as u64);
        let packets =
            entry.timeout.saturating_mul(2).saturating_add(Duration::from_secs(u64::from(entry.count)));
        let until = Instant::now() + (ahead + packets + NEVER).min(Duration::from_hours(24));
        self.flights.add(InFlight { entry, due_us, asked: None, until })
    }

    /// What the engine needs to know of a round: nothing yet, or never and why.
    fn due(&self, key: u64) -> Option<Result<Due, String>> {
        let flight = self.flights.get(key)?;
        let entry = &flight.entry;
        let plan = match &entry.plan {
            Ok(plan) => plan,
            Err(reason) => return Some(Err(reason.to_string())),
        };
        let address = match (plan.addressing, &entry.address) {
            (Addressing::Opaque, _) => None,
            (Addressing::Resolved(family), Address::Ip(ip)) if family.admits(*ip) => Some(*ip),
            (Addressing::Resolved(_), Address::Ip(ip)) => {
                return Some(Err(format!("{ip} is not of the address family that params.family names")));
            }
            (Addressing::Resolved(family), Address::Name(name)) => match self.names.look_up(name, family) {
                Answer::Address(ip) => Some(ip),
                Answer::Failed(error) => return Some(Err(error)),
                Answer::Pending => return None,
            },
        };
        Some(Ok(Due {
            key,
            due_us: flight.due_us,
            address,
            plan: plan.number,
            count: entry.count,
            timeout: entry.timeout,
        }))
    }

    fn begin(&mut self, chunk: &mut Vec<Due>) {
        if chunk.is_empty() {
            return;
        }
        for due in &*chunk {
            self.flights.asked(due.key, due.address);
        }
        let taken = self.standing.begin(chunk);
        for due in chunk.drain(..).skip(taken) {
            self.give_up(due.key);
        }
    }

    /// A round that this host is too busy for.
    fn give_up(&mut self, key: u64) {
        if let Some(flight) = self.flights.take(key) {
            self.unsettled.remove(flight.due_us);
            self.skip(&flight.entry, flight.due_us, 1, reason::OVERLOAD);
        }
    }

    /// Rounds that wait for an address: handed over when it is there, written as failed when their time has come.
    fn address_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let now_us = clock::now_us();
        let mut chunk = Vec::new();
        for key in std::mem::take(&mut self.waiting) {
            let Some(flight) = self.flights.get(key) else { continue };
            let due_us = flight.due_us;
            let error = match self.due(key) {
                Some(Ok(due)) => {
                    chunk.push(due);
                    continue;
                }
                _ if due_us > now_us => {
                    self.waiting.push(key);
                    continue;
                }
                Some(Err(error)) => error,
                None => "the name was not resolved in time".to_owned(),
            };
            let round = Round { time_us: due_us, error: Some(error), ..Round::default() };
            self.complete(key, round);
        }
        self.begin(&mut chunk);
    }

    fn complete(&mut self, key: u64, round: Round) {
        let Some(flight) = self.flights.take(key) else { return };
        self.unsettled.remove(flight.due_us);
        let entry = &flight.entry;
        let address = match &entry.address {
            _ if !round.address.is_empty() => round.address,
            Address::Ip(_) => Arc::clone(&entry.written),
            Address::Name(_) if matches!(&entry.plan, Ok(plan) if plan.addressing == Addressing::Opaque) => {
                Arc::clone(&entry.written)
            }
            Address::Name(_) => flight.asked.map(|ip| ip.to_string().into()).unwrap_or_default(),
        };
        self.rounds.push(Round {
            target: Some(entry.target.clone()),
            address,
            due_us: flight.due_us,
            tmax_us: entry.timeout.as_micros() as u64,
            ..round
        });
        self.counts.done += 1;
    }

    /// Rounds that are not begun, and become a gap.
    fn skip(&mut self, entry: &Entry, due_us: i64, rounds: u64, why: &str) {
        self.counts.skipped += rounds;
        self.miss(entry, due_us, rounds, why);
    }

    fn miss(&mut self, entry: &Entry, due_us: i64, rounds: u64, why: &str) {
        let interval_us = entry.interval_us;
        let gap = Gap {
            target: entry.target.clone(),
            first_due_us: due_us,
            last_due_us: due_us + (rounds as i64 - 1) * interval_us,
            rounds,
            reason: why.to_owned(),
        };
        self.gaps.add(Missed { gap, interval_us });
    }

    /// An outcome that never came must not hold the progress mark for ever.
    fn sweep(&mut self) {
        if self.swept.elapsed() < Duration::from_secs(10) {
            return;
        }
        self.swept = Instant::now();
        for key in self.flights.overdue(self.swept) {
            // Begun and never ended: it does not count as skipped, so that whoever watches sees that nothing comes of it.
            if let Some(flight) = self.flights.take(key) {
                tracing::error!(target = %flight.entry.target, due_us = flight.due_us, "a round got lost");
                self.unsettled.remove(flight.due_us);
                self.miss(&flight.entry, flight.due_us, 1, reason::OVERLOAD);
            }
        }
    }

    /// Writes what is complete, and how far everything is settled.
    fn write(&mut self, all: bool) {
        let pause = if self.spool.is_full() { WRITE_GAPS_FULL } else { WRITE_GAPS };
        let ripe = all || self.gaps_written.elapsed() >= pause;
        let missed = if self.gaps.is_empty() { Vec::new() } else { self.gaps.take(ripe) };
        let gaps: Vec<Gap> = missed.iter().map(|missed| missed.gap.clone()).collect();
        if ripe {
            self.gaps_written = Instant::now();
        }
        if !(self.rounds.is_empty() && gaps.is_empty())
            && let Err(error) = self.spool.append(&self.rounds, &gaps)
        {
            tracing::error!(%error, rounds = self.rounds.len(), "spool refuses rounds; trying again");
            self.gaps.put_back(missed);
            self.shed();
            return;
        }
        self.rounds.clear();
        self.counts.late_p99_us = self.standing.late_p99().as_micros() as u64;
        self.stats.write(self.counts);
        if self.began {
            let marks =
                [self.unsettled.first_due_us(), self.gaps.first_due_us(), self.schedule.next_due_us()];
            let mark = marks.into_iter().flatten().fold(clock::now_us(), i64::min);
            self.spool.set_progress(mark);
        }
    }

    /// Keeps the memory bounded while the disk refuses: the oldest rounds stay, the newest become gaps.
    fn shed(&mut self) {
        for Round { target, due_us, .. } in self.rounds.drain(BACKLOG.min(self.rounds.len())..) {
            let Some(target) = target else { continue };
            let interval_us = self.schedule.get(&target).map_or(0, |entry| entry.interval_us);
            let reason = reason::SPOOL_LOST.to_owned();
            let gap = Gap { target, first_due_us: due_us, last_due_us: due_us, rounds: 1, reason };
            self.gaps.add(Missed { gap, interval_us });
        }
    }
}

fn fingerprint(assignment: &Assignment) -> u64 {
    let mut hasher = Xxh3::new();
    let Assignment { address, interval_ms, timeout_ms, count, params, since_us, until_us, .. } = assignment;
    (address, interval_ms, timeout_ms, count, since_us, until_us).hash(&mut hasher);
    for (name, value) in params {
        name.hash(&mut hasher);
        value.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

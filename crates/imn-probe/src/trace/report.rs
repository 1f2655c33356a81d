//! What leaves the engine: outcomes, events, counters.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};

use crate::icmp::Family;
use crate::lateness::{Histogram, Lateness};
use crate::outcome::{Fate, Timestamp, TsSource, nanos};

use super::course::Course;
use super::multipath;
use super::outcome::{Event, Hop, Outcome, Path, Probe};
use super::verdict::judge_loss;

/// Outcomes gathered for a reader that does not read; what comes beyond is dropped.
const GATHERED: usize = 4096;

/// Counters of an engine since its start, and its present load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Probes handed to the kernel or refused by it, calibration included.
    pub sent: u64,
    /// Probes answered in time.
    pub received: u64,
    /// Probes given up.
    pub lost: u64,
    /// Probes whose fate this host hid from itself.
    pub unknown: u64,
    /// Probes that the local kernel refused for a reason of their own, such as a missing route.
    pub not_sent: u64,
    /// Traces held now.
    pub held: u64,
    /// Further copies of answers.
    pub duplicates: u64,
    /// Answers after their probe was given up.
    pub late: u64,
    /// Genuine answers whose trace had ended.
    pub expired: u64,
    /// Genuine echo replies from an address that was not asked.
    pub wrong_source: u64,
    /// Answers with a flow identifier of ours that carry or quote a wrong tag, or do not fit the probe they name.
    pub forged: u64,
    /// Answers with a flow identifier of ours that name no probe and have no tag: forged, or of a trace that has ended.
    pub foreign: u64,
    /// ICMP messages whose checksum is wrong.
    pub corrupted: u64,
    /// Packets that the kernel dropped because a receive queue was full.
    pub rxq_overflow: u64,
    /// Steps of the realtime clock.
    pub clock_steps: u64,
    /// Outcomes dropped because nobody read them.
    pub outcomes_dropped: u64,
    /// Events dropped because nobody read them.
    pub events_dropped: u64,
    /// How much later than due cycles are begun.
    pub lateness: Lateness,
    /// Loopback round trip at the last calibration, kernel timestamps: IPv4, IPv6.
    pub floor: [Option<Duration>; 2],
}

/// The engine's end of everything that leaves it.
pub(crate) struct Report {
    pub stats: Stats,
    pub lateness: Histogram,
    outcomes: Sender<Outcome>,
    events: Sender<Event>,
    pending: VecDeque<Outcome>,
    shared: Arc<Mutex<Stats>>,
    /// Outcomes that wait for the end of the calibration of their family.
    held: [Option<Vec<Outcome>>; 2],
    published_at: u64,
}

impl Report {
    pub(crate) fn new(outcomes: Sender<Outcome>, events: Sender<Event>, shared: Arc<Mutex<Stats>>) -> Self {
        Self {
            stats: Stats::default(),
            lateness: Histogram::new(crate::clock::monotonic()),
            outcomes,
            events,
            pending: VecDeque::new(),
            shared,
            held: [None, None],
            published_at: 0,
        }
    }

    /// The first calibration of a family has begun: outcomes wait for it, so that each has its error term.
    pub(crate) fn calibrating(&mut self, family: Family) {
        if self.stats.floor[family as usize].is_none() {
            self.held[family as usize].get_or_insert_default();
        }
    }

    /// Tells watchers of a probe that is settled, if the trace asks for it.
    pub(crate) fn event(&mut self, course: &mut Course, track: u16, ttl: u8, number: u32) {
        if !course.spec.progress {
            return;
        }
        let probe = *course.probe(ttl, number);
        let hop = &course.hops[usize::from(ttl - course.spec.first_hop)];
        let responder = probe.responder.and_then(|index| hop.responders.get(usize::from(index)));
        let event = Event {
            key: course.spec.key,
            ttl,
            probe,
            from: responder.map(|responder| (responder.address, responder.answer)),
            end: course.tracks[usize::from(track)].end,
        };
        if self.events.try_send(event).is_err() {
            self.stats.events_dropped += 1;
        }
    }

    /// Takes a trace that has ended.
    pub(crate) fn finish(&mut self, course: Course) {
        let family = Family::of(course.spec.target) as usize;
        if course.internal {
            self.calibrated(family, &course);
            return;
        }
        let mut outcome = outcome(course);
        outcome.error = self.stats.floor[family];
        match &mut self.held[family] {
            Some(held) => held.push(outcome),
            None => self.push(outcome),
        }
    }

    fn calibrated(&mut self, family: usize, course: &Course) {
        let probes = course.hops.iter().flat_map(|hop| &hop.probes);
        let mut samples: Vec<u64> = probes
            .filter_map(|probe| match probe.fate {
                Fate::Received { rtt, source: TsSource::Kernel, .. } => Some(nanos(rtt)),
                _ => None,
            })
            .collect();
        samples.sort_unstable();
        let floor = imn_metric::percentile(&samples, 0.5).map(Duration::from_nanos);
        self.stats.floor[family] = floor.or(self.stats.floor[family]);
        for mut outcome in self.held[family].take().into_iter().flatten() {
            outcome.error = self.stats.floor[family];
            self.push(outcome);
        }
    }

    fn push(&mut self, outcome: Outcome) {
        if self.pending.len() >= GATHERED {
            self.stats.outcomes_dropped += 1;
        } else {
            self.pending.push_back(outcome);
        }
    }

    /// True when outcomes wait for room.
    pub(crate) fn waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Hands over outcomes and counters.
    pub(crate) fn publish(&mut self) {
        while let Some(outcome) = self.pending.pop_front() {
            match self.outcomes.try_send(outcome) {
                Ok(()) => {}
                Err(TrySendError::Full(outcome)) => {
                    self.pending.push_front(outcome);
                    break;
                }
                Err(TrySendError::Disconnected(_)) => self.stats.outcomes_dropped += 1,
            }
        }
        let now = crate::clock::monotonic();
        if now >= self.published_at + 100_000_000 {
            self.stats.lateness = self.lateness.snapshot();
            self.published_at = now;
        }
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.stats);
    }
}

/// What a trace that has ended found.
fn outcome(mut course: Course) -> Outcome {
    let first = course.spec.first_hop;
    let ends: Vec<u8> = course.tracks.iter().filter_map(|track| track.end).collect();
    // Where the end of a single flow is unknown, all that was tried is of interest.
    let last = match course.fan {
        None => course.tracks[0].end,
        Some(_) => ends.iter().max().copied(),
    };
    let reached = course.tracks.iter().any(|track| track.reached);
    let length = last.map_or(course.hops.len(), |last| usize::from(last.saturating_sub(first)) + 1);
    let mut beyond: usize = course.hops.iter().skip(length).map(|hop| hop.probes.len()).sum();
    course.hops.truncate(length);
    if course.fan.is_some() {
        // Flows may differ in length: what went beyond the end of its own flow says nothing about a hop.
        for (at, hop) in course.hops.iter_mut().enumerate() {
            let before = hop.probes.len();
            let within = |probe: &Probe| {
                let end = course.tracks.get(usize::from(probe.cycle)).and_then(|track| track.end);
                end.is_none_or(|end| first as usize + at <= usize::from(end))
            };
            hop.probes.retain(within);
            beyond += before - hop.probes.len();
        }
    }
    let counts: Vec<_> = course.hops.iter().map(|hop| Probe::counts(&hop.probes)).collect();
    let verdicts = judge_loss(&counts);
    let branches = course.fan.as_ref().map(|fan| fan.complete);
    let mut paths = match course.fan {
        Some(_) => multipath::paths(&course.hops, &course.tracks, first),
        None => Vec::new(),
    };
    let hops: Vec<Hop> = course
        .hops
        .drain(..)
        .zip(verdicts)
        .enumerate()
        .map(|(at, (hop, loss))| Hop {
            ttl: first + at as u8,
            probes: hop.probes,
            responders: hop.responders,
            loss,
        })
        .collect();
    if branches.is_none() {
        paths.extend(Path::single(&hops, course.spec.flow));
    }
    let sent = hops.iter().flat_map(|hop| &hop.probes).map(|probe| probe.sent);
    let started = sent.filter(|sent| *sent > Timestamp::default()).min();
    Outcome {
        key: course.spec.key,
        target: course.spec.target,
        source: course.source,
        protocol: course.spec.protocol,
        due: course.spec.due,
        started,
        elapsed: Duration::from_nanos(course.last_settled.saturating_sub(course.first_sent)),
        hops,
        reached,
        paths,
        complete: branches.unwrap_or(false),
        tmax: course.waited.map_or(course.spec.timeout, Duration::from_nanos),
        beyond: beyond as u32,
        duplicates: course.duplicates,
        late: course.late,
        wrong_source: course.wrong_source,
        forged: course.forged,
        lateness: Duration::from_nanos(course.lateness),
        error: None,
        errno: course.errno,
        cancelled: course.cancelled,
    }
}

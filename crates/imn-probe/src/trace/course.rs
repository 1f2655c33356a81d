//! The course of one trace: what to send next, and what the answers say about the path. No clock, no sockets.
//!
//! Every hop is probed in parallel. As the path's length is unknown at first, probes go out to a *horizon* of ten hops,
//! and each answer moves it to eight hops behind the hop that answered; so a trace takes a round trip and a
//! little, and wastes few probes. Where nothing answers any more, the horizon moves by eight after a pause. Once the
//! path's end has answered, nothing is sent beyond it.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::outcome::{Fate, Timestamp, TsSource, nanos};

use super::config::{FLOWS, Spec};
use super::extension::Extension;
use super::multipath::Fan;
use super::outcome::{Probe, Responder};
use super::packet::Answer;

/// Hops probed at once at first, and hops probed ahead of the last that answered.
const FIRST_WINDOW: u8 = 10;
const WINDOW: u8 = 8;
/// The horizon moves by itself after this time without an answer, or one and a half of the longest round trip.
const PAUSE: u64 = 100_000_000;
/// Responders told apart at one hop.
const RESPONDERS: usize = 64;
/// Stragglers are waited for this many longest round trips.
const PATIENCE: u64 = 3;

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aim {
    /// The cycle; the flow, when parallel paths are looked for.
    pub cycle: u16,
    /// Index of the track.
    pub track: u16,
    pub ttl: u8,
    /// When it was due.
    pub due: u64,
}

/// What a trace wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Send(Aim),
    /// Nothing before that time.
    Wait(u64),
    /// Nothing ever: all is sent.
    Nothing,
}

/// One flow along the path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Track {
    /// TTL at which the path ends, once known.
    pub end: Option<u8>,
    /// The end is the target.
    pub reached: bool,
    /// Highest TTL that may be sent while the end is unknown.
    horizon: u8,
    /// Last answer, or last move of the horizon.
    moved_at: u64,
    /// The length of the path is known of another flow: silence does not move the horizon, only a router at it does.
    follows: bool,
}

/// A cycle that is being sent.
#[derive(Debug, Clone, Copy)]
struct Lane {
    cycle: u16,
    track: u16,
    ttl: u8,
    due: u64,
}

/// One TTL.
#[derive(Debug, Default)]
pub(crate) struct HopState {
    pub probes: Vec<Probe>,
    pub responders: Vec<Responder>,
}

/// An answer that came in time.
pub(crate) struct Arrival {
    pub from: IpAddr,
    pub answer: Answer,
    pub rtt: std::time::Duration,
    pub ttl: Option<u8>,
    /// Bytes behind the IP header.
    pub size: u16,
    pub source: TsSource,
    pub quoted_ttl: Option<u8>,
    pub extension: Option<Extension>,
}

/// One trace.
pub(crate) struct Course {
    pub spec: Spec,
    pub source: Option<IpAddr>,
    /// The engine's own, for calibration.
    pub internal: bool,
    pub due: u64,
    /// Armed for this time.
    pub wake: u64,
    /// The engine's rate admits the next probe at this time.
    pub reserved: Option<u64>,
    /// Slots in order of sending; those before `judged` are settled.
    pub order: VecDeque<u32>,
    pub judged: usize,
    pub hops: Vec<HopState>,
    pub tracks: Vec<Track>,
    pub first_sent: u64,
    pub last_settled: u64,
    pub lateness: u64,
    pub longest: u64,
    /// Least time that a lost probe was waited for.
    pub waited: Option<u64>,
    pub duplicates: u32,
    pub late: u32,
    pub wrong_source: u32,
    pub forged: u32,
    pub errno: Option<i32>,
    pub cancelled: bool,
    lanes: VecDeque<Lane>,
    next_cycle: u16,
    pub fan: Option<Fan>,
}

impl Course {
    /// A trace due at the monotonic time `due`.
    pub(crate) fn new(spec: &Spec, source: Option<IpAddr>, due: u64, internal: bool) -> Self {
        let fan = spec.multipath.map(|multipath| Fan::new(multipath, spec.max_hops));
        Self {
            spec: spec.clone(),
            source,
            internal,
            due,
            wake: u64::MAX,
            reserved: None,
            order: VecDeque::new(),
            judged: 0,
            hops: Vec::new(),
            tracks: vec![Track::new(spec.first_hop, due)],
            first_sent: 0,
            last_settled: 0,
            lateness: 0,
            longest: 0,
            waited: None,
            duplicates: 0,
            late: 0,
            wrong_source: 0,
            forged: 0,
            errno: None,
            cancelled: false,
            lanes: VecDeque::new(),
            next_cycle: 0,
            fan,
        }
    }

    /// The number of the flow identifier of a track.
    pub(crate) fn flow(&self, track: u16) -> u16 {
        (u16::from(self.spec.flow) + track) % FLOWS
    }

    /// Highest TTL of a track that is of interest.
    pub(crate) fn limit(&self, track: u16) -> u8 {
        let Track { end, horizon, follows, .. } = self.tracks[usize::from(track)];
        let most = if follows { horizon.min(self.spec.max_hops) } else { self.spec.max_hops };
        end.unwrap_or(most)
    }

    /// What to do at `now`. Asked again after each probe sent.
    pub(crate) fn next(&mut self, now: u64) -> Next {
        if self.cancelled {
            return Next::Nothing;
        }
        let opening = self.open_lanes(now);
        let pause = PAUSE.max(self.longest + self.longest / 2);
        let mut wait = opening.unwrap_or(u64::MAX);
        let mut index = 0;
        while index < self.lanes.len() {
            let lane = self.lanes[index];
            let limit = self.limit(lane.track);
            if lane.ttl > limit {
                self.lanes.remove(index);
                continue;
            }
            let track = &mut self.tracks[usize::from(lane.track)];
            if track.end.is_none() && lane.ttl > track.horizon {
                if track.moved_at + pause > now {
                    wait = wait.min(track.moved_at + pause);
                    index += 1;
                    continue;
                }
                track.horizon = track.horizon.saturating_add(WINDOW);
                track.moved_at = now;
            }
            self.lanes[index].ttl += 1;
            return Next::Send(Aim { cycle: lane.cycle, track: lane.track, ttl: lane.ttl, due: lane.due });
        }
        if let Some(fan) = &mut self.fan
            && let Some(retry) = fan.retry(now)
        {
            match retry {
                Ok((track, ttl)) => return Next::Send(Aim { cycle: track, track, ttl, due: now }),
                Err(at) => wait = wait.min(at),
            }
        }
        if wait == u64::MAX { Next::Nothing } else { Next::Wait(wait) }
    }

    /// Opens what is due; the time of the next that is not.
    fn open_lanes(&mut self, now: u64) -> Option<u64> {
        let first = self.spec.first_hop;
        if let Some(fan) = &mut self.fan {
            // The first flow finds the length of the path, the others know it.
            let known = self.tracks[0].end;
            let (opened, waiting) = fan.open(now.max(self.due), self.due <= now, known.is_some());
            if let Some(flow) = opened {
                if flow > 0 {
                    let mut track = Track::new(first, now);
                    (track.horizon, track.follows) = (known.unwrap_or(track.horizon), known.is_some());
                    self.tracks.push(track);
                } else {
                    self.tracks[0].moved_at = now;
                }
                self.lanes.push_back(Lane { cycle: flow, track: flow, ttl: first, due: now });
            }
            return if self.due > now { Some(self.due) } else { waiting };
        }
        while self.next_cycle < self.spec.cycles {
            let due = self.due.saturating_add(u64::from(self.next_cycle) * nanos(self.spec.interval));
            if due > now {
                return Some(due);
            }
            self.lanes.push_back(Lane { cycle: self.next_cycle, track: 0, ttl: first, due });
            if self.next_cycle == 0 {
                self.tracks[0].moved_at = now;
            }
            self.next_cycle += 1;
        }
        None
    }

    /// Notes a probe and returns its number within its hop.
    pub(crate) fn sent(&mut self, aim: &Aim) -> u32 {
        let hop = usize::from(aim.ttl - self.spec.first_hop);
        while self.hops.len() <= hop {
            self.hops.push(HopState::default());
        }
        let probes = &mut self.hops[hop].probes;
        probes.push(Probe {
            cycle: aim.cycle,
            sent: Timestamp::default(),
            responder: None,
            fate: Fate::Unknown,
        });
        probes.len() as u32 - 1
    }

    /// The probe with this number.
    pub(crate) fn probe(&mut self, ttl: u8, number: u32) -> &mut Probe {
        &mut self.hops[usize::from(ttl - self.spec.first_hop)].probes[number as usize]
    }

    /// Takes an answer in time.
    pub(crate) fn arrive(&mut self, track: u16, ttl: u8, number: u32, arrival: Arrival, now: u64) {
        let from_target = arrival.from == self.spec.target;
        let hop = &mut self.hops[usize::from(ttl - self.spec.first_hop)];
        let known = hop.responders.iter().position(|responder| responder.address == arrival.from);
        let index = known.or_else(|| {
            (hop.responders.len() < RESPONDERS).then(|| {
                hop.responders.push(Responder {
                    address: arrival.from,
                    answer: arrival.answer,
                    ttl: None,
                    size: 0,
                    quoted_ttl: None,
                    extension: None,
                });
                hop.responders.len() - 1
            })
        });
        if let Some(index) = index {
            let responder = &mut hop.responders[index];
            responder.answer = arrival.answer;
            responder.size = arrival.size;
            responder.ttl = arrival.ttl.or(responder.ttl);
            responder.quoted_ttl = arrival.quoted_ttl.or(responder.quoted_ttl);
            responder.extension = arrival.extension.or(responder.extension.take());
        }
        let probe = &mut hop.probes[number as usize];
        probe.responder = index.map(|index| index as u8);
        probe.fate = Fate::Received { rtt: arrival.rtt, ttl: arrival.ttl, source: arrival.source };
        self.longest = self.longest.max(nanos(arrival.rtt));
        let flow = &mut self.tracks[usize::from(track)];
        let before = flow.horizon;
        flow.observe(ttl, arrival.answer, from_target, now);
        let longer = flow.follows && flow.end.is_none() && flow.horizon > before;
        // A lane that is still there goes on by itself.
        if longer && !self.lanes.iter().any(|lane| lane.track == track) {
            self.lanes.push_back(Lane { cycle: track, track, ttl: before + 1, due: now });
        }
    }

    /// How long a probe is waited for at present.
    pub(crate) fn wait(&self, all_sent: bool) -> u64 {
        let full = nanos(self.spec.timeout);
        let ends = self.tracks.iter().all(|track| track.end.is_some() || track.follows);
        if all_sent && ends { full.min(nanos(self.spec.grace).max(PATIENCE * self.longest)) } else { full }
    }
}

impl Track {
    fn new(first: u8, now: u64) -> Self {
        let horizon = first.saturating_add(FIRST_WINDOW - 1);
        Self { end: None, reached: false, horizon, moved_at: now, follows: false }
    }

    /// Learns from an answer where the path ends.
    fn observe(&mut self, ttl: u8, answer: Answer, from_target: bool, now: u64) {
        self.moved_at = now;
        if from_target {
            if !self.reached || self.end.is_none_or(|end| ttl < end) {
                self.end = Some(ttl);
            }
            self.reached = true;
        } else if answer == Answer::TimeExceeded {
            if !self.follows || ttl >= self.horizon {
                self.horizon = self.horizon.max(ttl.saturating_add(WINDOW));
            }
            if self.end.is_some_and(|end| ttl >= end) {
                // The path has become longer.
                (self.end, self.reached) = (None, false);
            }
        } else if !self.reached && self.end.is_none_or(|end| ttl < end) {
            self.end = Some(ttl);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn course(spec: impl FnOnce(&mut Spec)) -> Course {
        let mut new = Spec::new(1, "192.0.2.9".parse().unwrap());
        spec(&mut new);
        Course::new(&new, None, 0, false)
    }

    fn answered(from: &str, answer: Answer) -> Arrival {
        Arrival {
            from: from.parse().unwrap(),
            answer,
            rtt: std::time::Duration::from_millis(5),
            ttl: Some(60),
            size: 56,
            source: TsSource::Kernel,
            quoted_ttl: None,
            extension: None,
        }
    }

    /// TTLs sent at `now`.
    fn burst(course: &mut Course, now: u64) -> Vec<u8> {
        let mut ttls = Vec::new();
        while let Next::Send(aim) = course.next(now) {
            course.sent(&aim);
            ttls.push(aim.ttl);
        }
        ttls
    }

    #[test]
    fn the_horizon_follows_the_answers_and_ends_at_the_target() {
        let mut course =
            course(|spec| (spec.cycles, spec.interval) = (2, std::time::Duration::from_millis(50)));
        assert_eq!(burst(&mut course, 0), (1..=10).collect::<Vec<_>>());
        assert_eq!(course.next(0), Next::Wait(50 * MS));
        course.arrive(0, 9, 0, answered("198.51.100.9", Answer::TimeExceeded), 4 * MS);
        assert_eq!(burst(&mut course, 4 * MS), (11..=17).collect::<Vec<_>>());
        course.arrive(0, 12, 0, answered("198.51.100.12", Answer::TimeExceeded), 5 * MS);
        assert_eq!(burst(&mut course, 5 * MS), (18..=20).collect::<Vec<_>>());
        course.arrive(0, 18, 0, answered("192.0.2.9", Answer::EchoReply), 9 * MS);
        assert_eq!(burst(&mut course, 9 * MS), Vec::<u8>::new());
        assert_eq!(burst(&mut course, 50 * MS), (1..=18).collect::<Vec<_>>());
        assert_eq!(course.next(51 * MS), Next::Nothing);
        assert_eq!((course.limit(0), course.tracks[0].reached), (18, true));
    }

    #[test]
    fn silence_moves_the_horizon_to_the_last_hop() {
        let mut course = course(|_| {});
        burst(&mut course, 0);
        assert_eq!(course.next(0), Next::Wait(100 * MS));
        assert_eq!(burst(&mut course, 100 * MS), (11..=18).collect::<Vec<_>>());
        assert_eq!(burst(&mut course, 200 * MS), (19..=26).collect::<Vec<_>>());
        assert_eq!(burst(&mut course, 300 * MS), (27..=30).collect::<Vec<_>>());
        assert_eq!(course.next(400 * MS), Next::Nothing);
    }

    #[test]
    fn a_path_that_grows_is_followed() {
        let mut course =
            course(|spec| (spec.cycles, spec.interval) = (3, std::time::Duration::from_millis(50)));
        burst(&mut course, 0);
        course.arrive(0, 3, 0, answered("192.0.2.9", Answer::EchoReply), MS);
        assert_eq!(burst(&mut course, 50 * MS), [1, 2, 3]);
        course.arrive(0, 3, 1, answered("198.51.100.3", Answer::TimeExceeded), 51 * MS);
        assert_eq!(course.limit(0), 30);
        assert_eq!(burst(&mut course, 100 * MS), (1..=11).collect::<Vec<_>>());
        course.arrive(0, 4, 1, answered("192.0.2.9", Answer::EchoReply), 101 * MS);
        assert_eq!((course.limit(0), course.tracks[0].reached), (4, true));
        assert_eq!(course.hops[2].responders.len(), 2);
    }

    #[test]
    fn flows_that_follow_go_no_further_than_the_first_unless_a_router_says_so() {
        let mut course = course(|spec| spec.multipath = Some(super::super::config::Multipath::default()));
        burst(&mut course, 0);
        course.arrive(0, 3, 0, answered("192.0.2.9", Answer::EchoReply), MS);
        // The second flow, of which nothing answers at first.
        assert_eq!(burst(&mut course, 5 * MS), [1, 2, 3]);
        assert_eq!(course.limit(1), 3);
        let number = course.hops[2].probes.len() as u32 - 1;
        course.arrive(1, 3, number, answered("198.51.100.3", Answer::TimeExceeded), 6 * MS);
        assert_eq!(burst(&mut course, 6 * MS), (4..=11).collect::<Vec<_>>());
        let number = course.hops[3].probes.len() as u32 - 1;
        course.arrive(1, 4, number, answered("192.0.2.9", Answer::EchoReply), 7 * MS);
        assert_eq!((course.limit(0), course.limit(1)), (3, 4));
    }

    #[test]
    fn a_flow_whose_sending_is_held_up_sends_no_ttl_twice() {
        let mut course = course(|spec| spec.multipath = Some(super::super::config::Multipath::default()));
        burst(&mut course, 0);
        course.arrive(0, 3, 0, answered("192.0.2.9", Answer::EchoReply), MS);
        // The rate lets three probes of the second flow go, and holds up whatever comes next.
        let mut number = 0;
        for ttl in 1..=3 {
            let Next::Send(aim) = course.next(5 * MS) else { panic!("nothing to send") };
            assert_eq!((aim.track, aim.ttl), (1, ttl));
            number = course.sent(&aim);
        }
        course.arrive(1, 3, number, answered("198.51.100.3", Answer::TimeExceeded), 6 * MS);
        assert_eq!(burst(&mut course, 7 * MS), (4..=11).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_of_a_router_ends_the_path_unless_the_target_answers() {
        let mut course = course(|_| {});
        burst(&mut course, 0);
        let refused = Answer::Unreachable { kind: 3, code: 1 };
        course.arrive(0, 5, 0, answered("198.51.100.5", refused), MS);
        course.arrive(0, 4, 0, answered("198.51.100.5", refused), MS);
        assert_eq!((course.limit(0), course.tracks[0].reached), (4, false));
        course.arrive(0, 6, 0, answered("192.0.2.9", Answer::EchoReply), MS);
        assert_eq!((course.limit(0), course.tracks[0].reached), (6, true));
    }
}

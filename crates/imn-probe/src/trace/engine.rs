//! The engine thread: one loop of receiving, attending to traces, sending and waiting.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::clock::{Clock, Now, monotonic};
use crate::icmp::{Cookie, Family};
use crate::mailbox::{Command, Inbox};
use crate::outcome::{Fate, Timestamp, nanos};
use crate::pace::Pace;
use crate::sys::RecvBatch;

use super::config::{Config, Protocol, Spec};
use super::course::{Course, Next};
use super::packet::Mark;
use super::report::Report;
use super::socket::{Range, RawSocket, source_toward};

/// Messages per `recvmmsg`, and the longest that is read whole.
const RECEIVE: usize = 64;
const LONGEST: usize = 2048;
/// The clocks are compared this often while probes are in flight.
const CLOCK_CHECK: u64 = 100_000_000;
/// Outcomes that found the queue full are offered again after this time.
const OFFER_AGAIN: u64 = 5_000_000;
/// An answer just in time may still be on its way through the kernel.
const SLACK: u64 = 1_000_000;
const CALIBRATION_PROBES: u16 = 8;

/// One probe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProbeState {
    pub generation: u32,
    /// Index of the course; `None` when the slot is free.
    pub course: Option<u32>,
    pub mark: Mark,
    /// When it was handed to the kernel, monotonic.
    pub tx_mono: u64,
    /// When it left, realtime: the kernel's stamp if `stamped`, else ours.
    pub tx_real: u64,
    pub due: u64,
    pub track: u16,
    pub ttl: u8,
    /// Its number within the hop.
    pub number: u32,
    pub stamped: bool,
    pub settled: bool,
    /// An answer has come, in time or late.
    pub answered: bool,
}

/// What the engine thread owns.
pub(crate) struct Machine {
    pub sockets: Vec<RawSocket>,
    pub range: Range,
    pub courses: Vec<Option<Course>>,
    pub probes: Vec<ProbeState>,
    pub marks: HashMap<Mark, u32>,
    pub clock: Clock,
    pub report: Report,
    pub receive: Option<RecvBatch>,
    pub error_receive: Option<RecvBatch>,
    /// Courses that something happened to.
    pub touched: Vec<u32>,
    pub pace: Pace,
    pub inbox: Inbox<Spec>,
    pub free_probes: Vec<u32>,
    free_courses: Vec<u32>,
    timers: BinaryHeap<Reverse<(u64, u32)>>,
    secret: RandomState,
    generation: u32,
    calibrate: bool,
}

impl Machine {
    pub(crate) fn new(
        sockets: Vec<RawSocket>,
        range: Range,
        config: &Config,
        inbox: Inbox<Spec>,
        report: Report,
    ) -> Self {
        Self {
            sockets,
            range,
            courses: Vec::new(),
            probes: Vec::new(),
            marks: HashMap::new(),
            clock: Clock::new(),
            report,
            receive: Some(RecvBatch::new(RECEIVE, LONGEST)),
            error_receive: Some(RecvBatch::new(RECEIVE, 256)),
            touched: Vec::new(),
            pace: Pace::new(config.rate, None),
            inbox,
            free_probes: Vec::new(),
            free_courses: Vec::new(),
            timers: BinaryHeap::new(),
            secret: RandomState::new(),
            generation: 0,
            calibrate: config.calibrate,
        }
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        if self.calibrate {
            let now = self.clock.now();
            self.calibrate(now);
        }
        loop {
            let now = self.clock.now();
            if !self.obey(now) {
                return;
            }
            self.drain();
            while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now.mono) {
                if let Some(Reverse((at, index))) = self.timers.pop()
                    && let Some(Some(course)) = self.courses.get_mut(index as usize)
                    && course.wake == at
                {
                    course.wake = u64::MAX;
                    self.touched.push(index);
                }
            }
            let mut touched = std::mem::take(&mut self.touched);
            touched.sort_unstable();
            touched.dedup();
            for index in touched.drain(..) {
                self.attend(index);
            }
            // What came while probes were sent is attended to at once.
            let more = !self.touched.is_empty();
            touched.append(&mut self.touched);
            self.touched = touched;
            self.publish();
            if !more {
                self.wait();
            }
        }
    }

    /// Obeys commands; false to stop.
    fn obey(&mut self, now: Now) -> bool {
        self.inbox.waker.clear();
        while let Ok(command) = self.inbox.commands.try_recv() {
            match command {
                Command::Submit(specs) => {
                    for spec in &specs {
                        self.take(spec, now, false);
                    }
                }
                Command::Cancel(keys) => self.cancel(&keys.into_iter().collect()),
                Command::Calibrate => self.calibrate(now),
                Command::Stop => return false,
            }
        }
        true
    }

    fn take(&mut self, spec: &Spec, now: Now, internal: bool) {
        let ahead = spec.due.as_nanos() as i64 - now.real as i64;
        let due = now.mono.saturating_add_signed(ahead);
        let source = match spec.source {
            Some(source) => Ok(source),
            None => source_toward(spec.target),
        };
        // A trace that begins late is late as a whole: its cycles keep their distance.
        let begin = due.max(now.mono);
        let mut course = Course::new(spec, source.as_ref().ok().copied(), begin, internal);
        course.lateness = begin - due;
        if let Err(error) = source {
            course.errno = Some(error.raw_os_error().unwrap_or(libc::ENETUNREACH));
        }
        let index = self.free_courses.pop().unwrap_or_else(|| {
            self.courses.push(None);
            self.courses.len() as u32 - 1
        });
        self.courses[index as usize] = Some(course);
        self.touched.push(index);
    }

    /// Measures what this host itself adds: the round trip to loopback.
    fn calibrate(&mut self, now: Now) {
        for target in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            if !self.sockets.iter().any(|socket| socket.family == Family::of(target)) {
                continue;
            }
            let spec = Spec {
                due: Timestamp::from_nanos(now.real),
                cycles: CALIBRATION_PROBES,
                interval: Duration::from_micros(500),
                timeout: Duration::from_millis(50),
                max_hops: 1,
                ..Spec::new(0, target)
            };
            self.inbox.held.fetch_add(1, Ordering::Relaxed);
            self.report.calibrating(Family::of(target));
            self.take(&spec, now, true);
        }
    }

    fn cancel(&mut self, keys: &HashSet<u64>) {
        for index in 0..self.courses.len() as u32 {
            if let Some(course) = &mut self.courses[index as usize]
                && !course.internal
                && keys.contains(&course.spec.key)
            {
                course.cancelled = true;
                self.finish(index);
            }
        }
    }

    /// Sends what a trace wants to send, gives up what is overdue, and ends the trace when nothing is left.
    fn attend(&mut self, index: u32) {
        let now = self.clock.now();
        let Some(mut course) = self.courses[index as usize].take() else { return };
        let mut next = self.advance(index, &mut course, now.mono);
        if next == Next::Nothing {
            self.judge(&mut course, now.mono, true);
            if self.outstanding(&course).is_none() {
                let more = course.fan.as_mut().is_some_and(|fan| {
                    !course.cancelled && fan.review(&course.hops, &course.tracks, course.spec.first_hop)
                });
                if !more {
                    self.courses[index as usize] = Some(course);
                    self.finish(index);
                    return;
                }
                next = self.advance(index, &mut course, now.mono);
            }
        } else {
            self.judge(&mut course, now.mono, false);
        }
        let all_sent = next == Next::Nothing;
        let mut wake = if let Next::Wait(at) = next { at } else { u64::MAX };
        if let Some(slot) = self.outstanding(&course) {
            wake = wake.min(self.probes[slot as usize].tx_mono + course.wait(all_sent) + SLACK);
        } else if all_sent {
            wake = now.mono;
        }
        // A later time is found when the earlier one has come.
        if wake < course.wake {
            course.wake = wake;
            self.timers.push(Reverse((wake, index)));
        }
        self.courses[index as usize] = Some(course);
    }

    /// Gathers and sends all that may go now.
    fn advance(&mut self, index: u32, course: &mut Course, now: u64) -> Next {
        if course.source.is_none() {
            // No route: nothing can be sent.
            return Next::Nothing;
        }
        let loopback = course.spec.target.is_loopback();
        let next = loop {
            if let Some(at) = course.reserved
                && at > now
            {
                break Next::Wait(at);
            }
            if !loopback && course.reserved.is_none() {
                // Only what is wanted is reserved, and it may be wanted no more when its time has come.
                let at = self.pace.reserve_engine(now);
                course.reserved = Some(at);
                if at > now {
                    break Next::Wait(at);
                }
            }
            match course.next(now) {
                Next::Send(aim) => {
                    course.reserved = None;
                    self.gather(index, course, &aim, now);
                }
                next => break next,
            }
        };
        self.flush_all(index, course);
        next
    }

    /// The first probe that is still waited for.
    fn outstanding(&self, course: &Course) -> Option<u32> {
        course.order.iter().skip(course.judged).copied().find(|slot| {
            let probe = &self.probes[*slot as usize];
            !probe.settled && probe.ttl <= course.limit(probe.track)
        })
    }

    /// Gives up probes whose time has passed, and forgets those of which nothing more is expected.
    fn judge(&mut self, course: &mut Course, now: u64, all_sent: bool) {
        let wait = course.wait(all_sent);
        while let Some(&slot) = course.order.get(course.judged) {
            let probe = self.probes[slot as usize];
            if !probe.settled {
                if probe.tx_mono + wait + SLACK > now {
                    break;
                }
                let hidden = self.self_lost(&probe, wait, now);
                let lost = if hidden { Fate::Unknown } else { Fate::Lost };
                if !hidden && probe.ttl <= course.limit(probe.track) {
                    course.waited = Some(course.waited.map_or(wait, |least| least.min(wait)));
                }
                self.settle(course, slot, lost, now);
            }
            course.judged += 1;
        }
        let kept = 2 * nanos(course.spec.timeout);
        while course.judged > 0
            && let Some(&slot) = course.order.front()
            && self.probes[slot as usize].tx_mono + kept <= now
        {
            course.order.pop_front();
            course.judged -= 1;
            self.forget(slot);
        }
    }

    /// True when this host may itself have lost the probe or its answer.
    fn self_lost(&mut self, probe: &ProbeState, wait: u64, now: u64) -> bool {
        let family = Family::of(probe.mark.target);
        let mut lost = false;
        for socket in self.sockets.iter_mut().filter(|socket| socket.family == family) {
            if socket.receives() {
                socket.overflow.check(&socket.socket, now);
                lost |= socket.overflow.touches(probe.tx_mono, probe.tx_mono + wait);
            }
            // The kernel stamps what leaves; where it does at all, what has no stamp did not leave.
            lost |= socket.protocol == probe.mark.protocol && socket.stamped && !probe.stamped;
        }
        lost
    }

    /// Notes the fate of a probe that was not answered.
    pub(crate) fn settle(&mut self, course: &mut Course, slot: u32, fate: Fate, now: u64) {
        let probe = &mut self.probes[slot as usize];
        probe.settled = true;
        let (ttl, number, sent) = (probe.ttl, probe.number, probe.tx_real);
        let state = course.probe(ttl, number);
        state.fate = fate;
        state.sent = Timestamp::from_nanos(sent);
        course.last_settled = now;
        match fate {
            Fate::Lost => self.report.stats.lost += 1,
            Fate::NotSent { errno } => {
                course.errno.get_or_insert(errno);
                self.report.stats.not_sent += 1;
            }
            _ => self.report.stats.unknown += 1,
        }
        let track = self.probes[slot as usize].track;
        self.report.event(course, track, ttl, number);
    }

    /// A fresh probe state for an aim; `None` when no identification is free.
    pub(crate) fn open_probe(&mut self, index: u32, course: &Course, track: u16) -> Option<u32> {
        let protocol = super::packet::number(course.spec.protocol, Family::of(course.spec.target));
        let flow = self.range.base + course.flow(track);
        let mark = (0..64).find_map(|_| {
            let sequence = match course.spec.protocol {
                Protocol::Tcp { .. } => rand::random(),
                // No zero, which says that there is no UDP checksum, and not the other zero of one's complement.
                _ => u32::from(rand::random::<u16>() % 0xfffe) + 1,
            };
            let mark = Mark { target: course.spec.target, protocol, flow, sequence };
            (!self.marks.contains_key(&mark)).then_some(mark)
        })?;
        self.generation = self.generation.wrapping_add(1);
        let state = ProbeState {
            generation: self.generation,
            course: Some(index),
            mark,
            tx_mono: 0,
            tx_real: 0,
            due: 0,
            track,
            ttl: 0,
            number: 0,
            stamped: false,
            settled: false,
            answered: false,
        };
        let slot = self.free_probes.pop().unwrap_or(self.probes.len() as u32);
        if let Some(free) = self.probes.get_mut(slot as usize) {
            *free = state;
        } else {
            self.probes.push(state);
        }
        self.marks.insert(mark, slot);
        Some(slot)
    }

    fn forget(&mut self, slot: u32) {
        let probe = &mut self.probes[slot as usize];
        probe.course = None;
        self.marks.remove(&probe.mark);
        self.free_probes.push(slot);
    }

    /// Sends out the outcome of a trace and forgets it.
    fn finish(&mut self, index: u32) {
        let Some(mut course) = self.courses[index as usize].take() else { return };
        for slot in std::mem::take(&mut course.order) {
            let probe = self.probes[slot as usize];
            if !probe.settled {
                course.probe(probe.ttl, probe.number).sent = Timestamp::from_nanos(probe.tx_real);
            }
            self.forget(slot);
        }
        self.free_courses.push(index);
        self.inbox.held.fetch_sub(1, Ordering::Relaxed);
        self.report.finish(course);
    }

    /// Keyed hash over a target and what the cookie says (SipHash with a key of this engine's).
    fn keyed(&self, target: IpAddr, slot: u32, generation: u32) -> u64 {
        let mut hasher = self.secret.build_hasher();
        match target {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        hasher.write_u32(slot);
        hasher.write_u32(generation);
        hasher.finish()
    }

    /// The cookie for the probe in `slot`.
    pub(crate) fn cookie(&self, slot: u32) -> Cookie {
        let probe = &self.probes[slot as usize];
        let tag = self.keyed(probe.mark.target, slot, probe.generation);
        Cookie { slot, generation: probe.generation, tag }
    }

    /// True when we wrote the cookie for `target`, however long ago.
    pub(crate) fn wrote(&self, cookie: Cookie, target: IpAddr) -> bool {
        self.keyed(target, cookie.slot, cookie.generation) == cookie.tag
    }

    /// Waits for packets, commands or the next timer.
    fn wait(&mut self) {
        let now = monotonic();
        let mut until = self.timers.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
        if self.courses.iter().any(Option::is_some) {
            until = until.min(now + CLOCK_CHECK);
        }
        if self.report.waiting() {
            until = until.min(now + OFFER_AGAIN);
        }
        if until <= now {
            return;
        }
        let mut fds = vec![PollFd::new(self.inbox.waker.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.sockets.iter().map(|socket| PollFd::new(socket.socket.as_fd(), PollFlags::POLLIN)));
        // An hour at most, so that the conversion cannot overflow.
        let timeout = TimeSpec::from_duration(Duration::from_nanos((until - now).min(3_600_000_000_000)));
        let _ = ppoll(&mut fds, Some(timeout), None);
    }

    fn publish(&mut self) {
        let stats = &mut self.report.stats;
        stats.held = self.inbox.held.load(Ordering::Relaxed) as u64;
        stats.clock_steps = self.clock.steps();
        stats.rxq_overflow = self.sockets.iter().map(|socket| u64::from(socket.overflow.drops())).sum();
        self.report.publish();
    }
}

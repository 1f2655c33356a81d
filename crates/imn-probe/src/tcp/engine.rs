//! The engine thread: timers start attempts and end them, epoll tells what became of the others.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use socket2::Socket;

use crate::clock::{Clock, Now, monotonic};
use crate::lateness::{Histogram, Lateness};
use crate::mailbox::{Command, Inbox};
use crate::outbox::Outbox;
use crate::outcome::{Event, EventKind, Fate, Outcome, Packet, Timestamp, nanos};
use crate::pace::Pace;
use crate::sys::{Epoll, Interest, RecvBatch};
use crate::wheel::Wheel;

use super::config::{Config, Round};
use super::connect;

const TICK: u64 = 1_000_000;
const WAKER: u64 = u64::MAX;
/// Files left to the rest of the process.
const SPARE_FILES: usize = 512;
const OFFER_AGAIN: u64 = 5_000_000;

/// Counters of an engine since its start, and its present load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Attempts made, those that failed at once included.
    pub sent: u64,
    /// Attempts that connected.
    pub received: u64,
    /// Attempts that ran into their timeout.
    pub lost: u64,
    /// Attempts that this host had no file, port or memory for, and cancelled ones.
    pub unknown: u64,
    /// Attempts answered by a reset.
    pub refused: u64,
    /// Connections reset as soon as they stood.
    pub reset: u64,
    /// Attempts that an ICMP error ended.
    pub unreachable: u64,
    /// Attempts that the local kernel refused for a reason of their own, such as a missing route.
    pub not_sent: u64,
    /// Attempts that had to wait for another to end.
    pub deferred: u64,
    /// Connections open now.
    pub open: u64,
    /// Rounds held now.
    pub held: u64,
    /// Outcomes dropped because nobody read them.
    pub outcomes_dropped: u64,
    /// Events dropped because nobody read them.
    pub events_dropped: u64,
    /// How much later than due attempts are made.
    pub lateness: Lateness,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Prefix,
    Engine,
    Connect,
}

struct Running {
    round: Round,
    due_mono: u64,
    send_at: u64,
    stage: Stage,
    packets: Vec<Packet>,
    settled: u16,
    lateness: u64,
    cancelled: bool,
    emitted: bool,
    /// A timer or the queue of deferred rounds still names it.
    waiting: bool,
}

impl Running {
    fn all_made(&self) -> bool {
        self.cancelled || self.packets.len() >= usize::from(self.round.count)
    }

    fn first_stage(round: &Round) -> Stage {
        if round.target.is_loopback() { Stage::Connect } else { Stage::Prefix }
    }
}

struct Attempt {
    /// `None` once it has ended; the slot is free when its timer has fired.
    socket: Option<Socket>,
    round: u32,
    sequence: u16,
    started: u64,
    generation: u32,
}

/// What the engine thread owns. The wheel has even indices for rounds and odd ones for attempts.
pub(crate) struct Machine {
    epoll: Epoll,
    wheel: Wheel,
    clock: Clock,
    pace: Pace,
    inbox: Inbox<Round>,
    outbox: Outbox,
    stats: Stats,
    lateness: Histogram,
    shared: Arc<Mutex<Stats>>,
    rounds: Vec<Option<Running>>,
    free_rounds: Vec<u32>,
    attempts: Vec<Attempt>,
    free_attempts: Vec<u32>,
    deferred: VecDeque<u32>,
    errors: RecvBatch,
    open: usize,
    max_open: usize,
    generation: u32,
    published_at: u64,
    /// What this host itself adds to a sample.
    floor: Option<Duration>,
}

impl Machine {
    pub(crate) fn new(
        config: &Config,
        inbox: Inbox<Round>,
        outbox: Outbox,
        shared: Arc<Mutex<Stats>>,
    ) -> io::Result<Self> {
        let now = monotonic();
        let epoll = Epoll::new()?;
        epoll.add(&*inbox.waker, WAKER, Interest::Read)?;
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |limits| limits.0 as usize);
        Ok(Self {
            epoll,
            wheel: Wheel::new(TICK, now),
            clock: Clock::new(),
            pace: Pace::new(config.rate, config.prefix_rate),
            inbox,
            outbox,
            stats: Stats::default(),
            lateness: Histogram::new(now),
            shared,
            rounds: Vec::new(),
            free_rounds: Vec::new(),
            attempts: Vec::new(),
            free_attempts: Vec::new(),
            deferred: VecDeque::new(),
            errors: RecvBatch::new(4, 512),
            open: 0,
            max_open: config.max_open.min(files.saturating_sub(SPARE_FILES)).max(16),
            generation: 0,
            published_at: 0,
            floor: None,
        })
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        let (mut due, mut ready) = (Vec::new(), Vec::new());
        self.floor = connect::floor();
        loop {
            let now = self.clock.now();
            for token in ready.drain(..) {
                self.ready(token, now);
            }
            if !self.obey(now) {
                return;
            }
            self.wheel.fire(now.mono, &mut due);
            for index in due.drain(..) {
                if index % 2 == 0 {
                    self.attend(index / 2, now);
                } else {
                    self.expire(index / 2);
                }
            }
            self.resume(now);
            self.publish();
            let mut until = self.wheel.next_deadline();
            let now = monotonic();
            if self.outbox.waiting() {
                until = Some(until.unwrap_or(u64::MAX).min(now + OFFER_AGAIN));
            }
            let timeout = until.map(|at| Duration::from_nanos(at.saturating_sub(now)));
            if self.epoll.wait(timeout, &mut ready).is_err() {
                // It fails only for arguments that are fixed here; the timers go on all the same.
                ready.clear();
            }
        }
    }

    fn obey(&mut self, now: Now) -> bool {
        self.inbox.waker.clear();
        while let Ok(command) = self.inbox.commands.try_recv() {
            match command {
                Command::Submit(rounds) => {
                    for round in rounds {
                        self.take(round, now);
                    }
                }
                Command::Cancel(keys) => self.cancel(&keys.into_iter().collect()),
                Command::Calibrate => {}
                Command::Stop => return false,
            }
        }
        true
    }

    fn take(&mut self, round: Round, now: Now) {
        let ahead = round.due.as_nanos() as i64 - now.real as i64;
        let due_mono = now.mono.saturating_add_signed(ahead);
        let stage = Running::first_stage(&round);
        let packets = Vec::with_capacity(usize::from(round.count.min(64)));
        let running = Running {
            round,
            due_mono,
            send_at: due_mono,
            stage,
            packets,
            settled: 0,
            lateness: 0,
            cancelled: false,
            emitted: false,
            waiting: true,
        };
        let index = self.free_rounds.pop().unwrap_or(self.rounds.len() as u32);
        if let Some(free) = self.rounds.get_mut(index as usize) {
            *free = Some(running);
        } else {
            self.rounds.push(Some(running));
        }
        self.wheel.arm(index * 2, due_mono);
    }

    /// Starts the attempts of a round that are due, and arms the time of the next.
    fn attend(&mut self, index: u32, now: Now) {
        loop {
            let Some(running) = self.rounds[index as usize].as_mut() else { return };
            if running.all_made() {
                running.waiting = false;
                if running.emitted {
                    self.release(index);
                }
                return;
            }
            if running.send_at > now.mono {
                self.wheel.arm(index * 2, running.send_at);
                return;
            }
            match running.stage {
                Stage::Prefix => {
                    running.send_at = self.pace.reserve_prefix(running.round.target, now.mono);
                    running.stage = Stage::Engine;
                }
                Stage::Engine => {
                    running.send_at = self.pace.reserve_engine(now.mono);
                    running.stage = Stage::Connect;
                }
                Stage::Connect if self.open >= self.max_open => {
                    self.stats.deferred += 1;
                    self.deferred.push_back(index);
                    return;
                }
                Stage::Connect => self.attempt(index),
            }
        }
    }

    /// Makes the next attempt of a round.
    fn attempt(&mut self, index: u32) {
        let now = self.clock.now();
        let Some(running) = self.rounds[index as usize].as_mut() else { return };
        let sequence = running.packets.len() as u16;
        let interval = nanos(running.round.interval);
        let due = running.due_mono.saturating_add(u64::from(sequence) * interval);
        let late = now.mono.saturating_sub(due);
        running.lateness = running.lateness.max(late);
        running.packets.push(Packet { sent: Timestamp::from_nanos(now.real), fate: Fate::Unknown });
        running.stage = Running::first_stage(&running.round);
        running.send_at = due.saturating_add(interval);
        let deadline = now.mono + nanos(running.round.timeout);
        self.lateness.note(late, now.mono);
        self.stats.sent += 1;
        let started = connect::start(&running.round);
        let socket = match started {
            Ok(socket) => socket,
            Err(fate) => {
                let elapsed = Duration::from_nanos(monotonic().saturating_sub(now.mono));
                let fate =
                    if let Fate::Refused { .. } = fate { Fate::Refused { rtt: elapsed } } else { fate };
                self.settle(index, sequence, fate);
                return;
            }
        };
        self.generation = self.generation.wrapping_add(1);
        let attempt = self.free_attempts.pop().unwrap_or(self.attempts.len() as u32);
        let token = u64::from(self.generation) << 32 | u64::from(attempt);
        if self.epoll.add(&socket, token, Interest::Write).is_err() {
            // Only want of memory; the socket is closed, and the slot stays free.
            self.free_attempts.push(attempt);
            self.settle(index, sequence, Fate::Unknown);
            return;
        }
        let state = Attempt {
            socket: Some(socket),
            round: index,
            sequence,
            started: now.mono,
            generation: self.generation,
        };
        if let Some(free) = self.attempts.get_mut(attempt as usize) {
            *free = state;
        } else {
            self.attempts.push(state);
        }
        self.open += 1;
        self.wheel.arm(attempt * 2 + 1, deadline);
    }

    /// A socket is ready: connected or failed.
    fn ready(&mut self, token: u64, now: Now) {
        if token == WAKER {
            return;
        }
        let Some(attempt) = self.attempts.get_mut(token as u32 as usize) else { return };
        if attempt.generation != (token >> 32) as u32 {
            return;
        }
        let Some(socket) = &attempt.socket else { return };
        let elapsed = Duration::from_nanos(now.mono.saturating_sub(attempt.started));
        let Some(fate) = connect::conclude(socket, elapsed, &mut self.errors) else { return };
        let (round, sequence) = (attempt.round, attempt.sequence);
        attempt.socket = None;
        self.open -= 1;
        // Connected, but only after the timeout: the timer was about to say so.
        let timeout = self.rounds[round as usize].as_ref().map(|running| running.round.timeout);
        let fate = match fate {
            Fate::Received { rtt, .. } if timeout.is_some_and(|timeout| rtt > timeout) => Fate::Lost,
            fate => fate,
        };
        self.settle(round, sequence, fate);
    }

    /// An attempt's timeout has passed, or it ended before.
    fn expire(&mut self, index: u32) {
        let attempt = &mut self.attempts[index as usize];
        self.free_attempts.push(index);
        if attempt.socket.take().is_some() {
            let (round, sequence) = (attempt.round, attempt.sequence);
            self.open -= 1;
            self.settle(round, sequence, Fate::Lost);
        }
    }

    /// Goes on with rounds that waited for a connection to end, oldest first.
    fn resume(&mut self, now: Now) {
        while self.open < self.max_open {
            let Some(index) = self.deferred.pop_front() else { return };
            self.attend(index, now);
        }
    }

    fn settle(&mut self, index: u32, sequence: u16, fate: Fate) {
        let Some(running) = self.rounds[index as usize].as_mut() else { return };
        match fate {
            Fate::Received { .. } => self.stats.received += 1,
            Fate::Lost => self.stats.lost += 1,
            Fate::Unknown => self.stats.unknown += 1,
            Fate::Unreachable { .. } => self.stats.unreachable += 1,
            Fate::Refused { .. } => self.stats.refused += 1,
            Fate::Reset { .. } => self.stats.reset += 1,
            Fate::NotSent { .. } => self.stats.not_sent += 1,
        }
        let packet = &mut running.packets[usize::from(sequence)];
        packet.fate = fate;
        running.settled += 1;
        if running.round.progress {
            let kind = EventKind::Settled(*packet);
            self.outbox.event(Event { key: running.round.key, sequence, kind });
        }
        if running.all_made() && usize::from(running.settled) == running.packets.len() {
            self.emit(index);
        }
    }

    fn emit(&mut self, index: u32) {
        let Some(running) = self.rounds[index as usize].as_mut() else { return };
        running.emitted = true;
        let outcome = Outcome {
            key: running.round.key,
            target: running.round.target,
            due: running.round.due,
            duplicates: 0,
            late: 0,
            reordered: 0,
            wrong_source: 0,
            corrupted: 0,
            lateness: Duration::from_nanos(running.lateness),
            error: self.floor,
            cancelled: running.cancelled,
            packets: 0..0,
        };
        self.outbox.push(outcome, &running.packets);
        if !running.waiting {
            self.release(index);
        }
    }

    fn release(&mut self, index: u32) {
        self.rounds[index as usize] = None;
        self.free_rounds.push(index);
        self.inbox.held.fetch_sub(1, Ordering::Relaxed);
    }

    fn cancel(&mut self, keys: &HashSet<u64>) {
        let mut hit = HashSet::new();
        for (index, running) in self.rounds.iter_mut().enumerate() {
            if let Some(running) = running
                && !running.emitted
                && keys.contains(&running.round.key)
            {
                running.cancelled = true;
                hit.insert(index as u32);
            }
        }
        for index in 0..self.attempts.len() {
            let attempt = &mut self.attempts[index];
            if hit.contains(&attempt.round) && attempt.socket.take().is_some() {
                let (round, sequence) = (attempt.round, attempt.sequence);
                self.open -= 1;
                self.settle(round, sequence, Fate::Unknown);
                // Its last attempt in progress has ended a round.
                if self.rounds[round as usize].as_ref().is_none_or(|running| running.emitted) {
                    hit.remove(&round);
                }
            }
        }
        for index in hit {
            self.emit(index);
        }
    }

    fn publish(&mut self) {
        self.outbox.offer();
        self.stats.outcomes_dropped = self.outbox.outcomes_dropped;
        self.stats.events_dropped = self.outbox.events_dropped;
        self.stats.open = self.open as u64;
        self.stats.held = self.inbox.held.load(Ordering::Relaxed) as u64;
        let now = monotonic();
        if now >= self.published_at + 100_000_000 {
            self.stats.lateness = self.lateness.snapshot();
            self.published_at = now;
        }
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.stats);
    }
}

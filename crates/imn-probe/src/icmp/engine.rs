//! The engine thread: one loop of receiving, firing timers, sending and waiting.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::clock::{Clock, Now, monotonic};
use crate::mailbox::{Command, Inbox};
use crate::outcome::{Timestamp, nanos};
use crate::pace::Pace;
use crate::sys::RecvBatch;
use crate::wheel::Wheel;

use super::config::{Config, Round};
use super::packet::Family;
use super::report::Report;
use super::socket::IcmpSocket;
use super::table::{NONE, Phase, Stage, Status, Table, Watch};

/// Messages per `recvmmsg`.
const RECEIVE: usize = 128;
/// The clocks are compared this often while packets are in flight.
const CLOCK_CHECK: u64 = 100_000_000;
/// Outcomes that found the queue full are offered again after this time.
const OFFER_AGAIN: u64 = 5_000_000;
const CALIBRATION_PACKETS: u16 = 8;

/// What the engine thread owns.
pub(crate) struct Machine {
    pub sockets: Vec<IcmpSocket>,
    pub table: Table,
    pub pace: Pace,
    pub clock: Clock,
    pub report: Report,
    /// Senders of errors, by the slot of the packet they quote.
    pub unreachable: HashMap<u32, (IpAddr, u8, u8)>,
    pub receive: Option<RecvBatch>,
    pub error_receive: Option<RecvBatch>,
    pub tick: u64,
    /// Rounds whose outcomes leave once what has arrived is read.
    pub settled: Vec<u32>,
    wheel: Wheel,
    inbox: Inbox<Round>,
    woken_at: u64,
    calibration: Option<u64>,
    calibrate_at: u64,
}

impl Machine {
    pub(crate) fn new(
        sockets: Vec<IcmpSocket>,
        config: &Config,
        inbox: Inbox<Round>,
        report: Report,
    ) -> Self {
        let tick = nanos(config.tick).clamp(100_000, 100_000_000);
        let now = monotonic();
        Self {
            sockets,
            table: Table::new(),
            pace: Pace::new(config.rate, config.prefix_rate),
            clock: Clock::new(),
            report,
            unreachable: HashMap::new(),
            receive: Some(RecvBatch::new(RECEIVE, 2048)),
            error_receive: Some(RecvBatch::new(RECEIVE, 256)),
            tick,
            settled: Vec::new(),
            wheel: Wheel::new(tick, now),
            inbox,
            woken_at: 0,
            calibration: config.calibration.map(nanos),
            calibrate_at: now,
        }
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        let mut due = Vec::new();
        loop {
            let now = self.clock.now();
            if !self.obey(now) {
                return;
            }
            if self.calibration.is_some_and(|_| now.mono >= self.calibrate_at) {
                self.calibrate(now);
            }
            // What had arrived by `now` is read before timeouts are judged as of `now`.
            self.drain();
            self.wheel.fire(now.mono, &mut due);
            for round in due.drain(..) {
                self.attend(round, now);
            }
            self.flush_all();
            self.emit_settled();
            self.publish();
            self.wait();
        }
    }

    /// Obeys commands; false to stop.
    fn obey(&mut self, now: Now) -> bool {
        self.inbox.waker.clear();
        while let Ok(command) = self.inbox.commands.try_recv() {
            match command {
                Command::Submit(rounds) => {
                    for round in &rounds {
                        self.take(round, now, if round.progress { Watch::Events } else { Watch::Outcome });
                    }
                }
                Command::Cancel(keys) => self.cancel(&keys.into_iter().collect()),
                Command::Calibrate => self.calibrate(now),
                Command::Stop => return false,
            }
        }
        true
    }

    fn take(&mut self, round: &Round, now: Now, watch: Watch) {
        let fits = self.receive.as_ref().is_none_or(|batch| batch.size() >= usize::from(round.size) + 100);
        if !fits {
            // The longest header and the largest payload so far; a few such buffers are enough.
            self.receive = Some(RecvBatch::new(RECEIVE / 4, usize::from(round.size) + 128));
        }
        // The due time is kept by the monotonic clock from here on: a step of the other does not move it.
        let ahead = round.due.as_nanos() as i64 - now.real as i64;
        let due = now.mono.saturating_add_signed(ahead);
        let index = self.table.open(round, due, watch);
        self.wheel.arm(index, due);
    }

    /// Measures what this host itself adds: the round trip to loopback.
    fn calibrate(&mut self, now: Now) {
        self.calibrate_at = self.calibration.map_or(u64::MAX, |every| now.mono + every);
        for family in self.sockets.iter().map(|socket| socket.family).collect::<Vec<_>>() {
            let target = match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
                Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
            };
            let round = Round {
                due: Timestamp::from_nanos(now.real),
                count: CALIBRATION_PACKETS,
                interval: Duration::from_millis(2),
                timeout: Duration::from_millis(100),
                ..Round::new(0, target)
            };
            self.report.stats.calibration_packets += u64::from(CALIBRATION_PACKETS);
            self.inbox.held.fetch_add(1, Ordering::Relaxed);
            self.report.calibrating(family);
            self.take(&round, now, Watch::Calibration);
        }
    }

    fn cancel(&mut self, keys: &HashSet<u64>) {
        for index in 0..self.table.rounds.len() as u32 {
            let round = &mut self.table.rounds[index as usize];
            let open = round.phase == Phase::Open && round.watch != Watch::Calibration;
            if !open || !keys.contains(&round.key) {
                continue;
            }
            round.cancelled = true;
            round.count = round.sent;
            let mut slot = round.first;
            while slot != NONE {
                let packet = self.table.packets[slot as usize];
                if packet.status == Status::InFlight {
                    self.settle(slot, Status::Unknown);
                }
                slot = packet.next;
            }
            if self.table.rounds[index as usize].phase == Phase::Open {
                self.emit(index);
            }
        }
    }

    /// Does whatever is due for a round, and arms its next time or forgets it.
    fn attend(&mut self, index: u32, now: Now) {
        self.judge(index, now.mono);
        loop {
            let round = &mut self.table.rounds[index as usize];
            if round.sent >= round.count || round.send_at > now.mono {
                break;
            }
            match round.stage {
                Stage::Prefix => {
                    round.send_at = self.pace.reserve_prefix(round.target, now.mono);
                    round.stage = Stage::Engine;
                }
                Stage::Engine => {
                    round.send_at = self.pace.reserve_engine(now.mono);
                    round.stage = Stage::Send;
                }
                Stage::Send => {
                    self.send(index, now);
                    let round = &mut self.table.rounds[index as usize];
                    round.stage = Stage::first(round.target);
                    round.send_at = round.due_mono.saturating_add(u64::from(round.sent) * round.interval);
                }
            }
        }
        let round = &self.table.rounds[index as usize];
        let mut next = u64::MAX;
        if round.sent < round.count {
            next = round.send_at;
        }
        if round.judge != NONE {
            next = next.min(self.deadline(round.judge));
        }
        if next == u64::MAX {
            // Twice the timeout after the last packet nothing more is expected.
            let last = self.table.packets.get(round.last as usize).map_or(0, |packet| packet.tx_mono);
            next = last + 2 * round.timeout;
            if round.phase == Phase::Emitted && next <= now.mono {
                let errors = &mut self.unreachable;
                self.table.close(index, |slot| {
                    if !errors.is_empty() {
                        errors.remove(&slot);
                    }
                });
                self.inbox.held.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
        self.wheel.arm(index, next);
    }

    /// When the packet is given up: a tick after its timeout, since an answer just in time may still be on its way
    /// through the kernel.
    fn deadline(&self, slot: u32) -> u64 {
        let packet = &self.table.packets[slot as usize];
        packet.tx_mono + self.table.rounds[packet.round as usize].timeout + self.tick
    }

    /// Gives up packets whose timeout has passed.
    fn judge(&mut self, index: u32, now: u64) {
        loop {
            let slot = self.table.rounds[index as usize].judge;
            if slot == NONE || self.deadline(slot) > now {
                return;
            }
            let packet = self.table.packets[slot as usize];
            self.table.rounds[index as usize].judge = packet.next;
            if packet.status == Status::InFlight {
                let status = if self.self_lost(slot, now) { Status::Unknown } else { Status::Lost };
                self.settle(slot, status);
            }
        }
    }

    /// True when this host may have dropped the packet's answer.
    fn self_lost(&mut self, slot: u32, now: u64) -> bool {
        let packet = &self.table.packets[slot as usize];
        let round = &self.table.rounds[packet.round as usize];
        let family = Family::of(round.target);
        let (from, to) = (packet.tx_mono, packet.tx_mono + round.timeout);
        let Some(socket) = self.sockets.iter_mut().find(|socket| socket.family == family) else {
            return true;
        };
        socket.check_overflow(now);
        socket.overflow.touches(from, to)
    }

    /// Waits for packets, commands or the next timer; wakes at most once per tick for packets.
    fn wait(&mut self) {
        let mut until = self.wheel.next_deadline().unwrap_or(u64::MAX);
        let now = monotonic();
        if self.table.live() > 0 {
            until = until.min(now + CLOCK_CHECK);
        }
        if self.calibration.is_some() {
            until = until.min(self.calibrate_at);
        }
        if self.report.outbox.waiting() {
            until = until.min(now + OFFER_AGAIN);
        }
        let quiet = (self.woken_at + self.tick).min(until);
        if quiet > now && self.poll(quiet - now, false) {
            self.woken_at = monotonic();
            return;
        }
        let now = monotonic();
        if until > now {
            self.poll(until.saturating_sub(now), true);
        }
        self.woken_at = monotonic();
    }

    /// Polls for commands, and for packets too if `sockets`; true when something is ready.
    fn poll(&self, nanos: u64, sockets: bool) -> bool {
        let waker = self.inbox.waker.as_fd();
        let mut fds = [0, 1, 2].map(|_| PollFd::new(waker, PollFlags::POLLIN));
        let mut count = 1;
        if sockets {
            for socket in self.sockets.iter().take(2) {
                fds[count] = PollFd::new(socket.socket.as_fd(), PollFlags::POLLIN);
                count += 1;
            }
        }
        // An hour at most, so that the conversion cannot overflow.
        let timeout = TimeSpec::from_duration(Duration::from_nanos(nanos.min(3_600_000_000_000)));
        ppoll(&mut fds[..count], Some(timeout), None).is_ok_and(|ready| ready > 0)
    }

    fn publish(&mut self) {
        let stats = &mut self.report.stats;
        stats.held = self.inbox.held.load(Ordering::Relaxed) as u64;
        stats.clock_steps = self.clock.steps();
        stats.rxq_overflow = self.sockets.iter().map(|socket| u64::from(socket.overflow.drops())).sum();
        self.report.publish();
    }
}

//! What leaves the engine: outcomes, events, counters.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::lateness::{Histogram, Lateness};
use crate::outbox::Outbox;
use crate::outcome::{Event, EventKind, Fate, Outcome, Packet, Timestamp, TsSource, nanos};

use super::engine::Machine;
use super::packet::Family;
use super::table::{NONE, Phase, RoundState, Status, Watch};

/// Counters of an engine since its start, and its present load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets handed to the kernel or refused by it, calibration included.
    pub sent: u64,
    /// Packets answered in time.
    pub received: u64,
    /// Packets given up.
    pub lost: u64,
    /// Packets whose fate this host hid from itself, cancelled ones included.
    pub unknown: u64,
    /// Packets that an ICMP error ended.
    pub unreachable: u64,
    /// Packets that the local kernel refused for a reason of their own, such as a missing route.
    pub not_sent: u64,
    /// Packets on their way now.
    pub in_flight: u64,
    /// Rounds held now, until twice their timeout.
    pub held: u64,
    /// Further copies of answers.
    pub duplicates: u64,
    /// Answers after their packet's timeout.
    pub late: u64,
    /// Genuine answers whose state was gone: later than twice the timeout.
    pub expired: u64,
    /// Answers overtaken by the answer to a later packet of their round.
    pub reordered: u64,
    /// Genuine answers from an address that was not asked.
    pub wrong_source: u64,
    /// Answers whose checksum or length is wrong.
    pub corrupted: u64,
    /// Messages that came through the filter but carry no tag of ours.
    pub foreign: u64,
    /// Packets that the kernel had no buffer to send (`ENOBUFS`, `EAGAIN`).
    pub send_overflow: u64,
    /// Packets that the kernel dropped because a receive queue was full.
    pub rxq_overflow: u64,
    /// Answered packets without a kernel transmit timestamp.
    pub tx_stamps_missing: u64,
    /// Steps of the realtime clock.
    pub clock_steps: u64,
    /// Outcomes dropped because nobody read them.
    pub outcomes_dropped: u64,
    /// Events dropped because nobody read them.
    pub events_dropped: u64,
    /// Packets sent to loopback for calibration.
    pub calibration_packets: u64,
    /// How much later than due packets are sent.
    pub lateness: Lateness,
    /// Loopback round trip at the last calibration, kernel timestamps: IPv4, IPv6.
    pub floor: [Option<Duration>; 2],
}

/// Loopback round trips at the last calibration.
#[derive(Debug, Clone, Copy, Default)]
struct Floor {
    kernel: Option<Duration>,
    user: Option<Duration>,
}

/// Outcomes with their packets that wait.
type Held = Vec<(Outcome, Vec<Packet>)>;

/// The engine's end of everything that leaves it.
pub(crate) struct Report {
    pub stats: Stats,
    pub lateness: Histogram,
    pub outbox: Outbox,
    /// Reused for each outcome.
    packets: Vec<Packet>,
    shared: Arc<Mutex<Stats>>,
    floors: [Floor; 2],
    samples: [Vec<u64>; 2],
    /// Outcomes that wait for the end of the first calibration of their family, 100 ms at most.
    held: [Option<Held>; 2],
    published_at: u64,
}

impl Report {
    pub(crate) fn new(outbox: Outbox, shared: Arc<Mutex<Stats>>) -> Self {
        Self {
            stats: Stats::default(),
            lateness: Histogram::new(crate::clock::monotonic()),
            outbox,
            packets: Vec::new(),
            shared,
            floors: [Floor::default(); 2],
            samples: [Vec::new(), Vec::new()],
            held: [None, None],
            published_at: 0,
        }
    }

    /// Hands over outcomes and counters.
    pub(crate) fn publish(&mut self) {
        self.outbox.offer();
        self.stats.outcomes_dropped = self.outbox.outcomes_dropped;
        self.stats.events_dropped = self.outbox.events_dropped;
        let now = crate::clock::monotonic();
        if now >= self.published_at + 100_000_000 {
            self.stats.lateness = self.lateness.snapshot();
            self.published_at = now;
        }
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.stats);
    }

    /// Notes a loopback round trip by this process's clock.
    pub(crate) fn floor_sample(&mut self, family: Family, nanos: u64) {
        self.samples[family as usize].push(nanos);
    }

    /// The first calibration of a family has begun: outcomes wait for it, so that each has its error term.
    pub(crate) fn calibrating(&mut self, family: Family) {
        let family = family as usize;
        if self.floors[family].kernel.is_none() && self.floors[family].user.is_none() {
            self.held[family].get_or_insert_default();
        }
    }

    /// Takes the medians of a calibration round.
    fn calibrated(&mut self, family: usize, packets: &[Packet]) {
        let kernel = packets.iter().filter_map(|packet| match packet.fate {
            Fate::Received { rtt, source: TsSource::Kernel, .. } => Some(nanos(rtt)),
            _ => None,
        });
        let kernel = median(kernel.collect());
        self.floors[family] = Floor { kernel, user: median(std::mem::take(&mut self.samples[family])) };
        self.stats.floor[family] = kernel;
        for (mut outcome, packets) in self.held[family].take().into_iter().flatten() {
            outcome.error = self.error(family, &packets);
            self.outbox.push(outcome, &packets);
        }
    }

    fn error(&self, family: usize, packets: &[Packet]) -> Option<Duration> {
        match Packet::ts_source(packets) {
            Some(TsSource::User) => self.floors[family].user,
            Some(TsSource::Kernel) | None => self.floors[family].kernel,
        }
    }

    fn push(&mut self, family: usize, outcome: Outcome, packets: &[Packet]) {
        match &mut self.held[family] {
            Some(held) => held.push((outcome, packets.to_vec())),
            None => self.outbox.push(outcome, packets),
        }
    }

    fn outcome(&self, round: &RoundState, family: usize, packets: &[Packet]) -> Outcome {
        Outcome {
            key: round.key,
            target: round.target,
            due: round.due,
            duplicates: round.duplicates,
            late: round.late,
            reordered: round.reordered,
            wrong_source: round.wrong_source,
            corrupted: round.corrupted,
            lateness: Duration::from_nanos(round.lateness),
            error: self.error(family, packets),
            cancelled: round.cancelled,
            packets: 0..0,
        }
    }
}

fn median(mut samples: Vec<u64>) -> Option<Duration> {
    samples.sort_unstable();
    imn_metric::percentile(&samples, 0.5).map(Duration::from_nanos)
}

impl Machine {
    /// Settles a packet's fate, and with the last one the round's outcome.
    pub(crate) fn settle(&mut self, slot: u32, status: Status) {
        let packet = &mut self.table.packets[slot as usize];
        let again = packet.status == Status::Unreachable;
        packet.status = status;
        let index = packet.round;
        let stats = &mut self.report.stats;
        match status {
            Status::Received => stats.received += 1,
            Status::Lost => stats.lost += 1,
            Status::Unknown => stats.unknown += 1,
            Status::Unreachable => stats.unreachable += 1,
            Status::InFlight | Status::NotSent => {}
        }
        self.event(slot, EventKind::Settled(self.packet(slot)));
        if again {
            // An answer has replaced an error: the packet was settled before.
            self.report.stats.unreachable -= 1;
            return;
        }
        self.report.stats.in_flight -= 1;
        let round = &mut self.table.rounds[index as usize];
        round.settled += 1;
        if round.settled == round.count && round.phase == Phase::Open {
            round.phase = Phase::Settled;
            self.settled.push(index);
        }
    }

    /// Sends out the outcomes of rounds whose packets are all settled.
    pub(crate) fn emit_settled(&mut self) {
        let mut settled = std::mem::take(&mut self.settled);
        for index in settled.drain(..) {
            self.emit(index);
        }
        self.settled = settled;
    }

    /// Tells watchers, if the round asks for it.
    pub(crate) fn event(&mut self, slot: u32, kind: EventKind) {
        let packet = &self.table.packets[slot as usize];
        let round = &self.table.rounds[packet.round as usize];
        if round.watch == Watch::Events {
            self.report.outbox.event(Event { key: round.key, sequence: packet.sequence, kind });
        }
    }

    fn packet(&self, slot: u32) -> Packet {
        let state = &self.table.packets[slot as usize];
        let fate = match state.status {
            Status::Received => Fate::Received {
                rtt: Duration::from_nanos(state.value),
                ttl: (state.ttl != 0).then_some(state.ttl),
                source: if state.kernel { TsSource::Kernel } else { TsSource::User },
            },
            Status::Lost => Fate::Lost,
            Status::InFlight | Status::Unknown => Fate::Unknown,
            Status::NotSent => Fate::NotSent { errno: state.value as i32 },
            Status::Unreachable => match self.unreachable.get(&slot) {
                Some(&(from, kind, code)) => Fate::Unreachable { from, kind, code },
                None => Fate::Lost,
            },
        };
        Packet { sent: Timestamp::from_nanos(state.tx_real), fate }
    }

    /// Sends out the outcome of a round.
    pub(crate) fn emit(&mut self, index: u32) {
        let round = &mut self.table.rounds[index as usize];
        round.phase = Phase::Emitted;
        let (first, internal, family) =
            (round.first, round.watch == Watch::Calibration, Family::of(round.target) as usize);
        let mut packets = std::mem::take(&mut self.report.packets);
        packets.clear();
        let mut slot = first;
        while slot != NONE {
            packets.push(self.packet(slot));
            slot = self.table.packets[slot as usize].next;
        }
        if internal {
            self.report.calibrated(family, &packets);
        } else {
            let outcome = self.report.outcome(&self.table.rounds[index as usize], family, &packets);
            self.report.push(family, outcome, &packets);
        }
        self.report.packets = packets;
    }
}

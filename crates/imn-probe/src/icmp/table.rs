//! The state of rounds and packets: two slabs and an index by address, none of which allocates once warm.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

use crate::outcome::{Timestamp, nanos};

use super::config::Round;
use super::packet::{Cookie, Quoted};

pub(crate) const NONE: u32 = u32::MAX;
const BUCKETS: usize = 1 << 15;

/// Where a packet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    InFlight,
    Received,
    Lost,
    Unknown,
    Unreachable,
    NotSent,
}

/// One packet, 48 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PacketState {
    /// When it was handed to the kernel, monotonic.
    pub tx_mono: u64,
    /// When it left, realtime: the kernel's stamp if `stamped`, else ours.
    pub tx_real: u64,
    /// Round-trip time in nanoseconds; the error number if not sent.
    pub value: u64,
    pub generation: u32,
    pub round: u32,
    /// Next packet of the round.
    pub next: u32,
    pub sequence: u16,
    pub ttl: u8,
    pub status: Status,
    pub stamped: bool,
    pub kernel: bool,
    /// An answer came after the packet was lost.
    pub late: bool,
}

/// What is still to be asked before the next packet of a round may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Prefix,
    Engine,
    Send,
}

impl Stage {
    /// Loopback is not limited.
    pub(crate) fn first(target: IpAddr) -> Self {
        if target.is_loopback() { Self::Send } else { Self::Prefix }
    }
}

/// Where a round stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// All its packets are settled; its outcome leaves once what has arrived is read, so that copies count.
    Settled,
    /// Its outcome is out; its packets are kept so that what still comes is classified.
    Emitted,
    /// The slot is free.
    Forgotten,
}

/// Who watches a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Its outcome is all.
    Outcome,
    /// Somebody reads its events too.
    Events,
    /// The engine itself.
    Calibration,
}

/// One round.
#[derive(Debug, Clone)]
pub(crate) struct RoundState {
    pub key: u64,
    pub target: IpAddr,
    pub source: Option<IpAddr>,
    pub due: Timestamp,
    pub due_mono: u64,
    /// When the next packet may go, monotonic.
    pub send_at: u64,
    pub interval: u64,
    pub timeout: u64,
    pub lateness: u64,
    pub count: u16,
    pub sent: u16,
    pub settled: u16,
    pub size: u16,
    pub checksum: u16,
    pub tos: u8,
    pub ttl: u8,
    pub flow: u8,
    pub stage: Stage,
    pub first: u32,
    pub last: u32,
    /// First packet whose timeout has not passed.
    pub judge: u32,
    pub expected: u32,
    pub duplicates: u32,
    pub late: u32,
    pub reordered: u32,
    pub wrong_source: u32,
    pub corrupted: u32,
    sibling: u32,
    bucket: u32,
    pub phase: Phase,
    pub watch: Watch,
    pub cancelled: bool,
}

/// All rounds and packets.
pub(crate) struct Table {
    pub rounds: Vec<RoundState>,
    pub packets: Vec<PacketState>,
    free_rounds: Vec<u32>,
    free_packets: Vec<u32>,
    heads: Box<[u32]>,
    secret: RandomState,
    generation: u32,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            rounds: Vec::new(),
            packets: Vec::new(),
            free_rounds: Vec::new(),
            free_packets: Vec::new(),
            heads: vec![NONE; BUCKETS].into(),
            secret: RandomState::new(),
            generation: 0,
        }
    }

    /// Rounds whose state is kept.
    pub(crate) fn live(&self) -> usize {
        self.rounds.len() - self.free_rounds.len()
    }

    /// Keyed hash over a target and what the cookie says (SipHash with a key of this engine's).
    fn keyed(&self, target: IpAddr, slot: u32, generation: u32) -> u64 {
        let mut bytes = [0; 24];
        let address = match target {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        bytes[..16].copy_from_slice(&address.octets());
        bytes[16..20].copy_from_slice(&slot.to_ne_bytes());
        bytes[20..].copy_from_slice(&generation.to_ne_bytes());
        let mut hasher = self.secret.build_hasher();
        hasher.write(&bytes);
        hasher.finish()
    }

    /// The cookie for the packet in `slot`.
    pub(crate) fn cookie(&self, target: IpAddr, slot: u32) -> Cookie {
        let generation = self.packets[slot as usize].generation;
        Cookie { slot, generation, tag: self.keyed(target, slot, generation) }
    }

    /// The packet a cookie names, if its state is still kept and the tag is genuine.
    pub(crate) fn find(&self, cookie: Cookie) -> Option<u32> {
        let packet = self.packets.get(cookie.slot as usize)?;
        if packet.generation != cookie.generation || packet.round == NONE {
            return None;
        }
        let target = self.rounds[packet.round as usize].target;
        (self.keyed(target, cookie.slot, cookie.generation) == cookie.tag).then_some(cookie.slot)
    }

    /// True when we wrote the cookie for `target`, however long ago.
    pub(crate) fn wrote(&self, cookie: Cookie, target: IpAddr) -> bool {
        self.keyed(target, cookie.slot, cookie.generation) == cookie.tag
    }

    /// The packet that a quote without a cookie means: the latest to that target with its sequence and our checksum.
    pub(crate) fn find_quoted(&self, quoted: &Quoted) -> Option<u32> {
        let mut best: Option<u32> = None;
        let mut round = self.heads[self.bucket(quoted.target)];
        while round != NONE {
            let state = &self.rounds[round as usize];
            if state.target == quoted.target && state.checksum == quoted.checksum && quoted.target.is_ipv4() {
                let mut slot = state.first;
                while slot != NONE {
                    let packet = &self.packets[slot as usize];
                    let newer = best.is_none_or(|best| self.packets[best as usize].tx_mono < packet.tx_mono);
                    if packet.sequence == quoted.sequence && newer {
                        best = Some(slot);
                    }
                    slot = packet.next;
                }
            }
            round = state.sibling;
        }
        best
    }

    fn bucket(&self, target: IpAddr) -> usize {
        (self.keyed(target, NONE, NONE) >> 32) as usize % BUCKETS
    }

    /// Takes a round in; `due_mono` is its due time by the monotonic clock.
    pub(crate) fn open(&mut self, round: &Round, due_mono: u64, watch: Watch) -> u32 {
        let keyed = self.keyed(round.target, NONE, NONE);
        let bucket = (keyed >> 32) as u32 % BUCKETS as u32;
        let state = RoundState {
            key: round.key,
            target: round.target,
            source: round.source,
            due: round.due,
            due_mono,
            send_at: due_mono,
            interval: nanos(round.interval),
            timeout: nanos(round.timeout),
            lateness: 0,
            count: round.count,
            sent: 0,
            settled: 0,
            size: round.size,
            // Neither of the two zeros of one's complement.
            checksum: (keyed % 0xfffe) as u16 + 1,
            tos: round.dscp << 2,
            ttl: round.ttl.unwrap_or(0),
            flow: round.flow,
            stage: Stage::first(round.target),
            first: NONE,
            last: NONE,
            judge: NONE,
            expected: 0,
            duplicates: 0,
            late: 0,
            reordered: 0,
            wrong_source: 0,
            corrupted: 0,
            sibling: self.heads[bucket as usize],
            bucket,
            phase: Phase::Open,
            watch,
            cancelled: false,
        };
        let index = self.free_rounds.pop().unwrap_or(self.rounds.len() as u32);
        if let Some(free) = self.rounds.get_mut(index as usize) {
            *free = state;
        } else {
            self.rounds.push(state);
        }
        self.heads[bucket as usize] = index;
        index
    }

    /// Adds the next packet to a round.
    pub(crate) fn add_packet(&mut self, round: u32, now: u64) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let owner = &mut self.rounds[round as usize];
        let state = PacketState {
            tx_mono: now,
            tx_real: 0,
            value: 0,
            generation: self.generation,
            round,
            next: NONE,
            sequence: owner.sent,
            ttl: 0,
            status: Status::InFlight,
            stamped: false,
            kernel: false,
            late: false,
        };
        let slot = self.free_packets.pop().unwrap_or(self.packets.len() as u32);
        if let Some(free) = self.packets.get_mut(slot as usize) {
            *free = state;
        } else {
            self.packets.push(state);
        }
        owner.sent += 1;
        if owner.first == NONE {
            owner.first = slot;
        } else {
            self.packets[owner.last as usize].next = slot;
        }
        owner.last = slot;
        if owner.judge == NONE {
            owner.judge = slot;
        }
        slot
    }

    /// Forgets a round and its packets; `forgotten` is told each slot.
    pub(crate) fn close(&mut self, round: u32, mut forgotten: impl FnMut(u32)) {
        let (bucket, sibling) = {
            let state = &mut self.rounds[round as usize];
            state.phase = Phase::Forgotten;
            (state.bucket as usize, state.sibling)
        };
        let mut slot = self.rounds[round as usize].first;
        while slot != NONE {
            let packet = &mut self.packets[slot as usize];
            packet.round = NONE;
            self.free_packets.push(slot);
            forgotten(slot);
            slot = packet.next;
        }
        if self.heads[bucket] == round {
            self.heads[bucket] = sibling;
        } else {
            let mut before = self.heads[bucket];
            while self.rounds[before as usize].sibling != round {
                before = self.rounds[before as usize].sibling;
            }
            self.rounds[before as usize].sibling = sibling;
        }
        self.free_rounds.push(round);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_48_bytes() {
        assert!(size_of::<PacketState>() <= 48);
        assert!(size_of::<RoundState>() <= 192, "{}", size_of::<RoundState>());
    }

    #[test]
    fn slots_are_reused_but_cookies_are_not() {
        let mut table = Table::new();
        let target: IpAddr = "192.0.2.7".parse().unwrap();
        let first = table.open(&Round::new(1, target), 0, Watch::Outcome);
        let slot = table.add_packet(first, 5);
        let cookie = table.cookie(target, slot);
        assert_eq!(table.find(cookie), Some(slot));
        assert_eq!(table.find(Cookie { tag: cookie.tag ^ 1, ..cookie }), None);
        table.close(first, |_| {});
        assert_eq!(table.find(cookie), None);
        let second = table.open(&Round::new(2, target), 0, Watch::Outcome);
        let again = table.add_packet(second, 6);
        assert_eq!((second, again), (first, slot));
        assert_eq!(table.find(cookie), None);
        assert!(table.wrote(cookie, target));
        assert!(!table.wrote(cookie, "192.0.2.8".parse().unwrap()));
    }

    #[test]
    fn a_short_quote_finds_its_packet() {
        let mut table = Table::new();
        let targets: Vec<IpAddr> =
            (0..2000_u32).map(|n| std::net::Ipv4Addr::from_bits(0xc000_0000 + n).into()).collect();
        let rounds: Vec<u32> =
            targets.iter().map(|t| table.open(&Round::new(0, *t), 0, Watch::Outcome)).collect();
        let slots: Vec<u32> = rounds.iter().map(|round| table.add_packet(*round, 1)).collect();
        for at in (0..2000).step_by(2) {
            table.close(rounds[at], |_| {});
        }
        for at in 0..2000 {
            let quoted = Quoted {
                target: targets[at],
                id: 0,
                sequence: 0,
                checksum: table.rounds[rounds[at] as usize].checksum,
                cookie: None,
            };
            assert_eq!(table.find_quoted(&quoted), (at % 2 == 1).then_some(slots[at]));
            assert_eq!(table.find_quoted(&Quoted { checksum: quoted.checksum ^ 1, ..quoted }), None);
        }
        assert_eq!(table.live(), 1000);
    }
}

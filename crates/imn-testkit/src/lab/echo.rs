//! What the emulator did to each echo: the truth that a measured round trip is compared with.

use crate::lab::packet::{Class, EchoKey};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Echoes remembered at most.
const LIMIT: usize = 4_000_000;

/// One ICMP or ICMPv6 echo on its way through the laboratory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoTrip {
    /// The sender of the request.
    pub source: IpAddr,
    /// The destination of the request.
    pub destination: IpAddr,
    /// The identifier.
    pub id: u16,
    /// The sequence number.
    pub sequence: u16,
    /// When the request entered its first link, since the laboratory started.
    pub sent: Duration,
    /// The delays that the emulator really applied on all links, there and back, its own lateness included.
    pub applied: Duration,
    /// Where it ended.
    pub fate: EchoFate,
}

/// Where an echo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoFate {
    /// It is under way, or was not answered, or exceeded its hop limit: the emulator did not drop it.
    Unanswered,
    /// The reply was delivered to the sender of the request.
    Returned,
    /// The emulator dropped the request.
    RequestLost,
    /// The emulator dropped the reply.
    ReplyLost,
}

/// The echoes seen so far.
#[derive(Debug, Default)]
pub(crate) struct EchoLog {
    trips: Vec<Trip>,
    latest: HashMap<EchoKey, usize>,
    pub(crate) overflowed: bool,
}

#[derive(Debug)]
struct Trip {
    key: EchoKey,
    sent: u64,
    applied: u64,
    /// The directions crossed, as bits: a copy made by the emulator must not be counted on top of its original.
    crossed: u128,
    fate: EchoFate,
}

impl EchoLog {
    /// The request entered its first link.
    pub(crate) fn begin(&mut self, key: EchoKey, now: u64) {
        if self.trips.len() >= LIMIT {
            self.overflowed = true;
            self.latest.remove(&key);
            return;
        }
        self.latest.insert(key, self.trips.len());
        self.trips.push(Trip { key, sent: now, applied: 0, crossed: 0, fate: EchoFate::Unanswered });
    }

    /// The request or reply was delivered at the end of `direction`, at the sender of the request when `home`.
    pub(crate) fn crossed(&mut self, key: &EchoKey, direction: usize, applied: u64, home: bool) {
        let Some(trip) = self.latest.get(key).and_then(|index| self.trips.get_mut(*index)) else { return };
        if trip.crossed & (1 << direction) == 0 {
            trip.crossed |= 1 << direction;
            trip.applied += applied;
        }
        if home {
            trip.fate = EchoFate::Returned;
        }
    }

    /// The emulator dropped the request or reply.
    pub(crate) fn dropped(&mut self, key: &EchoKey, class: Class) {
        let Some(trip) = self.latest.get(key).and_then(|index| self.trips.get_mut(*index)) else { return };
        if trip.fate != EchoFate::Returned {
            trip.fate =
                if class == Class::IcmpEchoRequest { EchoFate::RequestLost } else { EchoFate::ReplyLost };
        }
    }

    pub(crate) fn trips(&self, mut wanted: impl FnMut(IpAddr, IpAddr) -> bool) -> Vec<EchoTrip> {
        let wanted = self.trips.iter().filter(|trip| wanted(trip.key.source, trip.key.destination));
        wanted
            .map(|trip| EchoTrip {
                source: trip.key.source,
                destination: trip.key.destination,
                id: trip.key.id,
                sequence: trip.key.sequence,
                sent: Duration::from_nanos(trip.sent),
                applied: Duration::from_nanos(trip.applied),
                fate: trip.fate,
            })
            .collect()
    }
}

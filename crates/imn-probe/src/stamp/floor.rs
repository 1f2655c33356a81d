//! What this host itself adds to a round trip: a session with a reflector of its own, over loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::outcome::Packet;

use super::reflector::{Port, Responder};
use super::sender::Link;
use super::session::Session;
use super::spec::Spec;

const SAMPLES: u16 = 5;
/// None of them takes longer.
const WITHIN: Duration = Duration::from_millis(50);

/// The greatest of a few round trips to loopback; `None` where there is none.
pub(crate) fn measure(v4: bool) -> Option<Duration> {
    let local = if v4 { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
    let mut port = Port::open(SocketAddr::new(local, 0)).ok()?;
    let mut responder = Responder::plain();
    let spec =
        Spec { count: SAMPLES, interval: Duration::ZERO, timeout: WITHIN, ..Spec::new(port.address()) };
    let mut link = Link::open(&spec).ok()?;
    let mut clock = Clock::new();
    let mut session = Session::new(&spec, clock.now().mono, None, true);
    let mut tell = |_| {};
    for sent in 1..=usize::from(SAMPLES) {
        link.send(&mut session, &mut clock, &mut tell);
        let begin = Instant::now();
        while session.settled() < sent && begin.elapsed() < WITHIN {
            responder.serve(&mut port);
            link.drain(&mut session, &mut clock, &mut tell);
        }
    }
    let outcome = session.outcome();
    outcome.packets.iter().filter_map(Packet::rtt).max()
}

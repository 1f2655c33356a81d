use std::net::SocketAddr;

use crate::clock::monotonic;
use crate::outcome::{Timestamp, nanos};
use crate::sys::{Control, RecvBatch, SendBatch, SendControl};

use super::limit::Limiter;
use super::port::Port;
use super::table::{Claim, Table};
use super::{BEAT, Config, Stats};
use crate::stamp::estimate::{ClockQuality, ErrorEstimate};
use crate::stamp::key::Key;
use crate::stamp::packet::{Answer, Malformed, Request};

/// Messages per `recvmmsg`, of the largest size that UDP has.
const RECEIVE: usize = 16;
const LARGEST: usize = 65_535;
/// Calls of `recvmmsg` per socket before others get their turn.
const CALLS: usize = 64;
/// Senders use ports of the dynamic range; below are services, and other reflectors.
const LEAST_PORT: u16 = 1024;

/// A request with what the kernel says of it.
struct Asked<'a> {
    from: SocketAddr,
    bytes: &'a [u8],
    request: Request,
    control: &'a Control,
}

/// What answers requests, whichever socket they come by.
pub(crate) struct Responder {
    key: Option<Key>,
    table: Option<Table>,
    limiter: Option<Limiter>,
    ask_clock: fn() -> ClockQuality,
    clock: ClockQuality,
    /// The kernel takes stamps on arrival.
    trusted: bool,
    asked_at: Option<u64>,
    stats: Stats,
    receive: RecvBatch,
    send: SendBatch,
}

impl Responder {
    /// One that uses the kernel's receive stamps if they are `trusted`.
    pub(crate) fn new(config: &Config, trusted: bool) -> Self {
        Self {
            key: config.key.clone(),
            table: config.stateful.then(|| Table::new(config.max_sessions, nanos(config.session_timeout))),
            limiter: config.source_rate.map(Limiter::new),
            ask_clock: config.clock,
            clock: (config.clock)(),
            trusted,
            asked_at: None,
            stats: Stats::default(),
            receive: RecvBatch::new(RECEIVE, LARGEST),
            send: SendBatch::new(1),
        }
    }

    /// One without key, sessions and limits, for small packets: for calibration.
    pub(crate) fn plain() -> Self {
        let config = Config { source_rate: None, ..Config::default() };
        Self { receive: RecvBatch::new(1, 2048), ..Self::new(&config, true) }
    }

    /// Asks for the state of the clock, if that has not been done for a while.
    pub(crate) fn refresh(&mut self) {
        let now = monotonic();
        if self.asked_at.is_none_or(|asked| now >= asked + nanos(BEAT)) {
            self.clock = (self.ask_clock)();
            self.asked_at = Some(now);
        }
    }

    pub(crate) fn stats(&self, ports: &[Port]) -> Stats {
        Stats {
            sessions: self.table.as_ref().map_or(0, Table::len) as u64,
            rxq_overflow: ports.iter().map(Port::drops).sum(),
            ..self.stats
        }
    }

    /// Answers what has arrived at a port.
    pub(crate) fn serve(&mut self, port: &mut Port) {
        let size = self.receive.size();
        let mut receive = std::mem::replace(&mut self.receive, RecvBatch::new(0, size));
        for _ in 0..CALLS {
            // An error is that of an answer sent before, which nobody took.
            let Ok(count) = receive.receive(port.socket(), false) else { continue };
            for index in 0..count {
                self.stats.received += 1;
                let (bytes, truncated) = receive.data(index);
                match receive.peer(index) {
                    Some(from) if !truncated => self.reflect(port, from, bytes, &receive.control(index)),
                    _ => self.stats.malformed += 1,
                }
            }
            if count < receive.capacity() {
                break;
            }
        }
        self.receive = receive;
    }

    fn reflect(&mut self, port: &Port, from: SocketAddr, bytes: &[u8], control: &Control) {
        let now = monotonic();
        let loopback = from.ip().is_loopback();
        if !Self::is_answerable(port, from, control) {
            self.stats.refused += 1;
            return;
        }
        if !loopback && self.limiter.as_mut().is_some_and(|limiter| !limiter.admit(from.ip(), now)) {
            self.stats.rate_limited += 1;
            return;
        }
        let request = match Request::parse(bytes, self.key.as_ref()) {
            Ok(request) => request,
            Err(Malformed::Short) => {
                self.stats.malformed += 1;
                return;
            }
            Err(Malformed::Unauthentic) => {
                self.stats.unauthentic += 1;
                return;
            }
        };
        let local = control.destination.map_or(port.address().ip(), |(_, local)| local);
        let claim = match &mut self.table {
            None => None,
            Some(table) => match table.claim((from, local, port.address().port(), request.ssid), now) {
                None => {
                    self.stats.sessions_refused += 1;
                    return;
                }
                claim => claim,
            },
        };
        let asked = Asked { from, bytes, request, control };
        let sent = self.answer(port, &asked, claim.as_ref());
        if sent {
            self.stats.reflected += 1;
            if let (Some(table), Some(claim)) = (&mut self.table, claim) {
                table.answered(&claim);
            }
        } else {
            self.stats.not_sent += 1;
        }
    }

    /// Not what goes to more than one host, nor what another service or a reflector sent, which would take the answer
    /// for a request: two reflectors would never stop.
    fn is_answerable(port: &Port, from: SocketAddr, control: &Control) -> bool {
        let to_one =
            control.destination.is_none_or(|(header, local)| header == local && !header.is_multicast());
        let ip = from.ip();
        to_one
            && from.port() >= LEAST_PORT
            && from.port() != port.address().port()
            && !ip.is_multicast()
            && !ip.is_unspecified()
    }

    fn answer(&mut self, port: &Port, asked: &Asked<'_>, claim: Option<&Claim>) -> bool {
        let Asked { from, bytes, request, control } = asked;
        let send_control = SendControl {
            ttl: 0,
            // The same class of service for the way back, without congestion marks.
            tos: control.tos.unwrap_or(0) & 0xfc,
            source: control.destination.map(|(_, local)| local),
            label: 0,
        };
        let format = request.estimate.format();
        let tai_offset = self.clock.tai_offset;
        let stamp = control.stamp.filter(|_| self.trusted);
        if stamp.is_none() {
            self.stats.rx_stamps_missing += 1;
        }
        let received = stamp.map_or_else(Timestamp::now, Timestamp::from_nanos);
        let mut answer = Answer {
            sequence: claim.map_or(request.sequence, |claim| claim.count),
            timestamp: 0,
            estimate: ErrorEstimate::new(&self.clock, format),
            ssid: request.ssid,
            received: format.encode(received, tai_offset),
            sender_sequence: request.sequence,
            sender_timestamp: request.timestamp,
            sender_estimate: request.estimate,
            sender_ttl: control.ttl.unwrap_or(0),
        };
        self.send.clear();
        let room = self.send.push_to(*from, &send_control, bytes.len());
        // As late as possible: after it come the HMAC, if there is one, and the system call.
        answer.timestamp = format.encode(Timestamp::now(), tai_offset);
        answer.write(bytes, room, self.key.as_ref());
        // The first error may be that of an answer sent before.
        self.send.send(port.socket()).or_else(|_| self.send.send(port.socket())).is_ok()
    }
}

//! The reflector: one thread that answers whoever asks, never with more than it was sent.

mod limit;
mod port;
mod responder;
mod table;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::pace::Rate;
use crate::stamping::Keeper;
use crate::sys::{Epoll, Interest, Waker};
use crate::thread;

use super::estimate::ClockQuality;
use super::key::Key;
use super::packet::PORT;
use super::sender::StartError;

pub(crate) use port::Port;
pub(crate) use responder::Responder;

const WAKER: u64 = u64::MAX;
/// The state of the clock is asked for, and the counters are published, this often.
const BEAT: Duration = Duration::from_millis(500);

/// Settings of a reflector.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Default: port 862 of all addresses of both families; without a family it is left out.
    pub listen: Vec<SocketAddr>,
    /// Number answers by a count of each session's own, so that its sender can tell the directions of its losses.
    pub stateful: bool,
    /// Secret of authenticated mode; packets without the right HMAC are then not answered.
    pub key: Option<Key>,
    /// Sessions whose count is kept at once; more are not answered. Default 65,536.
    pub max_sessions: usize,
    /// A session from which nothing came for this long is forgotten. Default 15 minutes.
    pub session_timeout: Duration,
    /// Packets per second of one source address (of a /64 for IPv6) other than loopback; more are not answered. `None`
    /// is unlimited. Default 2,000.
    pub source_rate: Option<Rate>,
    /// Asked every half second for what this host knows of its clock.
    pub clock: fn() -> ClockQuality,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::UNSPECIFIED, PORT).into(), (Ipv6Addr::UNSPECIFIED, PORT).into()],
            stateful: false,
            key: None,
            max_sessions: 65_536,
            session_timeout: Duration::from_mins(15),
            source_rate: Rate::new(2_000),
            clock: ClockQuality::default,
        }
    }
}

/// Counters of a reflector since its start, and its present load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets received.
    pub received: u64,
    /// Packets answered.
    pub reflected: u64,
    /// Packets too short or too long to be requests.
    pub malformed: u64,
    /// Packets with another HMAC than the key gives.
    pub unauthentic: u64,
    /// Packets above their source's rate.
    pub rate_limited: u64,
    /// Packets to more than one host, or from a port that no sender has: answering those could feed a loop.
    pub refused: u64,
    /// Sessions whose count is kept now.
    pub sessions: u64,
    /// Packets of sessions for which there was no room.
    pub sessions_refused: u64,
    /// Answers that the local kernel would not send.
    pub not_sent: u64,
    /// Requests without a kernel receive stamp: the time in the socket's queue counts as the network's.
    pub rx_stamps_missing: u64,
    /// Packets that the kernel dropped because a receive queue was full.
    pub rxq_overflow: u64,
}

/// A running reflector. Dropping it stops its thread.
#[derive(Debug)]
pub struct Reflector {
    addresses: Vec<SocketAddr>,
    stats: Arc<Mutex<Stats>>,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    _stamping: Keeper,
    thread: Option<JoinHandle<()>>,
}

impl Reflector {
    /// Opens the sockets, in the calling thread's network namespace, and starts the thread.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let system = |operation| move |source| StartError::System { operation, source };
        let mut ports = Vec::new();
        for address in &config.listen {
            match Port::open(*address) {
                Ok(port) => ports.push(port),
                // A host without one of the families is listened on by the other.
                Err(error)
                    if address.ip().is_unspecified()
                        && matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                }
                Err(source) => {
                    let hint = match source.raw_os_error() {
                        Some(libc::EACCES) => {
                            "; for ports below 1024 grant it with `setcap cap_net_bind_service+ep <imn binary>`, or \
                             listen on a port from 1024 on"
                        }
                        _ => "",
                    };
                    return Err(StartError::Listen { address: *address, source, hint });
                }
            }
        }
        if ports.is_empty() {
            return Err(StartError::Invalid("there is no address to listen on"));
        }
        let waker = Arc::new(Waker::new().map_err(system("create eventfd"))?);
        let epoll = Epoll::new().map_err(system("create epoll instance"))?;
        epoll.add(&*waker, WAKER, Interest::Read).map_err(system("watch eventfd"))?;
        for (index, port) in ports.iter().enumerate() {
            epoll.add(port.socket(), index as u64, Interest::Read).map_err(system("watch udp socket"))?;
        }
        let addresses = ports.iter().map(Port::address).collect();
        let stats = Arc::new(Mutex::new(Stats::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let stamping = Keeper::new();
        let mut responder = Responder::new(config, stamping.stamps());
        let work = {
            let (stats, stop) = (Arc::clone(&stats), Arc::clone(&stop));
            move || {
                let (mut epoll, mut ready) = (epoll, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    responder.refresh();
                    for index in ready.drain(..) {
                        if let Some(port) = ports.get_mut(index as usize) {
                            responder.serve(port);
                        }
                    }
                    *stats.lock().unwrap_or_else(PoisonError::into_inner) = responder.stats(&ports);
                    if epoll.wait(Some(BEAT), &mut ready).is_err() {
                        // It fails only for arguments that are fixed here.
                        ready.clear();
                    }
                }
            }
        };
        let thread = thread::spawn("imn-reflector", work).map_err(system("start reflector thread"))?;
        Ok(Self { addresses, stats, stop, waker, _stamping: stamping, thread: Some(thread) })
    }

    /// Where it listens, with the ports that the kernel chose for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Counters, at most half a second old.
    pub fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! One TCP connection, timed, for engines that go on to speak over it.
//!
//! The future belongs to whoever awaits it: dropping it closes the socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use socket2::{SockAddr, SockRef, Socket};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout_at;

use crate::outcome::{Fate, TsSource};
use crate::sys::RecvBatch;
use crate::tcp::{conclude, open, own_fault};

/// Connections to itself by which this host finds out what it adds to a sample.
const FLOOR_SAMPLES: usize = 5;
/// How long a calibration is good for.
const FLOOR_LASTS: Duration = Duration::from_mins(5);
/// None of its connections takes longer.
const FLOOR_WITHIN: Duration = Duration::from_millis(50);

/// What to connect to, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Address and port, the port at least 1.
    pub peer: SocketAddr,
    /// Differentiated services code point, 0..=63.
    pub dscp: u8,
    /// Source address; `None` for the host's choice.
    pub source: Option<IpAddr>,
}

/// A connection that stands, without Nagle's algorithm.
#[derive(Debug)]
pub struct Connection {
    /// The connection.
    pub stream: TcpStream,
    /// The address it was made from.
    pub local: Option<SocketAddr>,
    /// From the first SYN until this process knew of the answer, on the monotonic clock.
    pub elapsed: Duration,
    /// From SYN to SYN-ACK as the kernel took it; `None` if the SYN had to be repeated.
    pub rtt: Option<Duration>,
}

impl Connection {
    /// The connection as a sample: the kernel's round trip, or else this process's.
    pub fn sample(&self) -> (Duration, TsSource) {
        self.rtt.map_or((self.elapsed, TsSource::User), |rtt| (rtt, TsSource::Kernel))
    }
}

/// Connects. The error is what became of the attempt: [`Fate::Lost`] when nothing came by the deadline.
pub async fn connect(spec: &Spec, deadline: Instant) -> Result<Connection, Fate> {
    let begin = Instant::now();
    let socket = open(spec.peer, spec.dscp, spec.source).map_err(|error| own_fault(&error))?;
    match socket.connect(&SockAddr::from(spec.peer)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(Fate::Refused { rtt: begin.elapsed() });
        }
        Err(error) => return Err(own_fault(&error)),
    }
    let stream = hand_over(socket).map_err(|error| own_fault(&error))?;
    let mut errors = RecvBatch::new(1, 512);
    loop {
        match timeout_at(deadline.into(), stream.writable()).await {
            Err(_) => return Err(Fate::Lost),
            Ok(Err(error)) => return Err(own_fault(&error)),
            Ok(Ok(())) => {}
        }
        let elapsed = begin.elapsed();
        match conclude(&SockRef::from(&stream), elapsed, &mut errors) {
            Some(Fate::Received { rtt, source, .. }) => {
                let rtt = (source == TsSource::Kernel).then_some(rtt);
                return Ok(Connection { local: stream.local_addr().ok(), stream, elapsed, rtt });
            }
            Some(fate) => return Err(fate),
            // Woken for nothing: asking clears the readiness, so that the next wait is one.
            None => match stream.try_write(&[]) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(own_fault(&error)),
                _ => {}
            },
        }
    }
}

fn hand_over(socket: Socket) -> io::Result<TcpStream> {
    socket.set_tcp_nodelay(true)?;
    TcpStream::from_std(socket.into())
}

/// What this host adds to a time that this process takes: its own connections to loopback, now and again.
#[derive(Debug, Default)]
pub struct Floor {
    last: Mutex<Option<(Instant, Option<Duration>)>>,
}

impl Floor {
    /// The median, taken anew if the last is older than five minutes; `None` where there is no loopback.
    pub async fn get(&self) -> Option<Duration> {
        let mut last = self.last.lock().await;
        if let Some((at, floor)) = *last
            && at.elapsed() < FLOOR_LASTS
        {
            return floor;
        }
        let floor = calibrate().await;
        *last = Some((Instant::now(), floor));
        floor
    }
}

async fn calibrate() -> Option<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    let spec = Spec { peer: listener.local_addr().ok()?, dscp: 0, source: None };
    let mut samples = Vec::with_capacity(FLOOR_SAMPLES);
    for _ in 0..FLOOR_SAMPLES {
        if let Ok(connection) = connect(&spec, Instant::now() + FLOOR_WITHIN).await {
            samples.push(connection.elapsed);
        }
    }
    samples.sort_unstable();
    imn_metric::percentile(&samples, 0.5)
}

//! A TCP connection that keeps the kernel's timestamps of what passes, also while TLS or HTTP is spoken over it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::config::Query;
use super::outcome::Failure;
use super::stamp::{self, Lap, Stopwatch};
use crate::dial;
use crate::sys::RecvBatch;

/// Segments of a query are few: transmit timestamps read at most.
const STAMPS: usize = 8;

/// A connection.
pub(super) struct Stream {
    tap: Tap,
    control: Vec<u8>,
}

/// What stays in hand when the stream has gone into TLS or HTTP.
#[derive(Clone)]
pub(super) struct Tap {
    stream: Arc<TcpStream>,
    /// Stamp of the last segment received; 0 if there is none.
    received: Arc<AtomicU64>,
    local: Option<IpAddr>,
}

/// A stretch of the connection's life that is being measured.
pub(super) struct Trial {
    tap: Tap,
    watch: Stopwatch,
}

impl Stream {
    /// Connects; tells the time from SYN to SYN-ACK.
    pub(super) async fn connect(
        resolver: SocketAddr,
        query: &Query,
        end: Instant,
    ) -> Result<(Self, Duration), Failure> {
        let spec = dial::Spec { peer: resolver, dscp: query.dscp, source: query.source };
        let connection =
            dial::connect(&spec, end).await.map_err(|fate| Failure::of(fate).unwrap_or(Failure::Unknown))?;
        let elapsed = connection.sample().0;
        let tap = Tap {
            local: connection.local.map(|address| address.ip()),
            stream: Arc::new(connection.stream),
            received: Arc::default(),
        };
        // What is left when it closes is of no interest to either side: no TIME_WAIT, and the port is free.
        let _: io::Result<()> = SockRef::from(&*tap.stream).set_linger(Some(Duration::ZERO));
        let control = nix::cmsg_space!(nix::sys::socket::Timestamps);
        Ok((Self { tap, control }, elapsed))
    }

    pub(super) fn tap(&self) -> Tap {
        self.tap.clone()
    }
}

impl Tap {
    /// Measures from here on: call it right before something is sent.
    pub(super) fn start(&self) -> Trial {
        self.received.store(0, Relaxed);
        stamp::request(&*self.stream, true);
        Trial { tap: self.clone(), watch: Stopwatch::start() }
    }

    pub(super) fn local(&self) -> Option<IpAddr> {
        self.local
    }
}

impl Trial {
    /// From the first segment sent to the last received.
    pub(super) fn lap(&mut self) -> Lap {
        let received = Some(self.tap.received.load(Relaxed)).filter(|stamp| *stamp != 0);
        let mut batch = RecvBatch::new(STAMPS, 16);
        let count = batch.receive(&*self.tap.stream, true).unwrap_or(0);
        let stamps = (0..count).filter_map(|index| {
            let control = batch.control(index);
            control.error.filter(|error| error.origin == libc::SO_EE_ORIGIN_TIMESTAMPING).and(control.stamp)
        });
        self.watch.lap(stamps.min(), received)
    }
}

/// Receives into `buffer`, and tells the stamp of the last segment of it.
fn receive(fd: RawFd, buffer: &mut [u8], control: &mut [u8]) -> io::Result<(usize, Option<u64>)> {
    let mut parts = [io::IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(fd, &mut parts, Some(control), MsgFlags::MSG_DONTWAIT)?;
    let stamp = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampsns(stamps) => {
            let time = stamps.system;
            let nanos = time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64;
            (nanos != 0).then_some(nanos)
        }
        _ => None,
    });
    Ok((message.bytes, stamp))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { tap, control } = self.get_mut();
        loop {
            ready!(tap.stream.poll_read_ready(cx))?;
            let fd = tap.stream.as_raw_fd();
            let read = || receive(fd, out.initialize_unfilled(), control);
            match tap.stream.try_io(Interest::READABLE, read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok((count, stamp)) => {
                    if count > 0 {
                        tap.received.store(stamp.unwrap_or(0), Relaxed);
                    }
                    out.advance(count);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = &self.tap.stream;
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.tap.stream).shutdown(std::net::Shutdown::Write))
    }
}

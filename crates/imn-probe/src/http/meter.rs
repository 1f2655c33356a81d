//! What goes over the connection, as seen from below HTTP: when the first byte came, how large the head is, how the
//! connection ended.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Lines of a head at most; hyper's own table of headers is made for so many.
pub(super) const MOST_LINES: u32 = 1024;

/// A connection that is watched.
pub(super) struct Meter<S> {
    stream: S,
    tally: Shared,
}

/// What was seen, shared with whoever awaits the answer.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Tally>>);

/// What was seen.
pub(super) struct Tally {
    /// When the first byte came.
    pub(super) first: Option<Instant>,
    /// The head, while it is in plain text.
    pub(super) head: Head,
    /// The head exceeded its limit.
    pub(super) overflow: bool,
    /// The other side closed.
    pub(super) ended: bool,
    /// The error by which the connection broke.
    pub(super) broken: Option<io::Error>,
    reading: Reading,
    read: u64,
    limit: u64,
}

/// What the next bytes are part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// A head in plain text.
    Text,
    /// Frames, and in them a head (HTTP/2); that it is over is told from above.
    Frames,
    /// What follows the head.
    Body,
}

impl<S> Meter<S> {
    /// Watches a connection on which a head may have `limit` bytes.
    pub(super) fn new(stream: S, limit: u32, framed: bool) -> (Self, Shared) {
        // Frames around a head, and those that a server sends before it.
        const FRAMES: u64 = 64 << 10;
        let tally = Tally {
            first: None,
            head: Head::default(),
            overflow: false,
            ended: false,
            broken: None,
            reading: if framed { Reading::Frames } else { Reading::Text },
            read: 0,
            limit: u64::from(limit) + if framed { FRAMES } else { 0 },
        };
        let shared = Shared(Arc::new(Mutex::new(tally)));
        (Self { stream, tally: shared.clone() }, shared)
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer's head has been read: what follows is its body.
    pub(super) fn complete(&self) {
        self.lock().reading = Reading::Body;
    }
}

impl Tally {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            self.ended = true;
            return Ok(());
        }
        if self.first.is_none() {
            self.first = Some(Instant::now());
        }
        self.read += bytes.len() as u64;
        let size = match self.reading {
            Reading::Text => {
                self.head.take(bytes);
                self.head.bytes()
            }
            Reading::Frames => self.read,
            Reading::Body => 0,
        };
        if size > self.limit || self.head.lines() > MOST_LINES {
            self.overflow = true;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head is too large"));
        }
        Ok(())
    }

    fn note<T>(&mut self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        done.map_err(|error| {
            let told = io::Error::new(error.kind(), error.to_string());
            self.broken.get_or_insert(error);
            told
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Meter<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        let mut tally = self.tally.lock();
        match done {
            Poll::Ready(Ok(())) => Poll::Ready(tally.take(&buffer.filled()[before..])),
            done => tally.note(done),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Meter<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.tally.lock().note(done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(context);
        self.tally.lock().note(done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Finds the end of the head of an answer of HTTP/1 (RFC 9112 §2.1), interim answers (1xx) included, however the
/// bytes are cut into pieces.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Head {
    bytes: u64,
    lines: u32,
    /// Bytes of the current line.
    line: u32,
    /// The last of them is a carriage return.
    returned: bool,
    /// The begin of the status line, as far as the first digit of the status.
    begin: [u8; 10],
    /// Bytes of it that are known; 0 before the status line.
    begun: usize,
    /// The current line is the status line.
    in_status_line: bool,
    done: bool,
}

impl Head {
    /// Takes the next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.done {
                return;
            }
            self.bytes += 1;
            if *byte == b'\n' {
                self.end_line();
                continue;
            }
            self.line += 1;
            self.returned = *byte == b'\r';
            self.in_status_line |= self.begun == 0 && !self.returned;
            if self.in_status_line && self.begun < self.begin.len() {
                self.begin[self.begun] = *byte;
                self.begun += 1;
            }
        }
    }

    fn end_line(&mut self) {
        let empty = self.line == 0 || self.line == 1 && self.returned;
        self.line = 0;
        self.in_status_line = false;
        self.lines += 1;
        // Empty lines before the status line are passed over.
        if !empty || self.begun == 0 {
            return;
        }
        if self.is_interim() {
            self.begun = 0;
        } else {
            self.done = true;
        }
    }

    /// `HTTP/1.1 1..`
    fn is_interim(&self) -> bool {
        self.begun == self.begin.len() && self.begin.starts_with(b"HTTP/1.") && self.begin[9] == b'1'
    }

    /// Bytes of the head so far; once it is over, its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lines so far.
    pub fn lines(&self) -> u32 {
        self.lines
    }

    /// Whether the head is over.
    pub fn is_done(&self) -> bool {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(answer: &[u8]) -> (u64, bool) {
        let mut head = Head::default();
        head.take(answer);
        (head.bytes(), head.is_done())
    }

    #[test]
    fn the_head_ends_at_its_empty_line() {
        assert_eq!(size(b"HTTP/1.1 200 OK\r\na: b\r\n\r\nbody"), (25, true));
        assert_eq!(size(b"\r\nHTTP/1.1 200 OK\n\nbody"), (19, true));
        assert_eq!(size(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n"), (44, true));
        assert_eq!(size(b"HTTP/1.1 200 OK\r\na: b\r\n"), (23, false));
        assert_eq!(size(b"HTTP/1.1 200 OK\r\nx\r\r\n\r\n"), (23, true));
    }
}

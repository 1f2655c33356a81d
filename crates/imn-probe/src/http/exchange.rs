//! One request and its answer over a connection that stands.

use std::error::Error as _;
use std::io;
use std::time::Instant;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_LENGTH, HeaderMap, LOCATION};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::error::Cause;
use super::meter::{MOST_LINES, Meter, Shared};
use super::outcome::{Answer, Hop, Phase};
use super::pool::Pool;
use super::spec::Limit;
use crate::tls;

/// What is kept of a body for its rules.
const MATCHED: usize = 1 << 20;
/// Longest location that is recorded.
const LONGEST_LOCATION: usize = 8192;
/// Pieces of a body that are taken before others have their turn: a server that is faster than this process must not
/// keep it from its timers.
const TURN: u32 = 64;
/// Data of HTTP/2 that may be under way: what bounds its memory, and its rate over long paths.
const WINDOW: u32 = 1 << 20;

/// What the rest of a measurement wants to know of an answer.
pub(super) struct Exchanged {
    pub(super) headers: HeaderMap,
    /// Its begin, if it was to be kept.
    pub(super) body: Vec<u8>,
}

/// How to exchange.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// Speak HTTP/2.
    pub(super) http2: bool,
    pub(super) limit: Limit,
    /// Keep the begin of the body.
    pub(super) keep: bool,
    /// Do not read the body of a redirect: it will be followed.
    pub(super) follow: bool,
}

/// Sends a request and reads its answer; what is known so far stands in `hop` whenever this is dropped.
pub(super) async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    manner: Manner,
    hop: &mut Hop,
) -> Result<Exchanged, Cause>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    hop.phase = Phase::Processing;
    let begin = Instant::now();
    let (meter, tally) = Meter::new(stream, manner.limit.head, manner.http2);
    let failed = |error: hyper::Error| cause(&error, &tally, manner.limit, false);
    let mut pool = Pool::default();
    let io = TokioIo::new(meter);
    // Senders are held to the end: without them a connection ends.
    let (mut sender1, mut sender2);
    let response = if manner.http2 {
        let (sender, connection) = pool.drive(http2(&pool).handshake(io)).await.map_err(failed)?;
        pool.push(async move { drop(connection.await) });
        sender2 = sender;
        pool.drive(sender2.send_request(request)).await
    } else {
        let (sender, connection) = http1().handshake(io).await.map_err(failed)?;
        pool.push(async move { drop(connection.await) });
        sender1 = sender;
        pool.drive(sender1.send_request(request)).await
    };
    let now = Instant::now();
    let response = response.map_err(failed)?;
    tally.complete();
    let first = if manner.http2 { now } else { tally.lock().first.unwrap_or(now) };
    hop.phases.set(Phase::Processing, first.saturating_duration_since(begin));
    hop.phase = Phase::Transfer;
    let answer = answer(&response, &tally, manner.http2);
    let skip = manner.follow && is_redirect(answer.status) && answer.location.is_some();
    hop.answer = Some(answer);
    let (head, body) = response.into_parts();
    let body = if skip { Ok(Vec::new()) } else { read(&mut pool, body, &tally, manner, hop).await };
    let body = body?;
    hop.phases.set(Phase::Transfer, first.elapsed());
    Ok(Exchanged { headers: head.headers, body })
}

/// Whether a status says where else to ask.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_headers(MOST_LINES as usize);
    builder
}

fn http2(pool: &Pool) -> http2::Builder<super::pool::Inbox> {
    let mut builder = http2::Builder::new(pool.inbox());
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    builder
}

async fn read(
    pool: &mut Pool,
    mut body: Incoming,
    tally: &Shared,
    manner: Manner,
    hop: &mut Hop,
) -> Result<Vec<u8>, Cause> {
    let mut kept = Vec::new();
    let (mut size, mut pieces) = (0_u64, 0_u32);
    while let Some(frame) = pool.drive(body.frame()).await {
        let frame = frame.map_err(|error| cause(&error, tally, manner.limit, true))?;
        pieces += 1;
        if pieces.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
        let Some(data) = frame.data_ref() else { continue };
        size += data.len() as u64;
        if manner.keep && kept.len() < MATCHED {
            kept.extend_from_slice(&data[..data.len().min(MATCHED - kept.len())]);
        }
        if let Some(answer) = &mut hop.answer {
            answer.body_bytes = size.min(manner.limit.body);
        }
        if size > manner.limit.body {
            return Err(Cause::BodyTooLarge(manner.limit.body));
        }
    }
    Ok(kept)
}

fn answer(response: &Response<Incoming>, tally: &Shared, http2: bool) -> Answer {
    let header = |name| response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    Answer {
        status: response.status(),
        version: match response.version() {
            hyper::Version::HTTP_10 => "1.0",
            hyper::Version::HTTP_2 => "2",
            _ => "1.1",
        },
        head_bytes: if http2 { as_text(response.headers()) } else { tally.lock().head.bytes() },
        body_bytes: 0,
        content_length: header(CONTENT_LENGTH).and_then(|length| length.parse().ok()),
        location: header(LOCATION).map(|location| location.chars().take(LONGEST_LOCATION).collect()),
    }
}

/// The size of a head as HTTP/1.1 would write it: `HTTP/2 200 ` and the headers, a line each.
fn as_text(headers: &HeaderMap) -> u64 {
    let status_line = "HTTP/2 200 \r\n".len();
    let lines = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    (status_line + lines.sum::<usize>() + "\r\n".len()) as u64
}

/// Why hyper gave up: what was seen below it is more telling than what it says.
fn cause(error: &hyper::Error, tally: &Shared, limit: Limit, in_body: bool) -> Cause {
    let mut tally = tally.lock();
    if tally.overflow {
        return Cause::HeadTooLarge(limit.head);
    }
    if let Some(error) = tally.broken.take() {
        return match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Cause::Reset
            }
            // TLS ended without its farewell.
            io::ErrorKind::UnexpectedEof if tally.first.is_some() => Cause::Truncated,
            io::ErrorKind::UnexpectedEof => Cause::Closed,
            _ => Cause::Tls(tls::Error::of_stream(&error)),
        };
    }
    if tally.ended && (error.is_incomplete_message() || in_body) {
        return if tally.first.is_some() { Cause::Truncated } else { Cause::Closed };
    }
    if tally.ended && tally.first.is_none() {
        return Cause::Closed;
    }
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        words = format!("{words}: {inner}");
        source = inner.source();
    }
    Cause::Protocol(words.chars().take(200).collect())
}

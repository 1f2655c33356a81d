//! The DNS engine: one question to one resolver, over UDP, TCP, TLS or HTTPS, and how long each part of it took.
//!
//! One query is one future, which its caller owns and polls; nothing is spawned. Each query has a socket of its own,
//! with a random port and a random identifier. The latency is that of question and answer alone, from the kernel's
//! transmit timestamp to its receive timestamp on every transport; connection and handshake are phases of their own.
//!
//! Queries are made with hickory's types. Answers are read here, since of one that does not add up everything in
//! front of the fault is wanted, and the text of a record as zone files have it.
//!
//! What is deliberately absent: recursion, caches, search lists, validation (the resolver's AD flag is reported), zone
//! transfers, and resolution of the resolver's own name.

mod answer;
mod config;
mod cursor;
mod https;
mod outcome;
mod record;
mod stamp;
mod stream;
mod tcp;
mod text;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

pub use answer::{Answer, Counts, Edns, Flags, Malformed, Question, Record};
pub use config::{Config, Query, Transport, reverse, system_resolvers};
pub use cursor::Fault;
pub use outcome::{Failure, Outcome, Phases, Wrong};
pub use record::{Class, Rcode, RecordType, UnknownName};

use crate::clock::monotonic;
use crate::pace::Pace;
use crate::stamping::Keeper;
use crate::tls::{self, Client, Trust};
use config::Ask;
use stream::Stream;

/// Files that the process needs for something else.
const SPARE_FILES: usize = 128;

/// Asks, within the limits of its [`Config`].
#[derive(Debug)]
pub struct Engine {
    slots: Semaphore,
    pace: Mutex<Pace>,
    floor: Option<Duration>,
    _stamping: Keeper,
    trust: Option<Trust>,
    verified: OnceLock<Client>,
    unverified: OnceLock<Client>,
}

impl Engine {
    /// An engine that believes the system's certificate authorities, and finds out at once what this host adds to a
    /// sample.
    pub fn new(config: &Config) -> Self {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |limits| limits.0);
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let open = config.max_open.min(files.saturating_sub(SPARE_FILES)).clamp(16, Semaphore::MAX_PERMITS);
        let stamping = Keeper::new();
        Self {
            slots: Semaphore::new(open),
            pace: Mutex::new(Pace::new(config.rate, config.prefix_rate)),
            floor: udp::floor(),
            _stamping: stamping,
            trust: None,
            verified: OnceLock::new(),
            unverified: OnceLock::new(),
        }
    }

    /// The same engine with other certificate authorities.
    #[must_use]
    pub fn with_trust(self, trust: Trust) -> Self {
        Self { trust: Some(trust), verified: OnceLock::new(), unverified: OnceLock::new(), ..self }
    }

    /// Asks, as soon as files and rate allow. Dropping the future ends the query.
    ///
    /// # Errors
    /// The field of a query that cannot be asked, and why.
    pub async fn query(
        &self,
        resolver: SocketAddr,
        query: &Query,
    ) -> Result<Outcome, (&'static str, String)> {
        query.check()?;
        if query.source.is_some_and(|source| source.is_ipv4() != resolver.is_ipv4()) {
            return Err(("source", "is of another address family than the resolver".to_owned()));
        }
        let ask = query.ask().map_err(|error| ("name", error))?;
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        self.wait_for_turn(resolver.ip()).await;
        let mut outcome = Outcome::new(ask.bytes.len());
        outcome.error = self.floor;
        if query.transport == Transport::Udp {
            self.over_udp(resolver, query, &ask, &mut outcome).await;
        } else {
            let end = Instant::now() + query.timeout;
            outcome.failure = self.over_stream(resolver, query, &ask, end, &mut outcome).await.err();
        }
        Ok(outcome)
    }

    async fn wait_for_turn(&self, resolver: IpAddr) {
        if resolver.is_loopback() {
            return;
        }
        let now = monotonic();
        let at = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            let at = pace.reserve_prefix(resolver, now);
            pace.reserve_engine(at)
        };
        if at > now {
            sleep_until(Instant::now() + Duration::from_nanos(at - now)).await;
        }
    }

    async fn over_udp(&self, resolver: SocketAddr, query: &Query, ask: &Ask, outcome: &mut Outcome) {
        let begin = Instant::now();
        udp::exchange(resolver, query, ask, outcome).await;
        let truncated = outcome.answer.as_ref().is_some_and(|answer| answer.flags.tc);
        if !truncated || !query.retry_truncated {
            return;
        }
        // Truncated answers may well be cut within a record: what counts is the whole one.
        outcome.retried = true;
        let mut whole = Outcome::new(ask.bytes.len());
        let again = Query { transport: Transport::Tcp, ..query.clone() };
        let start = Instant::now();
        let result = self.over_stream(resolver, &again, ask, begin + query.timeout, &mut whole).await;
        outcome.failure = match result {
            Ok(()) => None,
            Err(failure @ (Failure::Malformed(_) | Failure::Length(_))) => Some(failure),
            Err(failure) => Some(Failure::Retry(Box::new(failure))),
        };
        if whole.answer.is_some() {
            outcome.phases.retry = Some(start.elapsed());
            (outcome.answer, outcome.bytes) = (whole.answer, whole.bytes);
        }
    }

    async fn over_stream(
        &self,
        resolver: SocketAddr,
        query: &Query,
        ask: &Ask,
        end: Instant,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        // The system's certificates take a while to read: not within the time that is measured.
        let client = match query.transport {
            Transport::Dot | Transport::Doh => Some(self.client(query)),
            Transport::Udp | Transport::Tcp => None,
        };
        let talk = Box::pin(converse(resolver, query, ask, client, end, outcome));
        match timeout_at(end, talk).await {
            Ok(done) => done,
            Err(_) if outcome.wrong.total() > 0 => Err(Failure::Wrong(outcome.wrong)),
            Err(_) => Err(Failure::Timeout),
        }
    }

    fn client(&self, query: &Query) -> Client {
        let slot = if query.insecure { &self.unverified } else { &self.verified };
        let trust = || self.trust.clone().unwrap_or_else(Trust::system);
        let client = slot.get_or_init(|| Client::new(trust(), query.insecure));
        if query.transport == Transport::Doh { client.with_alpn(&["h2"]) } else { client.clone() }
    }
}

/// Connection, handshake, question and answer.
async fn converse(
    resolver: SocketAddr,
    query: &Query,
    ask: &Ask,
    client: Option<Client>,
    end: Instant,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let (mut stream, elapsed) = Stream::connect(resolver, query, end.into_std()).await?;
    outcome.phases.connect = Some(elapsed);
    let tap = stream.tap();
    outcome.local = tap.local();
    let Some(client) = client else {
        return tcp::exchange(&mut stream, &tap, ask, outcome).await;
    };
    let name = query.server_name.clone().unwrap_or_else(|| resolver.ip().to_string());
    let session = client.handshake(stream, &tls::server_name(&name)?, end.into_std()).await;
    let mut session = match session {
        Ok(session) => session,
        Err(failure) => {
            outcome.tls = failure.handshake;
            outcome.phases.tls = outcome.tls.as_ref().map(|handshake| handshake.elapsed);
            return Err(failure.error.into());
        }
    };
    outcome.phases.tls = Some(session.handshake.elapsed);
    let h2 = session.handshake.alpn.as_deref() == Some("h2");
    outcome.tls = Some(Box::new(session.handshake));
    if query.transport == Transport::Dot {
        return tcp::exchange(&mut session.stream, &tap, ask, outcome).await;
    }
    if !h2 {
        return Err(Failure::Http("the server does not speak HTTP/2".to_owned()));
    }
    let authority = match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{}", resolver.port()),
        _ if resolver.port() == Transport::Doh.port() => name,
        _ => format!("{name}:{}", resolver.port()),
    };
    Box::pin(https::exchange(session.stream, &tap, &authority, query, ask, outcome)).await
}

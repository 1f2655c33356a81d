//! The connection to NATS and what is said over it: typed messages, requests, JetStream.

mod error;
mod event;
mod stream;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use async_nats::{
    Auth, AuthError, ConnectOptions, HeaderMap, Message as Raw, ServerAddr, Subscriber,
    client::RequestErrorKind, connection::State, jetstream,
};
use bytes::Bytes;
use imn_contract::{Encoding, Fault, Message, encode, header};

use crate::{
    credential::{self, Credentials, Vouching},
    telemetry::{TraceParent, redact},
    tls::Trust,
};

pub use error::Error;
pub use event::{Counts, Events, Violation};
pub use stream::{Acked, Kept, bucket, object_bucket};

/// The result of an operation on NATS.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Messages waiting in one subscription before new ones are dropped (and counted).
const SUBSCRIPTION_CAPACITY: usize = 16_384;
/// Commands waiting for the connection before a publisher waits.
const CLIENT_CAPACITY: usize = 1_024;
/// The text of an error is cut to this many characters in a header; the body has all of it.
const LONGEST_HEADER: usize = 1_000;
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// How to connect.
#[derive(Clone)]
pub struct Config {
    /// One URL or several, separated by commas: `nats://127.0.0.1:4222`. User and password of the first one,
    /// `nats://user:password@host`, are used where there are no credentials.
    pub url: String,
    /// The text of a credentials file (JWT and seed); none on a server without authentication.
    pub credentials: Option<String>,
    /// The prefix of this connection's inboxes, which its credentials allow.
    pub inbox_prefix: String,
    /// The name by which the server lists the connection.
    pub name: String,
    /// Certificates, in PEM, of the authority that signed the server's; none: the URL's scheme decides whether there is
    /// TLS, and this host's authorities are believed.
    pub authority: Option<String>,
    /// How long a request or an acknowledgement is waited for, unless the call says otherwise.
    pub timeout: Duration,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("url", &redact(&self.url))
            .field("credentials", &self.credentials.as_ref().map(|_| "***"))
            .field("inbox_prefix", &self.inbox_prefix)
            .field("name", &self.name)
            .field("authority", &self.authority.as_ref().map(|_| "PEM"))
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl Config {
    /// No credentials, inboxes under `_INBOX_{name}`, five seconds to answer. The name is for people: what no subject
    /// may contain becomes `_` in the prefix.
    pub fn new(url: impl Into<String>, name: impl Into<String>) -> Self {
        let name = name.into();
        let token = name.replace(|c: char| !(c.is_ascii_alphanumeric() || c == '-'), "_");
        Self {
            url: url.into(),
            credentials: None,
            inbox_prefix: format!("_INBOX_{token}"),
            name,
            authority: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// A connection that never gives up: it starts while the server is down and comes back for ever. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    inner: async_nats::Client,
    events: Events,
    held: Option<Held>,
    timeout: Duration,
    inbox_prefix: Arc<str>,
    since: Instant,
}

/// The credentials that the next connection is made with.
#[derive(Clone, Debug)]
struct Held(Arc<RwLock<Arc<Credentials>>>);

impl Held {
    fn get(&self) -> Arc<Credentials> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, credentials: Credentials) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
    }

    /// What answers a server's nonce.
    fn answer(&self, nonce: &[u8]) -> std::result::Result<Auth, AuthError> {
        let credentials = self.get();
        let mut auth = Auth::new();
        auth.jwt = Some(credentials.jwt().to_owned());
        auth.signature = Some(credentials.prove(nonce).map_err(AuthError::new)?);
        Ok(auth)
    }
}

impl Client {
    /// Sets the connection up and returns at once; [`Events::wait_connected`] tells when it is up.
    ///
    /// # Errors
    /// [`Error::Credentials`] and [`Error::Connect`]: only what no retry can mend.
    pub async fn connect(config: &Config) -> Result<Self> {
        let events = Events::new(&config.name);
        let recorder = events.clone();
        let unreadable = |error: credential::Error| Error::Credentials { message: error.to_string() };
        let held = config.credentials.as_deref().map(Credentials::parse).transpose().map_err(unreadable)?;
        let held = held.map(|credentials| Held(Arc::new(RwLock::new(Arc::new(credentials)))));
        let mut options = match held.clone() {
            // Asked at each connection, so that renewed credentials are used from the next one on.
            Some(held) => {
                ConnectOptions::with_auth_callback(move |nonce| std::future::ready(held.answer(&nonce)))
            }
            None => ConnectOptions::new(),
        };
        options = options
            .name(&config.name)
            .custom_inbox_prefix(&config.inbox_prefix)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .client_capacity(CLIENT_CAPACITY)
            .request_timeout(Some(config.timeout))
            .connection_timeout(Duration::from_secs(5))
            .ping_interval(Duration::from_secs(3))
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(backoff)
            .event_callback(move |event| {
                recorder.record(event);
                std::future::ready(())
            });
        let unfit = |message: String| Error::Connect { url: redact(&config.url), message };
        if config.authority.is_some() || config.url.contains("tls://") {
            let trust = config.authority.clone().map_or(Trust::System, Trust::Pem);
            let tls = trust.client().map_err(|error| unfit(error.to_string()))?;
            options = options.tls_client_config(tls).require_tls(true);
        }
        let mut servers: Vec<ServerAddr> = Vec::new();
        for url in config.url.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            servers.push(url.parse().map_err(|error: std::io::Error| unfit(error.to_string()))?);
        }
        let Some(first) = servers.first() else { return Err(unfit("no url is given".to_owned())) };
        // The client does not use what stands in a URL.
        if held.is_none()
            && let (Some(user), Some(password)) = (first.username(), first.password())
        {
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
        let inner = options.connect(servers).await.map_err(|error| unfit(error.to_string()))?;
        Ok(Self {
            inner,
            events,
            held,
            timeout: config.timeout,
            inbox_prefix: config.inbox_prefix.as_str().into(),
            since: Instant::now(),
        })
    }

    /// The client below, for what this one does not offer.
    pub fn inner(&self) -> &async_nats::Client {
        &self.inner
    }

    /// What the connection says on its own.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The credentials that the next connection is made with; none on a server without authentication.
    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        self.held.as_ref().map(Held::get)
    }

    /// Takes a renewed JWT of the same key, for the next connection: [`Client::reconnect`] makes it at once.
    ///
    /// # Errors
    /// [`Error::Credentials`] when it is none, or one of another key, or the connection has no credentials.
    pub fn renew(&self, vouching: Vouching) -> Result<()> {
        let refused = |message: String| Error::Credentials { message };
        let Some(held) = &self.held else {
            return Err(refused("this connection was made without".to_owned()));
        };
        held.set(held.get().with(vouching).map_err(|error| refused(error.to_string()))?);
        Ok(())
    }

    /// Connects anew, after what was sent has been handed over. Subscriptions stay.
    ///
    /// # Errors
    /// [`Error::Client`] when the connection was closed for good.
    pub async fn reconnect(&self) -> Result<()> {
        const OPERATION: &str = "connect anew";
        // What a server that is away has not taken is lost either way.
        let _ = tokio::time::timeout(self.timeout, self.inner.flush()).await;
        self.send(OPERATION, "", self.inner.force_reconnect()).await
    }

    /// Whether the connection is up at this moment.
    pub fn is_connected(&self) -> bool {
        self.inner.connection_state() == State::Connected
    }

    /// How long an answer is waited for unless a call says otherwise.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// JetStream over this connection.
    pub fn jetstream(&self) -> jetstream::Context {
        jetstream::ContextBuilder::new().timeout(self.timeout).build(self.inner.clone())
    }

    /// Publishes a message as JSON.
    ///
    /// # Errors
    /// [`Error::Encode`]; [`Error::Timeout`] when the connection is down and its buffer full; [`Error::Client`].
    pub async fn publish<M: Message>(&self, subject: &str, message: &M) -> Result<()> {
        self.publish_with(subject, message, HeaderMap::new()).await
    }

    /// Publishes a message with headers; a `Content-Type` among them chooses the encoding.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn publish_with<M: Message>(
        &self,
        subject: &str,
        message: &M,
        headers: HeaderMap,
    ) -> Result<()> {
        let (headers, payload) = write("publish", subject, message, headers)?;
        self.publish_bytes(subject, payload, headers).await
    }

    /// Publishes bytes that are no message of the contract.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn publish_bytes(&self, subject: &str, payload: Bytes, headers: HeaderMap) -> Result<()> {
        self.send("publish", subject, self.inner.publish_with_headers(subject.to_owned(), headers, payload))
            .await
    }

    /// Asks and waits for the answer, up to the connection's timeout.
    ///
    /// # Errors
    /// As [`Client::request_within`].
    pub async fn request<M: Message, R: Message>(&self, subject: &str, message: &M) -> Result<R> {
        self.request_within(subject, message, HeaderMap::new(), self.timeout).await
    }

    /// Asks and waits up to `timeout` for the answer.
    ///
    /// # Errors
    /// [`Error::Denied`] as soon as the server refuses the subject, [`Error::NoResponders`], [`Error::Timeout`],
    /// [`Error::Encode`], [`Error::Decode`].
    pub async fn request_within<M: Message, R: Message>(
        &self,
        subject: &str,
        message: &M,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<R> {
        let (headers, payload) = write("request", subject, message, headers)?;
        let answer = self.request_bytes(subject, payload, headers, timeout).await?;
        read(&answer).map_err(|source| Error::Decode {
            operation: "request",
            subject: subject.to_owned(),
            source,
        })
    }

    /// Asks with bytes and gives the answer as it came.
    ///
    /// # Errors
    /// As [`Client::request_within`].
    pub async fn request_bytes(
        &self,
        subject: &str,
        payload: Bytes,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<Raw> {
        const OPERATION: &str = "request";
        let request = async_nats::Request::new().payload(payload).headers(headers).timeout(Some(timeout));
        let start = Instant::now();
        // The client's own timeout does not cover its full command buffer while the connection is down.
        let answer = tokio::time::timeout(timeout, self.inner.send_request(subject.to_owned(), request));
        let answer = self.or_denied(OPERATION, subject, |on| on == subject, answer).await?;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => match error.kind() {
                RequestErrorKind::TimedOut => Err(self.late(OPERATION, subject, start, timeout)),
                RequestErrorKind::NoResponders => {
                    Err(Error::NoResponders { operation: OPERATION, subject: subject.to_owned() })
                }
                _ => Err(Error::client(OPERATION, subject, &error)),
            },
            Err(_) => Err(self.late(OPERATION, subject, start, timeout)),
        }
    }

    /// Subscribes. The server knows of it after the next [`Client::round_trip`].
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Client`]. A refusal arrives in [`Client::events`].
    pub async fn subscribe(&self, subject: &str) -> Result<Subscriber> {
        self.send("subscribe", subject, self.inner.subscribe(subject.to_owned())).await
    }

    /// Subscribes as a member of a queue group.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn queue_subscribe(&self, subject: &str, group: &str) -> Result<Subscriber> {
        self.send("subscribe", subject, self.inner.queue_subscribe(subject.to_owned(), group.to_owned()))
            .await
    }

    /// Answers a request in the encoding in which it came. A message that asks for no answer gets none.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn respond<M: Message>(&self, request: &Raw, message: &M) -> Result<()> {
        self.answer(request, message, HeaderMap::new()).await
    }

    /// Answers a request with a refusal: the message that carries the fault, and the fault in the headers that
    /// clients of NATS services read.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn respond_fault<M: Message>(&self, request: &Raw, message: &M, fault: &Fault) -> Result<()> {
        let mut headers = HeaderMap::new();
        headers.insert(header::SERVICE_ERROR_CODE, fault.code.to_string());
        headers.insert(header::SERVICE_ERROR, one_line(&format!("{}: {}", fault.name, fault.message)));
        self.answer(request, message, headers).await
    }

    async fn answer<M: Message>(&self, request: &Raw, message: &M, mut headers: HeaderMap) -> Result<()> {
        let Some(reply) = &request.reply else { return Ok(()) };
        headers.insert(header::CONTENT_TYPE, encoding(request.headers.as_ref()).content_type());
        self.publish_with(reply, message, headers).await
    }

    /// Waits until the server has taken in everything that was sent before: subscriptions and messages.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::Denied`] when the inbox prefix is not this user's.
    pub async fn round_trip(&self, timeout: Duration) -> Result<()> {
        const OPERATION: &str = "round trip";
        let inbox = self.inner.new_inbox();
        let start = Instant::now();
        let turn = async {
            let mut echo = self
                .inner
                .subscribe(inbox.clone())
                .await
                .map_err(|e| Error::client(OPERATION, &inbox, &e))?;
            self.inner
                .publish(inbox.clone(), Bytes::new())
                .await
                .map_err(|e| Error::client(OPERATION, &inbox, &e))?;
            futures::StreamExt::next(&mut echo).await;
            Ok(())
        };
        let turn = tokio::time::timeout(timeout, turn);
        match self.or_denied(OPERATION, &inbox, |on| on == inbox, turn).await? {
            Ok(done) => done,
            Err(_) => Err(self.late(OPERATION, &inbox, start, timeout)),
        }
    }

    /// Hands a command to the connection; its buffer is full only while the server is away.
    async fn send<T, E: std::error::Error>(
        &self,
        operation: &'static str,
        subject: &str,
        command: impl Future<Output = Result<T, E>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.timeout, command).await {
            Ok(sent) => sent.map_err(|error| Error::client(operation, subject, &error)),
            Err(_) => Err(Error::Timeout { operation, subject: subject.to_owned(), after: self.timeout }),
        }
    }

    /// Runs an operation, and ends it early when the server refuses a subject that it uses: without this a
    /// refusal looks like a timeout.
    async fn or_denied<T>(
        &self,
        operation: &'static str,
        subject: &str,
        uses: impl Fn(&str) -> bool,
        future: impl Future<Output = T>,
    ) -> Result<T> {
        let mut violations = self.events.violations();
        let refused = async {
            loop {
                match violations.recv().await {
                    Ok(violation) if violation.subject.as_deref().is_some_and(&uses) => return violation,
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            biased;
            output = future => Ok(output),
            violation = refused => Err(Error::Denied { operation, subject: subject.to_owned(), violation }),
        }
    }

    /// No answer came: because its inbox was refused, at whatever time, or the subject since `start`, or just so.
    fn late(&self, operation: &'static str, subject: &str, start: Instant, after: Duration) -> Error {
        let prefix = &*self.inbox_prefix;
        let inbox = |v: &Violation| v.subject.as_deref().is_some_and(|s| s.starts_with(prefix));
        let refusal = self
            .events
            .violation_since(start, |v| v.subject.as_deref().is_none_or(|on| on == subject))
            .or_else(|| self.events.violation_since(self.since, inbox));
        let subject = subject.to_owned();
        match refusal {
            Some(violation) => Error::Denied { operation, subject, violation },
            None => Error::Timeout { operation, subject, after },
        }
    }
}

/// Reads a message in the encoding that its headers name.
///
/// # Errors
/// A coded [`Fault`] ready to be sent back: 400 or 422.
pub fn decode<M: Message>(message: &Raw) -> Result<M, Fault> {
    read(message).map_err(Fault::from)
}

/// The encoding that headers name; JSON without them.
pub fn encoding(headers: Option<&HeaderMap>) -> Encoding {
    let value = headers.and_then(|h| h.get(header::CONTENT_TYPE)).map(async_nats::HeaderValue::as_str);
    Encoding::from_content_type(value)
}

/// One header of a message.
pub fn header_of<'a>(message: &'a Raw, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
}

fn read<M: Message>(message: &Raw) -> Result<M, imn_contract::DecodeError> {
    imn_contract::decode(&message.payload, encoding(message.headers.as_ref()))
}

fn write<M: Message>(
    operation: &'static str,
    subject: &str,
    message: &M,
    mut headers: HeaderMap,
) -> Result<(HeaderMap, Bytes)> {
    let encoding = encoding(Some(&headers));
    let payload = encode(message, encoding).map_err(|source| Error::Encode {
        operation,
        subject: subject.to_owned(),
        source,
    })?;
    headers.insert(header::SCHEMA, M::schema());
    headers.insert(header::CONTENT_TYPE, encoding.content_type());
    if let Some(trace) = TraceParent::current() {
        headers.insert(header::TRACEPARENT, trace.as_str());
    }
    Ok((headers, payload))
}

/// A header value holds no line breaks, and clients in some languages read nothing but ASCII.
fn one_line(text: &str) -> String {
    let plain = |c: char| match c {
        ' '..='~' => c,
        c if c.is_control() => ' ',
        _ => '?',
    };
    text.chars().take(LONGEST_HEADER).map(plain).collect()
}

/// Doubles from 50 ms to 2 s, with up to a quarter more at random, so that a fleet does not come back as one.
fn backoff(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    let base = (FIRST_RETRY * 2u32.pow(doublings)).min(LAST_RETRY);
    base + base.mul_f64(rand::random::<f64>() / 4.0)
}

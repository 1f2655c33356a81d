//! JetStream: acknowledged publishing, streams, buckets, keys read directly.

use std::time::{Duration, Instant};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode, consumer,
        context::{
            CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, RequestError,
            RequestErrorKind,
        },
        stream::{self, ConsumerError, ConsumerErrorKind},
    },
};
use bytes::Bytes;
use imn_contract::{Message, header};
use serde::Deserialize;

use super::{Client, Error, Result};

/// JetStream has taken a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    /// The stream that took it.
    pub stream: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// Whether the stream already had a message of this `Nats-Msg-Id`.
    pub duplicate: bool,
}

/// A value read directly from a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The bytes.
    pub payload: Bytes,
    /// Its place in the stream.
    pub sequence: u64,
    /// The headers that it was published with, and those that the server adds.
    pub headers: HeaderMap,
}

impl Kept {
    /// Whether it is what a deleted key of a bucket has left behind.
    pub fn is_deleted(&self) -> bool {
        self.headers.get("KV-Operation").is_some_and(|op| matches!(op.as_str(), "DEL" | "PURGE"))
    }
}

#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    err_code: Option<u64>,
    code: u64,
    #[serde(default)]
    description: String,
}

impl Client {
    /// Publishes a message to a stream and waits until it is acknowledged. The acknowledgement is no fsync.
    ///
    /// # Errors
    /// [`Error::NoResponders`] when no stream takes the subject, [`Error::JetStream`] when it is full or refuses
    /// the message, [`Error::Denied`], [`Error::Timeout`], [`Error::Encode`].
    pub async fn publish_acked<M: Message>(
        &self,
        subject: &str,
        message: &M,
        id: Option<&str>,
        headers: HeaderMap,
    ) -> Result<Acked> {
        let (headers, payload) = super::write("publish", subject, message, headers)?;
        self.publish_bytes_acked(subject, payload, id, headers, self.timeout()).await
    }

    /// Publishes bytes to a stream and waits up to `timeout` until they are acknowledged. `id` becomes
    /// `Nats-Msg-Id`.
    ///
    /// # Errors
    /// As [`Client::publish_acked`].
    pub async fn publish_bytes_acked(
        &self,
        subject: &str,
        payload: Bytes,
        id: Option<&str>,
        mut headers: HeaderMap,
        timeout: Duration,
    ) -> Result<Acked> {
        const OPERATION: &str = "publish";
        if let Some(id) = id {
            headers.insert(header::MSG_ID, id);
        }
        let answer = self.request_bytes(subject, payload, headers, timeout).await?;
        let ack: PubAck = serde_json::from_slice(&answer.payload).map_err(|error| Error::Client {
            operation: OPERATION,
            subject: subject.to_owned(),
            message: format!("what answered is no stream: {error}"),
        })?;
        match ack.error {
            Some(error) => Err(Error::JetStream {
                operation: OPERATION,
                subject: subject.to_owned(),
                code: error.err_code.unwrap_or(error.code),
                message: error.description,
            }),
            None => Ok(Acked { stream: ack.stream, sequence: ack.seq, duplicate: ack.duplicate }),
        }
    }

    /// Makes a stream be as `config` says: creates it, or updates it where it differs.
    ///
    /// # Errors
    /// [`Error::JetStream`] when the server refuses the configuration or a change of it, [`Error::Denied`],
    /// [`Error::Timeout`].
    pub async fn ensure_stream(&self, config: stream::Config) -> Result<stream::Stream> {
        let name = config.name.clone();
        let context = self.jetstream();
        let start = Instant::now();
        let is_api = |subject: &str| subject.starts_with("$JS.API.");
        let ensured = async {
            match context.create_stream(&config).await {
                Ok(stream) => return Ok(stream),
                // It exists with another configuration.
                Err(error)
                    if error.jetstream().is_some_and(|e| e.error_code() == ErrorCode::STREAM_NAME_EXIST) => {}
                Err(error) => return Err(self.stream_failure("create stream", &name, start, &error)),
            }
            context
                .update_stream(&config)
                .await
                .map_err(|error| self.stream_failure("update stream", &name, start, &error))?;
            context
                .get_stream(&name)
                .await
                .map_err(|error| self.stream_failure("get stream", &name, start, &error))
        };
        self.or_denied("ensure stream", &name, is_api, ensured).await?
    }

    /// The durable pull consumer `name` of `stream`, made by somebody else. Needs no right to see the stream.
    ///
    /// # Errors
    /// [`Error::JetStream`] when it does not exist (10014) or its stream does not (10059), [`Error::Denied`],
    /// [`Error::Timeout`].
    pub async fn pull_consumer(&self, stream: &str, name: &str) -> Result<consumer::PullConsumer> {
        const OPERATION: &str = "get consumer";
        let api = format!("$JS.API.CONSUMER.INFO.{stream}.{name}");
        let start = Instant::now();
        let context = self.jetstream();
        let got = context.get_consumer_from_stream(name, stream);
        self.or_denied(OPERATION, &api, |on| on == api, got)
            .await?
            .map_err(|error| self.stream_failure(OPERATION, &api, start, &error))
    }

    /// Makes a durable pull consumer be as `config` says: creates it, or updates it where it differs.
    ///
    /// # Errors
    /// As [`Client::ensure_stream`].
    pub async fn ensure_consumer(
        &self,
        stream: &str,
        config: consumer::pull::Config,
    ) -> Result<consumer::PullConsumer> {
        const OPERATION: &str = "create consumer";
        let start = Instant::now();
        let context = self.jetstream();
        // Creating what exists with another configuration updates it.
        let created = context.create_consumer_on_stream(config, stream);
        self.or_denied(OPERATION, stream, |on| on.starts_with("$JS.API."), created)
            .await?
            .map_err(|error| self.stream_failure(OPERATION, stream, start, &error))
    }

    /// Reads the last message of a subject from a stream that allows direct reading; `None` when there is none.
    /// For a key of a bucket: stream `KV_{bucket}` and [`imn_contract::stream::kv_subject`].
    ///
    /// # Errors
    /// [`Error::Timeout`], also when there is no such stream; [`Error::Denied`].
    pub async fn direct_get(&self, stream: &str, subject: &str) -> Result<Option<Kept>> {
        Ok(self.direct_last(stream, subject).await?.filter(|kept| !kept.is_deleted()))
    }

    /// The same, and of a deleted key the marker that was left behind.
    ///
    /// # Errors
    /// As [`Client::direct_get`].
    pub async fn direct_last(&self, stream: &str, subject: &str) -> Result<Option<Kept>> {
        let api = format!("$JS.API.DIRECT.GET.{stream}.{subject}");
        self.kept(&api, Bytes::new()).await
    }

    /// Reads the first message of a subject at or after a sequence number from a stream that allows direct reading;
    /// `None` when there is none. It needs the right to read all of the stream so.
    ///
    /// # Errors
    /// As [`Client::direct_get`].
    pub async fn direct_next(&self, stream: &str, subject: &str, sequence: u64) -> Result<Option<Kept>> {
        let api = format!("$JS.API.DIRECT.GET.{stream}");
        let wanted = serde_json::json!({ "seq": sequence, "next_by_subj": subject });
        self.kept(&api, wanted.to_string().into()).await
    }

    async fn kept(&self, api: &str, wanted: Bytes) -> Result<Option<Kept>> {
        const OPERATION: &str = "direct get";
        let answer = self.request_bytes(api, wanted, HeaderMap::new(), self.timeout()).await?;
        if let Some(status) = answer.status {
            return match status.as_u16() {
                404 => Ok(None),
                code => Err(Error::JetStream {
                    operation: OPERATION,
                    subject: api.to_owned(),
                    code: u64::from(code),
                    message: answer.description.unwrap_or_default(),
                }),
            };
        }
        let sequence = super::header_of(&answer, "Nats-Sequence").and_then(|s| s.parse().ok()).unwrap_or(0);
        let headers = answer.headers.unwrap_or_default();
        Ok(Some(Kept { payload: answer.payload, sequence, headers }))
    }

    fn stream_failure(
        &self,
        operation: &'static str,
        name: &str,
        start: Instant,
        error: &impl ApiFailure,
    ) -> Error {
        let subject = name.to_owned();
        if let Some(inner) = error.jetstream() {
            let code = inner.error_code().0;
            return Error::JetStream { operation, subject, code, message: inner.to_string() };
        }
        match error.lost() {
            Some(Lost::Late) => self.late(operation, name, start, self.timeout()),
            Some(Lost::Unavailable) => Error::NoResponders { operation, subject },
            None => Error::client(operation, name, error),
        }
    }
}

/// Why an API request had no answer.
#[derive(Clone, Copy)]
enum Lost {
    Late,
    Unavailable,
}

/// The client's errors keep what JetStream said in their kinds, each in an enum of its own.
trait ApiFailure: std::error::Error + Sized + 'static {
    fn jetstream(&self) -> Option<jetstream::Error>;

    fn lost(&self) -> Option<Lost> {
        let mut source = Some(self as &(dyn std::error::Error + 'static));
        while let Some(error) = source {
            if let Some(request) = error.downcast_ref::<RequestError>() {
                return lost(request.kind());
            }
            source = error.source();
        }
        None
    }
}

fn lost(kind: RequestErrorKind) -> Option<Lost> {
    match kind {
        RequestErrorKind::TimedOut => Some(Lost::Late),
        RequestErrorKind::NoResponders => Some(Lost::Unavailable),
        _ => None,
    }
}

impl ApiFailure for CreateStreamError {
    fn jetstream(&self) -> Option<jetstream::Error> {
        match self.kind() {
            CreateStreamErrorKind::JetStream(error) => Some(error),
            _ => None,
        }
    }

    fn lost(&self) -> Option<Lost> {
        match self.kind() {
            CreateStreamErrorKind::TimedOut => Some(Lost::Late),
            CreateStreamErrorKind::JetStreamUnavailable => Some(Lost::Unavailable),
            _ => None,
        }
    }
}

impl ApiFailure for GetStreamError {
    fn jetstream(&self) -> Option<jetstream::Error> {
        match self.kind() {
            GetStreamErrorKind::JetStream(error) => Some(error),
            _ => None,
        }
    }
}

impl ApiFailure for ConsumerError {
    fn jetstream(&self) -> Option<jetstream::Error> {
        match self.kind() {
            ConsumerErrorKind::JetStream(error) => Some(error),
            _ => None,
        }
    }
}

/// The configuration of a stream that is the bucket `name`: one value per key, read directly.
///
/// Buckets are made as plain streams, because creating them as buckets fails on nats-server 2.9.10.
pub fn bucket(name: &str, max_bytes: i64) -> stream::Config {
    stream::Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_bytes,
        discard: stream::DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        num_replicas: 1,
        duplicate_window: Duration::from_mins(2),
        ..stream::Config::default()
    }
}

/// The configuration of a stream that is the object store bucket `name`, read directly.
pub fn object_bucket(name: &str, max_bytes: i64) -> stream::Config {
    stream::Config {
        name: format!("OBJ_{name}"),
        subjects: vec![format!("$O.{name}.C.>"), format!("$O.{name}.M.>")],
        max_bytes,
        discard: stream::DiscardPolicy::New,
        allow_rollup: true,
        allow_direct: true,
        num_replicas: 1,
        duplicate_window: Duration::from_mins(2),
        ..stream::Config::default()
    }
}

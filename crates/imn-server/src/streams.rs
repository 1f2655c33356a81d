//! Streams and consumers, which the server alone creates: made to be as the contract says, again and again.

mod heal;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::{self, DiscardPolicy, RetentionPolicy},
};
use futures::TryStreamExt;
use imn_contract::{AgentId, ModuleType, stream as names, subject};
use imn_runtime::nats::{self, Client};

use crate::config::Config;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const DEDUPLICATION: Duration = Duration::from_mins(2);
/// How long an agent may hold a queue entry without a sign of progress.
const JOB_ACK_WAIT: Duration = Duration::from_secs(30);
/// How long a batch or report may be held by the server; one that takes longer is delivered again and found to be
/// a duplicate. So long do those wait that were on their way to a server that was killed.
const OWN_ACK_WAIT: Duration = Duration::from_secs(5);
/// Messages on their way to the server at once, per consumer.
const OWN_MAX_PENDING: i64 = 4096;
/// Queue entries on their way to one agent at once.
const JOB_MAX_PENDING: i64 = 1024;
/// Module types at most, so that forged heartbeats cannot create streams without end.
const MAX_TYPES: usize = 64;
/// With so many there is no room for types that no agent has: what jobs wait for must not keep out what is there.
const ROOM_FOR_AWAITED: usize = 32;

/// The streams of this network; cheap to clone.
#[derive(Clone)]
pub(crate) struct Streams {
    client: Client,
    config: Arc<Config>,
    made: Arc<Mutex<Made>>,
}

/// What is known to exist, since the connection came up.
#[derive(Default)]
struct Made {
    types: BTreeSet<ModuleType>,
    /// Types that have a stream for all that is known, also from before the connection came up.
    counted: BTreeSet<ModuleType>,
    consumers: HashSet<(ModuleType, AgentId)>,
}

impl Streams {
    pub(crate) fn new(client: Client, config: Arc<Config>) -> Self {
        Self { client, config, made: Arc::default() }
    }

    /// Makes everything be as it should, whatever was there before: after a start, and after NATS was away and may
    /// have lost its store.
    pub(crate) async fn reconcile(&self, queues: &[(ModuleType, AgentId)]) -> nats::Result<()> {
        {
            let mut made = self.made();
            *made = Made { counted: std::mem::take(&mut made.counted), ..Made::default() };
        }
        for config in self.fixed() {
            self.client.ensure_stream(config).await?;
        }
        self.count(queues).await?;
        for partition in 0..self.config.partitions {
            let filter = subject::ingest_partition(partition);
            self.consumer(names::INGEST, own(&names::ingest_consumer(partition), &filter)).await?;
        }
        self.consumer(names::ATTEMPTS, own(names::ATTEMPTS_CONSUMER, subject::ATTEMPT_ALL)).await?;
        for kind in &self.config.types {
            self.ensure_type(kind).await?;
        }
        for (kind, agent) in queues {
            self.ensure_queue(kind, agent).await?;
        }
        Ok(())
    }

    /// Counts the types that have a stream, and removes the empty ones of types that nobody has.
    async fn count(&self, queues: &[(ModuleType, AgentId)]) -> nats::Result<()> {
        let jetstream = self.client.jetstream();
        let wanted: BTreeSet<String> =
            queues.iter().map(|(kind, _)| kind).chain(&self.config.types).map(names::jobs).collect();
        let failed = |operation: &'static str, error: &dyn std::fmt::Display| nats::Error::Client {
            operation,
            subject: names::JOBS_PREFIX.to_owned(),
            message: error.to_string(),
        };
        let mut counted = BTreeSet::new();
        let mut streams = jetstream.streams();
        while let Some(info) = streams.try_next().await.map_err(|e| failed("list streams", &e))? {
            let name = &info.config.name;
            let Some(kind) = name.strip_prefix(names::JOBS_PREFIX) else { continue };
            if wanted.contains(name) || info.state.messages > 0 {
                counted.extend(ModuleType::new(kind));
            } else {
                tracing::info!(stream = name, "job stream of a type that nobody has removed");
                jetstream.delete_stream(name).await.map_err(|e| failed("delete stream", &e))?;
            }
        }
        self.made().counted = counted;
        Ok(())
    }

    /// Whether a job may wait for a type that no agent has yet.
    pub(crate) fn has_room_for(&self, kind: &ModuleType) -> bool {
        let made = self.made();
        made.counted.contains(kind) || made.counted.len() < ROOM_FOR_AWAITED
    }

    /// Makes the job stream of a type exist.
    pub(crate) async fn ensure_type(&self, kind: &ModuleType) -> nats::Result<()> {
        {
            let made = self.made();
            if made.types.contains(kind) {
                return Ok(());
            }
            if !made.counted.contains(kind) && made.counted.len() >= MAX_TYPES {
                tracing::warn!(%kind, limit = MAX_TYPES, "too many module types; no job stream for this one");
                return Ok(());
            }
        }
        self.client.ensure_stream(self.jobs(kind)).await?;
        let mut made = self.made();
        made.types.insert(kind.clone());
        made.counted.insert(kind.clone());
        Ok(())
    }

    /// Makes the queue of a type for one agent exist: the type's stream, and the agent's consumer of it.
    pub(crate) async fn ensure_queue(&self, kind: &ModuleType, agent: &AgentId) -> nats::Result<()> {
        let key = (kind.clone(), agent.clone());
        if self.made().consumers.contains(&key) {
            return Ok(());
        }
        self.ensure_type(kind).await?;
        self.consumer(&names::jobs(kind), Self::queue(kind, agent)).await?;
        self.made().consumers.insert(key);
        Ok(())
    }

    /// An agent's consumer of a type's queue.
    fn queue(kind: &ModuleType, agent: &AgentId) -> pull::Config {
        pull::Config {
            ack_wait: JOB_ACK_WAIT,
            max_ack_pending: JOB_MAX_PENDING,
            ..own(&names::jobs_consumer(agent), &subject::queue_agent(kind, agent))
        }
    }

    /// The types that have a stream.
    pub(crate) fn counted(&self) -> BTreeSet<ModuleType> {
        let made = self.made();
        made.counted.union(&made.types).cloned().collect()
    }

    /// The subjects of all entries in the queue of a type.
    pub(crate) async fn entries(&self, kind: &ModuleType) -> nats::Result<Vec<String>> {
        let all = subject::queue_all(kind);
        let fail = |error: &dyn std::fmt::Display| nats::Error::Client {
            operation: "list",
            subject: all.clone(),
            message: error.to_string(),
        };
        let stream = self.client.jetstream().get_stream_no_info(names::jobs(kind)).await;
        let listed = stream.map_err(|e| fail(&e))?.info_with_subjects(&all).await.map_err(|e| fail(&e))?;
        listed.map_ok(|(entry, _)| entry).try_collect().await.map_err(|e| fail(&e))
    }

    /// Takes a task's entry out of its queue, for an agent that may not see that it is settled.
    pub(crate) async fn withdraw_task(&self, kind: &ModuleType, entry: &str) -> nats::Result<()> {
        let name = names::jobs(kind);
        let fail = |error: &dyn std::fmt::Display| nats::Error::Client {
            operation: "withdraw",
            subject: entry.to_owned(),
            message: error.to_string(),
        };
        let queue = self.client.jetstream().get_stream_no_info(&name).await.map_err(|e| fail(&e))?;
        // By its number: upon a purge of its subject, nats-server 2.9 forgets that all others are in work, and does not
        // deliver them again.
        let found = match queue.get_last_raw_message_by_subject(entry).await {
            Ok(found) => found,
            Err(error) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => return Ok(()),
            Err(error) => return Err(fail(&error)),
        };
        queue.delete_message(found.sequence).await.map_err(|e| fail(&e))?;
        Ok(())
    }

    /// Makes a consumer be as `config` says.
    pub(crate) async fn consumer(
        &self,
        stream: &str,
        config: pull::Config,
    ) -> nats::Result<async_nats::jetstream::consumer::PullConsumer> {
        let name = config.durable_name.clone().unwrap_or_default();
        self.client.jetstream().create_consumer_on_stream(config, stream).await.map_err(|error| {
            nats::Error::Client {
                operation: "create consumer",
                subject: format!("{stream}/{name}"),
                message: error.to_string(),
            }
        })
    }

    /// The server's own consumer of a partition.
    pub(crate) async fn ingest(
        &self,
        partition: u32,
    ) -> nats::Result<async_nats::jetstream::consumer::PullConsumer> {
        let filter = subject::ingest_partition(partition);
        self.consumer(names::INGEST, own(&names::ingest_consumer(partition), &filter)).await
    }

    /// The server's own consumer of attempts.
    pub(crate) async fn attempts(&self) -> nats::Result<async_nats::jetstream::consumer::PullConsumer> {
        self.consumer(names::ATTEMPTS, own(names::ATTEMPTS_CONSUMER, subject::ATTEMPT_ALL)).await
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn jobs(&self, kind: &ModuleType) -> stream::Config {
        stream::Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_messages_per_subject: 1,
            discard_new_per_subject: true,
            max_age: DAY,
            ..limits(&names::jobs(kind), &[&subject::queue_all(kind)], self.config.streams.jobs)
        }
    }

    fn fixed(&self) -> Vec<stream::Config> {
        let bytes = &self.config.streams;
        vec![
            stream::Config {
                retention: RetentionPolicy::WorkQueue,
                discard: DiscardPolicy::New,
                ..limits(names::INGEST, &[subject::INGEST_ALL], bytes.ingest)
            },
            stream::Config {
                retention: RetentionPolicy::WorkQueue,
                discard: DiscardPolicy::New,
                ..limits(names::ATTEMPTS, &[subject::ATTEMPT_ALL], bytes.attempts)
            },
            stream::Config {
                max_age: 7 * DAY,
                allow_direct: true,
                ..limits(names::RESULTS, &[subject::RESULT_ALL], bytes.results)
            },
            stream::Config {
                max_age: 7 * DAY,
                ..limits(names::EVENTS, &[subject::ANNOUNCE, subject::STATE_ALL], bytes.events)
            },
            stream::Config { max_age: 30 * 24 * HOUR, ..limits(names::DLQ, &[subject::DLQ_ALL], bytes.dead) },
            nats::bucket(names::ASSIGNMENTS_BUCKET, bytes.assignments),
            nats::bucket(names::REGISTRY_BUCKET, bytes.registry),
            nats::object_bucket(names::ARTIFACTS_BUCKET, bytes.artifacts),
        ]
    }
}

fn limits(name: &str, subjects: &[&str], max_bytes: i64) -> stream::Config {
    stream::Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        max_bytes,
        discard: DiscardPolicy::Old,
        duplicate_window: DEDUPLICATION,
        num_replicas: 1,
        ..stream::Config::default()
    }
}

fn own(name: &str, filter: &str) -> pull::Config {
    pull::Config {
        durable_name: Some(name.to_owned()),
        name: Some(name.to_owned()),
        filter_subject: filter.to_owned(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: OWN_ACK_WAIT,
        max_deliver: -1,
        max_ack_pending: OWN_MAX_PENDING,
        deliver_policy: DeliverPolicy::All,
        ..pull::Config::default()
    }
}

//! Consumers that have left messages behind. nats-server writes down lazily what consumers were given and have
//! acknowledged: one that was killed may take for acknowledged what was only on its way, and hands it out to nobody.

use std::time::Duration;

use async_nats::jetstream::{consumer::pull, stream::RawMessageErrorKind};
use imn_contract::{AgentId, ModuleType, stream as names, subject};
use imn_runtime::nats;

use super::{Streams, own};

/// So long after its acknowledgement a message is gone for sure.
const GONE_AFTER: Duration = Duration::from_secs(1);

/// A consumer, and the stream that it is of.
type Place = (String, pull::Config);

impl Streams {
    /// Makes those consumers anew that will never hand out what waits for them; whoever gets a message once more finds
    /// out by itself.
    pub(crate) async fn heal(&self, queues: &[(ModuleType, AgentId)]) -> nats::Result<()> {
        let mut stuck = self.stuck(self.consumers(queues)).await?;
        if !stuck.is_empty() {
            tokio::time::sleep(GONE_AFTER).await;
            stuck = self.stuck(stuck).await?;
        }
        for (stream, config) in stuck {
            let name = config.durable_name.clone().unwrap_or_default();
            tracing::warn!(stream, consumer = name, "consumer has left messages behind; it is made anew");
            let deleted = self.client.jetstream().delete_consumer_from_stream(&name, &stream).await;
            deleted.map_err(|error| failed("delete consumer", &stream, &name, &error))?;
            self.consumer(&stream, config).await?;
        }
        Ok(())
    }

    fn consumers(&self, queues: &[(ModuleType, AgentId)]) -> Vec<Place> {
        let attempts = own(names::ATTEMPTS_CONSUMER, subject::ATTEMPT_ALL);
        let mut places = vec![(names::ATTEMPTS.to_owned(), attempts)];
        places.extend((0..self.config.partitions).map(|partition| {
            let filter = subject::ingest_partition(partition);
            (names::INGEST.to_owned(), own(&names::ingest_consumer(partition), &filter))
        }));
        places.extend(queues.iter().map(|(kind, agent)| (names::jobs(kind), Self::queue(kind, agent))));
        places
    }

    /// Of these consumers, those for which there is a message that they have acknowledged.
    async fn stuck(&self, places: Vec<Place>) -> nats::Result<Vec<Place>> {
        let mut stuck = Vec::new();
        for (stream, config) in places {
            let name = config.durable_name.clone().unwrap_or_default();
            let found = self.client.jetstream().get_stream_no_info(&stream).await;
            let handle = found.map_err(|error| failed("get stream", &stream, &name, &error))?;
            let info = handle.consumer_info(&name).await;
            let info = info.map_err(|error| failed("look at consumer", &stream, &name, &error))?;
            let floor = info.ack_floor.stream_sequence;
            match handle.get_first_raw_message_by_subject(&config.filter_subject, 1).await {
                Ok(first) if first.sequence <= floor => stuck.push((stream, config)),
                Ok(_) => {}
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(failed("read", &stream, &name, &error)),
            }
        }
        Ok(stuck)
    }
}

fn failed(
    operation: &'static str,
    stream: &str,
    consumer: &str,
    error: &dyn std::fmt::Display,
) -> nats::Error {
    nats::Error::Client { operation, subject: format!("{stream}/{consumer}"), message: error.to_string() }
}

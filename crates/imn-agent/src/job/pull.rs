//! Taking jobs of one type from the queue: no credit, no pull, so that a backlog stays where it can be seen.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    self, AckKind,
    consumer::{PullConsumer, pull},
};
use futures::{FutureExt, StreamExt};
use imn_contract::{ModuleType, stream};
use imn_runtime::task::{Stop, Tasks};

use super::Jobs;

/// How long one request for jobs stands at the server.
const PULL_FOR: Duration = Duration::from_secs(30);
/// Jobs asked for at once, at most.
const PULL_MOST: u32 = 256;
/// Pauses between looks for a queue that the server has not made yet.
const QUEUE_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Pulls and follows the jobs of a type until the end; then until those in work have ended.
pub(super) async fn run(jobs: Arc<Jobs>, kind: ModuleType, stop: Stop) {
    let mut followed = Tasks::new();
    stop.until(pull_for_ever(&jobs, &kind, &stop, &mut followed)).await;
    while followed.next().await.is_some() {}
}

async fn pull_for_ever(jobs: &Arc<Jobs>, kind: &ModuleType, stop: &Stop, followed: &mut Tasks) {
    let mut roster = jobs.roster.changes();
    let mut connected = jobs.client.events().connected();
    loop {
        if connected.wait_for(|up| *up).await.is_err() {
            return;
        }
        let credit = loop {
            roster.mark_unchanged();
            match jobs.roster.credit(kind) {
                0 if roster.changed().await.is_err() => return,
                0 => {}
                credit => break credit.min(PULL_MOST),
            }
        };
        let consumer = queue(jobs, kind).await;
        let batch = consumer.batch().max_messages(credit as usize).expires(PULL_FOR).messages().await;
        let mut batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                tracing::debug!(%kind, %error, "jobs cannot be asked for");
                tokio::time::sleep(QUEUE_RETRY.0).await;
                continue;
            }
        };
        connected.mark_unchanged();
        loop {
            tokio::select! {
                biased;
                () = stop.requested() => {
                    give_back(&mut batch).await;
                    return std::future::pending().await;
                }
                message = batch.next() => match message {
                    Some(Ok(message)) => {
                        let (jobs, stop) = (Arc::clone(jobs), stop.clone());
                        followed.spawn("job", async move { jobs.follow(&message, &stop).await });
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%kind, %error, "pull ended");
                        tokio::time::sleep(QUEUE_RETRY.0).await;
                        break;
                    }
                    None => break,
                },
                // The server forgets a request when the connection goes.
                _ = connected.changed() => break,
            }
        }
    }
}

/// What has been delivered and was not begun goes back at once.
async fn give_back(batch: &mut pull::Batch) {
    while let Some(Some(Ok(message))) = batch.next().now_or_never() {
        settle(&message, AckKind::Nak(None)).await;
    }
}

/// This agent's consumer of the type's queue, as soon as the server has made it.
async fn queue(jobs: &Jobs, kind: &ModuleType) -> PullConsumer {
    let (mut pause, longest) = QUEUE_RETRY;
    let (name, consumer) = (stream::jobs(kind), stream::jobs_consumer(&jobs.agent));
    loop {
        let context: jetstream::Context = jobs.client.jetstream();
        match context.get_consumer_from_stream::<pull::Config, _, _>(&consumer, &name).await {
            Ok(found) => return found,
            Err(error) => tracing::debug!(%kind, %error, "no queue of this type yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Answers a queue message; what is lost is delivered again.
pub(super) async fn settle(message: &jetstream::Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(%error, "queue message not answered");
    }
}

//! Ingest: sealed batches become committed rows, each exactly once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{
    Message as Raw,
    jetstream::{self, AckKind},
};
use futures::{FutureExt, StreamExt};
use imn_contract::{
    AgentId, ErrorCode, Fault,
    latest::{Batch, ControlReply, Round, Watermark, WatermarkRequest},
    stream as names, subject,
};
use imn_runtime::{nats, task::Stop};
use imn_store::{Committed, IngestBatch, ResultsError, RoundRow};

use crate::{clock::now_us, context::Context, live::Event, metrics::label, readiness::Part};

/// Batches of one commit at most.
const MAX_BATCHES: usize = 1024;
/// Sealed bytes of one commit at most.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Batches pulled ahead.
const AHEAD: usize = 256;
/// When a batch behind a hole is looked at again: the spool needs the watermark first, and then time to resend.
const HOLE_DELAY: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// A batch and the message that brought it.
struct Held {
    message: jetstream::Message,
    batch: IngestBatch,
}

/// Takes in one partition until `stop`.
pub(crate) async fn run(context: Context, partition: u32, streams: crate::streams::Streams, stop: Stop) {
    while !stop.is_requested() {
        if let Err(error) = follow(&context, partition, &streams, &stop).await {
            context.readiness.fails(Part::Ingest, error.to_string());
        }
        stop.sleep(RETRY).await;
    }
}

async fn follow(
    context: &Context,
    partition: u32,
    streams: &crate::streams::Streams,
    stop: &Stop,
) -> nats::Result<()> {
    let fail = |error: &dyn std::fmt::Display| nats::Error::Client {
        operation: "pull",
        subject: format!("{}/{}", names::INGEST, names::ingest_consumer(partition)),
        message: error.to_string(),
    };
    let consumer = streams.ingest(partition).await?;
    let stream = consumer.stream().max_messages_per_batch(AHEAD).heartbeat(Duration::from_secs(2));
    let mut messages = stream.expires(Duration::from_secs(30)).messages().await.map_err(|e| fail(&e))?;
    context.readiness.ok(Part::Ingest);
    let mut ended = None;
    while ended.is_none() {
        let Some(Some(first)) = stop.until(messages.next()).await else { return Ok(()) };
        let mut held = Vec::new();
        let mut bytes = 0;
        let until = tokio::time::Instant::now() + context.config.commit_interval;
        let mut next = Some(first);
        while let Some(message) = next.take() {
            match message {
                Ok(message) => {
                    bytes += message.payload.len();
                    held.extend(open(context, partition, message).await);
                }
                Err(error) => ended = Some(fail(&error)),
            }
            if ended.is_some() || held.len() >= MAX_BATCHES || bytes >= MAX_BYTES {
                break;
            }
            next = match messages.next().now_or_never() {
                Some(ready) => ready,
                None => tokio::time::timeout_at(until, messages.next()).await.ok().flatten(),
            };
        }
        commit(context, held, stop).await;
    }
    ended.map_or(Ok(()), Err)
}

/// Opens a batch. What is none is settled at once: it would never become one.
async fn open(context: &Context, partition: u32, message: jetstream::Message) -> Option<Held> {
    let sealed = message.payload.clone();
    let opened = Batch::open(&sealed).map_err(Fault::from).and_then(|batch| {
        let expected = subject::ingest(partition, &batch.agent, &batch.kind);
        if message.subject.as_str() == expected {
            Ok(batch)
        } else {
            Err(Fault::invalid("agent", format!("the batch belongs on {expected}")))
        }
    });
    match opened {
        Ok(batch) => Some(Held { message, batch: IngestBatch { batch, sealed } }),
        Err(fault) => {
            context.metrics.batches.get_or_create(&label("verdict", "garbage")).inc();
            tracing::warn!(subject = %message.subject, bytes = sealed.len(), %fault, "batch refused");
            acknowledge(&message, AckKind::Term).await;
            None
        }
    }
}

/// Commits everything together, then acknowledges, then tells. Until the commit succeeds nothing is acknowledged.
async fn commit(context: &Context, mut held: Vec<Held>, stop: &Stop) {
    if held.is_empty() {
        return;
    }
    // Redelivered batches come out of order; in order they leave no hole.
    held.sort_by(|a, b| {
        let key = |h: &Held| (h.batch.batch.epoch, h.batch.batch.first_seq);
        a.batch.batch.agent.cmp(&b.batch.batch.agent).then_with(|| key(a).cmp(&key(b)))
    });
    let (messages, batches): (Vec<_>, Vec<_>) = held.into_iter().map(|h| (h.message, h.batch)).unzip();
    let Some(verdicts) = persist(context, &messages, &batches, stop).await else { return };
    let mut watermarks: Vec<(AgentId, u64, u64)> = Vec::new();
    let mut committed: Vec<Arc<Batch>> = Vec::new();
    for ((message, batch), verdict) in messages.iter().zip(batches).zip(verdicts) {
        let IngestBatch { batch, .. } = batch;
        let (name, kind, mark) = match verdict {
            Committed::Now(mark) => ("committed", AckKind::Ack, mark),
            Committed::Before(mark) => ("duplicate", AckKind::Ack, mark),
            Committed::Hole(mark) => ("hole", AckKind::Nak(Some(HOLE_DELAY)), mark),
        };
        context.metrics.batches.get_or_create(&label("verdict", name)).inc();
        acknowledge(message, kind).await;
        match watermarks.iter_mut().find(|(agent, epoch, _)| *agent == batch.agent && *epoch == batch.epoch) {
            Some((_, _, highest)) => *highest = mark.max(*highest),
            None => watermarks.push((batch.agent.clone(), batch.epoch, mark)),
        }
        if matches!(verdict, Committed::Now(_)) {
            context.metrics.rounds.inc_by(batch.rounds.len() as u64);
            context.metrics.gaps.inc_by(batch.gaps.len() as u64);
            committed.push(Arc::new(batch));
        } else if matches!(verdict, Committed::Hole(_)) {
            tracing::info!(agent = %batch.agent, epoch = batch.epoch, first = batch.first_seq, committed = mark, "hole before a batch");
        }
    }
    for (agent, epoch, mark) in watermarks {
        let watermark = Watermark { v: 1, epoch, committed: mark };
        if let Err(error) = context.client.publish(&subject::commit(&agent), &watermark).await {
            tracing::debug!(%agent, %error, "watermark not broadcast");
        }
    }
    show(context, &committed).await;
}

/// Commits, and goes on trying until `stop`: what arrived stays held, and NATS keeps the rest.
async fn persist(
    context: &Context,
    messages: &[jetstream::Message],
    batches: &[IngestBatch],
    stop: &Stop,
) -> Option<Vec<Committed>> {
    let mut wait = RETRY;
    loop {
        let start = Instant::now();
        match context.results.commit(batches.to_vec()).await {
            Ok(verdicts) => {
                context.metrics.commit_seconds.observe(start.elapsed().as_secs_f64());
                context.readiness.ok(Part::Ingest);
                return Some(verdicts);
            }
            Err(error) => {
                context.metrics.commit_failures.inc();
                let reason = match &error {
                    ResultsError::NoSpace { .. } => "rounds wait in their spools: ",
                    _ => "",
                };
                context.readiness.fails(Part::Ingest, format!("{reason}{error}"));
                tracing::error!(%error, batches = batches.len(), "commit failed; trying again");
            }
        }
        // Otherwise they would be delivered again while they are held.
        for message in messages {
            acknowledge(message, AckKind::Progress).await;
        }
        if !stop.sleep(wait).await {
            return None;
        }
        wait = (wait * 2).min(LAST_RETRY);
    }
}

/// Brings committed rounds to the board and to whoever watches, in order of their due times.
async fn show(context: &Context, committed: &[Arc<Batch>]) {
    let mut rounds: Vec<(&Batch, &Round)> =
        committed.iter().flat_map(|batch| batch.rounds.iter().map(|round| (&**batch, round))).collect();
    let Some(oldest) = rounds.iter().map(|(_, round)| round.due_us).min() else { return };
    let now = now_us();
    context.metrics.ingest_lag_seconds.set((now - oldest) as f64 / 1e6);
    rounds.sort_by_key(|(_, round)| round.due_us);
    let changes = context.board.commit(
        rounds.iter().filter_map(|(batch, round)| {
            Some(crate::status::Seen::of_round(&batch.agent, &batch.kind, round.target.as_ref()?, round))
        }),
        now,
    );
    if context.live.is_watched() {
        let rows: Vec<RoundRow> = rounds
            .iter()
            .filter_map(|(batch, round)| RoundRow::of(&batch.agent, &batch.kind, round))
            .collect();
        context.live.tell(Event::Rounds(Arc::new(rows)));
    }
    record(context, changes).await;
    crate::bgp::judge(context, &rounds, now).await;
}

/// Stores transitions, and tells of them.
pub(crate) async fn record(context: &Context, changes: Vec<imn_store::StateChange>) {
    if changes.is_empty() {
        return;
    }
    if let Err(error) = context.catalog.set_states(&changes).await {
        tracing::warn!(%error, transitions = changes.len(), "transitions not stored");
    }
    context.live.tell(Event::States(Arc::new(changes)));
}

/// Answers requests for watermarks until `stop`. Broadcasts arrive here too and are no requests.
pub(crate) async fn serve_watermarks(context: Context, stop: Stop) -> nats::Result<()> {
    let requests = context.client.queue_subscribe(subject::COMMIT_ALL, subject::SERVER_QUEUE).await?;
    let until = stop.clone();
    let requests = requests.take_until(Box::pin(async move { until.requested().await }));
    requests.for_each_concurrent(64, move |request| answer(context.clone(), request)).await;
    Ok(())
}

async fn answer(context: Context, request: Raw) {
    if request.reply.is_none() {
        return;
    }
    let asked = nats::decode::<WatermarkRequest>(&request);
    let agent = AgentId::new(subject::last_token(&request.subject));
    let known = match (asked, agent) {
        (Ok(asked), Ok(agent)) => match context.results.watermark(&agent, asked.epoch).await {
            Ok(committed) => Ok(Watermark { v: 1, epoch: asked.epoch, committed }),
            Err(error) => {
                tracing::warn!(%agent, %error, "watermark not known");
                Err(Fault::new(ErrorCode::Unavailable, error.to_string()))
            }
        },
        (asked, agent) => {
            context.metrics.garbage.get_or_create(&label("kind", "watermark-request")).inc();
            let unfit = agent.err().map(|error| Fault::invalid("agent", error.to_string()));
            Err(asked
                .err()
                .or(unfit)
                .unwrap_or_else(|| Fault::new(ErrorCode::Invalid, "no watermark request")))
        }
    };
    let sent = match known {
        Ok(watermark) => context.client.respond(&request, &watermark).await,
        Err(fault) => {
            let refusal = ControlReply { v: 1, ok: false, error: Some(fault.clone()) };
            context.client.respond_fault(&request, &refusal, &fault).await
        }
    };
    if let Err(error) = sent {
        tracing::debug!(subject = %request.subject, %error, "watermark not answered");
    }
}

async fn acknowledge(message: &jetstream::Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        // It will be delivered again, and be found a duplicate.
        tracing::debug!(%error, "batch not acknowledged");
    }
}

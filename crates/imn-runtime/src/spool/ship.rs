//! Shipping: sealed batches go to the ingest stream in order, watermarks come back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use futures::StreamExt;
use imn_contract::{
    latest::{Watermark, WatermarkRequest},
    subject,
};

use super::{Error, Sealed, Spool};
use crate::{nats, task::Stop};

/// How often the spool is looked after.
const TICK: Duration = Duration::from_millis(50);
/// How long a publish may take to be acknowledged.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed publish.
const PUBLISH_PAUSE: Duration = Duration::from_secs(1);
/// Batches of a partition sent and not yet committed, at most.
const WINDOW: u64 = 64;
/// Silence of watermarks after which the server is asked.
const ASK_AFTER: Duration = Duration::from_secs(3);
/// Time without progress, while the server answers, after which batches are sent again; doubles up to the limit.
const RESEND_AFTER: Duration = Duration::from_secs(15);
const RESEND_LIMIT: Duration = Duration::from_mins(2);

/// Ships one spool. Own it as a task.
pub struct Shipper {
    spool: Arc<Spool>,
    client: nats::Client,
    streams: Vec<Stream>,
    pause_until: Option<Instant>,
}

/// Where shipping of one partition stands.
struct Stream {
    epoch: u64,
    /// Next sequence to send.
    next: u64,
    /// Times that sequences have been sent from the start again; part of the message id, because a stream that has
    /// lost a message may still remember its id.
    round: u32,
    /// Last time a watermark moved or was confirmed.
    moved: Instant,
    asked: Instant,
    patience: Duration,
}

impl Shipper {
    /// A shipper of this spool over this connection.
    pub fn new(spool: Arc<Spool>, client: nats::Client) -> Self {
        let now = Instant::now();
        let stream = |(number, epoch): (usize, u64)| Stream {
            epoch,
            next: spool.committed(number as u32) + 1,
            round: 0,
            moved: now,
            asked: now,
            patience: RESEND_AFTER,
        };
        let streams = spool.epochs().into_iter().enumerate().map(stream).collect();
        Self { spool, client, streams, pause_until: None }
    }

    /// Seals, publishes and follows watermarks until `stop`; then returns what is left to the disk. With
    /// `until_empty` it also ends when everything is committed.
    ///
    /// # Errors
    /// [`nats::Error`] when the watermarks cannot be subscribed to.
    pub async fn run(mut self, stop: Stop, until_empty: bool) -> Result<(), nats::Error> {
        // Sealing must not wait for the network.
        tokio::select! {
            () = seal(Arc::clone(&self.spool), &stop) => Ok(()),
            shipped = self.ship(&stop, until_empty) => shipped,
        }
    }

    async fn ship(&mut self, stop: &Stop, until_empty: bool) -> Result<(), nats::Error> {
        let marks_on = subject::commit(&self.spool.config().agent);
        let mut marks = self.client.subscribe(&marks_on).await?;
        let mut tick = ticks();
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                Some(message) = marks.next() => {
                    // Requests to the server travel on the same subject.
                    if message.reply.is_none() && let Ok(mark) = nats::decode::<Watermark>(&message) {
                        self.take(&mark);
                    }
                }
                _ = tick.tick() => {
                    self.send_all().await;
                    if until_empty && self.spool.is_empty() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Publishes and confirms what is left, for at most `deadline`; for the end of an orderly stop.
    ///
    /// # Errors
    /// As [`Shipper::run`].
    pub async fn flush(
        spool: Arc<Spool>,
        client: nats::Client,
        deadline: Duration,
    ) -> Result<(), nats::Error> {
        let shutdown = crate::task::Shutdown::new();
        let shipper = Self::new(spool, client);
        match tokio::time::timeout(deadline, shipper.run(shutdown.stop(), true)).await {
            Ok(done) => done,
            Err(_) => Ok(()),
        }
    }

    async fn send_all(&mut self) {
        if self.pause_until.is_some_and(|until| Instant::now() < until)
            || !self.client.events().is_connected()
        {
            return;
        }
        self.pause_until = None;
        for number in 0..self.streams.len() {
            if let Err(error) = self.send(number).await {
                tracing::warn!(%error, partition = number, "batch not published; trying again");
                // One that is away tells by its silence.
                if matches!(error, nats::Error::JetStream { .. }) {
                    self.spool.set_stuck(Some(format!("rounds wait in the spool: {error}")));
                }
                self.pause_until = Some(Instant::now() + PUBLISH_PAUSE);
                return;
            }
            self.ask(number).await;
        }
    }

    /// Sends what is sealed and not yet sent, up to the window.
    async fn send(&mut self, number: usize) -> Result<(), nats::Error> {
        loop {
            let stream = &self.streams[number];
            let committed = self.spool.committed(number as u32);
            if stream.next > committed + WINDOW {
                return Ok(());
            }
            let seq = stream.next.max(committed + 1);
            let sealed = match self.spool.sealed(number as u32, seq) {
                Ok(Some(sealed)) => sealed,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::error!(%error, seq, "batch unreadable");
                    return Ok(());
                }
            };
            if stream.next == committed + 1 {
                // The clock of patience starts with the first batch that waits.
                let now = Instant::now();
                self.streams[number].moved = now;
                self.streams[number].asked = now;
            }
            self.publish(&sealed, self.streams[number].round).await?;
            self.spool.set_stuck(None);
            self.streams[number].next = sealed.last_seq + 1;
        }
    }

    async fn publish(&self, sealed: &Sealed, round: u32) -> Result<(), nats::Error> {
        let config = self.spool.config();
        let on = subject::ingest(sealed.partition, &config.agent, &config.kind);
        let id = match round {
            0 => format!("{:016x}-{}", sealed.epoch, sealed.first_seq),
            n => format!("{:016x}-{}-{n}", sealed.epoch, sealed.first_seq),
        };
        let bytes = sealed.bytes.clone();
        self.client.publish_bytes_acked(&on, bytes, Some(&id), HeaderMap::new(), PUBLISH_TIMEOUT).await?;
        Ok(())
    }

    /// Asks for the watermark when none has come for a while, since a broadcast can be missed; and sends again what
    /// the server, though it answers, does not get.
    async fn ask(&mut self, number: usize) {
        let committed = self.spool.committed(number as u32);
        let stream = &self.streams[number];
        if stream.next == committed + 1 || stream.asked.elapsed() < ASK_AFTER {
            return;
        }
        let on = subject::commit(&self.spool.config().agent);
        let request = WatermarkRequest { v: 1, epoch: stream.epoch };
        let answer = self
            .client
            .request_within::<_, Watermark>(&on, &request, HeaderMap::new(), Duration::from_secs(2))
            .await;
        self.streams[number].asked = Instant::now();
        // Without an answer the server is away: what is in the stream waits there for it.
        let Ok(mark) = answer else { return };
        self.take(&mark);
        let stream = &mut self.streams[number];
        if mark.committed <= committed && stream.moved.elapsed() >= stream.patience {
            tracing::warn!(
                from = mark.committed + 1,
                to = stream.next - 1,
                "no progress: sending batches again"
            );
            stream.next = mark.committed + 1;
            stream.round += 1;
            stream.moved = Instant::now();
            stream.patience = (stream.patience * 2).min(RESEND_LIMIT);
        }
    }

    fn take(&mut self, mark: &Watermark) {
        let Some(number) = self.streams.iter().position(|s| s.epoch == mark.epoch) else { return };
        let before = self.spool.committed(number as u32);
        if let Err(error) = self.spool.commit(mark.epoch, mark.committed) {
            let error: Error = error;
            tracing::error!(%error, "watermark not noted");
            return;
        }
        let stream = &mut self.streams[number];
        if mark.committed > before {
            stream.moved = Instant::now();
            stream.asked = stream.moved;
            stream.patience = RESEND_AFTER;
        } else if mark.committed < before {
            // The server has gone back: it gets again what it has lost.
            tracing::warn!(before, now = mark.committed, "watermark went back: sending batches again");
            stream.next = mark.committed + 1;
            stream.round += 1;
        }
        stream.next = stream.next.max(self.spool.committed(number as u32) + 1);
    }
}

/// Seals and fsyncs until `stop`.
async fn seal(spool: Arc<Spool>, stop: &Stop) {
    let mut tick = ticks();
    while stop.until(tick.tick()).await.is_some() {
        let spool = Arc::clone(&spool);
        match tokio::task::spawn_blocking(move || spool.tick()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "spool not written"),
            Err(error) => tracing::error!(%error, "spool tick died"),
        }
    }
}

fn ticks() -> tokio::time::Interval {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    tick
}

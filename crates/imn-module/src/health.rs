//! Health: every five seconds, and at once when the state changes.

use std::time::{Duration, Instant};

use imn_contract::{
    latest::{Health, ModuleConfig, ModuleState, SpoolState},
    subject,
};
use imn_runtime::{clock, nats::Client};

use crate::{desk::Snapshot, standing::Stats};

/// The series of health messages of one process.
pub(crate) struct Pulse {
    version: String,
    epoch: u64,
    seq: u64,
    last: Option<(ModuleState, Instant)>,
}

impl Pulse {
    pub(crate) fn new(version: &str) -> Self {
        Self { version: version.to_owned(), epoch: rand::random(), seq: 0, last: None }
    }

    /// Whether `state` differs from what was told last, and that was not within `pause`.
    pub(crate) fn is_news(&self, state: ModuleState, pause: Duration) -> bool {
        self.last.is_none_or(|(told, at)| told != state && at.elapsed() >= pause)
    }

    /// Publishes one message; lossy.
    pub(crate) async fn beat(
        &mut self,
        client: &Client,
        config: &ModuleConfig,
        desk: &Snapshot,
        standing: Option<(&Stats, SpoolState)>,
    ) {
        if !client.events().is_connected() {
            return;
        }
        self.seq += 1;
        self.last = Some((desk.state, Instant::now()));
        let (rounds, spool) = standing.map(|(stats, spool)| (stats.read(), spool)).unwrap_or_default();
        let message = Health {
            v: 1,
            instance: config.instance.clone(),
            agent: config.agent.clone(),
            kind: config.kind.clone(),
            version: self.version.clone(),
            state: desk.state,
            inflight: desk.inflight,
            queued: 0,
            slots: desk.slots,
            oldest_ms: desk.oldest_ms,
            ewma_ms: desk.ewma_ms,
            done: desk.done,
            errors: desk.errors,
            circuits_open: desk.circuits_open,
            rounds_due: rounds.due,
            rounds_done: rounds.done,
            rounds_skipped: rounds.skipped,
            late_p99_us: rounds.late_p99_us,
            seq: self.seq,
            epoch: self.epoch,
            time: clock::now_rfc3339(),
            spool,
        };
        if let Err(error) = client.publish(&subject::health(&config.instance), &message).await {
            tracing::debug!(%error, "health dropped");
        }
    }
}

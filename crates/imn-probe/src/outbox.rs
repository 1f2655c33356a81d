//! How results leave an engine: bounded channels, and a count of what found them full.

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::outcome::{Batch, Event, Outcome, Packet};

/// Outcomes per batch at most, while the reader keeps up.
const BATCH: usize = 1024;
/// Outcomes gathered for a reader that does not read; what comes beyond is dropped.
const GATHERED: usize = 65_536;

/// The engine's end.
pub(crate) struct Outbox {
    pending: Batch,
    outcomes: Sender<Batch>,
    events: Sender<Event>,
    /// Outcomes dropped because nobody read them.
    pub outcomes_dropped: u64,
    /// Events dropped because nobody read them.
    pub events_dropped: u64,
}

/// An outbox with room for so many batches and events, and the reader's ends.
pub(crate) fn outbox(batches: usize, events: usize) -> (Outbox, Receiver<Batch>, Receiver<Event>) {
    let (outcome_sender, outcomes) = crossbeam_channel::bounded(batches.max(1));
    let (event_sender, events) = crossbeam_channel::bounded(events.max(1));
    let outbox = Outbox {
        pending: Batch::default(),
        outcomes: outcome_sender,
        events: event_sender,
        outcomes_dropped: 0,
        events_dropped: 0,
    };
    (outbox, outcomes, events)
}

impl Outbox {
    /// Adds an outcome; its `packets` range is set here.
    pub(crate) fn push(&mut self, mut outcome: Outcome, packets: &[Packet]) {
        if self.pending.len() >= BATCH {
            self.offer();
        }
        if self.pending.len() >= GATHERED {
            self.outcomes_dropped += 1;
            return;
        }
        let begin = self.pending.packets.len() as u32;
        self.pending.packets.extend_from_slice(packets);
        outcome.packets = begin..self.pending.packets.len() as u32;
        self.pending.outcomes.push(outcome);
    }

    /// Hands over what is gathered, if there is room for it.
    pub(crate) fn offer(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        match self.outcomes.try_send(std::mem::take(&mut self.pending)) {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => self.pending = batch,
            Err(TrySendError::Disconnected(batch)) => self.outcomes_dropped += batch.len() as u64,
        }
    }

    /// True when outcomes wait for room.
    pub(crate) fn waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(crate) fn event(&mut self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.events_dropped += 1;
        }
    }
}

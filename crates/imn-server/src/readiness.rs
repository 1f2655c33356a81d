//! Whether the server can do its work, and if not, why.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What the server depends on, or does itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The connection to NATS.
    Nats,
    /// Streams and consumers are as they should be.
    Streams,
    /// The catalog answers.
    Catalog,
    /// Assignments are computed and published.
    Assignments,
    /// Rounds are taken in and stored.
    Ingest,
    /// Jobs are taken in.
    Jobs,
}

impl Part {
    const ALL: [Self; 6] =
        [Self::Nats, Self::Streams, Self::Catalog, Self::Assignments, Self::Ingest, Self::Jobs];

    /// Its name for people and scripts.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Streams => "streams",
            Self::Catalog => "catalog",
            Self::Assignments => "assignments",
            Self::Ingest => "ingest",
            Self::Jobs => "jobs",
        }
    }
}

/// The state of every part; cheap to clone. A part that has not reported is not ready.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness {
    parts: Arc<Mutex<BTreeMap<Part, Result<(), String>>>>,
}

impl Readiness {
    /// A part works.
    pub(crate) fn ok(&self, part: Part) {
        self.set(part, &Ok(()));
    }

    /// A part does not work, and why.
    pub(crate) fn fails(&self, part: Part, reason: impl Into<String>) {
        self.set(part, &Err(reason.into()));
    }

    /// Whether a part works.
    pub(crate) fn is_ok(&self, part: Part) -> bool {
        let known = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&part).is_some_and(Result::is_ok)
    }

    /// Each part in order: fine, or why not.
    pub(crate) fn parts(&self) -> Vec<(Part, Result<(), String>)> {
        let known = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let state = |part: &Part| known.get(part).cloned().unwrap_or_else(|| Err("starting".to_owned()));
        Part::ALL.iter().map(|part| (*part, state(part))).collect()
    }

    fn set(&self, part: Part, state: &Result<(), String>) {
        let mut known = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.insert(part, state.clone());
        match (&before, state) {
            (Some(Err(_)) | None, Ok(())) => tracing::info!(part = part.name(), "part ready"),
            (Some(Ok(())), Err(reason)) => tracing::warn!(part = part.name(), reason, "part not ready"),
            // At the start each part waits for another.
            (None, Err(reason)) => tracing::debug!(part = part.name(), reason, "part not ready yet"),
            _ => {}
        }
    }
}

//! What several agents' findings say together.

use serde::{Deserialize, Serialize};

/// Whether a target is reachable, by all agents that measure it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consensus {
    /// Most agents with a fresh round reach it.
    Reachable,
    /// No agent reaches it, and at least half of those assigned have a fresh round.
    Unreachable,
    /// Some reach it, but not most.
    Degraded,
    /// No agent has a fresh round, or too few to say that nobody reaches it.
    #[default]
    Unknown,
}

/// What one agent found in its latest fresh rounds, over all types that it measures the target with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vote {
    /// Every type was answered.
    Reached,
    /// No type was answered.
    Missed,
    /// Some types were answered.
    Mixed,
}

impl Vote {
    /// The vote of one agent from whether each of its latest fresh rounds was answered; `None` without any.
    pub fn of(answered: impl IntoIterator<Item = bool>) -> Option<Self> {
        answered
            .into_iter()
            .map(|yes| if yes { Self::Reached } else { Self::Missed })
            .reduce(|a, b| if a == b { a } else { Self::Mixed })
    }
}

/// The consensus of the votes, among `assigned` agents in all.
pub fn consensus(votes: impl IntoIterator<Item = Vote>, assigned: usize) -> Consensus {
    let (mut fresh, mut reached, mut missed) = (0, 0, 0);
    for vote in votes {
        fresh += 1;
        match vote {
            Vote::Reached => reached += 1,
            Vote::Missed => missed += 1,
            Vote::Mixed => {}
        }
    }
    if fresh == 0 {
        Consensus::Unknown
    } else if reached * 2 > fresh {
        Consensus::Reachable
    } else if missed < fresh {
        Consensus::Degraded
    } else if fresh * 2 >= assigned {
        Consensus::Unreachable
    } else {
        Consensus::Unknown
    }
}

//! Rounds as the API shows them, and reading many of them in order.

use imn_contract::latest::TimestampSource;
use imn_store::{GapRow, Order, Results, ResultsError, RoundQuery, RoundRow};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{column::RoundColumns, text};

/// Rows at one due time that are expected at most beyond those asked for; more only cost another query.
const TIES: usize = 256;

/// One round: `count` packets to one target.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Round {
    /// When the first packet was sent, RFC 3339 UTC.
    pub(crate) time: String,
    /// When the round was due, RFC 3339 UTC.
    pub(crate) due: String,
    /// The agent.
    pub(crate) agent: String,
    /// The target's id.
    pub(crate) target: String,
    /// The address measured.
    pub(crate) address: String,
    /// Module type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Packets sent.
    pub(crate) sent: u32,
    /// Packets answered within Tmax.
    pub(crate) received: u32,
    /// Packets of which nothing can be said, because the agent's host lost something itself.
    pub(crate) unknown: u32,
    /// Further answers to packets already answered.
    pub(crate) duplicates: u32,
    /// Answers after Tmax.
    pub(crate) late: u32,
    /// Answers out of order (RFC 4737).
    pub(crate) reordered: u32,
    /// Whether the measurement succeeded.
    pub(crate) success: bool,
    /// What went wrong.
    #[schema(required)]
    pub(crate) error: Option<String>,
    /// Least round-trip time, in microseconds.
    #[schema(required)]
    pub(crate) rtt_min_us: Option<f64>,
    /// Mean round-trip time of received packets, in microseconds.
    #[schema(required)]
    pub(crate) rtt_avg_us: Option<f64>,
    /// Greatest round-trip time, in microseconds.
    #[schema(required)]
    pub(crate) rtt_max_us: Option<f64>,
    /// Sample standard deviation, in microseconds.
    #[schema(required)]
    pub(crate) rtt_stddev_us: Option<f64>,
    /// Mean absolute ipdv (RFC 3393), in microseconds.
    #[schema(required)]
    pub(crate) ipdv_us: Option<f64>,
    /// lost / (sent − unknown), in percent; null when nothing is known.
    #[schema(required)]
    pub(crate) loss_pct: Option<f64>,
    /// Sent − due of the worst packet, in microseconds.
    pub(crate) late_us: u32,
    /// Tmax, in microseconds.
    pub(crate) tmax_us: u64,
    /// `kernel`, `mixed` or `user`.
    pub(crate) ts_source: &'static str,
    /// Bound of the systematic error, in microseconds.
    pub(crate) error_us: f64,
    /// Each packet's round-trip time in order of sending, in microseconds, null for one not received; empty when
    /// the round has one packet.
    pub(crate) rtts_us: Vec<Option<f64>>,
    /// The columns of its type.
    #[serde(flatten)]
    pub(crate) columns: RoundColumns,
    /// What of the outcome no column holds: all of it for a type without columns of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) outcome: Option<Value>,
}

/// Rounds that were due and could not be made.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Gap {
    /// The agent.
    pub(crate) agent: String,
    /// The target's id.
    pub(crate) target: String,
    /// Module type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// First due time missed, RFC 3339 UTC.
    pub(crate) first_due: String,
    /// Last due time missed, RFC 3339 UTC.
    pub(crate) last_due: String,
    /// Rounds missed.
    pub(crate) rounds: u64,
    /// Why, for example `module_crashed`.
    pub(crate) reason: String,
}

/// The last row of a page: the next page begins after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cursor {
    due_us: i64,
    agent: String,
    kind: String,
}

/// Reads rounds in order, part by part.
pub(crate) struct Scan {
    query: RoundQuery,
    after: Option<Cursor>,
}

impl Scan {
    pub(crate) fn new(query: RoundQuery, after: Option<Cursor>) -> Self {
        Self { query, after }
    }

    /// Where the next part begins.
    pub(crate) fn cursor(&self) -> Option<&Cursor> {
        self.after.as_ref()
    }

    /// The next `n` rounds; fewer only at the end.
    pub(crate) async fn next(
        &mut self,
        results: &dyn Results,
        n: usize,
    ) -> Result<Vec<RoundRow>, ResultsError> {
        let mut ties = TIES;
        loop {
            let limit = n + ties;
            let mut rows = results.rounds(&self.part(limit)).await?;
            let full = rows.len() >= limit;
            // Rows at the cursor's due time up to the cursor itself were read before.
            let read = self.after.as_ref().map_or(0, |after| {
                let same = rows.iter().take_while(|row| row.due_us == after.due_us);
                let at = same
                    .clone()
                    .position(|row| row.agent.as_str() == after.agent && row.kind.as_str() == after.kind);
                // A cursor that is gone leaves no better place than the end of its ties.
                at.map_or_else(|| same.count(), |at| at + 1)
            });
            rows.drain(..read);
            if rows.len() < n && full {
                ties *= 4;
                continue;
            }
            rows.truncate(n);
            if let Some(last) = rows.last() {
                self.after = Some(Cursor {
                    due_us: last.due_us,
                    agent: last.agent.to_string(),
                    kind: last.kind.to_string(),
                });
            }
            return Ok(rows);
        }
    }

    fn part(&self, limit: usize) -> RoundQuery {
        let mut query = RoundQuery { limit: Some(limit), ..self.query.clone() };
        if let Some(after) = &self.after {
            match query.order {
                Order::Ascending => query.from_us = Some(after.due_us),
                Order::Descending => query.to_us = Some(after.due_us.saturating_add(1)),
            }
        }
        query
    }
}

impl From<RoundRow> for Round {
    fn from(row: RoundRow) -> Self {
        Self {
            time: text::time(row.time_us),
            due: text::time(row.due_us),
            agent: row.agent.to_string(),
            target: row.target.to_string(),
            address: row.address,
            kind: row.kind.to_string(),
            sent: row.sent,
            received: row.received,
            unknown: row.unknown,
            duplicates: row.duplicates,
            late: row.late,
            reordered: row.reordered,
            success: row.success,
            error: row.error,
            rtt_min_us: row.rtt_min_us,
            rtt_avg_us: row.rtt_avg_us,
            rtt_max_us: row.rtt_max_us,
            rtt_stddev_us: row.rtt_stddev_us,
            ipdv_us: row.ipdv_us,
            loss_pct: row.loss_pct,
            late_us: row.late_us,
            tmax_us: row.tmax_us,
            ts_source: match row.ts_source {
                TimestampSource::Kernel => "kernel",
                TimestampSource::Mixed => "mixed",
                TimestampSource::User => "user",
            },
            error_us: row.error_us,
            rtts_us: row.rtts_us,
            columns: RoundColumns(row.columns),
            // What a module wrote that is no JSON is still what it wrote.
            outcome: row.outcome.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text))),
        }
    }
}

impl From<GapRow> for Gap {
    fn from(row: GapRow) -> Self {
        Self {
            agent: row.agent.to_string(),
            target: row.target.to_string(),
            kind: row.kind.to_string(),
            first_due: text::time(row.first_due_us),
            last_due: text::time(row.last_due_us),
            rounds: row.rounds,
            reason: row.reason,
        }
    }
}

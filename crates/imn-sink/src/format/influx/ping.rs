//! `icmp` and `tcp` under the names of Telegraf's `ping` input.

use imn_contract::latest::PingOutcome;

use super::{Line, Row};

/// Telegraf's `result_code`.
const SUCCESS: u32 = 0;
const NO_SUCH_HOST: u32 = 1;
const PING_ERROR: u32 = 2;

pub(super) fn line(row: &Row, outcome: &PingOutcome) -> Line {
    let result = match (outcome.sent, &outcome.address) {
        (0, None) => NO_SUCH_HOST,
        (0, Some(_)) => PING_ERROR,
        _ => SUCCESS,
    };
    Line::new("ping")
        .tag("url", &outcome.target)
        .tag("agent", row.agent.as_deref().unwrap_or_default())
        .tag("ip", outcome.address.as_deref().unwrap_or_default())
        .tag("protocol", &outcome.protocol)
        .tag("port", &outcome.port.map(|port| port.to_string()).unwrap_or_default())
        .int("packets_transmitted", outcome.sent)
        .int("packets_received", outcome.received)
        .float("percent_packet_loss", outcome.loss_pct)
        .float("minimum_response_ms", outcome.rtt_ms.min)
        .float("average_response_ms", outcome.rtt_ms.avg)
        .float("maximum_response_ms", outcome.rtt_ms.max)
        .float("standard_deviation_ms", outcome.rtt_ms.stddev)
        .float("percentile50_ms", outcome.rtt_ms.p50)
        .float("percentile95_ms", outcome.rtt_ms.p95)
        .float("jitter_ms", outcome.jitter_ms)
        .int("packets_unknown", outcome.unknown)
        .int("packets_duplicate", outcome.duplicates)
        .int("packets_late", outcome.late)
        .int("packets_reordered", outcome.reordered)
        .int("result_code", result)
}

//! `dns` under the names of Telegraf's `dns_query` input.

use imn_contract::latest::DnsOutcome;

use super::{Line, Row};

/// Telegraf's `result` and `result_code`.
const SUCCESS: (&str, u32) = ("success", 0);
const TIMEOUT: (&str, u32) = ("timeout", 1);
const ERROR: (&str, u32) = ("error", 2);

pub(super) fn line(row: &Row, outcome: &DnsOutcome) -> Line {
    let (result, code) = match outcome.error_code.as_deref() {
        _ if outcome.success => SUCCESS,
        Some("timeout" | "wrong_answer") => TIMEOUT,
        _ => ERROR,
    };
    let phases = &outcome.phases_ms;
    let mut line = Line::new("dns_query")
        .tag("server", outcome.address.as_deref().unwrap_or(&outcome.resolver))
        .tag("domain", &outcome.query)
        .tag("record_type", &outcome.record_type)
        .tag("rcode", outcome.rcode.as_deref().unwrap_or_default())
        .tag("result", result)
        .tag("target", &outcome.target)
        .tag("agent", row.agent.as_deref().unwrap_or_default())
        .tag("transport", &outcome.transport)
        .tag("port", &outcome.port.to_string())
        .float("query_time_ms", outcome.latency_ms)
        .int("result_code", code)
        .int("queries_sent", outcome.sent)
        .int("queries_answered", outcome.received)
        .int("queries_unknown", outcome.unknown)
        .float("percent_loss", outcome.loss_pct)
        .float("resolve_ms", phases.resolve)
        .float("connect_ms", phases.connect)
        .float("tls_ms", phases.tls)
        .float("retry_ms", phases.retry)
        .int("wrong_answers", outcome.wrong.total());
    if let Some(counts) = outcome.counts {
        line = line.int("answers", counts.answer);
    }
    if let Some(size) = outcome.answer_size {
        line = line.int("answer_size", size);
    }
    if let Some(flags) = outcome.flags {
        line = line.flag("authentic_data", flags.ad).flag("truncated", flags.tc);
    }
    let nsid = outcome.edns.as_ref().and_then(|edns| edns.nsid.as_deref());
    line.words("nsid", nsid.unwrap_or_default()).words("error", outcome.error.as_deref().unwrap_or_default())
}

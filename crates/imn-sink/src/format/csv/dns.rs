//! Columns of `dns`: the data of the answers in one field, apart by semicolons.

use std::io;

use imn_contract::latest::DnsOutcome;

use super::number;

pub(super) const COLUMNS: [&str; 36] = [
    "target",
    "resolver",
    "address",
    "port",
    "transport",
    "query",
    "record_type",
    "class",
    "time",
    "sent",
    "received",
    "unknown",
    "loss_pct",
    "success",
    "rcode",
    "aa",
    "tc",
    "ra",
    "ad",
    "latency_ms",
    "resolve_ms",
    "connect_ms",
    "tls_ms",
    "query_ms",
    "retry_ms",
    "answers",
    "answer_count",
    "answer_size",
    "nsid",
    "wrong",
    "latencies_ms",
    "timestamp_source",
    "error_us",
    "tmax_ms",
    "error_code",
    "error",
];

pub(super) fn fields(outcome: &DnsOutcome) -> io::Result<[String; COLUMNS.len()]> {
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    let flag = |flag: Option<bool>| flag.map(|flag| flag.to_string()).unwrap_or_default();
    let each = |value: &Option<f64>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
    let source = serde_json::to_value(outcome.timestamp_source)?;
    let (phases, flags) = (&outcome.phases_ms, outcome.flags);
    Ok([
        outcome.target.clone(),
        outcome.resolver.clone(),
        text(outcome.address.as_ref()),
        outcome.port.to_string(),
        outcome.transport.clone(),
        outcome.query.clone(),
        outcome.record_type.clone(),
        outcome.class.clone(),
        text(outcome.time.as_ref()),
        outcome.sent.to_string(),
        outcome.received.to_string(),
        outcome.unknown.to_string(),
        number(outcome.loss_pct),
        outcome.success.to_string(),
        text(outcome.rcode.as_ref()),
        flag(flags.map(|flags| flags.aa)),
        flag(flags.map(|flags| flags.tc)),
        flag(flags.map(|flags| flags.ra)),
        flag(flags.map(|flags| flags.ad)),
        number(outcome.latency_ms),
        number(phases.resolve),
        number(phases.connect),
        number(phases.tls),
        number(phases.query),
        number(phases.retry),
        outcome.answers.iter().map(|record| record.data.as_str()).collect::<Vec<_>>().join("; "),
        outcome.counts.map(|counts| counts.answer.to_string()).unwrap_or_default(),
        outcome.answer_size.map(|size| size.to_string()).unwrap_or_default(),
        text(outcome.edns.as_ref().and_then(|edns| edns.nsid.as_ref())),
        outcome.wrong.total().to_string(),
        outcome.latencies_ms.iter().map(each).collect::<Vec<_>>().join(" "),
        source.as_str().unwrap_or_default().to_owned(),
        outcome.error_us.to_string(),
        outcome.tmax_ms.to_string(),
        text(outcome.error_code.as_ref()),
        text(outcome.error.as_ref()),
    ])
}

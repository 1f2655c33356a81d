//! `dns`: a line for the query, and one below for each answer.

use imn_contract::latest::{DnsFlags, DnsOutcome, DnsRecord};

use super::{Line, ms, percent};

const COLUMNS: [(&str, usize); 6] =
    [("type", 7), ("rcode", 10), ("flags", 12), ("loss", 6), ("ms", 10), ("answers", 9)];
/// Lines below a query at most.
const SHOWN: usize = 100;

pub(super) fn line(outcome: &DnsOutcome) -> Line {
    let mut notes = Vec::new();
    let wrong = outcome.wrong.total();
    let phases = &outcome.phases_ms;
    for (name, value) in [
        ("resolve", phases.resolve),
        ("connect", phases.connect),
        ("tls", phases.tls),
        ("over tcp", phases.retry),
    ] {
        if let Some(value) = value {
            notes.push(format!("{name} {value:.3} ms"));
        }
    }
    for (count, what) in
        [(outcome.unknown, "unknown"), (wrong, "wrong"), (outcome.trailing_bytes, "trailing bytes")]
    {
        if count > 0 {
            notes.push(format!("{what} {count}"));
        }
    }
    if let Some(edns) = &outcome.edns {
        notes.extend(edns.nsid.as_ref().map(|nsid| format!("nsid {nsid}")));
        notes.extend(edns.extended_errors.iter().map(|error| format!("ede {error}")));
    }
    let mut below: Vec<String> = outcome.answers.iter().take(SHOWN).map(record).collect();
    let hidden = outcome.answers.len() - below.len() + outcome.answers_omitted as usize;
    if hidden > 0 {
        below.push(format!("… and {hidden} more"));
    }
    let none = || "-".to_owned();
    Line {
        columns: &COLUMNS,
        figures: vec![
            outcome.record_type.clone(),
            outcome.rcode.clone().unwrap_or_else(none),
            outcome.flags.map(flags).filter(|flags| !flags.is_empty()).unwrap_or_else(none),
            percent(outcome.loss_pct),
            ms(outcome.latency_ms),
            outcome.counts.map_or_else(none, |counts| counts.answer.to_string()),
        ],
        notes,
        below,
    }
}

fn flags(flags: DnsFlags) -> String {
    let names = [("aa", flags.aa), ("tc", flags.tc), ("ra", flags.ra), ("ad", flags.ad), ("cd", flags.cd)];
    names.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

fn record(record: &DnsRecord) -> String {
    format!("{} {} {} {}", record.name, record.ttl, record.kind, record.data)
}

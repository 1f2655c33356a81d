//! `icmp` and `tcp`.

use imn_contract::latest::PingOutcome;

use super::{Line, ms, percent};

const COLUMNS: [(&str, usize); 8] = [
    ("sent", 5),
    ("recv", 5),
    ("loss", 6),
    ("min ms", 9),
    ("avg ms", 9),
    ("p95 ms", 9),
    ("max ms", 9),
    ("jitter", 8),
];

pub(super) fn line(outcome: &PingOutcome) -> Line {
    let counts = [
        (outcome.unknown, "unknown"),
        (outcome.duplicates, "duplicates"),
        (outcome.late, "late"),
        (outcome.reordered, "reordered"),
    ];
    let counted = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{what} {n}"));
    Line {
        columns: &COLUMNS,
        figures: vec![
            outcome.sent.to_string(),
            outcome.received.to_string(),
            percent(outcome.loss_pct),
            ms(outcome.rtt_ms.min),
            ms(outcome.rtt_ms.avg),
            ms(outcome.rtt_ms.p95),
            ms(outcome.rtt_ms.max),
            ms(outcome.jitter_ms),
        ],
        notes: counted.chain(outcome.tls.as_ref().map(super::tls)).collect(),
        below: Vec::new(),
    }
}

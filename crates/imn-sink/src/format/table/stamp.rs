//! `stamp`: the round trip, and below it what is known of each direction.

use imn_contract::latest::{StampDirection, StampOutcome};

use super::{Line, ms, percent};

const COLUMNS: [(&str, usize); 8] = [
    ("sent", 5),
    ("recv", 5),
    ("loss", 6),
    ("rtt min", 9),
    ("rtt avg", 9),
    ("rtt p95", 9),
    ("rtt max", 9),
    ("jitter", 8),
];

pub(super) fn line(outcome: &StampOutcome) -> Line {
    let counts = [
        (outcome.unknown, "unknown"),
        (outcome.duplicates, "duplicates"),
        (outcome.late, "late"),
        (outcome.reordered, "reordered"),
        (outcome.wrong_source, "wrong source"),
        (outcome.corrupted, "corrupted"),
        (outcome.foreign, "foreign"),
    ];
    let below = if outcome.received == 0 {
        Vec::new()
    } else {
        vec![way("forward", &outcome.forward), way("backward", &outcome.backward), clocks(outcome)]
    };
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
        notes: counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{what} {n}")).collect(),
        below,
    }
}

fn way(name: &str, way: &StampDirection) -> String {
    let lost = match (way.lost, way.sent) {
        (Some(lost), Some(sent)) => format!("lost {lost} of {sent}"),
        _ => "lost ?".to_owned(),
    };
    let delay = &way.delay_ms;
    format!(
        "{name:<9} {lost}, delay ms min {} avg {} p95 {} max {}, jitter {}, pdv {}",
        ms(delay.min),
        ms(delay.avg),
        ms(delay.p95),
        ms(delay.max),
        ms(way.ipdv_ms),
        ms(way.pdv_ms)
    )
}

fn clocks(outcome: &StampOutcome) -> String {
    let clock = &outcome.clock;
    let word = |synced| if synced { "synchronized" } else { "not synchronized" };
    let (local, remote) =
        (word(clock.local.synced), word(clock.remote.as_ref().is_some_and(|far| far.synced)));
    match clock.error_us {
        Some(us) => format!("clocks    synchronized, a one-way delay is within {} ms", ms(Some(us / 1e3))),
        None => {
            format!("clocks    ours {local}, theirs {remote}: one-way delays tell no more than how they vary")
        }
    }
}

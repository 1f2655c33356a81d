//! `trace`: the target's figures in the row, and a line for each hop below.

use imn_contract::latest::{LossKind, TraceHop, TraceOutcome, TraceResponder};

use super::{Line, ms, percent};

const COLUMNS: [(&str, usize); 8] = [
    ("hops", 5),
    ("sent", 5),
    ("recv", 5),
    ("loss", 6),
    ("best ms", 9),
    ("avg ms", 9),
    ("worst ms", 9),
    ("jitter", 8),
];

pub(super) fn line(outcome: &TraceOutcome) -> Line {
    let counts = [
        (outcome.unknown, "unknown"),
        (outcome.duplicates, "duplicates"),
        (outcome.late, "late"),
        (outcome.forged, "forged"),
    ];
    let mut notes: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{what} {n}")).collect();
    if outcome.paths_complete == Some(false) {
        notes.push("there may be more paths".to_owned());
    }
    Line {
        columns: &COLUMNS,
        figures: vec![
            outcome.distance.map_or_else(|| "-".to_owned(), |hops| hops.to_string()),
            outcome.sent.to_string(),
            outcome.received.to_string(),
            percent(outcome.loss_pct),
            ms(outcome.rtt_ms.min),
            ms(outcome.rtt_ms.avg),
            ms(outcome.rtt_ms.max),
            ms(outcome.jitter_ms),
        ],
        notes,
        below: below(outcome),
    }
}

fn below(outcome: &TraceOutcome) -> Vec<String> {
    if outcome.hops.is_empty() {
        return Vec::new();
    }
    let answering = outcome.hops.iter().rposition(|hop| !hop.responders.is_empty());
    let shown = answering.map_or(0, |last| last + 1);
    let of = |hop: &TraceHop| hop.responders.iter().map(|node| name(hop, node).chars().count()).max();
    let width = outcome.hops.iter().filter_map(of).max().unwrap_or(0).max(15);
    let mut lines = vec![format!(
        "{:>3}  {:<width$} {:>6} {:>5} {:>9} {:>9} {:>9} {:>9} {:>8}",
        "hop", "address", "loss", "sent", "last ms", "avg ms", "best ms", "worst ms", "stddev"
    )];
    for hop in &outcome.hops[..shown] {
        let main = hop.responders.iter().find(|node| hop.address.as_deref() == Some(&node.address));
        let mut line = format!(
            "{:>3}  {:<width$} {:>6} {:>5} {:>9} {:>9} {:>9} {:>9} {:>8}",
            hop.hop,
            main.map_or_else(|| "*".to_owned(), |node| name(hop, node)),
            percent(hop.loss_pct),
            hop.sent,
            ms(hop.last_ms),
            ms(hop.avg_ms),
            ms(hop.best_ms),
            ms(hop.worst_ms),
            ms(hop.stddev_ms),
        );
        let notes = notes(hop, main);
        if !notes.is_empty() {
            line.push_str("  ");
            line.push_str(&notes.join(", "));
        }
        lines.push(line.trim_end().to_owned());
        let others = hop.responders.iter().filter(|node| hop.address.as_deref() != Some(&node.address));
        for node in others {
            let more = notes_of(node);
            lines.push(
                format!(
                    "     {:<width$} {} of {}  {}",
                    name(hop, node),
                    node.received,
                    hop.received,
                    more.join(", ")
                )
                .trim_end()
                .to_owned(),
            );
        }
    }
    match &outcome.hops[shown..] {
        [] => {}
        [hop] => lines.push(format!("{:>3}  *", hop.hop)),
        [first, .., last] => lines.push(format!("{:>3}  * to hop {}", first.hop, last.hop)),
    }
    if outcome.paths_complete.is_some() {
        let flows: u32 = outcome.paths.iter().map(|path| path.flows).sum();
        for path in &outcome.paths {
            let nodes: Vec<&str> = path.addresses.iter().map(|node| node.as_deref().unwrap_or("*")).collect();
            lines.push(format!("path {}, {} of {flows} flows: {}", path.id, path.flows, nodes.join(" ")));
        }
    }
    lines
}

fn name(hop: &TraceHop, node: &TraceResponder) -> String {
    let mut text = match &hop.host {
        Some(host) if hop.address.as_deref() == Some(&node.address) => format!("{host} ({})", node.address),
        _ => node.address.clone(),
    };
    if let Some(asn) = hop.asn {
        text = format!("AS{asn} {text}");
    }
    text
}

fn notes(hop: &TraceHop, main: Option<&TraceResponder>) -> Vec<String> {
    let mut notes = main.map(notes_of).unwrap_or_default();
    if hop.loss_kind == Some(LossKind::RateLimited) {
        notes.push("rate-limited".to_owned());
    }
    if hop.unknown > 0 {
        notes.push(format!("unknown {}", hop.unknown));
    }
    notes
}

fn notes_of(node: &TraceResponder) -> Vec<String> {
    let mut notes: Vec<String> = node.sign.iter().cloned().collect();
    for object in node.extension.iter().flat_map(|extension| &extension.objects) {
        let labels: Vec<String> = object
            .mpls
            .iter()
            .map(|label| format!("{}/{}/{}/{}", label.label, label.exp, label.s, label.ttl))
            .collect();
        if !labels.is_empty() {
            notes.push(format!("MPLS {}", labels.join(" ")));
        }
    }
    notes
}

//! `trace`: the target's figures, and those of each hop.

use imn_contract::latest::TraceOutcome;

use super::{Samples, seconds};

pub(super) fn label(samples: &mut Samples<'_>, outcome: &TraceOutcome) {
    samples.label("protocol", &outcome.protocol);
    if let Some(port) = outcome.port {
        samples.label("port", &port.to_string());
    }
}

pub(super) fn add(samples: &mut Samples<'_>, outcome: &TraceOutcome) {
    let distance = outcome.distance.map(f64::from);
    samples.plain("imn_trace_distance_hops", "Hop at which the path ends", distance);
    samples.plain("imn_trace_paths", "Paths found", Some(outcome.paths.len() as f64));
    for path in &outcome.paths {
        let flows = Some(f64::from(path.flows));
        samples.of("imn_trace_path_flows", "Flows by the path that they took", &[("path", &path.id)], flows);
    }
    for (stat, value) in [
        ("min", outcome.rtt_ms.min),
        ("avg", outcome.rtt_ms.avg),
        ("max", outcome.rtt_ms.max),
        ("stddev", outcome.rtt_ms.stddev),
    ] {
        let help = "Round-trip time of the target";
        samples.of("imn_trace_rtt_seconds", help, &[("stat", stat)], seconds(value));
    }
    let loss = outcome.loss_pct.map(|pct| pct / 100.0);
    samples.plain("imn_trace_loss_ratio", "lost / (sent - unknown) of the target", loss);
    let tmax = Some(outcome.tmax_ms as f64 / 1e3);
    samples.plain("imn_trace_tmax_seconds", "How long lost probes were waited for at least", tmax);
    let answering = outcome.hops.iter().rposition(|hop| hop.address.is_some()).map_or(0, |last| last + 1);
    for hop in &outcome.hops[..answering] {
        let number = hop.hop.to_string();
        let address = hop.address.as_deref().unwrap_or_default();
        let here = [("hop", number.as_str()), ("ip", address)];
        let lost = hop.sent.saturating_sub(hop.received).saturating_sub(hop.unknown);
        for (fate, count) in
            [("sent", hop.sent), ("received", hop.received), ("lost", lost), ("unknown", hop.unknown)]
        {
            let own = [here[0], here[1], ("fate", fate)];
            let help = "Probes of a hop by what became of them";
            samples.of("imn_trace_hop_packets", help, &own, Some(f64::from(count)));
        }
        let help = "lost / (sent - unknown) of a hop";
        samples.of("imn_trace_hop_loss_ratio", help, &here, hop.loss_pct.map(|pct| pct / 100.0));
        let forwarding =
            hop.loss_kind.map(|kind| f64::from(u8::from(kind == imn_contract::latest::LossKind::Forwarding)));
        let help = "Whether the loss of a hop is that of forwarded packets too";
        samples.of("imn_trace_hop_loss_is_forwarding", help, &here, forwarding);
        for (stat, value) in [
            ("last", hop.last_ms),
            ("avg", hop.avg_ms),
            ("min", hop.best_ms),
            ("max", hop.worst_ms),
            ("stddev", hop.stddev_ms),
        ] {
            let own = [here[0], here[1], ("stat", stat)];
            samples.of("imn_trace_hop_rtt_seconds", "Round-trip time of a hop", &own, seconds(value));
        }
        let help = "Mean absolute ipdv of a hop (RFC 3393)";
        samples.of("imn_trace_hop_jitter_seconds", help, &here, seconds(hop.jitter_ms));
    }
}

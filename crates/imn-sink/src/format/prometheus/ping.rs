//! `icmp` and `tcp`.

use imn_contract::latest::PingOutcome;

use super::{Samples, seconds};

pub(super) fn label(samples: &mut Samples<'_>, outcome: &PingOutcome) {
    samples.label("protocol", &outcome.protocol);
    if let Some(port) = outcome.port {
        samples.label("port", &port.to_string());
    }
}

pub(super) fn add(samples: &mut Samples<'_>, outcome: &PingOutcome, lost: u32) {
    let rtt = &outcome.rtt_ms;
    if outcome.protocol != "tcp" {
        let help = "Mean round-trip time of received packets";
        samples.of("probe_icmp_duration_seconds", help, &[("phase", "rtt")], seconds(rtt.avg));
    }
    for (fate, count) in [
        ("sent", outcome.sent),
        ("received", outcome.received),
        ("lost", lost),
        ("unknown", outcome.unknown),
        ("duplicate", outcome.duplicates),
        ("late", outcome.late),
        ("reordered", outcome.reordered),
    ] {
        let help = "Packets by what became of them";
        samples.of("imn_ping_packets", help, &[("fate", fate)], Some(f64::from(count)));
    }
    samples.plain("imn_ping_loss_ratio", "lost / (sent - unknown)", outcome.loss_pct.map(|pct| pct / 100.0));
    for (stat, value) in [
        ("min", rtt.min),
        ("avg", rtt.avg),
        ("max", rtt.max),
        ("stddev", rtt.stddev),
        ("p50", rtt.p50),
        ("p95", rtt.p95),
    ] {
        let help = "Round-trip time: percentiles count loss as infinite, the rest is over received packets";
        samples.of("imn_ping_rtt_seconds", help, &[("stat", stat)], seconds(value));
    }
    samples.plain("imn_ping_jitter_seconds", "Mean absolute ipdv (RFC 3393)", seconds(outcome.jitter_ms));
    samples.plain(
        "imn_ping_pdv_seconds",
        "Mean of delay minus least delay (RFC 5481)",
        seconds(outcome.pdv_ms),
    );
    let tmax = Some(outcome.tmax_ms as f64 / 1e3);
    samples.plain("imn_ping_tmax_seconds", "How long answers were waited for", tmax);
}

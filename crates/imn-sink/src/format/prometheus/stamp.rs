//! `stamp`.

use imn_contract::latest::{RttSummary, StampOutcome};

use super::{Samples, seconds};

pub(super) fn label(samples: &mut Samples<'_>, outcome: &StampOutcome) {
    samples.label("port", &outcome.port.to_string());
    samples.label("mode", &outcome.mode);
}

pub(super) fn add(samples: &mut Samples<'_>, outcome: &StampOutcome, lost: u32) {
    for (fate, count) in [
        ("sent", outcome.sent),
        ("received", outcome.received),
        ("lost", lost),
        ("unknown", outcome.unknown),
        ("duplicate", outcome.duplicates),
        ("late", outcome.late),
        ("reordered", outcome.reordered),
        ("wrong_source", outcome.wrong_source),
        ("corrupted", outcome.corrupted),
        ("foreign", outcome.foreign),
    ] {
        let help = "Packets by what became of them";
        samples.of("imn_stamp_packets", help, &[("fate", fate)], Some(f64::from(count)));
    }
    samples.plain("imn_stamp_loss_ratio", "lost / (sent - unknown)", outcome.loss_pct.map(|pct| pct / 100.0));
    for (stat, value) in stats(&outcome.rtt_ms) {
        let help = "Round-trip time without the reflector's share: percentiles count loss as infinite";
        samples.of("imn_stamp_rtt_seconds", help, &[("stat", stat)], seconds(value));
    }
    samples.plain("imn_stamp_jitter_seconds", "Mean absolute ipdv (RFC 3393)", seconds(outcome.jitter_ms));
    let help = "Mean of delay minus least delay (RFC 5481)";
    samples.plain("imn_stamp_pdv_seconds", help, seconds(outcome.pdv_ms));
    for (name, way) in [("forward", &outcome.forward), ("backward", &outcome.backward)] {
        let own = ("direction", name);
        for (stat, value) in stats(&way.delay_ms) {
            let help = "One-way delay by two clocks; see imn_stamp_clock_synced";
            samples.of("imn_stamp_one_way_seconds", help, &[own, ("stat", stat)], seconds(value));
        }
        let help = "Mean absolute ipdv of one direction (RFC 3393)";
        samples.of("imn_stamp_one_way_jitter_seconds", help, &[own], seconds(way.ipdv_ms));
        let help = "Mean of one-way delay minus least one-way delay (RFC 5481)";
        samples.of("imn_stamp_one_way_pdv_seconds", help, &[own], seconds(way.pdv_ms));
        for (fate, count) in [
            ("sent", way.sent),
            ("lost", way.lost),
            ("duplicate", way.duplicates),
            ("reordered", way.reordered),
        ] {
            let help = "Packets of one direction, where the reflector counts them";
            samples.of("imn_stamp_one_way_packets", help, &[own, ("fate", fate)], count.map(f64::from));
        }
    }
    let help = "Packets lost of which the direction is not known";
    samples.plain("imn_stamp_unattributed_packets", help, outcome.unattributed.map(f64::from));
    let synced = Some(f64::from(u8::from(outcome.clock.synced)));
    samples.plain("imn_stamp_clock_synced", "Whether both clocks are synchronized to UTC", synced);
    let help = "Bound of the error of one-way delays";
    samples.plain("imn_stamp_clock_error_seconds", help, outcome.clock.error_us.map(|us| us / 1e6));
    let tmax = Some(outcome.tmax_ms as f64 / 1e3);
    samples.plain("imn_stamp_tmax_seconds", "How long answers were waited for", tmax);
}

fn stats(summary: &RttSummary) -> [(&'static str, Option<f64>); 6] {
    [
        ("min", summary.min),
        ("avg", summary.avg),
        ("max", summary.max),
        ("stddev", summary.stddev),
        ("p50", summary.p50),
        ("p95", summary.p95),
    ]
}

//! `icmp` and `tcp`.

use std::net::IpAddr;

use imn_contract::latest::PingOutcome;

use super::{Samples, http, seconds, unix};

pub(super) fn label(samples: &mut Samples<'_>, outcome: &PingOutcome) {
    samples.label("protocol", &outcome.protocol);
    if let Some(port) = outcome.port {
        samples.label("port", &port.to_string());
    }
}

pub(super) fn add(samples: &mut Samples<'_>, outcome: &PingOutcome, lost: u32) {
    let rtt = &outcome.rtt_ms;
    samples.plain(
        "probe_dns_lookup_time_seconds",
        "Time for resolving the name",
        seconds(outcome.resolve_ms.or_else(|| is_address(&outcome.target).then_some(0.0))),
    );
    if outcome.protocol != "tcp" {
        let help = "Duration by phase; rtt is the mean round-trip time of received packets";
        let name = "probe_icmp_duration_seconds";
        samples.of(name, help, &[("phase", "resolve")], seconds(outcome.resolve_ms));
        samples.of(name, help, &[("phase", "rtt")], seconds(rtt.avg));
        let help = "TTL or hop limit of the last answer";
        samples.plain("probe_icmp_reply_hop_limit", help, outcome.ttl.map(f64::from));
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
    if let Some(tls) = &outcome.tls {
        let expires = tls.expires.as_deref().and_then(unix);
        samples.plain("probe_ssl_earliest_cert_expiry", http::EARLIEST, expires);
        http::tls(samples, tls);
    }
    let tmax = Some(outcome.tmax_ms as f64 / 1e3);
    samples.plain("imn_ping_tmax_seconds", "How long answers were waited for", tmax);
}

/// Nothing had to be resolved.
fn is_address(target: &str) -> bool {
    target.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

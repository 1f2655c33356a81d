//! `dns`.

use imn_contract::latest::DnsOutcome;

use super::{Samples, seconds};

pub(super) fn label(samples: &mut Samples<'_>, outcome: &DnsOutcome) {
    samples.label("resolver", &outcome.resolver);
    samples.label("query", &outcome.query);
    samples.label("record_type", &outcome.record_type);
    samples.label("transport", &outcome.transport);
}

pub(super) fn add(samples: &mut Samples<'_>, outcome: &DnsOutcome, lost: u32) {
    let answered = Some(f64::from(u8::from(outcome.received > 0)));
    samples.plain("probe_dns_query_succeeded", "Whether the query was answered", answered);
    if let Some(counts) = outcome.counts {
        for (name, help, count) in [
            ("probe_dns_answer_rrs", "Records in the answer section", counts.answer),
            ("probe_dns_authority_rrs", "Records in the authority section", counts.authority),
            ("probe_dns_additional_rrs", "Records in the additional section", counts.additional),
        ] {
            samples.plain(name, help, Some(f64::from(count)));
        }
    }
    let phases = &outcome.phases_ms;
    samples.plain(
        "probe_dns_lookup_time_seconds",
        "Time to resolve the resolver's own name",
        seconds(phases.resolve.or(outcome.address.as_ref().map(|_| 0.0))),
    );
    for (phase, value) in [
        ("resolve", phases.resolve),
        ("connect", phases.connect),
        ("tls", phases.tls),
        ("request", phases.query),
        ("retry", phases.retry),
    ] {
        let help = "Time of the query by phase";
        samples.of("probe_dns_duration_seconds", help, &[("phase", phase)], seconds(value));
    }
    samples.plain("probe_dns_serial", "Serial number of the zone", serial(outcome));
    if let Some(tls) = &outcome.tls {
        let version = [("version", tls.version.as_str())];
        samples.of("probe_tls_version_info", "Version of TLS", &version, Some(1.0));
        let expires = tls.expires.as_ref().and_then(|time| imn_runtime::clock::parse_rfc3339(time).ok());
        samples.plain(
            "probe_ssl_earliest_cert_expiry",
            "When the first certificate of the chain expires, in seconds since the Unix epoch",
            expires.map(|us| us as f64 / 1e6),
        );
    }
    if let Some(rcode) = &outcome.rcode {
        samples.of("imn_dns_rcode_info", "Response code", &[("rcode", rcode)], Some(1.0));
    }
    if let Some(flags) = outcome.flags {
        for (flag, set) in [
            ("aa", flags.aa),
            ("tc", flags.tc),
            ("rd", flags.rd),
            ("ra", flags.ra),
            ("ad", flags.ad),
            ("cd", flags.cd),
        ] {
            let set = Some(f64::from(u8::from(set)));
            samples.of("imn_dns_flag", "Flags of the answer", &[("flag", flag)], set);
        }
    }
    for (fate, count) in [
        ("sent", outcome.sent),
        ("received", outcome.received),
        ("lost", lost),
        ("unknown", outcome.unknown),
        ("wrong", outcome.wrong.total()),
    ] {
        let help = "Queries by what became of them, and wrong answers";
        samples.of("imn_dns_queries", help, &[("fate", fate)], Some(f64::from(count)));
    }
    samples.plain("imn_dns_loss_ratio", "lost / (sent - unknown)", outcome.loss_pct.map(|pct| pct / 100.0));
    samples.plain(
        "imn_dns_latency_seconds",
        "Question sent to the answer's last byte",
        seconds(outcome.latency_ms),
    );
    samples.plain("imn_dns_answer_bytes", "Size of the answer", outcome.answer_size.map(f64::from));
    let tmax = Some(outcome.tmax_ms as f64 / 1e3);
    samples.plain("imn_dns_tmax_seconds", "How long a query may take", tmax);
}

/// Of the first SOA record.
fn serial(outcome: &DnsOutcome) -> Option<f64> {
    let soa = outcome.answers.iter().find(|record| record.kind == "SOA")?;
    soa.data.split_ascii_whitespace().nth(2)?.parse().ok()
}

//! Prometheus text exposition: blackbox_exporter's names where it has them, `imn_*` where it has none.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write},
};

use super::{Row, Summary};

/// Families in the order of first use, each with its samples together.
#[derive(Default)]
pub(super) struct Page {
    families: Vec<(&'static str, &'static str, Vec<String>)>,
    known: BTreeMap<&'static str, usize>,
}

impl Page {
    pub(super) fn add(&mut self, row: &Row) {
        let outcome = &row.outcome;
        let mut labels: Vec<(&str, &str)> = vec![("target", &outcome.target)];
        labels.extend(outcome.address.as_deref().map(|address| ("address", address)));
        labels.extend(row.agent.as_deref().map(|agent| ("agent", agent)));
        labels.push(("protocol", &outcome.protocol));
        let port = outcome.port.map(|port| port.to_string());
        labels.extend(port.as_deref().map(|port| ("port", port)));
        let mut sample = |name, help, extra: Option<(&'static str, &'static str)>, value: Option<f64>| {
            if let Some(value) = value {
                let mut labels = labels.clone();
                labels.extend(extra);
                self.sample(name, help, &labels, value);
            }
        };
        let seconds = |ms: Option<f64>| ms.map(|ms| ms / 1e3);
        let rtt = &outcome.rtt_ms;
        sample("probe_success", "Whether anything answered", None, Some(f64::from(u8::from(row.answered()))));
        sample(
            "probe_duration_seconds",
            "How long the measurement took",
            None,
            row.elapsed.map(|elapsed| elapsed.as_secs_f64()),
        );
        sample("probe_ip_protocol", "Whether the address is IPv4 or IPv6", None, row.family().map(f64::from));
        if outcome.protocol != "tcp" {
            let help = "Mean round-trip time of received packets";
            sample("probe_icmp_duration_seconds", help, Some(("phase", "rtt")), seconds(rtt.avg));
        }
        let packets = "Packets by what became of them";
        for (fate, count) in [
            ("sent", outcome.sent),
            ("received", outcome.received),
            ("lost", row.lost()),
            ("unknown", outcome.unknown),
            ("duplicate", outcome.duplicates),
            ("late", outcome.late),
            ("reordered", outcome.reordered),
        ] {
            sample("imn_ping_packets", packets, Some(("fate", fate)), Some(f64::from(count)));
        }
        let help = "lost / (sent - unknown)";
        sample("imn_ping_loss_ratio", help, None, outcome.loss_pct.map(|pct| pct / 100.0));
        let help = "Round-trip time: percentiles count loss as infinite, the rest is over received packets";
        for (stat, value) in [
            ("min", rtt.min),
            ("avg", rtt.avg),
            ("max", rtt.max),
            ("stddev", rtt.stddev),
            ("p50", rtt.p50),
            ("p95", rtt.p95),
        ] {
            sample("imn_ping_rtt_seconds", help, Some(("stat", stat)), seconds(value));
        }
        sample("imn_ping_jitter_seconds", "Mean absolute ipdv (RFC 3393)", None, seconds(outcome.jitter_ms));
        sample(
            "imn_ping_pdv_seconds",
            "Mean of delay minus least delay (RFC 5481)",
            None,
            seconds(outcome.pdv_ms),
        );
        sample(
            "imn_ping_tmax_seconds",
            "How long answers were waited for",
            None,
            Some(outcome.tmax_ms as f64 / 1e3),
        );
    }

    pub(super) fn add_summary(&mut self, summary: &Summary) {
        self.sample("imn_ping_summary_targets", "Targets of the run", &[], summary.targets as f64);
        for (fate, count) in [
            ("sent", summary.sent),
            ("received", summary.received),
            ("lost", summary.lost),
            ("unknown", summary.unknown),
            ("duplicate", summary.duplicates),
        ] {
            self.sample("imn_ping_summary_packets", "Packets of the run", &[("fate", fate)], count as f64);
        }
        self.sample("imn_ping_summary_elapsed_seconds", "Time the run took", &[], summary.elapsed_s);
        self.sample("imn_ping_summary_cpu_seconds", "CPU time of the run", &[], summary.cpu_s);
        for (stat, value) in summary.rtt_ms.named() {
            if let Some(ms) = value {
                let help = "Round-trip times of the run; percentiles count loss as infinite";
                self.sample("imn_ping_summary_rtt_seconds", help, &[("stat", stat)], ms / 1e3);
            }
        }
    }

    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (name, help, samples) in &self.families {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge")?;
            for sample in samples {
                writeln!(out, "{sample}")?;
            }
        }
        Ok(())
    }

    fn sample(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)], value: f64) {
        let at = *self.known.entry(name).or_insert_with(|| {
            self.families.push((name, help, Vec::new()));
            self.families.len() - 1
        });
        let mut line = name.to_owned();
        for (n, (label, text)) in labels.iter().enumerate() {
            let _ = write!(line, "{}{label}=\"{}\"", if n == 0 { '{' } else { ',' }, escaped(text));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = write!(line, "{close} {value}");
        self.families[at].2.push(line);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

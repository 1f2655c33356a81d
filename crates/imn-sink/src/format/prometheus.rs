//! Prometheus text exposition: blackbox_exporter's names where it has them, `imn_*` where it has none.

mod dns;
mod http;
mod ping;
mod stamp;
mod trace;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write},
    net::IpAddr,
};

use imn_contract::latest::{Head, Outcome};

use super::{Row, Summary, family, lost, unix};

/// What blackbox_exporter's `/probe` would say of a measurement: its names, without labels for the target, which
/// Prometheus adds; and ours.
pub fn probe_page(row: &Row) -> String {
    let mut page = Page { bare: true, ..Page::default() };
    page.add(row);
    let mut text = Vec::new();
    // A vector takes everything.
    let _ = page.write(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Families in the order of first use, each with its samples together.
#[derive(Default)]
pub(super) struct Page {
    /// It is of one measurement only: nothing needs telling apart.
    bare: bool,
    families: Vec<Family>,
    known: BTreeMap<Cow<'static, str>, usize>,
}

struct Family {
    name: Cow<'static, str>,
    help: &'static str,
    samples: Vec<String>,
}

/// Samples of one row, with what tells it from other rows.
struct Samples<'a> {
    page: &'a mut Page,
    labels: Vec<(&'static str, String)>,
}

impl Page {
    pub(super) fn add(&mut self, row: &Row) {
        let head = row.outcome.head();
        let mut samples = Samples { page: self, labels: Vec::new() };
        samples.label("target", head.target);
        if let Some(address) = head.address {
            samples.label("address", address);
        }
        if let Some(agent) = &row.agent {
            samples.label("agent", agent);
        }
        match &row.outcome {
            Outcome::Ping(outcome) => ping::label(&mut samples, outcome),
            Outcome::Dns(outcome) => dns::label(&mut samples, outcome),
            Outcome::Trace(outcome) => trace::label(&mut samples, outcome),
            Outcome::Stamp(outcome) => stamp::label(&mut samples, outcome),
            _ => {}
        }
        let success = Some(f64::from(u8::from(head.success)));
        samples.plain("probe_success", "Whether the measurement succeeded", success);
        samples.plain(
            "probe_duration_seconds",
            "How long the measurement took",
            row.elapsed.map(|elapsed| elapsed.as_secs_f64()),
        );
        samples.plain(
            "probe_ip_protocol",
            "Whether the address is IPv4 or IPv6",
            family(&head).map(f64::from),
        );
        samples.plain("probe_ip_addr_hash", "FNV-1a hash of the address", address_hash(&head));
        match &row.outcome {
            Outcome::Ping(outcome) => ping::add(&mut samples, outcome, lost(&head)),
            Outcome::Dns(outcome) => dns::add(&mut samples, outcome, lost(&head)),
            Outcome::Trace(outcome) => trace::add(&mut samples, outcome),
            Outcome::Stamp(outcome) => stamp::add(&mut samples, outcome, lost(&head)),
            Outcome::Http(outcome) => http::add(&mut samples, outcome),
            _ => {}
        }
    }

    pub(super) fn add_summary(&mut self, summary: &Summary) {
        let name = |what: &str| Cow::Owned(format!("imn_{}_summary_{what}", summary.name));
        self.sample(name("targets"), "Targets of the run", &[], summary.targets as f64);
        for (fate, count) in [
            ("sent", summary.sent),
            ("received", summary.received),
            ("lost", summary.lost),
            ("unknown", summary.unknown),
            ("duplicate", summary.duplicates),
        ] {
            self.sample(name("packets"), "Packets of the run", &[("fate", fate)], count as f64);
        }
        self.sample(name("elapsed_seconds"), "Time the run took", &[], summary.elapsed_s);
        self.sample(name("cpu_seconds"), "CPU time of the run", &[], summary.cpu_s);
        for (stat, value) in summary.rtt_ms.named() {
            if let Some(ms) = value {
                let help = "Round-trip times of the run; percentiles count loss as infinite";
                self.sample(name("rtt_seconds"), help, &[("stat", stat)], ms / 1e3);
            }
        }
    }

    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for Family { name, help, samples } in &self.families {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge")?;
            for sample in samples {
                writeln!(out, "{sample}")?;
            }
        }
        Ok(())
    }

    fn sample(&mut self, name: Cow<'static, str>, help: &'static str, labels: &[(&str, &str)], value: f64) {
        let mut line = name.to_string();
        let at = *self.known.entry(name).or_insert_with_key(|name| {
            self.families.push(Family { name: name.clone(), help, samples: Vec::new() });
            self.families.len() - 1
        });
        for (n, (label, text)) in labels.iter().enumerate() {
            let _ = write!(line, "{}{label}=\"{}\"", if n == 0 { '{' } else { ',' }, escaped(text));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = write!(line, "{close} {value}");
        self.families[at].samples.push(line);
    }
}

impl Samples<'_> {
    /// Adds to what tells this row from others.
    fn label(&mut self, name: &'static str, value: &str) {
        if !self.page.bare {
            self.labels.push((name, value.to_owned()));
        }
    }

    /// A sample without labels of its own; none if there is no value.
    fn plain(&mut self, name: &'static str, help: &'static str, value: Option<f64>) {
        self.of(name, help, &[], value);
    }

    /// A sample with labels of its own; none if there is no value.
    fn of(&mut self, name: &'static str, help: &'static str, own: &[(&str, &str)], value: Option<f64>) {
        if let Some(value) = value {
            let row = self.labels.iter().map(|(name, value)| (*name, value.as_str()));
            let labels: Vec<(&str, &str)> = row.chain(own.iter().copied()).collect();
            self.page.sample(Cow::Borrowed(name), help, &labels, value);
        }
    }
}

/// As blackbox_exporter has it: it shows when an address changes.
fn address_hash(head: &Head<'_>) -> Option<f64> {
    let bytes = match head.address?.parse().ok()? {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let hash =
        bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    Some(f64::from(hash))
}

fn seconds(ms: Option<f64>) -> Option<f64> {
    ms.map(|ms| ms / 1e3)
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

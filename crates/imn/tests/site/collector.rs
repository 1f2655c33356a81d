//! A collector of somebody else's (rotel), and what it says that it has received.

#![allow(dead_code, reason = "each scenario uses a part of it")]

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use imn_testkit::{Process, Program};

use super::network::{Network, python};

const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Collector {
    process: Process,
}

/// A span as the collector has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) pid: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) status: String,
    pub(crate) attributes: BTreeMap<String, String>,
}

/// A log record as the collector has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) service: String,
    pub(crate) body: String,
    pub(crate) trace: String,
    pub(crate) span: String,
}

impl Collector {
    /// Starts it in the network's namespace, on the usual ports; `None` where it is not installed.
    pub(crate) fn start(network: &Network) -> Option<Self> {
        let find = "import os, rotel; print(os.path.join(os.path.dirname(rotel.__file__), 'rotel-agent'))";
        let found = Program::new(python()?).args(["-c", find]).run(SOON).unwrap();
        let packed = PathBuf::from(found.stdout.trim());
        if !packed.exists() {
            return None;
        }
        // The package leaves it to its own starter to make it executable.
        let program = network.state().join("rotel-agent");
        fs::copy(packed, &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut rotel = network.node().program(&program).arg("start");
        for signal in ["traces", "metrics", "logs"] {
            rotel = rotel.args(["--debug-log", signal]);
        }
        let process = rotel
            .args(["--debug-log-verbosity", "detailed", "--exporter", "blackhole", "--log-format", "json"])
            .args(["--otlp-grpc-endpoint", "127.0.0.1:4317", "--otlp-http-endpoint", "127.0.0.1:4318"])
            .arg("--pid-file")
            .arg(network.state().join("rotel.pid"))
            .spawn()
            .unwrap();
        Some(Self { process })
    }

    /// Everything that it has received, in its own words, without what it says of itself.
    pub(crate) fn text(&self) -> String {
        let text = self.process.stdout() + &self.process.stderr();
        text.lines()
            .filter(|line| !line.starts_with("{\"v\":0"))
            .fold(String::new(), |text, line| text + line + "\n")
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        read(&self.text()).0
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        read(&self.text()).1
    }
}

enum Part {
    Resource,
    Span,
    Record,
    Other,
}

fn read(text: &str) -> (Vec<Span>, Vec<Record>) {
    let (mut spans, mut records): (Vec<Span>, Vec<Record>) = (Vec::new(), Vec::new());
    let mut resource = BTreeMap::new();
    let mut part = Part::Other;
    for line in text.lines() {
        let line = line.trim();
        let of = |key: &str| resource.get(key).cloned().unwrap_or_default();
        if line.starts_with("ResourceSpans #") || line.starts_with("ResourceLog #") {
            resource.clear();
            part = Part::Resource;
        } else if line.starts_with("ResourceMetrics #") || line == "Links:" {
            part = Part::Other;
        } else if line.starts_with("Span #") {
            spans.push(Span { service: of("service.name"), pid: of("process.pid"), ..Span::default() });
            part = Part::Span;
        } else if line.starts_with("LogRecord #") {
            records.push(Record { service: of("service.name"), ..Record::default() });
            part = Part::Record;
        } else if let Some((key, value)) =
            line.strip_prefix("-> ").and_then(|attribute| attribute.split_once(": "))
        {
            let value = value.split_once('(').map_or(value, |(_, value)| value.trim_end_matches(')'));
            match part {
                Part::Resource => drop(resource.insert(key.to_owned(), value.to_owned())),
                Part::Span => {
                    spans.last_mut().unwrap().attributes.insert(key.to_owned(), value.to_owned());
                }
                Part::Record | Part::Other => {}
            }
        } else if let Some((key, value)) = line.split_once(':') {
            let value = value.trim().to_owned();
            match (&part, key.trim()) {
                (Part::Span, "Trace ID") => spans.last_mut().unwrap().trace = value,
                (Part::Span, "Parent ID") => spans.last_mut().unwrap().parent = value,
                (Part::Span, "ID") => spans.last_mut().unwrap().id = value,
                (Part::Span, "Name") => spans.last_mut().unwrap().name = value,
                (Part::Span, "Kind") => spans.last_mut().unwrap().kind = value,
                (Part::Span, "Status message") => spans.last_mut().unwrap().status = value,
                (Part::Record, "Body") => records.last_mut().unwrap().body = value,
                (Part::Record, "Trace ID") => records.last_mut().unwrap().trace = value,
                (Part::Record, "Span ID") => records.last_mut().unwrap().span = value,
                _ => {}
            }
        }
    }
    (spans, records)
}

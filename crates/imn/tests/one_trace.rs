//! One trace follows a job from the client through server, agent and module to its published result, seen in a
//! collector of somebody else's; over gRPC and over HTTP; without a secret, and where that is asked for without what was
//! measured.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/collector.rs"]
mod collector;
#[path = "site/network.rs"]
mod network;

use std::{collections::BTreeSet, fs, time::Duration};

use collector::{Collector, Span};
use imn_testkit::wait_until;
use network::Network;
use serde_json::Value;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
/// What nobody may see.
const SECRET: &str = "hushhush0123456789";
const TARGET: &str = "patient-17.example";
const LOG: &str = "info,imn_server=debug,imn_agent=debug,imn_module=debug";
const SOON: Duration = Duration::from_secs(40);

/// The steps of a job, from the first: the span's name and kind, and whose it is.
const STEPS: [(&str, &str, &str); 10] = [
    ("POST /api/v1/jobs", "CLIENT", "imn"),
    ("POST /api/v1/jobs", "SERVER", "imn-server"),
    ("process mmn.jobs.submit", "SERVER", "imn-server"),
    ("send mmn.jobs.q.echo", "PRODUCER", "imn-server"),
    ("process mmn.jobs.q.echo", "CONSUMER", "imn-agent"),
    ("send mmn.jobs.do", "CLIENT", "imn-agent"),
    ("process mmn.jobs.do", "SERVER", "imn-module"),
    ("send mmn.jobs.attempt", "PRODUCER", "imn-module"),
    ("process mmn.jobs.attempt", "CONSUMER", "imn-server"),
    ("send mmn.jobs.result", "PRODUCER", "imn-server"),
];

fn ready(network: &Network) {
    network.wait_get("/api/v1/modules/echo", SOON, |body| {
        (body["instances"][0]["state"] == "ready").then_some(())
    });
}

/// The chain of spans from `parent` on, each the child of the one before.
fn chain(spans: &[Span], parent: &str, steps: &[(&str, &str, &str)]) -> Option<Vec<Span>> {
    let Some(((name, kind, service), rest)) = steps.split_first() else { return Some(Vec::new()) };
    let fits = |span: &&Span| {
        span.trace == TRACE
            && span.parent == parent
            && span.name == *name
            && span.kind.ends_with(kind)
            && span.service == *service
    };
    spans.iter().filter(fits).find_map(|span| {
        let mut chain = chain(spans, &span.id, rest)?;
        chain.insert(0, span.clone());
        Some(chain)
    })
}

fn wait_chain(collector: &Collector, steps: &[(&str, &str, &str)]) -> Vec<Span> {
    let found =
        wait_until("the whole trace at the collector", SOON, || chain(&collector.spans(), PARENT, steps));
    found.unwrap_or_else(|error| {
        let seen: Vec<Span> = collector.spans().into_iter().filter(|span| span.trace == TRACE).collect();
        panic!("{error}; of the trace there is: {seen:#?}")
    })
}

/// What the processes wrote to files and pipes of their own, and all command lines.
fn written(network: &mut Network) -> String {
    let mut text: String = network.parts().into_values().map(|part| part.command + "\n").collect();
    for entry in fs::read_dir(network.state().join("agents/local/log")).unwrap() {
        text += &String::from_utf8_lossy(&fs::read(entry.unwrap().path()).unwrap());
    }
    let up = network.process();
    text + &up.stdout() + &up.stderr()
}

/// The seeds of the network's keys, and its API key.
fn secrets(network: &Network) -> Vec<String> {
    let mut secrets = vec![SECRET.to_owned(), network.connect().api_key];
    for entry in fs::read_dir(network.state().join("keys")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        secrets
            .extend(text.lines().filter(|line| line.starts_with('S') && line.len() == 58).map(str::to_owned));
    }
    secrets
}

#[test]
fn a_job_is_one_trace_over_grpc() {
    if !imn_testkit::require_root("one_trace") {
        return;
    }
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization=Bearer%20{SECRET}")),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
        ("IMN_LOG", LOG),
    ];
    // Nobody listens there yet, and that holds nobody up.
    let mut network = Network::start_in(&[], &variables);
    let Some(collector) = Collector::start(&network) else {
        return imn_testkit::skip("one_trace", "no rotel; `cargo xtask test` installs it");
    };
    ready(&network);
    let measured = network
        .program()
        .env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01"))
        .args(["measure", "echo", TARGET, "--from", "any"])
        .run(SOON)
        .unwrap();
    assert!(measured.status.success(), "{measured:?}");

    let chain = wait_chain(&collector, &STEPS);
    let job = &chain[9].attributes["imn.job.id"];
    for span in &chain[2..] {
        assert_eq!(&span.attributes["imn.job.id"], job, "{span:?}");
        assert_eq!(span.attributes["messaging.system"], "nats", "{span:?}");
    }
    assert_eq!(chain[6].attributes["imn.instance"], "local-echo-0", "{:?}", chain[6]);
    assert_eq!(chain[8].attributes["imn.status"], "succeeded", "{:?}", chain[8]);
    let pids: BTreeSet<&str> = chain.iter().map(|span| span.pid.as_str()).collect();
    assert_eq!(pids.len(), 4, "four processes: {pids:?}");
    // Every span of the trace hangs together.
    let spans: Vec<Span> = collector.spans().into_iter().filter(|span| span.trace == TRACE).collect();
    for span in &spans {
        assert!(span.parent == PARENT || spans.iter().any(|other| other.id == span.parent), "{span:?}");
    }

    // What was logged meanwhile names the span in which it was.
    wait_until("log records of the trace", SOON, || {
        let of: BTreeSet<String> = collector
            .records()
            .into_iter()
            .filter(|record| record.trace == TRACE && spans.iter().any(|span| span.id == record.span))
            .map(|record| record.service)
            .collect();
        ["imn-server", "imn-agent", "imn-module"].iter().all(|service| of.contains(*service)).then_some(())
    })
    .unwrap();
    wait_until("the text form to name the trace", SOON, || {
        written(&mut network).contains(&format!("trace_id={TRACE} span_id=")).then_some(())
    })
    .unwrap();
    // Figures of every process.
    for name in [
        "imn_server_module_service_seconds",
        "imn_agent_jobs_finished",
        "imn_module_jobs",
        "process_cpu_seconds",
    ] {
        wait_until(format!("the metric {name}"), SOON, || {
            collector.text().contains(&format!("-> Name: {name}\n")).then_some(())
        })
        .unwrap();
    }

    let (seen, told) = (collector.text(), written(&mut network));
    assert!(seen.contains(TARGET), "nobody asked to hide it");
    for secret in secrets(&network) {
        assert!(!seen.contains(&secret) && !told.contains(&secret), "a secret was told: {}…", &secret[..4]);
    }
    network.stop();
}

#[test]
fn a_job_of_a_nats_client_is_one_trace_over_http_and_hides_what_it_measures() {
    if !imn_testkit::require_root("one_trace_http") {
        return;
    }
    let variables = [
        ("OTLP_TRACE_ENDPOINT", "http://127.0.0.1:4318/v1/traces"),
        ("OTLP_LOGS_ENDPOINT", "http://127.0.0.1:4318/v1/logs"),
        ("IMN_REDACT_PII", "true"),
        ("IMN_LOG_FORMAT", "json"),
        ("IMN_LOG", LOG),
    ];
    let mut network = Network::start_in(&[], &variables);
    let Some(collector) = Collector::start(&network) else {
        return imn_testkit::skip("one_trace_http", "no rotel; `cargo xtask test` installs it");
    };
    ready(&network);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let Some(text) = network.python("traced.py", &[&parent, TARGET], SOON) else {
        return imn_testkit::skip("one_trace_http", "no Python with nats-py; `cargo xtask test` installs it");
    };
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(seen["status"], "succeeded", "{seen}");

    let chain = wait_chain(&collector, &STEPS[2..]);
    // Whoever gets the result can go on from there.
    assert_eq!(seen["traceparent"], format!("00-{TRACE}-{}-01", chain[7].id), "{seen}");
    wait_until("log records of the trace", SOON, || {
        collector
            .records()
            .iter()
            .any(|record| record.trace == TRACE && record.service == "imn-module")
            .then_some(())
    })
    .unwrap();
    let told = wait_until("the JSON form to name the trace", SOON, || {
        let told = written(&mut network);
        told.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .any(|line| line["trace_id"] == TRACE)
            .then_some(told)
    })
    .unwrap();
    assert!(!told.contains(TARGET), "the target is in the logs");
    assert!(!collector.text().contains(TARGET), "the target is at the collector");
    assert!(!collector.text().contains("127.0.0.1"), "an address is at the collector");
    network.stop();
}

#[test]
fn an_endpoint_that_is_none_is_worded() {
    let state = tempfile::tempdir().unwrap();
    let run = |role: &[&str], name: &str, value: &str| {
        let program = imn_testkit::Program::new(network::program()).args(role);
        program.env("IMN_STATE_DIR", state.path()).env(name, value).run(SOON).unwrap()
    };
    for role in [&["up"][..], &["server"], &["agent", "--id", "a"], &["measure", "echo", "x"]] {
        let ended = run(role, "OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
        assert_eq!(ended.status.code(), Some(2), "{role:?}: {ended:?}");
        assert!(
            ended
                .stderr
                .contains("OTEL_EXPORTER_OTLP_ENDPOINT: \"collector:4317\": use a URL such as http://"),
            "{role:?}: {}",
            ended.stderr
        );
    }
    let ended = run(&["up"], "IMN_OTLP_ENDPOINT", &format!("http://me:{SECRET}@h"));
    assert!(ended.status.code() == Some(2) && !ended.stderr.contains(SECRET), "{}", ended.stderr);
}

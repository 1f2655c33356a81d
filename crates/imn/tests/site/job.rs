//! Jobs as a person submits and follows them, and what nats-server itself tells of queues and results.

#![allow(dead_code, reason = "each scenario uses a part of it")]

use std::{collections::BTreeMap, fs, time::Duration};

use imn_testkit::{Process, Program, wait_until};
use serde_json::Value;

use super::network::{self, Network};

/// The stream of published results.
pub(crate) const RESULTS: &str = "MMN_RESULTS";
/// The stream of what modules report.
pub(crate) const ATTEMPTS: &str = "MMN_ATTEMPTS";

/// Submits a job, which must be accepted; gives its path.
pub(crate) fn submit(network: &Network, job: &Value) -> String {
    let accepted = network.post("/api/v1/jobs", job);
    format!("/api/v1/jobs/{}", accepted["job_id"].as_str().unwrap())
}

/// Waits for the end of a job.
pub(crate) fn end(network: &Network, path: &str, deadline: Duration) -> Value {
    network.wait_get(path, deadline, |job| (job["terminal"] == true).then(|| job.clone()))
}

/// State and attempts of a job with one task.
pub(crate) fn outcome(job: &Value) -> (&str, u64) {
    (job["state"].as_str().unwrap(), job["tasks"][0]["attempts"].as_u64().unwrap())
}

/// Many jobs by NATS, submitted and followed in the background whatever becomes of it; `None` without Python.
pub(crate) fn load(
    network: &Network,
    kind: &str,
    params: &Value,
    count: usize,
    width: usize,
    prefix: &str,
) -> Option<Process> {
    let (params, count, width) = (params.to_string(), count.to_string(), width.to_string());
    let program: Program = network.script("load.py", &[kind, &params, &count, &width, prefix])?;
    Some(program.spawn().unwrap())
}

/// What became of such a load.
pub(crate) fn loaded(mut load: Process, deadline: Duration) -> Value {
    let status = load.wait_deadline(deadline).unwrap();
    assert!(status.success(), "load.py: {status}: {}", load.tail());
    serde_json::from_str(&load.stdout()).unwrap()
}

/// A stream, by the account of nats-server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) messages: u64,
    /// Subjects that have messages.
    pub(crate) subjects: u64,
    pub(crate) bytes: u64,
    /// What each consumer was handed and has not acknowledged.
    pub(crate) unacknowledged: BTreeMap<String, u64>,
}

/// How a stream is now; `None` while nats-server does not say.
pub(crate) fn stream(network: &Network, name: &str) -> Option<Stream> {
    let ports = fs::read_to_string(network.state().join("nats/ports.json")).unwrap();
    let port = serde_json::from_str::<Value>(&ports).unwrap()["monitor"].clone();
    let page = format!("http://127.0.0.1:{port}/jsz?accounts=true&streams=true&consumers=true");
    let curl = network.node().program("curl").package("curl").args(["-sS", "-m", "5"]).arg(page);
    let text = curl.run(Duration::from_secs(10)).unwrap().stdout;
    let page: Value = serde_json::from_str(&text).ok()?;
    let accounts = page["account_details"].as_array()?;
    let mut streams = accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten();
    let found = streams.find(|stream| stream["name"] == name)?;
    let consumers = found["consumer_detail"].as_array().map_or(&[][..], Vec::as_slice);
    let unacknowledged = |consumer: &Value| {
        Some((consumer["name"].as_str()?.to_owned(), consumer["num_ack_pending"].as_u64()?))
    };
    Some(Stream {
        messages: found["state"]["messages"].as_u64()?,
        subjects: found["state"]["num_subjects"].as_u64().unwrap_or(0),
        bytes: found["state"]["bytes"].as_u64()?,
        unacknowledged: consumers.iter().filter_map(unacknowledged).collect(),
    })
}

/// Waits until a stream is as it is wanted.
pub(crate) fn wait_stream(
    network: &Network,
    name: &str,
    deadline: Duration,
    wanted: impl Fn(&Stream) -> bool,
) -> Stream {
    let mut last = None;
    let found = wait_until(format!("the stream {name}"), deadline, || {
        last = stream(network, name);
        last.clone().filter(&wanted)
    });
    found.unwrap_or_else(|error| panic!("{error}; last: {last:?}"))
}

/// Checks that so many jobs have a published result each, and none has two.
pub(crate) fn one_result_each(network: &Network, jobs: usize) {
    let results = wait_stream(network, RESULTS, Duration::from_mins(1), |all| all.subjects >= jobs as u64);
    assert_eq!((results.subjects, results.messages), (jobs as u64, jobs as u64));
}

/// Asks somebody on NATS, or without a body waits for what comes there; `None` without Python.
pub(crate) fn ask(network: &Network, subject: &str, body: Option<&Value>) -> Option<Value> {
    let body = body.map(Value::to_string);
    let args: Vec<&str> = [subject].into_iter().chain(body.as_deref()).collect();
    let text = network.python("ask.py", &args, Duration::from_secs(30))?;
    Some(serde_json::from_str(&text).unwrap())
}

/// The interpreter, or why the scenario is skipped.
pub(crate) fn python_or_skip(test: &str) -> Option<std::path::PathBuf> {
    let python = network::python();
    if python.is_none() {
        imn_testkit::skip(test, "no Python with nats-py; `cargo xtask test` installs it");
    }
    python
}

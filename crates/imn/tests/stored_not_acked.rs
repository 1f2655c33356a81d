//! kill -9 between the moment at which a result is stored and the one at which its queue message is acknowledged: of the
//! agent, and of the server together with nats-server before either could tell anybody. The job is not done again.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells its figures"
)]

#[path = "site/job.rs"]
mod job;
#[path = "site/network.rs"]
mod network;
#[path = "site/tally.rs"]
mod tally;

use std::{
    fs,
    time::{Duration, Instant},
};

use imn_testkit::Signal;
use network::Network;
use serde_json::json;
use tally::Tally;

const SOON: Duration = Duration::from_mins(1);

#[test]
fn a_stored_result_is_not_measured_again() {
    if !imn_testkit::require_root("stored_not_acked") {
        return;
    }
    let Some(python) = job::python_or_skip("stored_not_acked") else { return };
    let network = Network::start();
    let tally = Tally::plug_in(&network, &python, 1, 4);
    let module = network.pid("local-tally-0");

    // The module is done when it is told so; until then all have heard that it is at work, and have settled that.
    let begin = |target: &str| {
        let until = network.state().join(target);
        let path = job::submit(&network, &tally::job(target, &json!({ "until": until })));
        tally.wait_begun(target, 1, SOON);
        network.wait_get(&path, SOON, |job| (job["state"] == "running").then_some(()));
        job::wait_stream(&network, job::ATTEMPTS, SOON, |attempts| attempts.messages == 0);
        (path, until)
    };

    // The agent stands still while the module reports and the server commits: it cannot acknowledge.
    let (first, done) = begin("first");
    let agent = network.pid("agent");
    Network::signal(agent, Signal::SIGSTOP);
    fs::write(done, "").unwrap();
    let ended = job::end(&network, &first, SOON);
    assert_eq!(job::outcome(&ended), ("succeeded", 1), "{ended}");
    job::wait_stream(&network, job::RESULTS, SOON, |results| results.messages == 1);
    let queue = job::stream(&network, tally::QUEUE).unwrap();
    assert_eq!(queue.messages, 1, "acknowledged by an agent that stands still");
    let killed = Instant::now();
    network.kill9("agent");
    network.wait_restarted("agent", agent);

    // The server commits while nats-server stands still; both are killed before a word of it has left the host.
    tally::wait_ready(&network, tally::TALLY, 1);
    let (second, done) = begin("second");
    let (server, nats) = (network.pid("server"), network.pid("nats-server"));
    Network::signal(server, Signal::SIGSTOP);
    fs::write(done, "").unwrap();
    job::wait_stream(&network, job::ATTEMPTS, SOON, |attempts| {
        attempts.unacknowledged.values().any(|held| *held > 0)
    });
    Network::signal(nats, Signal::SIGSTOP);
    Network::signal(server, Signal::SIGCONT);
    let ended = job::end(&network, &second, SOON);
    assert_eq!(job::outcome(&ended), ("succeeded", 1), "{ended}");
    Network::signal(server, Signal::SIGKILL);
    Network::signal(nats, Signal::SIGKILL);
    network.wait_restarted("nats-server", nats);
    network.wait_restarted("server", server);

    // Whoever gets the queue messages again finds them done.
    job::wait_stream(&network, job::RESULTS, SOON, |results| results.messages == 2);
    job::wait_stream(&network, tally::QUEUE, SOON, |queue| queue.messages == 0);
    println!("both queue messages settled {:.1} s after the first kill", killed.elapsed().as_secs_f64());
    for (path, name) in [(&first, "first"), (&second, "second")] {
        assert_eq!(tally.count(name), (1, 1), "{name} was measured again");
        let job = network.get(path);
        assert_eq!(job::outcome(&job), ("succeeded", 1), "{job}");
    }
    job::one_result_each(&network, 2);
    assert_eq!(network.pid("local-tally-0"), module, "the module was started again");
}

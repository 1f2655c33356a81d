//! Nobody does what is another's: with the real credentials of a module, an agent and a client, each attempt is refused
//! by nats-server in its own words.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "site/keys.rs"]
mod keys;
#[path = "site/network.rs"]
mod network;

use std::{fs, time::Duration};

use keys::{Insider, inside, url};
use network::Network;

const WITHIN: Duration = Duration::from_secs(20);
const JOB: &str = "01JD0000000000000000000000";

/// What is tried.
enum Attempt {
    /// To say something.
    Publish(String),
    /// To listen.
    Subscribe(String),
    /// To share somebody's work.
    Join(String, &'static str),
}
use Attempt::{Join, Publish, Subscribe};

fn publish(subject: &str) -> Attempt {
    Publish(subject.replace("JOB", JOB))
}

fn subscribe(subject: &str) -> Attempt {
    Subscribe(subject.to_owned())
}

/// Each attempt must be answered by the server's own violation, which names the subject; silence fails.
async fn all_denied(who: &str, url: &str, creds: &str, attempts: &[Attempt]) {
    let mut insider = Insider::connect(url, creds).await.unwrap();
    for attempt in attempts {
        let (verb, subject) = match attempt {
            Publish(subject) => {
                insider.client.publish(subject.clone(), "{}".into()).await.unwrap();
                ("Publish", subject)
            }
            Subscribe(subject) => {
                let _messages = insider.client.subscribe(subject.clone()).await.unwrap();
                ("Subscription", subject)
            }
            Join(subject, group) => {
                let group = (*group).to_owned();
                let _messages = insider.client.queue_subscribe(subject.clone(), group).await.unwrap();
                ("Subscription", subject)
            }
        };
        let text = insider.error(WITHIN).await;
        let text = text.unwrap_or_else(|| panic!("{who}: {verb} {subject}: the server says nothing"));
        let expected = format!("Permissions Violation for {verb} to \"{subject}\"");
        assert!(text.contains(&expected), "{who}: {verb} {subject}: {text}");
    }
    println!("{who}: {} attempts, each refused by nats-server in its own words", attempts.len());
}

/// Each is let through: after a round trip the server has said nothing.
async fn all_allowed(who: &str, url: &str, creds: &str, attempts: &[Attempt]) {
    let mut insider = Insider::connect(url, creds).await.unwrap();
    for attempt in attempts {
        match attempt {
            Publish(subject) => insider.client.publish(subject.clone(), "{}".into()).await.unwrap(),
            Subscribe(subject) => drop(insider.client.subscribe(subject.clone()).await.unwrap()),
            Join(subject, group) => {
                drop(insider.client.queue_subscribe(subject.clone(), (*group).to_owned()).await.unwrap());
            }
        }
    }
    // The first thing that the server refuses is what comes last.
    insider.client.publish("nobody.may", "".into()).await.unwrap();
    let text = insider.error(WITHIN).await.unwrap();
    assert!(text.contains("\"nobody.may\""), "{who}: {text}");
}

#[test]
fn nobody_does_what_is_anothers() {
    if !imn_testkit::require_root("denied") {
        return;
    }
    let network = Network::start();
    let read = |path: &str| fs::read_to_string(network.state().join(path)).unwrap();
    let url = url(&network);

    let module = read("agents/local/creds/local-icmp-0.creds");
    let attempts = vec![
        // Jobs of others, and its own type's outside the queue group that shares them.
        subscribe("mmn.jobs.do.local.tcp"),
        Join("mmn.jobs.do.local.tcp".to_owned(), "m-tcp"),
        subscribe("mmn.jobs.do.local.icmp"),
        Join("mmn.jobs.do.local.icmp".to_owned(), "m-spy"),
        subscribe("mmn.jobs.do.*.icmp"),
        subscribe("mmn.jobs.at.local.local-tcp-0"),
        subscribe("mmn.jobs.at.lon1.lon1-icmp-0"),
        subscribe("mmn.jobs.q.>"),
        publish("mmn.jobs.submit"),
        // Another's health, attempts, words, and results, which are the server's alone.
        publish("mmn.modules.health.local-tcp-0"),
        publish("mmn.modules.health.lon1-icmp-0"),
        publish("mmn.jobs.attempt.local.local-tcp-0.JOB"),
        publish("mmn.jobs.attempt.lon1.lon1-icmp-0.JOB"),
        publish("mmn.jobs.progress.local.local-tcp-0.JOB"),
        publish("mmn.jobs.log.local.local-tcp-0.JOB"),
        publish("mmn.jobs.result.JOB"),
        publish("mmn.jobs.state.JOB"),
        publish("mmn.agents.hb.local"),
        publish("heartbeat.local"),
        // Rounds of another type, or of another place.
        publish("mmn.ingest.rows.0.local.tcp"),
        publish("mmn.ingest.rows.0.lon1.icmp"),
        // Consumers and streams.
        publish("$JS.API.CONSUMER.CREATE.MMN_JOBS_icmp"),
        publish("$JS.API.CONSUMER.CREATE.MMN_JOBS_icmp.spy"),
        publish("$JS.API.CONSUMER.DURABLE.CREATE.MMN_JOBS_icmp.spy"),
        publish("$JS.API.CONSUMER.MSG.NEXT.MMN_JOBS_icmp.local"),
        publish("$JS.API.CONSUMER.DELETE.MMN_JOBS_icmp.local"),
        publish("$JS.API.STREAM.PURGE.MMN_RESULTS"),
        publish("$JS.API.STREAM.MSG.GET.MMN_RESULTS"),
        // Inboxes of others.
        subscribe("_INBOX.>"),
        subscribe("_INBOX_server.>"),
        subscribe("_INBOX_agent.local.>"),
        subscribe("_INBOX_module.local.local-tcp-0.>"),
        // Control of others, and keys.
        publish("mmn.modules.ctl.local.local-tcp-0"),
        subscribe("mmn.modules.ctl.local.local-tcp-0"),
        publish("mmn.agents.vouch.local"),
        publish("mmn.agents.renew.local"),
        subscribe(">"),
    ];
    inside(&network, all_denied("a module", &url, &module, &attempts));
    let allowed = vec![
        Join("mmn.jobs.do.local.icmp".to_owned(), "m-icmp"),
        subscribe("mmn.jobs.at.local.local-icmp-0"),
        subscribe("mmn.modules.ctl.local.local-icmp-0"),
        publish("mmn.jobs.progress.local.local-icmp-0.JOB"),
        publish("mmn.jobs.log.local.local-icmp-0.JOB"),
    ];
    inside(&network, all_allowed("a module", &url, &module, &allowed));

    let agent = read("keys/agent-local.creds");
    let attempts = vec![
        publish("mmn.agents.hb.lon1"),
        publish("heartbeat.lon1"),
        publish("agent.lon1.out"),
        publish("agent.lon1.in"),
        subscribe("agent.lon1.in"),
        subscribe("mmn.agents.ctl.lon1"),
        publish("mmn.agents.ctl.lon1"),
        publish("mmn.agents.vouch.lon1"),
        publish("mmn.agents.renew.lon1"),
        publish("mmn.jobs.do.lon1.icmp"),
        publish("mmn.jobs.at.lon1.lon1-icmp-0"),
        publish("mmn.modules.ctl.lon1.lon1-icmp-0"),
        publish("mmn.modules.health.local-icmp-0"),
        publish("mmn.jobs.attempt.lon1.agent.JOB"),
        publish("mmn.jobs.result.JOB"),
        publish("mmn.jobs.submit"),
        subscribe("mmn.jobs.attempt.lon1.>"),
        publish("mmn.ingest.rows.0.lon1.icmp"),
        publish("$JS.API.CONSUMER.MSG.NEXT.MMN_JOBS_icmp.lon1"),
        publish("$JS.API.CONSUMER.CREATE.MMN_JOBS_icmp"),
        publish("$JS.API.CONSUMER.DURABLE.CREATE.MMN_JOBS_icmp.spy"),
        publish("$JS.API.DIRECT.GET.KV_assignments.$KV.assignments.lon1.meta"),
        subscribe("_INBOX_agent.lon1.>"),
        subscribe("_INBOX_server.>"),
    ];
    inside(&network, all_denied("an agent", &url, &agent, &attempts));

    let client = read("keys/client.creds");
    let attempts = vec![
        publish("mmn.jobs.result.JOB"),
        publish("mmn.jobs.state.JOB"),
        publish("mmn.jobs.attempt.local.local-icmp-0.JOB"),
        publish("mmn.modules.announce"),
        publish("mmn.modules.health.local-icmp-0"),
        publish("mmn.agents.hb.local"),
        publish("mmn.agents.vouch.local"),
        publish("mmn.ingest.rows.0.local.icmp"),
        publish("$JS.API.CONSUMER.DURABLE.CREATE.MMN_JOBS_icmp.spy"),
        subscribe("mmn.jobs.do.local.icmp"),
        subscribe("_INBOX_server.>"),
    ];
    inside(&network, all_denied("a client", &url, &client, &attempts));
    // The server's own log tells of it as well.
    let log = read("nats/nats-server.log");
    for word in ["Publish Violation", "Subscription Violation"] {
        assert!(log.contains(word), "{word} is not in the log of nats-server");
    }
}

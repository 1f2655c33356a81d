//! The connection while its nats-server is away. Alone in its process: a server that is stopped here keeps its port,
//! which a server of another test could take.

#![expect(clippy::unwrap_used, reason = "the functions of a test fail as the test does")]

use std::time::Duration;

use futures::StreamExt;
use imn_contract::{
    JobId,
    v1::{ModuleControl, ModuleOp},
};
use imn_runtime::nats::{Client, Config, Error};
use imn_testkit::NatsServer;

const WAIT: Duration = Duration::from_secs(10);

fn has(job: &str) -> ModuleControl {
    ModuleControl { v: 1, op: ModuleOp::Has { job_id: JobId::new(job).unwrap() } }
}

#[tokio::test]
async fn a_server_that_is_down_is_waited_for_and_come_back_to() {
    let mut server = NatsServer::start().unwrap();
    server.stop().unwrap();
    let client = Client::connect(&Config::new(server.url(), "early")).await.unwrap();
    assert!(!client.events().is_connected());
    let mut config = Config::new(server.url(), "full");
    config.timeout = Duration::from_millis(100);
    let full = Client::connect(&config).await.unwrap();
    let overflow = async {
        loop {
            if let Err(error) = full.publish("s", &has("j")).await {
                break error;
            }
        }
    };
    let overflow = tokio::time::timeout(WAIT, overflow).await.unwrap();
    assert!(matches!(overflow, Error::Timeout { .. }), "{overflow}");

    server.restart().unwrap();
    assert!(client.events().wait_connected(WAIT).await);
    let mut messages = client.subscribe("s").await.unwrap();
    client.round_trip(WAIT).await.unwrap();

    let mut up = client.events().connected();
    server.kill9();
    tokio::time::timeout(WAIT, up.wait_for(|up| !up)).await.unwrap().unwrap();
    server.restart().unwrap();
    tokio::time::timeout(WAIT, up.wait_for(|up| *up)).await.unwrap().unwrap();
    // Subscriptions are there again.
    client.publish("s", &has("j")).await.unwrap();
    tokio::time::timeout(WAIT, messages.next()).await.unwrap().unwrap();
    let counts = client.events().counts();
    assert_eq!((counts.connects, counts.disconnects), (2, 1));
}

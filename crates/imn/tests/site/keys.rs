//! The network's keys as its nats-server sees them: who is connected, and what it says to those who may not.

#![allow(dead_code, reason = "each scenario uses a part of it")]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::{ConnectOptions, Event, ServerError};
use imn_runtime::credential::Credentials;
use imn_testkit::{Process, wait_until};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::network::Network;

pub(crate) const SOON: Duration = Duration::from_mins(1);

/// A client with somebody's real credentials, and everything that its connection says.
pub(crate) struct Insider {
    pub(crate) client: async_nats::Client,
    pub(crate) said: mpsc::Receiver<Event>,
}

impl Insider {
    /// Connects; the library is not ours but any client's.
    pub(crate) async fn connect(url: &str, creds: &str) -> Result<Self, async_nats::ConnectError> {
        let prefix = Credentials::parse(creds).unwrap().inbox_prefix().to_owned();
        let (sender, said) = mpsc::channel(1024);
        let options = ConnectOptions::with_credentials(creds).unwrap();
        let client = options
            .custom_inbox_prefix(prefix)
            .event_callback(move |event| {
                // Room for more than any scenario has.
                let _ = sender.try_send(event);
                std::future::ready(())
            })
            .connect(url)
            .await?;
        Ok(Self { client, said })
    }

    /// The next error that the server itself sends.
    pub(crate) async fn error(&mut self, within: Duration) -> Option<String> {
        let next = async {
            while let Some(event) = self.said.recv().await {
                match event {
                    Event::ServerError(ServerError::Other(text)) => return Some(text),
                    Event::ServerError(error) => return Some(error.to_string()),
                    _ => {}
                }
            }
            None
        };
        tokio::time::timeout(within, next).await.ok().flatten()
    }
}

/// Runs a future in the network's namespace.
pub(crate) fn inside<T: Send>(network: &Network, work: impl Future<Output = T> + Send) -> T {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    network.node().enter(run).unwrap()
}

/// Where the private nats-server's clients connect, and its monitor.
pub(crate) fn ports(network: &Network) -> (u16, u16) {
    let text = fs::read_to_string(network.state().join("nats/ports.json")).unwrap();
    let ports: Value = serde_json::from_str(&text).unwrap();
    let port = |name: &str| u16::try_from(ports[name].as_u64().unwrap()).unwrap();
    (port("client"), port("monitor"))
}

pub(crate) fn url(network: &Network) -> String {
    format!("nats://127.0.0.1:{}", ports(network).0)
}

/// What nats-server's own monitor says of its connections; `None` while it is away.
fn monitored(network: &Network) -> Option<Vec<Value>> {
    let monitor = ports(network).1;
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", monitor)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"GET /connz?auth=true&limit=1000 HTTP/1.0\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    };
    let page = network.node().enter(ask).unwrap()?;
    let body: Value = serde_json::from_str(page.split_once("\r\n\r\n")?.1).ok()?;
    Some(body["connections"].as_array().cloned().unwrap_or_default())
}

fn of(agent: &str, connections: Vec<Value>) -> Vec<Value> {
    let (own, modules) = (format!("agent.{agent}"), format!("module.{agent}."));
    let is_its = |connection: &Value| {
        let name = connection["name_tag"].as_str().unwrap_or_default();
        name == own || name.starts_with(&modules)
    };
    connections.into_iter().filter(is_its).collect()
}

/// The connections of an agent and its modules, by the names of their users.
pub(crate) fn connections_of(network: &Network, agent: &str) -> Vec<Value> {
    of(agent, monitored(network).unwrap())
}

/// The agent of another host: a state directory of its own, and what it was given on its command line.
pub(crate) struct Elsewhere {
    pub(crate) state: PathBuf,
    process: Option<Process>,
}

impl Elsewhere {
    /// Its modules are found, and ended in the end, by the network that it is of.
    pub(crate) fn new(network: &Network, id: &str) -> Self {
        Self { state: network.state().join("agents").join(id), process: None }
    }

    pub(crate) fn start(&mut self, network: &Network, id: &str, args: &[&str]) {
        self.process = Some(command(network, &self.state, id, args).spawn().unwrap());
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// SIGTERM; ends with 0.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        process.terminate();
        let status = process.wait_deadline(Duration::from_secs(30)).unwrap();
        assert!(status.success(), "the agent ended with {status}: {}", process.tail());
    }
}

/// `imn agent` with a state directory.
pub(crate) fn command(network: &Network, state: &Path, id: &str, args: &[&str]) -> imn_testkit::Program {
    network
        .program()
        .args(["agent", "--id", id, "--listen", "127.0.0.1:0", "--state-dir"])
        .arg(state)
        .args(args)
}

/// Waits until nats-server knows the agent and all of its modules.
pub(crate) fn wait_connected(network: &Network, agent: &str) -> Vec<Value> {
    // The agent has a connection of its own for the queues of jobs.
    let all = imn_module::KINDS.len() + 2;
    wait_until(format!("{agent} and its modules to be connected"), SOON, || {
        Some(of(agent, monitored(network)?)).filter(|connections| connections.len() == all)
    })
    .unwrap()
}

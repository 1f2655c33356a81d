//! What a server is told when it starts.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use imn_contract::{AgentId, InstanceId, ModuleType};
use imn_domain::ScrapeModules;
use imn_runtime::{
    credential::{Authority, Signer},
    nats, tls,
};

/// How a server is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the HTTP API listens; port 0 takes a free one, see [`crate::Running::http_address`].
    pub listen: SocketAddr,
    /// Number of ingest partitions, 1 to 64; fixed once agents have spools. 1 for one host, 16 for fleets.
    pub partitions: u32,
    /// How long arriving batches are collected for one commit.
    pub commit_interval: Duration,
    /// Sizes of the streams.
    pub streams: StreamBytes,
    /// Module types whose job streams exist from the start.
    pub types: Vec<ModuleType>,
    /// Addresses to measure (tier `critical`) when the catalog is new.
    pub seed_targets: Vec<String>,
    /// How long terminal jobs are kept.
    pub keep_jobs: Duration,
    /// What `/probe` measures.
    pub scrape: ScrapeModules,
    /// What the HTTP API is served by; absent: plain HTTP, on loopback only.
    pub tls: Option<tls::Server>,
    /// Serve plain HTTP on any address: keys cross the network in the clear.
    pub insecure: bool,
    /// Whose keys vouch for those of agents and modules; absent: nobody's are vouched for.
    pub authority: Option<Arc<Authority>>,
    /// Keys that somebody else with this authority has vouched for.
    pub known_keys: Vec<KnownKey>,
    /// How long the JWTs of agents and modules are good for; they are renewed at half of it.
    pub credential_lifetime: Duration,
    /// How NATS is reached, to tell it of revoked keys.
    pub nats: Option<nats::Config>,
    /// Where agents of other hosts reach NATS; the host `0.0.0.0` stands for that by which they reach this server.
    pub public_nats: Vec<String>,
    /// Certificates, in PEM, by which agents of other hosts are to believe NATS; absent: those that they know.
    pub certificates: Option<String>,
    /// Fingerprint of the authority that signed what the HTTP API shows, where that is the network's own.
    pub fingerprint: Option<String>,
    /// What signs published modules; absent: none are published.
    pub signer: Option<Arc<Signer>>,
    /// The agent that measures for `/probe` unless the request names one; absent: `local` if there is such, else any.
    pub scrape_agent: Option<AgentId>,
}

/// A key that was vouched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The agent that it is of.
    pub agent: AgentId,
    /// The module instance that it is of; absent: the agent itself.
    pub instance: Option<InstanceId>,
    /// The public key.
    pub public_key: String,
    /// When what it was given ends, in seconds since the Unix epoch; absent: never.
    pub expires_s: Option<u64>,
}

/// Most bytes that each stream may hold. nats-server sets them aside: their sum must fit its file store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamBytes {
    /// Batches on their way to the store.
    pub ingest: i64,
    /// Queue of one module type.
    pub jobs: i64,
    /// Reports of attempts.
    pub attempts: i64,
    /// Published results.
    pub results: i64,
    /// Announcements and transitions.
    pub events: i64,
    /// Dead jobs.
    pub dead: i64,
    /// Assignment shards.
    pub assignments: i64,
    /// Lists of published modules.
    pub registry: i64,
    /// Executables of published modules.
    pub artifacts: i64,
}

const MIB: i64 = 1024 * 1024;

impl Default for StreamBytes {
    fn default() -> Self {
        Self {
            ingest: 1024 * MIB,
            jobs: 64 * MIB,
            attempts: 128 * MIB,
            results: 256 * MIB,
            events: 64 * MIB,
            dead: 32 * MIB,
            assignments: 128 * MIB,
            registry: 16 * MIB,
            artifacts: 512 * MIB,
        }
    }
}

impl Config {
    /// One partition, commits every 200 ms, the built-in types, nothing seeded.
    pub fn new(listen: SocketAddr) -> Self {
        let types = ["icmp", "tcp", "dns", "http", "stamp", "trace", "bgp", "echo", "faulty", "heartbeat"];
        Self {
            listen,
            partitions: 1,
            commit_interval: Duration::from_millis(200),
            streams: StreamBytes::default(),
            types: types.into_iter().filter_map(|name| ModuleType::new(name).ok()).collect(),
            seed_targets: Vec::new(),
            keep_jobs: Duration::from_hours(7 * 24),
            scrape: ScrapeModules::default(),
            tls: None,
            insecure: false,
            authority: None,
            known_keys: Vec::new(),
            credential_lifetime: Duration::from_hours(24),
            nats: None,
            public_nats: Vec::new(),
            certificates: None,
            fingerprint: None,
            signer: None,
            scrape_agent: None,
        }
    }
}

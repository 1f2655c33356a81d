//! What a server is told when it starts.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use imn_contract::{AgentId, ModuleType};
use imn_domain::ScrapeModules;
use imn_runtime::credential::{Authority, Signer};

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
    /// Whose keys vouch for those of modules; absent: nobody's are vouched for.
    pub authority: Option<Arc<Authority>>,
    /// What signs published modules; absent: none are published.
    pub signer: Option<Arc<Signer>>,
    /// The agent that measures for `/probe` unless the request names one; absent: `local` if there is such, else any.
    pub scrape_agent: Option<AgentId>,
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
            authority: None,
            signer: None,
            scrape_agent: None,
        }
    }
}

//! What an agent is told when it starts.

use std::{
    collections::BTreeMap, ffi::OsString, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration,
};

use imn_contract::{AgentId, InstanceId, ModuleType};
use imn_runtime::{nats, telemetry};
use serde_json::{Map, Value};

use crate::{renew::Renewal, scrape::Scraping};

/// Where in the state directory the secrets of STAMP sessions are.
const STAMP_KEYS: &str = "stamp-keys";

/// Names and places of an agent, as its heartbeats carry them: they are its registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Name for people.
    pub name: Option<String>,
    /// Coarse place, such as `eu`.
    pub region: Option<String>,
    /// Fine place, such as `London`.
    pub location: Option<String>,
    /// Whose network or cloud it is in.
    pub provider: Option<String>,
    /// Free tags.
    pub tags: BTreeMap<String, String>,
}

/// A module that is part of the program: started as `PROGRAM module TYPE`.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltIn {
    /// Its type.
    pub kind: ModuleType,
    /// Processes of it, at least 1.
    pub instances: u32,
    /// Whether it takes standing assignments.
    pub standing: bool,
    /// Jobs that each process does at once; absent: the module's own default.
    pub slots: Option<u32>,
    /// Configuration of the module.
    pub config: Map<String, Value>,
}

impl BuiltIn {
    /// One process of this type, with the module's own number of slots.
    pub fn new(kind: ModuleType, standing: bool) -> Self {
        Self { kind, instances: 1, standing, slots: None, config: Map::new() }
    }

    /// The modules of the program as it is shipped, one process each: `icmp`, `tcp`, `dns`, `http`, `stamp`,
    /// `trace`, `bgp`, `echo`, `faulty`, `heartbeat`.
    pub fn all() -> Vec<Self> {
        let types = [
            ("icmp", true),
            ("tcp", true),
            ("dns", true),
            ("http", true),
            ("stamp", true),
            ("trace", true),
            ("bgp", true),
            ("echo", false),
            ("faulty", false),
            ("heartbeat", true),
        ];
        types
            .into_iter()
            .filter_map(|(name, standing)| Some(Self::new(ModuleType::new(name).ok()?, standing)))
            .collect()
    }
}

/// When a module that ended is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Pause after the first exit; doubles with each further one.
    pub first: Duration,
    /// The longest pause.
    pub last: Duration,
    /// Exits within [`Restart::window`] that quarantine the instance, at least 1.
    pub exits: u32,
    /// How long an exit counts; a run of this length also resets the pause.
    pub window: Duration,
    /// How long a quarantine lasts.
    pub quarantine: Duration,
}

impl Default for Restart {
    /// 0.2 s to 30 s; five exits within a minute quarantine for five minutes.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            last: Duration::from_secs(30),
            exits: 5,
            window: Duration::from_mins(1),
            quarantine: Duration::from_mins(5),
        }
    }
}

/// How a module type is replaced by another version of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// How much of the jobs the new version gets, in percent, one wave after the other.
    pub waves: Vec<u32>,
    /// How long an instance of the new version may take to be ready.
    pub ready: Duration,
    /// How long its self-test may take.
    pub test: Duration,
    /// How long a wave lasts at least.
    pub least: Duration,
    /// How long a wave lasts at most, where too few jobs came to judge by.
    pub most: Duration,
    /// Jobs of the new version that are enough to judge a wave by.
    pub jobs: u64,
    /// How long an instance may finish the jobs that it has before it is told to drain.
    pub finish: Duration,
}

impl Default for Rollout {
    /// 5, 25 and 100 % for 3 to 10 s each, judged by 20 jobs.
    fn default() -> Self {
        Self {
            waves: vec![5, 25, 100],
            ready: Duration::from_secs(20),
            test: Duration::from_secs(10),
            least: Duration::from_secs(3),
            most: Duration::from_secs(10),
            jobs: 20,
            finish: Duration::from_secs(30),
        }
    }
}

/// When an instance counts as hung, whatever it says of itself; it is then killed and started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hang {
    /// How long it may keep a job that should have ended.
    pub margin: Duration,
    /// How long rounds may fall due without any being made, beyond the time that the longest takes.
    pub stalled: Duration,
}

impl Default for Hang {
    /// 5 s, and two minutes.
    fn default() -> Self {
        Self { margin: Duration::from_secs(5), stalled: Duration::from_mins(2) }
    }
}

type Lookup = dyn Fn(&ModuleType, &InstanceId) -> Option<String> + Send + Sync;

/// Where the credentials of module instances come from.
#[derive(Clone)]
pub struct ModuleCredentials {
    lookup: Arc<Lookup>,
    /// Where those are kept that the server has vouched for.
    keep: Option<PathBuf>,
    place: String,
    required: bool,
}

impl ModuleCredentials {
    /// Modules connect without credentials.
    pub fn none() -> Self {
        Self { lookup: Arc::new(|_, _| None), keep: None, place: String::new(), required: false }
    }

    /// The file `{instance}.creds` in a directory, read at each start of the instance. For one that is not there, or is
    /// unreadable, the agent makes a key, asks the server to vouch for it, and writes the file; it is renewed in time.
    pub fn directory(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        let place = format!("; {{instance}}.creds is looked for in {}", directory.display());
        let keep = Some(directory.clone());
        let lookup = move |_: &ModuleType, instance: &InstanceId| {
            std::fs::read_to_string(directory.join(format!("{instance}.creds"))).ok()
        };
        Self { lookup: Arc::new(lookup), keep, place, required: true }
    }

    /// Asks a function for the text of the credentials file, at each start of an instance.
    pub fn from_fn(
        lookup: impl Fn(&ModuleType, &InstanceId) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self { lookup: Arc::new(lookup), keep: None, place: String::new(), required: true }
    }

    /// Where credentials of an instance that has none are to be kept.
    pub(crate) fn file(&self, instance: &InstanceId) -> Option<PathBuf> {
        self.keep.as_ref().map(|directory| directory.join(format!("{instance}.creds")))
    }

    /// Whether a module cannot connect without.
    pub(crate) fn are_required(&self) -> bool {
        self.required
    }

    /// The credentials of an instance; `Ok(None)` where none are needed.
    pub(crate) fn of(&self, kind: &ModuleType, instance: &InstanceId) -> crate::Result<Option<String>> {
        match (self.lookup)(kind, instance) {
            None if self.required => Err(crate::Error::NoCredentials {
                instance: instance.to_string(),
                hint: self.place.replace("{instance}", instance.as_str()),
            }),
            found => Ok(found),
        }
    }
}

impl fmt::Debug for ModuleCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModuleCredentials").field("required", &self.required).finish_non_exhaustive()
    }
}

/// Variables of the environment. They may hold secrets: of their values nothing is shown.
#[derive(Clone, Default)]
pub struct Environment(pub Vec<(OsString, OsString)>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// How an agent is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its identifier.
    pub id: AgentId,
    /// Its names and places.
    pub identity: Identity,
    /// Its connection; modules get the URL, and credentials of their own.
    pub nats: nats::Config,
    /// Directory for everything that it keeps: `instances.json`, `artifacts/`, `assignments/`, `spool/`,
    /// `log/` and, written by people, `stamp-keys/`.
    pub state_dir: PathBuf,
    /// Directory of third-party modules, watched; need not exist.
    pub modules_dir: PathBuf,
    /// Public key of the network's registry, whose modules are to be fetched and run; absent: it is not followed.
    pub registry_key: Option<String>,
    /// The program that has the built-in modules.
    pub program: PathBuf,
    /// Built-in modules to run.
    pub built_ins: Vec<BuiltIn>,
    /// How its own credentials are renewed; absent: they are not.
    pub renewal: Option<Renewal>,
    /// Where modules get their credentials.
    pub credentials: ModuleCredentials,
    /// Where its own listener is; absent: there is none.
    pub listen: Option<SocketAddr>,
    /// Bearer key of the listener's control; absent: control is refused.
    pub api_key: Option<String>,
    /// How `/probe` of the listener answers; absent: there is no such path.
    pub scraping: Option<Scraping>,
    /// What modules get of the environment, beside `PATH`: how they log, and where they export it.
    pub environment: Environment,
    /// When a module that ended is started again.
    pub restart: Restart,
    /// How a module type is replaced by another version of itself.
    pub rollout: Rollout,
    /// When an instance counts as hung.
    pub hang: Hang,
    /// Leave the modules running at the end, for the next agent to adopt: for upgrades.
    pub keep_modules: bool,
}

impl Config {
    /// An agent with all built-in modules of `program`, its modules directory within the state directory, no
    /// credentials and no listener.
    pub fn new(
        id: AgentId,
        nats: nats::Config,
        state_dir: impl Into<PathBuf>,
        program: impl Into<PathBuf>,
    ) -> Self {
        let state_dir = state_dir.into();
        let mut built_ins = BuiltIn::all();
        for built_in in &mut built_ins {
            if built_in.kind.as_str() == "stamp" {
                let directory = state_dir.join(STAMP_KEYS).display().to_string();
                built_in.config.insert("key_dir".to_owned(), Value::String(directory));
            }
        }
        Self {
            id,
            identity: Identity::default(),
            nats,
            modules_dir: state_dir.join("modules.d"),
            registry_key: None,
            state_dir,
            program: program.into(),
            built_ins,
            renewal: None,
            credentials: ModuleCredentials::none(),
            listen: None,
            api_key: None,
            scraping: None,
            environment: Environment(telemetry::handed_on()),
            restart: Restart::default(),
            rollout: Rollout::default(),
            hang: Hang::default(),
            keep_modules: false,
        }
    }
    /// Where the executables from the registry are.
    pub(crate) fn registry_dir(&self) -> PathBuf {
        self.state_dir.join("registry.d")
    }
}

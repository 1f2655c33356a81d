//! The agent as a whole: started, run, drained.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::future::join_all;
use imn_runtime::{
    file::StateLock,
    nats::{self, Client},
    task::{Failure, Shutdown, Stop, Tasks},
    telemetry,
};
use tokio::sync::watch;

use crate::{
    Config, Result,
    assignment::Assignments,
    heartbeat::Heart,
    http::{self, Desk},
    job::Jobs,
    listen::Listener,
    metrics::Counters,
    output::Outputs,
    registry::Registry,
    renew::Renewer,
    roster::Roster,
    scrape::Scraper,
    simple::Simple,
    supervise::{Ending, LOGS, Supervisor},
};

/// Modules have seven seconds to drain; a little more to be killed.
const MODULES_WITHIN: Duration = Duration::from_millis(7_400);
/// Jobs whose modules have drained get their last word.
const JOBS_WITHIN: Duration = Duration::from_millis(300);
const FLUSH_WITHIN: Duration = Duration::from_millis(300);

/// A running agent. Dropping it ends it at once and leaves its modules running, as a kill would.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    client: Client,
    /// Its connection to the queues of jobs, where that is another.
    queue: Option<Client>,
    heart: Arc<Heart>,
    address: Option<SocketAddr>,
    /// Modules.
    supervision: Tasks,
    ending: watch::Sender<Option<Ending>>,
    /// What takes on work.
    work: Tasks,
    work_ends: Shutdown,
    /// What tells and is told; goes on until the very end.
    voice: Tasks,
    voice_ends: Shutdown,
    _lock: StateLock,
}

impl Agent {
    /// Takes the state directory and the listener's address, adopts the modules that run, and starts everything else.
    /// NATS need not be there.
    ///
    /// # Errors
    /// [`Error::State`](crate::Error::State) when the directory is unusable or another agent's,
    /// [`Error::PortInUse`](crate::Error::PortInUse), [`Error::Nats`](crate::Error::Nats) for what no retry can mend.
    pub async fn start(config: Config) -> Result<Self> {
        let lock = StateLock::acquire(&config.state_dir)?;
        let listener = match config.listen {
            Some(address) => Some(http::bind(address).await?),
            None => None,
        };
        let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let client = Client::connect(&config.nats).await?;
        let queue = connect_to_queues(&config.nats, &client).await?;
        let counters = Arc::new(Counters::default());
        // Before anything is run: what is not as it was verified is taken out.
        let registry = Registry::open(&config, client.clone(), Arc::clone(&counters))?.map(Arc::new);
        let roster = Arc::new(Roster::new(config.id.clone()));
        let supervisor = Arc::new(Supervisor::open(&config, Arc::clone(&roster), client.clone())?);
        let assignments = Arc::new(Assignments::new(&config, client.clone(), Arc::clone(&roster))?);
        let jobs = Arc::new(Jobs::new(
            config.id.clone(),
            queue.clone().unwrap_or_else(|| client.clone()),
            Arc::clone(&roster),
            Arc::clone(&counters),
        ));
        let simple = Arc::new(Simple::new(
            config.id.clone(),
            client.clone(),
            Arc::clone(&jobs),
            Arc::clone(&counters),
        ));
        let heart = Arc::new(Heart::new(
            &config,
            client.clone(),
            Arc::clone(&roster),
            Arc::clone(&assignments),
            Arc::clone(&supervisor),
            registry.clone(),
        ));

        let logs = config.state_dir.join(LOGS);
        let outputs = Outputs::new(config.id.clone(), client.clone(), Arc::clone(&roster), logs);
        let told = (Arc::clone(&counters), Arc::clone(&heart), client.clone(), Arc::clone(&jobs));
        telemetry::export_page(move || {
            let (counters, heart, client, jobs) = &told;
            let connected = client.events().is_connected() && jobs.is_connected();
            counters.page(&heart.beat(), connected, jobs.followed())
        });
        let (voice_ends, work_ends) = (Shutdown::new(), Shutdown::new());
        let (mut voice, mut work, mut supervision) = (Tasks::new(), Tasks::new(), Tasks::new());
        let (ending, end) = watch::channel(None);
        let ear = Listener {
            agent: config.id.clone(),
            client: client.clone(),
            roster,
            jobs: Arc::clone(&jobs),
            assignments: Arc::clone(&assignments),
            supervisor: Arc::clone(&supervisor),
            registry: registry.clone(),
            heart: Arc::clone(&heart),
            credentials: config.credentials.clone(),
        };
        voice.spawn("listener", ear.run(voice_ends.stop()));
        let renewer = Renewer {
            agent: config.id.clone(),
            client: client.clone(),
            queue: queue.clone(),
            supervisor: Arc::clone(&supervisor),
            renewal: config.renewal.clone(),
        };
        voice.spawn("renewer", renewer.run(voice_ends.stop()));
        voice.spawn("output", outputs.run(voice_ends.stop()));
        voice.spawn("heartbeat", Arc::clone(&heart).run(voice_ends.stop()));
        if let Some(listener) = listener {
            let desk = Arc::new(Desk {
                api_key: config.api_key.clone(),
                client: client.clone(),
                counters,
                heart: Arc::clone(&heart),
                jobs: Arc::clone(&jobs),
                scraper: config.scraping.clone().map(Scraper::new),
                simple: Arc::clone(&simple),
                supervisor: Arc::clone(&supervisor),
            });
            voice.spawn("http", http::serve(listener, desk, voice_ends.stop()));
        }
        work.spawn("jobs", Arc::clone(&jobs).run(Arc::clone(&supervisor), work_ends.stop()));
        work.spawn("simple", simple.run(work_ends.stop()));
        work.spawn("assignments", assignments.run(Arc::clone(&supervisor), work_ends.stop()));
        if let Some(registry) = registry {
            work.spawn("registry", registry.run(work_ends.stop()));
        }
        supervision.spawn("supervisor", supervisor.run(jobs, end));
        tracing::info!(agent = %config.id, listen = ?address, "agent started");
        Ok(Self {
            config,
            client,
            queue,
            heart,
            address,
            supervision,
            ending,
            work,
            work_ends,
            voice,
            voice_ends,
            _lock: lock,
        })
    }

    /// Starts, runs until the end is asked for, and drains.
    ///
    /// # Errors
    /// As [`Agent::start`]; [`Error::Task`](crate::Error::Task) when a part fails: then the modules are left running
    /// for the next agent.
    pub async fn run(config: Config, stop: Stop) -> Result<()> {
        let mut agent = Self::start(config).await?;
        let failed = tokio::select! {
            () = stop.requested() => None,
            failure = agent.failed() => Some(failure),
        };
        match failed {
            None => {
                agent.stop().await;
                Ok(())
            }
            Some(failure) => Err(failure.into()),
        }
    }

    /// Where its own listener is.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Waits until a part of it fails, without which it cannot go on. Cancel-safe.
    pub async fn failed(&mut self) -> Failure {
        tokio::select! {
            failure = self.supervision.failed() => failure,
            failure = self.work.failed() => failure,
            failure = self.voice.failed() => failure,
        }
    }

    /// Ends in order, within eight seconds: tells so, takes no more work, returns what was not begun, drains the
    /// modules (or leaves them, with `keep_modules`), kills what does not drain, and says goodbye.
    pub async fn stop(self) {
        tracing::info!(agent = %self.config.id, keep_modules = self.config.keep_modules, "agent drains");
        self.work_ends.request();
        self.heart.drain().await;
        self.ending.send_replace(Some(if self.config.keep_modules { Ending::Leave } else { Ending::Drain }));
        self.supervision.drain(MODULES_WITHIN).await;
        self.work.drain(JOBS_WITHIN).await;
        self.heart.publish().await;
        // Past this the goodbye is lost, which silence tells as well.
        let clients = [Some(&self.client), self.queue.as_ref()].into_iter().flatten();
        let flushed = clients
            .filter(|client| client.events().is_connected())
            .map(|client| tokio::time::timeout(FLUSH_WITHIN, client.inner().flush()));
        join_all(flushed).await;
        self.voice_ends.request();
        self.voice.drain(Duration::from_millis(100)).await;
        tracing::info!(agent = %self.config.id, "agent ended");
    }
}

/// The connection for the queues of jobs, when the credentials have rights for it; else the one does for all.
async fn connect_to_queues(config: &nats::Config, client: &Client) -> Result<Option<Client>> {
    let Some(credentials) = client.credentials().and_then(|credentials| credentials.of_queue()) else {
        return Ok(None);
    };
    let name = format!("{} queue", config.name);
    let config = nats::Config { credentials: Some(credentials.text()), name, ..config.clone() };
    Ok(Some(Client::connect(&config).await?))
}

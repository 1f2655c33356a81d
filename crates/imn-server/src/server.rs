//! The server as a whole: what it starts, in which order, and how it ends.

use std::{net::SocketAddr, ops::ControlFlow, sync::Arc, time::Duration};

use imn_contract::TargetId;
use imn_domain::{MonitoringState, Target, classify, seeded_tiers};
use imn_runtime::{
    nats::Client,
    task::{Failure, Shutdown, Stop, Tasks},
    telemetry,
};
use imn_store::{Catalog, CatalogError, Credential, Results, RoundQuery, RoundRow};
use tokio::net::TcpListener;

use crate::{
    api,
    artifact::{self, Artifacts},
    assign::{self, Assigner, Publisher},
    bgp::Routing,
    clock::now_us,
    config::Config,
    context::Context,
    error::Error,
    ingest,
    jobs::{self, Desk, Outbox},
    keys::{self, Keys},
    live::Hub,
    logs::Logs,
    metrics::{Metrics, label},
    readiness::{Part, Readiness},
    registry::{self, Registry},
    status::{Board, Seen},
    streams::Streams,
};

const MAX_PARTITIONS: u32 = 64;
/// Setting that says that a new catalog has been filled.
const SEEDED: &str = "seeded";
/// How far back the board is filled from at least, in microseconds.
const LOOK_BACK_US: i64 = 60_000_000;
/// ... and at most.
const MAX_LOOK_BACK_US: i64 = 3_600_000_000;
/// Rounds taken in one go while the board is filled.
const FILL: usize = 10_000;
/// How often streams are looked at while nothing happens.
const STREAMS: Duration = Duration::from_mins(1);
/// How soon after a connect: what was on its way then is either there or left behind.
const AFTER_CONNECT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
/// How often the stores are maintained.
const MAINTENANCE: Duration = Duration::from_secs(10);
/// How often old jobs are removed, in maintenances.
const PRUNE_EVERY: u32 = 60;

/// The control plane.
#[derive(Debug)]
pub struct Server;

/// A server at work. Dropping it stops it at once; [`Running::drain`] stops it in order.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    tasks: Tasks,
}

impl Server {
    /// Fills a new catalog, recovers what an earlier process left, and starts. NATS need not be up: `/readyz` says
    /// what is missing.
    ///
    /// # Errors
    /// [`Error::Config`] for settings out of range, [`Error::Listen`] when the address is taken, [`Error::Catalog`]
    /// and [`Error::Results`] when the stores cannot be read.
    pub async fn start(
        config: Config,
        client: Client,
        catalog: Arc<dyn Catalog>,
        results: Arc<dyn Results>,
    ) -> Result<Running, Error> {
        check(&config)?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| Error::Listen { address: config.listen, source })?;
        let address =
            listener.local_addr().map_err(|source| Error::Listen { address: config.listen, source })?;
        let config = Arc::new(config);
        seed(&config, &*catalog).await?;

        let shutdown = Shutdown::new();
        let (metrics, readiness, hub) = (Metrics::new(), Readiness::default(), Hub::new());
        let (registry, board, assigner) = (Registry::default(), Board::default(), Assigner::default());
        registry.load(catalog.agents().await?, now_us());
        note_known(&config, &*catalog).await?;
        if let Some(schemas) = catalog.setting(registry::SCHEMAS).await? {
            registry.remember_schemas(&schemas);
        }
        readiness.ok(Part::Catalog);
        let keys = Keys::new(keys::Parts {
            authority: config.authority.clone(),
            catalog: catalog.clone(),
            registry: registry.clone(),
            nats: config.nats.clone(),
            lifetime: config.credential_lifetime,
        });

        let mut publisher = Publisher::new(
            assign::Parts {
                config: config.clone(),
                client: client.clone(),
                catalog: catalog.clone(),
                registry: registry.clone(),
                board: board.clone(),
                metrics: metrics.clone(),
                readiness: readiness.clone(),
            },
            assigner.clone(),
        );
        let longest_us = publisher.load().await?;
        fill(&board, &*results, longest_us).await?;

        let streams = Streams::new(client.clone(), config.clone());
        let (outbox, inbox) = Outbox::new();
        let desk = Desk::new(jobs::Parts {
            client: client.clone(),
            catalog: catalog.clone(),
            registry: registry.clone(),
            hub: hub.clone(),
            metrics: metrics.clone(),
            streams: streams.clone(),
            outbox,
        });
        desk.load_open().await?;
        let context = Context {
            config: config.clone(),
            artifacts: Artifacts::new(client.clone(), config.signer.clone()),
            client,
            catalog,
            results,
            jobs: desk.clone(),
            keys,
            board,
            live: hub,
            logs: Logs::new(),
            routing: Routing::default(),
            registry,
            assign: assigner,
            readiness: readiness.clone(),
            metrics,
            stop: shutdown.stop(),
        };

        let told = context.clone();
        telemetry::export_page(move || told.page());
        let mut tasks = Tasks::new();
        let stop = || shutdown.stop();
        tasks.spawn("streams", watch_streams(context.clone(), streams.clone(), stop()));
        tasks.spawn("registry", registry::listen(context.clone(), streams.clone(), stop()));
        tasks.spawn("registry-keep", registry::keep(context.clone(), stop()));
        if config.authority.is_some() {
            tasks.spawn("vouch", keys::answer(context.clone(), stop()));
            tasks.spawn("claims", keys::keep_told(context.clone(), stop()));
        }
        tasks.spawn("artifacts", artifact::run(context.clone(), stop()));
        tasks.spawn("assign", publisher.run(stop()));
        for partition in 0..config.partitions {
            let name = format!("ingest-{partition}");
            tasks.spawn(name, ingest::run(context.clone(), partition, streams.clone(), stop()));
        }
        tasks.spawn("watermarks", ingest::serve_watermarks(context.clone(), stop()));
        tasks.spawn("jobs", desk.clone().serve(stop()));
        tasks.spawn("attempts", desk.clone().follow_attempts(readiness, stop()));
        tasks.spawn("outbox", desk.clone().run_outbox(inbox, stop()));
        tasks.spawn("deadlines", desk.run_deadlines(stop()));
        tasks.spawn("maintenance", maintain(context.clone(), stop()));
        tasks.spawn("http", api::serve(listener, context));
        tracing::info!(%address, "server started");
        Ok(Running { address, shutdown, tasks })
    }
}

impl Running {
    /// Where the HTTP API listens.
    pub fn http_address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until a part fails that should never end. Cancel-safe.
    pub async fn failed(&mut self) -> Failure {
        self.tasks.failed().await
    }

    /// Stops in order: requests in work are answered, commits under way are finished. Parts that have not ended by
    /// `deadline` are aborted and named; nothing is lost by that, since NATS and the spools keep what was not
    /// acknowledged.
    pub async fn drain(self, deadline: Duration) -> Vec<String> {
        self.shutdown.request();
        self.tasks.drain(deadline).await
    }
}

fn check(config: &Config) -> Result<(), Error> {
    if config.tls.is_none() && !config.insecure {
        api::check_listener(config.listen)?;
    }
    if !(1..=MAX_PARTITIONS).contains(&config.partitions) {
        let message = format!("{} ingest partitions; use 1 to {MAX_PARTITIONS}", config.partitions);
        return Err(Error::Config { message });
    }
    Ok(())
}

/// Notes the keys that somebody else has vouched for, so that they can be revoked.
async fn note_known(config: &Config, catalog: &dyn Catalog) -> Result<(), Error> {
    let now = now_us();
    let noted = config.known_keys.iter().map(|key| Credential {
        public_key: key.public_key.clone(),
        agent: key.agent.clone(),
        instance: key.instance.clone(),
        issued_us: now,
        expires_us: key.expires_s.map(|end| i64::try_from(end).unwrap_or(i64::MAX).saturating_mul(1_000_000)),
        revoked_us: None,
    });
    let noted: Vec<Credential> = noted.collect();
    Ok(catalog.note_credentials(&noted).await?)
}

/// Gives a new catalog its tiers and targets, once.
async fn seed(config: &Config, catalog: &dyn Catalog) -> Result<(), Error> {
    if catalog.setting(SEEDED).await?.is_some() {
        return Ok(());
    }
    let now = now_us();
    for tier in seeded_tiers(now) {
        match catalog.create_tier(&tier).await {
            // A start that was cut short made it.
            Ok(()) | Err(CatalogError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for text in &config.seed_targets {
        let (kind, address) = classify(text).map_err(|error| Error::Config { message: error.to_string() })?;
        let target = Target {
            id: TargetId::generate(),
            kind,
            address,
            display_name: None,
            tier: "critical".to_owned(),
            tags: std::collections::BTreeMap::default(),
            params: serde_json::Map::default(),
            expected_outcome: None,
            monitoring_state: MonitoringState::Unknown,
            state_reason: None,
            state_since_us: now,
            created_us: now,
            updated_us: now,
            revision: 1,
        };
        match catalog.create_targets(std::slice::from_ref(&target)).await {
            Ok(()) | Err(CatalogError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    catalog.set_setting(SEEDED, "1").await?;
    Ok(())
}

/// Fills the board from what is stored of the last three intervals; transitions come from new rounds alone.
async fn fill(board: &Board, results: &dyn Results, longest_us: i64) -> Result<(), Error> {
    let now = now_us();
    let back = longest_us.saturating_mul(3).clamp(LOOK_BACK_US, MAX_LOOK_BACK_US);
    let query = RoundQuery { from_us: Some(now - back), brief: true, ..RoundQuery::default() };
    let mut rows: Vec<RoundRow> = Vec::with_capacity(FILL);
    let put = |rows: &mut Vec<RoundRow>| {
        board.restore(rows.iter().map(Seen::of_row), now);
        rows.clear();
    };
    results
        .scan(&query, &mut |row| {
            rows.push(row);
            if rows.len() == FILL {
                put(&mut rows);
            }
            ControlFlow::Continue(())
        })
        .await?;
    put(&mut rows);
    Ok(())
}

/// Makes streams be as they should after every connect, and looks after them.
async fn watch_streams(context: Context, streams: Streams, stop: Stop) {
    let mut connected = context.client.events().connected();
    loop {
        if !*connected.borrow_and_update() {
            context.readiness.fails(Part::Nats, "not connected to NATS");
            if !matches!(stop.until(connected.changed()).await, Some(Ok(()))) {
                return;
            }
            continue;
        }
        context.readiness.ok(Part::Nats);
        context.registry.listening(now_us());
        match stop.until(streams.reconcile(&registry::queues(&context))).await {
            None => return,
            Some(Ok(())) => {
                context.readiness.ok(Part::Streams);
                context.assign.verify();
            }
            Some(Err(error)) => {
                context.readiness.fails(Part::Streams, error.to_string());
                if !stop.sleep(RETRY).await {
                    return;
                }
                continue;
            }
        }
        // Until the connection changes, streams are only looked at for what somebody else may have done to them: at once
        // for a nats-server that was killed, and now and then.
        let mut pause = AFTER_CONNECT;
        while *connected.borrow() {
            let changed = stop.until(tokio::time::timeout(pause, connected.changed())).await;
            pause = STREAMS;
            match changed {
                None | Some(Ok(Err(_))) => return,
                Some(Ok(Ok(()))) => break,
                Some(Err(_)) => match stop.until(look_after(&context, &streams)).await {
                    None => return,
                    Some(Ok(())) => context.readiness.ok(Part::Streams),
                    Some(Err(error)) => context.readiness.fails(Part::Streams, error.to_string()),
                },
            }
        }
    }
}

/// Makes streams be as they should, without what is settled and with nothing left behind.
async fn look_after(context: &Context, streams: &Streams) -> imn_runtime::nats::Result<()> {
    let queues = registry::queues(context);
    streams.reconcile(&queues).await?;
    context.jobs.sweep_queues().await;
    streams.heal(&queues).await
}

/// What the stores want done now and then; transitions that time alone brings.
async fn maintain(context: Context, stop: Stop) {
    let mut turn = 0_u32;
    while stop.sleep(MAINTENANCE).await {
        let now = now_us();
        if let Err(error) = context.results.maintain(now).await {
            tracing::warn!(%error, "results not maintained");
        }
        let changes = context.board.tick(now);
        ingest::record(&context, changes).await;
        for state in MonitoringState::ALL {
            let gauge = context.metrics.targets.get_or_create(&label("state", state.as_str())).clone();
            gauge.set(context.board.counts().get(&state).copied().unwrap_or(0) as i64);
        }
        turn += 1;
        if turn.is_multiple_of(PRUNE_EVERY) {
            let before = now - i64::try_from(context.config.keep_jobs.as_micros()).unwrap_or(i64::MAX);
            if let Err(error) = context.catalog.prune_jobs(before).await {
                tracing::warn!(%error, "old jobs not removed");
            }
        }
    }
}

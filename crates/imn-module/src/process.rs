//! The life of a module process: start, serve, drain.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Message as Raw, Subscriber};
use futures::{FutureExt, StreamExt};
use imn_contract::{
    ErrorCode, Fault, Message,
    latest::{Announce, AnnounceEvent, ControlReply, ModuleConfig, ModuleControl, ModuleOp, Task, TaskReply},
    subject,
};
use imn_runtime::{
    nats::{self, Client},
    spool::Shipper,
    task::{Shutdown, Signals, Stop, Tasks},
    telemetry::TraceParent,
};
use tokio::sync::Notify;

use crate::{
    Error,
    announce::Announcer,
    desk::{Desk, Offer},
    health::Pulse,
    log::Level,
    metrics,
    module::SharedModule,
    perform::Shared,
    service::{Service, Stats},
    standing,
};

const HEALTH_EVERY: Duration = Duration::from_secs(5);
/// A state that flickers is told at most this often.
const NEWS_EVERY: Duration = Duration::from_millis(100);
/// An orderly end takes at most this long; a little less than its agent waits before it kills.
const DRAIN: Duration = Duration::from_millis(6_500);
/// Of it, what is kept for the last words.
const LAST_WORDS: Duration = Duration::from_secs(2);
const ROUND_TRIP: Duration = Duration::from_secs(2);
const MOST_SLOTS: u32 = 10_000;

/// Runs a module until it is told to end.
pub(crate) async fn serve(module: SharedModule, config: ModuleConfig, level: Level) -> Result<(), Error> {
    let mut signals =
        Signals::listen().map_err(|source| Error::System { operation: "listen for signals", source })?;
    module.configure(&config.config).map_err(Error::Module)?;
    let client = Client::connect(&connection(&config)).await?;
    let stopping = Shutdown::new();
    let mut services = Tasks::new();
    // Standing work needs neither server nor NATS, so it does not wait for them.
    let standing = match (&config.assignments, &config.spool) {
        (Some(path), Some(directory)) => {
            let spec = standing::Spec {
                assignments: PathBuf::from(path),
                directory: PathBuf::from(directory),
                config: config.clone(),
            };
            standing::start(module.as_ref(), spec, &mut services, &stopping.stop())?
        }
        _ => None,
    };
    let shipping = Shutdown::new();
    if let Some(work) = &standing {
        let shipper = Shipper::new(Arc::clone(&work.spool), client.clone());
        let stop = shipping.stop();
        services.spawn("shipper", async move { shipper.run(stop, false).await });
    }
    let version = module.version().to_owned();
    let announcer = Arc::new(Announcer::new(introduction(module.as_ref(), &config), config.creds.as_deref()));
    let slots = config.slots.unwrap_or_else(|| module.slots()).clamp(1, MOST_SLOTS);
    let shared = Arc::new(Shared { module, client, desk: Desk::new(slots), changed: Notify::new(), config });
    metrics::export(&shared, standing.as_ref().map(|work| Arc::clone(&work.stats)));
    let process = Process {
        service: Service::new(&shared.config, &version, format!("{:016X}", rand::random::<u64>())),
        pulse: Pulse::new(&version),
        shared,
        announcer,
        services,
        jobs: Tasks::new(),
        standing,
        stopping,
        shipping,
        level,
        revision: 0,
    };
    process.run(&mut signals).await
}

fn connection(config: &ModuleConfig) -> nats::Config {
    nats::Config {
        credentials: config.creds.clone(),
        authority: config.nats_ca.clone(),
        inbox_prefix: config.inbox_prefix.clone(),
        ..nats::Config::new(config.nats_url.clone(), config.instance.as_str())
    }
}

fn introduction(module: &dyn crate::Module, config: &ModuleConfig) -> Announce {
    Announce {
        v: 1,
        event: AnnounceEvent::Hello,
        instance: config.instance.clone(),
        agent: config.agent.clone(),
        kind: config.kind.clone(),
        version: module.version().to_owned(),
        accepts: vec![Task::schema()],
        slots: 0,
        params_schema: module.params_schema(),
        pid: Some(std::process::id()),
    }
}

struct Process {
    shared: Arc<Shared>,
    announcer: Arc<Announcer>,
    service: Service,
    pulse: Pulse,
    services: Tasks,
    jobs: Tasks,
    standing: Option<standing::Work>,
    stopping: Shutdown,
    shipping: Shutdown,
    level: Level,
    revision: u64,
}

/// The subscriptions on which tasks arrive.
struct Inlets {
    work: Subscriber,
    at: Subscriber,
}

impl Process {
    async fn run(mut self, signals: &mut Signals) -> Result<(), Error> {
        let own = self.shared.config.clone();
        let client = self.shared.client.clone();
        let mut inlets = Inlets {
            work: client
                .queue_subscribe(&subject::work(&own.agent, &own.kind), &subject::work_queue(&own.kind))
                .await?,
            at: client.subscribe(&subject::at(&own.agent, &own.instance)).await?,
        };
        let mut control = client.subscribe(&subject::module_control(&own.agent, &own.instance)).await?;
        let mut inquiries = self.service.subscribe(&client).await?;
        let introduce =
            introduce(Arc::clone(&self.shared), Arc::clone(&self.announcer), self.stopping.stop());
        self.services.spawn("introduce", introduce);
        let mut health = tokio::time::interval(HEALTH_EVERY);
        let shared = Arc::clone(&self.shared);
        let reason = loop {
            // A change that came too soon after another is told a little later.
            let stale = self.pulse.is_news(shared.desk.snapshot().state, Duration::ZERO);
            tokio::select! {
                signal = signals.next() => break signal,
                Some(message) = inlets.work.next() => self.task(message).await,
                Some(message) = inlets.at.next() => self.task(message).await,
                Some(message) = control.next() => {
                    // What an agent asks after an offer is answered after it, too: else a job that is just being
                    // offered would be denied.
                    self.catch_up(&mut inlets).await;
                    if self.control(&message).await {
                        break "control";
                    }
                }
                Some(message) = inquiries.next() => self.inquiry(&message).await,
                _ = health.tick() => self.beat().await,
                () = shared.changed.notified() => self.news().await,
                () = tokio::time::sleep(NEWS_EVERY), if stale => self.news().await,
                failure = self.services.failed() => return Err(failure.into()),
            }
        };
        tracing::info!(reason, "draining");
        self.drain(signals, inlets, &mut control).await;
        Ok(())
    }

    /// Takes every task that has arrived already.
    async fn catch_up(&mut self, inlets: &mut Inlets) {
        for inlet in [&mut inlets.work, &mut inlets.at] {
            while let Some(Some(message)) = inlet.next().now_or_never() {
                self.task(message).await;
            }
        }
    }

    /// Answers a task at once, and does it if it has a slot.
    async fn task(&mut self, message: Raw) {
        let received = Instant::now();
        let task = match nats::decode::<Task>(&message) {
            Ok(task) => task,
            Err(fault) => return self.refuse(&message, &fault).await,
        };
        let accepted = TaskReply {
            v: 1,
            accepted: true,
            instance: Some(self.shared.config.instance.clone()),
            attempt: Some(task.attempt),
            error: None,
        };
        match self.shared.desk.offer(&task, || self.shared.check(&task)) {
            Offer::Begin(stop) => {
                let name = format!("job {}", task.job_id);
                let shared = Arc::clone(&self.shared);
                self.answer(&message, &accepted).await;
                let trace = TraceParent::of(message.headers.as_ref());
                self.jobs.spawn(name, shared.perform(task, stop, received, trace));
                self.news().await;
            }
            Offer::Running => self.answer(&message, &accepted).await,
            Offer::Done(report) => {
                self.answer(&message, &accepted).await;
                let shared = Arc::clone(&self.shared);
                self.jobs.spawn("report again", async move { shared.deliver(&report).await });
            }
            Offer::Refused(fault) => self.refuse(&message, &fault).await,
        }
    }

    async fn answer<M: Message>(&mut self, request: &Raw, reply: &M) {
        if let Err(error) = self.shared.client.respond(request, reply).await {
            tracing::warn!(%error, "answer lost");
        }
    }

    async fn refuse(&mut self, request: &Raw, fault: &Fault) {
        tracing::debug!(subject = %request.subject, %fault, "task refused");
        let reply = TaskReply {
            v: 1,
            accepted: false,
            instance: Some(self.shared.config.instance.clone()),
            attempt: None,
            error: Some(fault.clone()),
        };
        if let Err(error) = self.shared.client.respond_fault(request, &reply, fault).await {
            tracing::warn!(%error, "refusal lost");
        }
    }

    /// Does what a control message says; tells whether that is to drain.
    async fn control(&mut self, message: &Raw) -> bool {
        let done = match nats::decode::<ModuleControl>(message) {
            Ok(control) => self.operate(control.op),
            Err(fault) => Err(fault),
        };
        let renewed = matches!(done, Ok(Done::Renewed));
        let (ok, drain, error) = match done {
            Ok(Done::Drain) => (true, true, None),
            Ok(Done::Renewed) => (true, false, None),
            Ok(Done::Told(ok)) => (ok, false, None),
            Err(fault) => (false, false, Some(fault)),
        };
        let reply = ControlReply { v: 1, ok, error };
        let answered = match &reply.error {
            Some(fault) => self.shared.client.respond_fault(message, &reply, fault).await,
            None => self.shared.client.respond(message, &reply).await,
        };
        if let Err(error) = answered {
            tracing::warn!(%error, "answer lost");
        }
        if renewed && let Err(error) = self.shared.client.reconnect().await {
            tracing::warn!(%error, "not connected anew");
        }
        drain
    }

    fn operate(&mut self, op: ModuleOp) -> Result<Done, Fault> {
        let desk = &self.shared.desk;
        match op {
            ModuleOp::Drain => return Ok(Done::Drain),
            ModuleOp::LogLevel { level } => {
                self.level.set(&level)?;
                tracing::info!(level, "log level changed");
            }
            ModuleOp::Slots { slots } => {
                if !(1..=MOST_SLOTS).contains(&slots) {
                    return Err(Fault::invalid("slots", format!("use 1 to {MOST_SLOTS}")));
                }
                desk.set_slots(slots);
                self.shared.changed.notify_one();
            }
            ModuleOp::Config { revision, config } => {
                if revision <= self.revision {
                    let text = format!("revision {} is in force already", self.revision);
                    return Err(Fault::new(ErrorCode::Conflict, text).at("revision"));
                }
                self.shared.module.configure(&config)?;
                self.revision = revision;
            }
            ModuleOp::Renew { jwt } => {
                let taken = self.shared.client.renew(jwt.into());
                taken.map_err(|error| Fault::invalid("jwt", error.to_string()))?;
                tracing::info!("credentials renewed");
                return Ok(Done::Renewed);
            }
            ModuleOp::Cancel { job_id } => return Ok(Done::Told(desk.cancel(&job_id))),
            ModuleOp::Has { job_id } => return Ok(Done::Told(desk.has(&job_id))),
        }
        Ok(Done::Told(true))
    }

    async fn inquiry(&mut self, message: &Raw) {
        let desk = self.shared.desk.snapshot();
        let stats = Stats {
            requests: desk.requests,
            errors: desk.errors,
            processing_ns: desk.busy.as_nanos() as u64,
        };
        self.service.answer(&self.shared.client, message, &stats).await;
    }

    async fn beat(&mut self) {
        let standing = self.standing.as_ref().map(|work| (work.stats.as_ref(), work.spool.state()));
        let desk = self.shared.desk.snapshot();
        self.pulse.beat(&self.shared.client, &self.shared.config, &desk, standing).await;
    }

    /// Tells the health out of turn if the state has changed since it was told.
    async fn news(&mut self) {
        let state = self.shared.desk.snapshot().state;
        if self.pulse.is_news(state, NEWS_EVERY) {
            self.beat().await;
        }
    }

    async fn drain(mut self, signals: &mut Signals, inlets: Inlets, control: &mut Subscriber) {
        let end = tokio::time::Instant::now() + DRAIN;
        self.shared.desk.drain();
        self.stopping.request();
        let connected = self.shared.client.events().is_connected();
        if connected {
            self.announce(AnnounceEvent::Draining).await;
            self.beat().await;
            self.close(inlets).await;
        }
        let mut signalled = false;
        // The rest of the work: jobs run to their end, rounds in flight to their timeout.
        loop {
            let idle = self.jobs.is_empty() && self.standing.as_ref().is_none_or(standing::Work::is_settled);
            if idle {
                break;
            }
            tokio::select! {
                signal = signals.next() => {
                    tracing::warn!(signal, "told a second time: ending at once");
                    signalled = true;
                    break;
                }
                () = tokio::time::sleep_until(end - LAST_WORDS) => break,
                Some(message) = control.next() => { self.control(&message).await; }
                Some(_) = self.jobs.next() => {}
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        if let Some(work) = self.standing.take() {
            work.end(self.services, self.shipping, (!signalled).then_some(&self.shared.client), end).await;
        }
        // What is still in work goes back: without a report, its agent hands it to another instance.
        drop(self.jobs);
        if connected && !signalled {
            let _ = self.announcer.announce(&self.shared.client, AnnounceEvent::Bye, 0).await;
            if let Err(error) = self.shared.client.round_trip(ROUND_TRIP).await {
                tracing::warn!(%error, "last words may be lost");
            }
        }
        tracing::info!("drained");
    }

    /// Ends the subscriptions, and refuses what had been on its way.
    async fn close(&mut self, mut inlets: Inlets) {
        for inlet in [&mut inlets.work, &mut inlets.at] {
            if let Err(error) = inlet.drain().await {
                tracing::warn!(%error, "unsubscribe");
            }
        }
        if let Err(error) = self.shared.client.round_trip(ROUND_TRIP).await {
            tracing::warn!(%error, "round trip while draining");
            return;
        }
        for mut inlet in [inlets.work, inlets.at] {
            while let Ok(Some(message)) = tokio::time::timeout(ROUND_TRIP, inlet.next()).await {
                self.task(message).await;
            }
        }
    }

    async fn announce(&mut self, event: AnnounceEvent) {
        let slots = self.shared.desk.snapshot().slots;
        if let Err(error) = self.announcer.announce(&self.shared.client, event, slots).await {
            tracing::warn!(%error, ?event, "announcement lost");
        }
    }
}

enum Done {
    Drain,
    Renewed,
    Told(bool),
}

/// Says hello and, when a round trip has proved that the server has the subscriptions, ready; again after every
/// reconnection, because whoever listened may have been away as well.
async fn introduce(shared: Arc<Shared>, announcer: Arc<Announcer>, stop: Stop) {
    let client = &shared.client;
    let mut connected = client.events().connected();
    let mut greeting = true;
    loop {
        if !matches!(stop.until(connected.wait_for(|up| *up)).await, Some(Ok(_))) {
            return;
        }
        let slots = shared.desk.snapshot().slots;
        let told = async {
            if greeting {
                announcer.announce(client, AnnounceEvent::Hello, slots).await?;
            }
            client.round_trip(ROUND_TRIP).await?;
            announcer.announce(client, AnnounceEvent::Ready, slots).await
        };
        match stop.until(told).await {
            None => return,
            Some(Ok(())) => {
                tracing::info!("ready");
                greeting = false;
                shared.changed.notify_one();
                if !matches!(stop.until(connected.wait_for(|up| !*up)).await, Some(Ok(_))) {
                    return;
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "not ready yet");
                if !stop.sleep(Duration::from_millis(500)).await {
                    return;
                }
            }
        }
    }
}

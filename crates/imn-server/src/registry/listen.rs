//! What agents and modules say of themselves, taken in; garbage is counted and disturbs nothing.

use std::time::Duration;

use async_nats::{Message as Raw, Subscriber};
use futures::StreamExt;
use imn_contract::{
    AgentId, Fault, Message, ModuleType,
    latest::{Announce, Health, Heartbeat, ModuleLog, ModuleState},
    subject,
};
use imn_domain::Liveness;
use imn_runtime::{nats, task::Stop};

use crate::{clock::now_us, context::Context, metrics::label, readiness::Part, streams::Streams};

/// Setting that holds what modules have said of their parameters.
pub(crate) const SCHEMAS: &str = "params_schemas";
const SWEEP: Duration = Duration::from_secs(1);

/// Listens until `stop`.
pub(crate) async fn listen(context: Context, streams: Streams, stop: Stop) -> nats::Result<()> {
    let client = &context.client;
    let heartbeats = client.subscribe(subject::HEARTBEAT_ALL).await?;
    let announcements = client.subscribe(subject::ANNOUNCE).await?;
    let health = client.subscribe(subject::HEALTH_ALL).await?;
    let logs = client.subscribe(subject::MODULE_LOG_ALL).await?;
    let until = |subscriber: Subscriber| {
        let stop = stop.clone();
        subscriber.take_until(Box::pin(async move { stop.requested().await }))
    };
    let (announced, ailing, writing) = (context.clone(), context.clone(), context.clone());
    tokio::join!(
        until(heartbeats).for_each(move |message| on_heartbeat(context.clone(), streams.clone(), message)),
        until(announcements).for_each(move |message| {
            on_announcement(&announced, &message);
            std::future::ready(())
        }),
        until(health).for_each(move |message| {
            on_health(&ailing, &message);
            std::future::ready(())
        }),
        until(logs).for_each(move |message| {
            on_log(&writing, &message);
            std::future::ready(())
        }),
    );
    Ok(())
}

fn on_announcement(context: &Context, message: &Raw) {
    if let Some(announce) = read::<Announce>(context, message, |_| true) {
        context.registry.announce(announce, now_us());
    }
}

fn on_health(context: &Context, message: &Raw) {
    let fits = |health: &Health| subject::last_token(&message.subject) == health.instance.as_str();
    if let Some(health) = read::<Health>(context, message, fits) {
        context.registry.health(health, now_us());
    }
}

fn on_log(context: &Context, message: &Raw) {
    let fits =
        |line: &ModuleLog| subject::module_log(&line.agent, &line.instance) == message.subject.as_str();
    if let Some(line) = read::<ModuleLog>(context, message, fits) {
        context.logs.put(line);
    }
}

async fn on_heartbeat(context: Context, streams: Streams, message: Raw) {
    let fits = |heartbeat: &Heartbeat| subject::last_token(&message.subject) == heartbeat.agent.as_str();
    let Some(heartbeat) = read::<Heartbeat>(&context, &message, fits) else { return };
    let agent = heartbeat.agent.clone();
    let mut kinds: Vec<ModuleType> = heartbeat.modules.iter().map(|m| m.kind.clone()).collect();
    kinds.sort();
    kinds.dedup();
    let changed = context.registry.heartbeat(heartbeat, now_us());
    if changed.agent || changed.types {
        context.assign.agents_changed();
    }
    for kind in kinds {
        if let Err(error) = streams.ensure_queue(&kind, &agent).await {
            tracing::warn!(%agent, %kind, %error, "queue not made");
        }
    }
}

/// Writes what was heard to the catalog, and notices who has fallen silent, until `stop`.
pub(crate) async fn keep(context: Context, stop: Stop) {
    while stop.sleep(SWEEP).await {
        let now = now_us();
        if context.client.events().is_connected() && context.registry.sweep(now) {
            context.assign.agents_changed();
        }
        let mut due = context.registry.to_store(now);
        if due.is_empty() && !context.readiness.is_ok(Part::Catalog) {
            // Whether it can be written to again is found by writing.
            due = context.registry.agents(now).into_iter().map(|view| view.agent).collect();
        }
        if !due.is_empty() {
            match context.catalog.upsert_agents(&due).await {
                Ok(()) => context.readiness.ok(Part::Catalog),
                Err(error) => context.readiness.fails(Part::Catalog, error.to_string()),
            }
        }
        if let Some(schemas) = context.registry.changed_schemas()
            && let Err(error) = context.catalog.set_setting(SCHEMAS, &schemas).await
        {
            context.registry.schemas_not_kept();
            tracing::warn!(%error, "schemas of parameters not kept yet");
        }
        count(&context, now);
    }
}

/// The queues that agents need, by what they last told.
pub(crate) fn queues(context: &Context) -> Vec<(ModuleType, AgentId)> {
    let instances = context.registry.instances(now_us());
    let mut queues: Vec<_> = instances.into_iter().map(|i| (i.kind, i.agent)).collect();
    queues.sort();
    queues.dedup();
    queues
}

fn count(context: &Context, now: i64) {
    let views = context.registry.agents(now);
    for (name, liveness) in
        [("active", Liveness::Active), ("degraded", Liveness::Degraded), ("offline", Liveness::Offline)]
    {
        let n = views.iter().filter(|view| view.liveness == liveness).count();
        context.metrics.agents.get_or_create(&label("status", name)).set(n as i64);
    }
    let instances = context.registry.instances(now);
    for state in ModuleState::ALL {
        let n = instances.iter().filter(|instance| instance.state == state).count();
        context.metrics.modules.get_or_create(&label("state", state.name())).set(n as i64);
    }
}

fn read<M: Message>(context: &Context, message: &Raw, fits: impl Fn(&M) -> bool) -> Option<M> {
    let read = nats::decode::<M>(message).and_then(|read| {
        if fits(&read) {
            Ok(read)
        } else {
            Err(Fault::invalid("agent", "it is for another than its subject says"))
        }
    });
    match read {
        Ok(read) => Some(read),
        Err(fault) => {
            let seen = context.metrics.garbage.get_or_create(&label("kind", M::NAME)).inc();
            // Whoever sends garbage sends a lot of it.
            if seen.is_power_of_two() || seen == 0 {
                tracing::warn!(subject = %message.subject, %fault, seen, "message refused");
            }
            None
        }
    }
}

//! Changing how a module's instances run: those that run are told, those to come are started so.

use std::time::Duration;

use async_nats::HeaderMap;
use imn_contract::{
    ErrorCode, Fault, InstanceId, ModuleType,
    latest::{ControlReply, ModuleControl, ModuleOp, Tuning},
    subject,
};
use imn_runtime::{clock, nats};

use super::{Supervisor, catalog::Spec};

/// How long an instance may take to do what it is told.
const WITHIN: Duration = Duration::from_secs(1);
const MOST_INSTANCES: u32 = 64;
const MOST_SLOTS: u32 = 10_000;

impl Supervisor {
    /// Changes how a type's instances run; remembered over restarts. Where an instance refuses it, nothing is
    /// remembered, and what others have taken holds until they end.
    ///
    /// # Errors
    /// 404 when the type is not here, 400 with the field at fault, 503 when the decision cannot be written down.
    pub(crate) async fn tune(&self, kind: &ModuleType, tuning: &Tuning) -> Result<(), Fault> {
        if !self.catalog().specs.contains_key(kind) {
            let message = format!("this agent supervises no module of type {kind}");
            return Err(Fault::no_module(message).at("type"));
        }
        check(tuning)?;
        let tuned = merged(self.records.tuned().remove(kind).unwrap_or_default(), tuning.clone());
        let own: Vec<InstanceId> = self.records.all().into_iter().map(|record| record.instance).collect();
        for instance in self.roster.living(kind).iter().filter(|instance| own.contains(instance)) {
            for op in ops(tuning) {
                // One that is not there, or not yet, is told or started so by its keeper.
                self.tell(instance, op).await?;
            }
        }
        self.records
            .set_tuned(kind, tuned)
            .map_err(|error| Fault::new(ErrorCode::Unavailable, error.to_string()))?;
        tracing::info!(%kind, ?tuning, "module tuned by an operator");
        self.poke.notify_one();
        Ok(())
    }

    /// Tells an instance all that it was started without.
    pub(super) async fn catch_up(&self, instance: &InstanceId, spec: &Spec) -> Result<(), Fault> {
        let tuning = Tuning {
            instances: None,
            slots: spec.slots,
            log_level: spec.log_level.clone(),
            config: Some(spec.config.clone()),
        };
        for op in ops(&tuning) {
            if !self.tell(instance, op).await? {
                let message = format!("{instance} does not listen yet");
                return Err(Fault::new(ErrorCode::Unavailable, message));
            }
        }
        Ok(())
    }

    /// Whether the instance was there to do it.
    pub(super) async fn tell(&self, instance: &InstanceId, op: ModuleOp) -> Result<bool, Fault> {
        let subject = subject::module_control(&self.config.id, instance);
        let is_level = matches!(op, ModuleOp::LogLevel { .. });
        let control = ModuleControl { v: 1, op };
        let told: nats::Result<ControlReply> =
            self.client.request_within(&subject, &control, HeaderMap::new(), WITHIN).await;
        match told {
            Ok(ControlReply { ok: true, .. }) => Ok(true),
            Ok(ControlReply { error, .. }) => {
                let fault = error.unwrap_or_else(|| {
                    Fault::new(ErrorCode::Unavailable, format!("{instance} does not do it, without a reason"))
                });
                // A module knows the field by another name than whoever asked.
                Err(if is_level { fault.at("log_level") } else { fault })
            }
            Err(nats::Error::NoResponders { .. }) => Ok(false),
            Err(error) => Err(Fault::new(ErrorCode::Unavailable, format!("{instance}: {error}"))),
        }
    }
}

/// What was set, with what is given in its place.
fn merged(was: Tuning, given: Tuning) -> Tuning {
    Tuning {
        instances: given.instances.or(was.instances),
        slots: given.slots.or(was.slots),
        log_level: given.log_level.or(was.log_level),
        config: given.config.or(was.config),
    }
}

/// How a module is to run with what is set.
pub(super) fn apply(tuning: &Tuning, spec: &mut Spec) {
    let Tuning { instances, slots, log_level, config } = tuning;
    spec.instances = instances.unwrap_or(spec.instances);
    spec.slots = slots.or(spec.slots);
    spec.log_level.clone_from(log_level);
    if let Some(config) = config {
        spec.config.clone_from(config);
    }
}

/// What instances are to be told. A configuration's revision is the time: an instance that has one already, of an order
/// that others refused, takes the next all the same.
fn ops(tuning: &Tuning) -> Vec<ModuleOp> {
    let revision = u64::try_from(clock::now_us()).unwrap_or_default();
    let mut ops = Vec::new();
    // The one that may be refused for what it says comes first.
    if let Some(config) = &tuning.config {
        ops.push(ModuleOp::Config { revision, config: config.clone() });
    }
    if let Some(level) = &tuning.log_level {
        ops.push(ModuleOp::LogLevel { level: level.clone() });
    }
    if let Some(slots) = tuning.slots {
        ops.push(ModuleOp::Slots { slots });
    }
    ops
}

fn check(tuning: &Tuning) -> Result<(), Fault> {
    let within = |field: &str, value: Option<u32>, most: u32| match value {
        Some(value) if !(1..=most).contains(&value) => Err(Fault::invalid(field, format!("use 1 to {most}"))),
        _ => Ok(()),
    };
    within("instances", tuning.instances, MOST_INSTANCES)?;
    within("slots", tuning.slots, MOST_SLOTS)?;
    if *tuning == Tuning::default() {
        return Err(Fault::invalid(
            "instances",
            "nothing is to change: give instances, slots, log_level or config",
        ));
    }
    Ok(())
}

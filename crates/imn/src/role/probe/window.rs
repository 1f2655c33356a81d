//! What is observed all the time: a module's standing work in this process, asked at each run for what it has seen.

use std::time::Duration;

use anyhow::Result;
use imn_contract::{
    ModuleType, TargetId,
    latest::{Assignment, Outcome},
};
use imn_module::{Done, Due, Standing, builtin};
use imn_runtime::clock;
use tokio::time::Instant;

use super::{Plan, refused};
use crate::exit::{Code, Exit};

/// How often it is looked whether a round is complete.
const BEAT: Duration = Duration::from_millis(20);
/// A round tells what is known; that takes no time to speak of.
const WITHIN: Duration = Duration::from_secs(10);

/// The work, with the number of the plan of each job.
pub(super) struct Windows {
    standing: Box<dyn Standing>,
    plans: Vec<u32>,
    kind: ModuleType,
    /// What was last said to be wrong with each job, and when.
    wrong: Vec<Option<(String, Instant)>>,
    /// The same is said again after this time.
    again: Duration,
}

impl Windows {
    /// Begins to observe. What stays wrong is told again only after the time `again`.
    pub(super) fn open(plan: &Plan, interval: Duration, again: Duration) -> Result<Self> {
        let none = || Exit::new(Code::Error, format!("the type {} cannot be observed", plan.kind));
        let module = builtin(plan.kind).ok_or_else(none)?;
        let mut standing = module.standing().map_err(|fault| refused(&fault))?.ok_or_else(none)?;
        let kind = ModuleType::new(plan.kind)?;
        let assignment = |(number, job): (usize, &super::plan::Job)| -> Result<u32> {
            let assignment = Assignment {
                target: TargetId::new(format!("probe-{number}"))?,
                kind: kind.clone(),
                address: job.target.clone(),
                interval_ms: interval.as_millis() as u64,
                timeout_ms: plan.tmax.as_millis() as u64,
                count: 1,
                params: job.params.clone(),
                since_us: clock::now_us(),
                until_us: None,
            };
            Ok(standing.plan(&assignment).map_err(|fault| refused(&fault))?.number)
        };
        let plans: Vec<u32> = plan.jobs.iter().enumerate().map(assignment).collect::<Result<_>>()?;
        let wrong = vec![None; plans.len()];
        Ok(Self { standing, plans, kind, wrong, again })
    }

    /// What has been seen since the call before, by job; without what is wrong as it was.
    pub(super) async fn take(&mut self, plan: &Plan) -> Vec<Outcome> {
        let due_us = clock::now_us();
        let due = |(key, number): (usize, &u32)| Due {
            key: key as u64,
            due_us,
            address: None,
            plan: *number,
            count: 1,
            timeout: plan.tmax,
        };
        let rounds: Vec<Due> = self.plans.iter().enumerate().map(due).collect();
        let begun = self.standing.begin(&rounds);
        let mut done: Vec<Done> = Vec::new();
        let end = Instant::now() + WITHIN;
        while done.len() < begun && Instant::now() < end {
            tokio::time::sleep(BEAT).await;
            self.standing.collect(&mut done);
        }
        let outcome = |(key, job): (usize, &super::plan::Job)| {
            let round = done.iter().find(|done| done.key == key as u64).map(|done| &done.round);
            let text = round.and_then(|round| round.outcome.as_deref());
            if let Some(value) = text.and_then(|text| serde_json::from_str(text).ok()) {
                return Outcome::read(&self.kind, value);
            }
            let error = round.and_then(|round| round.error.clone());
            let error = error.unwrap_or_else(|| "this host was too busy to tell".to_owned());
            plan.unmeasured(&self.kind, &job.target, error)
        };
        let outcomes = plan.jobs.iter().enumerate().map(outcome);
        let news = |(outcome, wrong): (Outcome, &mut Option<(String, Instant)>)| {
            let error = outcome.head().error.map(str::to_owned);
            let now = Instant::now();
            let known = matches!((&error, &*wrong), (Some(error), Some((before, since)))
                if error == before && now - *since < self.again);
            if !known {
                *wrong = error.map(|error| (error, now));
            }
            (!known).then_some(outcome)
        };
        outcomes.zip(&mut self.wrong).filter_map(news).collect()
    }
}

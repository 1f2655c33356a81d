//! Measuring from this process, a module's job for each target, some at a time.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::{StreamExt, stream};
use imn_contract::{ErrorCode, Fault, latest::Outcome};
use imn_module::{Sign, local::Worker};
use imn_runtime::task::Signals;
use imn_sink::format::Row;
use tokio::sync::mpsc;

use super::{
    Work, failed,
    how::{Ask, named},
    report::Report,
};
use crate::exit::Code;

/// Targets measured at once.
const AT_ONCE: usize = 64;
/// Signs that wait to be shown; more are dropped.
const SIGNS: usize = 1024;

pub(super) async fn run(work: &Work, ask: &Ask, mut report: Report) -> Result<Code> {
    let mut signals = Signals::listen()?;
    let worker = Worker::new(ask.kind.as_str()).map_err(|fault| failed(&fault, ask.flag))?;
    worker.configure(&ask.config).map_err(|fault| failed(&fault, ask.flag))?;
    for (number, target) in work.targets.iter().enumerate() {
        worker.check(target, &ask.params).map_err(|fault| work.refused(number, &fault))?;
    }
    let started = Instant::now();
    let (tell, mut signs) = mpsc::channel(SIGNS);
    let jobs = stream::iter(work.targets.iter().enumerate()).map(|(number, target)| {
        let (worker, tell) = (&worker, &tell);
        async move {
            tokio::time::sleep_until((started + wait(number, ask.rate)).into()).await;
            let begun = Instant::now();
            let found = measure(worker, ask, target, (number, tell)).await;
            (number, found, begun.elapsed())
        }
    });
    let mut jobs = std::pin::pin!(jobs.buffer_unordered(AT_ONCE));
    loop {
        let (number, found, elapsed) = tokio::select! {
            biased;
            _ = signals.next() => {
                while let Ok((number, sign)) = signs.try_recv() {
                    report.view.sign(number, &sign);
                }
                return interrupted(work, report);
            }
            Some((number, sign)) = signs.recv() => {
                report.view.sign(number, &sign);
                continue;
            }
            job = jobs.next() => match job {
                Some(job) => job,
                None => break,
            },
        };
        let outcome = match found {
            Ok(outcome) => named(outcome, &work.targets[number]),
            // What this process may not do it may not do for any target.
            Err(fault) if fault.is(ErrorCode::Denied) || fault.is(ErrorCode::Invalid) => {
                return Err(failed(&fault, ask.flag).into());
            }
            Err(fault) => {
                if fault.is(ErrorCode::Deadline) {
                    report.note_timeout();
                }
                work.how.unmeasured(&work.targets[number], fault.message)
            }
        };
        report.target(number, vec![Row { elapsed: Some(elapsed), ..Row::new(outcome) }])?;
        report.flush()?;
    }
    report.finish()
}

/// Measures one target, and passes on what the module tells meanwhile.
async fn measure(
    worker: &Worker,
    ask: &Ask,
    target: &str,
    (number, tell): (usize, &mpsc::Sender<(usize, Sign)>),
) -> Result<Outcome, Fault> {
    let (sender, mut signs) = mpsc::channel(SIGNS);
    let pass_on = async {
        while let Some(sign) = signs.recv().await {
            // Full: progress is lossy.
            let _ = tell.try_send((number, sign));
        }
    };
    let (found, ()) = tokio::join!(worker.run(target, &ask.params, ask.takes, sender), pass_on);
    found
}

/// When the n-th target is begun.
fn wait(number: usize, rate: Option<NonZeroU32>) -> Duration {
    rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(number as f64 / f64::from(rate.get())))
}

/// Shows what is known so far of every target that has told it.
pub(super) fn interrupted(work: &Work, mut report: Report) -> Result<Code> {
    let begun: Vec<_> = work
        .targets
        .iter()
        .enumerate()
        .filter(|(number, _)| report.is_open(*number))
        .filter_map(|(number, name)| Some((number, report.view.so_far(number, name)?)))
        .filter(|(_, outcome)| outcome.head().sent > 0)
        .collect();
    report.view.clear();
    for (number, outcome) in begun {
        report.target(number, vec![Row::new(outcome)])?;
    }
    report.interrupted()
}

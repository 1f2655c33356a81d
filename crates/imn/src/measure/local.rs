//! Measuring from this process, through the module's own engine and conversion.

use std::{num::NonZeroU32, time::Duration};

use anyhow::Result;
use imn_contract::{Fault, latest::PingOutcome};
use imn_module::local::{Plan, Run, Step};
use imn_runtime::{clock, task::Signals};
use imn_sink::format::Row;
use tokio::sync::mpsc;

use super::{Work, each::interrupted, failed, how::Batch, report::Report};
use crate::exit::Code;

/// Steps that wait to be shown.
const STEPS: usize = 4096;

pub(super) async fn run(work: &Work, batch: &Batch, mut report: Report) -> Result<Code> {
    let mut signals = Signals::listen()?;
    let plan = Plan {
        spec: batch.spec.clone(),
        rate: batch.rate.map(|rate| starts(rate, batch.spec.count)),
        pace: batch.pace,
        progress: report.view.follows(),
        figures: work.only_summary() && !report.view.is_live(),
    };
    let targets = work.targets.clone();
    let (sender, mut steps) = mpsc::channel(STEPS);
    // The engine is blocking by nature; its thread ends when nobody takes its steps any more.
    std::thread::Builder::new()
        .name("imn-measure".to_owned())
        .spawn(move || measure(targets, plan, &sender))?;
    let mut some = Vec::new();
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => return interrupted(work, report),
            count = steps.recv_many(&mut some, STEPS) => if count == 0 { break },
        }
        for step in some.drain(..) {
            match step.map_err(|fault| failed(&fault, work.how.flag()))? {
                Step::Packet { target, detail } => report.view.packet(target, &detail),
                Step::Counted { target, figures } => report.count(target, &figures),
                Step::Done { target, outcome } => report.target(target, vec![row(*outcome)])?,
            }
        }
        report.flush()?;
    }
    report.finish()
}

fn measure(targets: Vec<String>, plan: Plan, steps: &mpsc::Sender<Result<Step, Fault>>) {
    match Run::start(targets, plan) {
        Err(fault) => drop(steps.blocking_send(Err(fault))),
        Ok(run) => {
            for step in run {
                if steps.blocking_send(Ok(step)).is_err() {
                    return;
                }
            }
        }
    }
}

fn row(outcome: PingOutcome) -> Row {
    let begun = outcome.time.as_deref().and_then(|time| clock::parse_rfc3339(time).ok());
    let elapsed =
        begun.and_then(|begun| u64::try_from(clock::now_us() - begun).ok()).map(Duration::from_micros);
    Row { elapsed, ..Row::new(outcome) }
}

/// Targets begun per second so that no more packets are sent, once all that run at a time send theirs.
fn starts(rate: NonZeroU32, count: u16) -> NonZeroU32 {
    NonZeroU32::new(rate.get() / u32::from(count.max(1))).unwrap_or(NonZeroU32::MIN)
}

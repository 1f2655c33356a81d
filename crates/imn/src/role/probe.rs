//! `imn probe TYPE`: one probe on its own, without a control plane.
//!
//! A run measures every target once, through the same module as an agent's; what it finds leaves as records. The
//! registry message goes first, health messages in between.

mod output;
mod plan;
mod vital;
mod window;

use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, stream};
use imn_contract::{ErrorCode, Fault, latest::Outcome};
use imn_module::local::Worker;
use imn_runtime::{
    clock,
    task::Signals,
    telemetry::{self, Telemetry},
};
use imn_sink::{
    format::Row,
    record::{self, Probe, Registry},
};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    cli::{LogPlace, OutArgs, ProbeArgs, ProbeVerb, RegistryProbe, RunArgs, WhoArgs},
    exit::{Code, Exit},
    measure::source,
};
use output::Output;
use plan::{Job, Plan};
use vital::Vital;
use window::Windows;

/// Targets measured at once.
const AT_ONCE: usize = 64;
/// What is observed leaves at least this often: so little is kept that nothing need be left out.
const OFTEN: Duration = Duration::from_secs(1);
/// How long a health check observes.
const LOOK: Duration = Duration::from_secs(5);
/// An address by whose route that of this host is found; nothing is sent to it (RFC 5737).
const ELSEWHERE: &str = "192.0.2.1";

pub(crate) fn main(args: ProbeArgs) -> Result<Code> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (plan, run) = match args.verb {
        ProbeVerb::Registry(args) => return runtime.block_on(registry(args)),
        ProbeVerb::Icmp(args) => (Plan::icmp(&args), args.run),
        ProbeVerb::Dns(args) => (Plan::dns(&args), args.run),
        ProbeVerb::Http(args) => (Plan::http(&args), args.run),
        ProbeVerb::Mtr(args) => (Plan::mtr(&args), args.run),
        ProbeVerb::Bgp(args) => (Plan::bgp(&args), args.run),
    };
    runtime.block_on(measure(plan, run))
}

fn logging(args: &OutArgs, probe: &Probe) -> Result<Telemetry> {
    let place = match args.log {
        None => telemetry::Place::detect(),
        Some(LogPlace::Journal) => telemetry::Place::Journal,
        Some(LogPlace::Syslog) => telemetry::Place::Syslog,
        Some(LogPlace::Stderr) => telemetry::Place::Stderr,
    };
    super::telemetry_at(place, "imn-probe", &probe.id)
}

fn probe(args: &WhoArgs) -> Result<Probe> {
    for (flag, value) in [("--probe-id", &args.probe_id), ("--location", &args.location)] {
        if value.trim().is_empty() || value.chars().any(char::is_control) {
            return Err(Exit::usage(format!("{flag}: write a text without control characters")).into());
        }
    }
    Ok(Probe { id: args.probe_id.clone(), location: args.location.clone() })
}

/// What the probe says of itself.
fn registration(probe: &Probe, metrics: Vec<&'static str>, started: Instant) -> Result<record::Record> {
    let ip = source(ELSEWHERE).or_else(|| source("2001:db8::1"));
    let message = Registry {
        probe_id: &probe.id,
        ip: ip.map(|ip| ip.to_string()).unwrap_or_default(),
        location: &probe.location,
        available_metrics: metrics,
        version: env!("CARGO_PKG_VERSION"),
        uptime: started.elapsed().as_secs(),
    };
    Ok(message.record()?)
}

async fn registry(args: RegistryProbe) -> Result<Code> {
    let mut signals = Signals::listen()?;
    let probe = probe(&args.who)?;
    let _telemetry = logging(&args.out, &probe)?;
    let mut output = Output::open(&args.out, &probe).await?;
    let started = Instant::now();
    loop {
        output.write(&registration(&probe, plan::METRICS.to_vec(), started)?).await?;
        output.flush().await?;
        let Some(interval) = args.interval else { return Ok(Code::Ok) };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = signals.next() => return Ok(Code::Ok),
        }
    }
}

async fn measure(plan: Plan, run: RunArgs) -> Result<Code> {
    let mut signals = Signals::listen()?;
    let probe = probe(&run.who)?;
    let _telemetry = logging(&run.out, &probe)?;
    let worker = Worker::new(plan.kind).map_err(|fault| refused(&fault))?;
    for job in &plan.jobs {
        worker.check(&job.target, &job.params).map_err(|fault| refused(&fault))?;
    }
    if run.health_check {
        let work = health_check(&worker, &plan, &probe, &run.out);
        return tokio::select! {
            code = work => code,
            _ = signals.next() => Ok(Code::Interrupted),
        };
    }
    let mut output = Output::open(&run.out, &probe).await?;
    let work = keep(&worker, &plan, &probe, &run, &mut output);
    let ended = tokio::select! {
        ended = work => ended.map(|never| match never {}),
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            Ok(Code::Ok)
        }
    };
    output.flush().await?;
    ended
}

/// Nothing comes out of a probe but its end.
enum Never {}

async fn keep(
    worker: &Worker,
    plan: &Plan,
    probe: &Probe,
    run: &RunArgs,
    output: &mut Output,
) -> Result<Never> {
    let started = Instant::now();
    let mut vital = Vital::new(started);
    output.write(&registration(probe, vec![plan.metric], started)?).await?;
    output.flush().await?;
    let interval = if plan.standing { run.interval.min(OFTEN) } else { run.interval };
    let mut windows = plan.standing.then(|| Windows::open(plan, interval, run.interval)).transpose()?;
    tracing::info!(probe = probe.id, kind = plan.metric, targets = plan.jobs.len(), "probe started");
    let mut health = tokio::time::interval_at(started + run.health_interval, run.health_interval);
    health.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    // A run that takes longer than the interval puts off the next one: no two are under way at a time.
    let first = if plan.standing { started + interval } else { started };
    let mut due = tokio::time::interval_at(first, interval);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            _ = health.tick() => {
                output.write(&vital.message(probe).record()?).await?;
                output.flush().await?;
            }
            _ = due.tick() => {
                let begun = Instant::now();
                match &mut windows {
                    Some(windows) => {
                        for outcome in windows.take(plan).await {
                            tell(&Row::new(outcome), probe, &mut vital, output).await?;
                        }
                        output.flush().await?;
                    }
                    None => once(worker, plan, probe, &mut vital, output).await?,
                }
                if begun.elapsed() > interval {
                    let took = begun.elapsed();
                    tracing::warn!(?took, ?interval, "a run took longer than the interval; runs are left out");
                }
            }
        }
    }
}

/// Measures every target once; records leave as they come.
async fn once(
    worker: &Worker,
    plan: &Plan,
    probe: &Probe,
    vital: &mut Vital,
    output: &mut Output,
) -> Result<()> {
    let mut rows = std::pin::pin!(rows(worker, plan));
    while let Some(row) = rows.next().await {
        tell(&row?, probe, vital, output).await?;
    }
    output.flush().await
}

/// Lets the records of one measurement go, and notes how it went.
async fn tell(row: &Row, probe: &Probe, vital: &mut Vital, output: &mut Output) -> Result<()> {
    let head = row.outcome.head();
    if row.answered() {
        vital.succeeded(clock::now_rfc3339());
    } else {
        vital.failed();
        tracing::warn!(target = head.target, error = head.error, "measurement failed");
    }
    for record in record::records(probe, row)? {
        output.write(&record).await?;
    }
    Ok(())
}

fn rows<'a>(worker: &'a Worker, plan: &'a Plan) -> impl futures::Stream<Item = Result<Row>> + use<'a> {
    stream::iter(&plan.jobs)
        .map(async |job: &Job| {
            let begun = Instant::now();
            // Nobody listens.
            let (signs, _) = mpsc::channel(1);
            let outcome = match worker.run(&job.target, &job.params, plan.takes, signs).await {
                Ok(outcome) => outcome,
                Err(fault) if fault.is(ErrorCode::Denied) => return Err(refused(&fault).into()),
                Err(fault) => plan.unmeasured(worker.kind(), &job.target, fault.message),
            };
            Ok(Row { elapsed: Some(begun.elapsed()), ..Row::new(outcome) })
        })
        .buffer_unordered(AT_ONCE)
}

/// One run, judged as a whole: the place where records go can be reached, and every target answers.
async fn health_check(worker: &Worker, plan: &Plan, probe: &Probe, out: &OutArgs) -> Result<Code> {
    let mut faults = Vec::new();
    let reached = async { Output::open(out, probe).await?.reach().await };
    if let Err(error) = reached.await {
        faults.push(crate::exit::worded(&error));
    }
    match outcomes(worker, plan).await {
        Err(error) => faults.push(crate::exit::worded(&error)),
        Ok(outcomes) => {
            for head in outcomes.iter().map(Outcome::head).filter(|head| !head.success) {
                faults.push(format!("{}: {}", head.target, head.error.unwrap_or("no answer")));
            }
        }
    }
    if faults.is_empty() {
        println!("PASSED");
        return Ok(Code::Ok);
    }
    println!("FAILED");
    for fault in faults {
        println!("{}", fault.replace(char::is_control, " "));
    }
    Ok(Code::Error)
}

/// Every target once; of what is observed, what a short look shows.
async fn outcomes(worker: &Worker, plan: &Plan) -> Result<Vec<Outcome>> {
    if plan.standing {
        let mut windows = Windows::open(plan, LOOK, LOOK)?;
        tokio::time::sleep(LOOK).await;
        return Ok(windows.take(plan).await);
    }
    let rows: Vec<Result<Row>> = rows(worker, plan).collect().await;
    rows.into_iter().map(|row| row.map(|row| row.outcome)).collect()
}

fn refused(fault: &Fault) -> Exit {
    let flag = match fault.field.as_deref() {
        Some(field) => match field.strip_prefix("params.") {
            Some(name) => format!("--{}: ", name.replace('_', "-")),
            None => format!("--{field}: "),
        },
        None => String::new(),
    };
    match fault.code {
        400 | 404 => Exit::usage(format!("{flag}{}", fault.message)),
        _ => Exit::new(Code::Error, fault.message.clone()),
    }
}

/// Time for a run beyond that of its packets: names are resolved, sockets opened.
const SLACK: Duration = Duration::from_secs(10);
